//! Waiting for a change in a directory, by inotify. Whoever waits looks at the directory itself afterwards: an event is
//! only a reason to look, so that lost or merged events do no harm where there is a slow timer beside.

use std::{io, mem::MaybeUninit, os::fd::OwnedFd, path::Path};

use rustix::fs::inotify::{self, CreateFlags, WatchFlags};
use tokio::io::unix::AsyncFd;

/// A watch on one directory, open until it is dropped.
pub(crate) struct DirectoryWatch {
    events: AsyncFd<OwnedFd>,
}

impl DirectoryWatch {
    /// Watch a directory for files that are written, come, go or change their name.
    pub(crate) fn new(directory: &Path) -> io::Result<Self> {
        let events = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK)?;
        let flags = WatchFlags::MODIFY
            | WatchFlags::CLOSE_WRITE
            | WatchFlags::CREATE
            | WatchFlags::DELETE
            | WatchFlags::MOVED_FROM
            | WatchFlags::MOVED_TO
            | WatchFlags::DELETE_SELF
            | WatchFlags::MOVE_SELF
            | WatchFlags::ONLYDIR;
        inotify::add_watch(&events, directory, flags)?;
        #[expect(deprecated, reason = "only types that can change their descriptor are unsound, an OwnedFd cannot")]
        let events = AsyncFd::new(events)?;
        Ok(Self { events })
    }

    /// Wait until something has changed since the last call. Cancel-safe: events stay queued in the kernel.
    pub(crate) async fn changed(&mut self) -> io::Result<()> {
        let mut ready = self.events.readable().await?;
        let mut buffer = [MaybeUninit::uninit(); 4096];
        loop {
            let outcome =
                ready.try_io(|fd| Ok(rustix::io::read(fd.get_ref(), &mut buffer).map(|(read, _)| read.len())?));
            match outcome {
                Ok(Ok(_)) => {}
                Ok(Err(error)) if error.kind() == io::ErrorKind::Interrupted => {}
                Ok(Err(error)) => return Err(error),
                // Read empty: all events are taken.
                Err(_would_block) => return Ok(()),
            }
        }
    }
}
