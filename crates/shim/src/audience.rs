//! Those who are attached to a container's output and hear it as it comes. The container and its log come first: who does
//! not keep up is cut off.

use std::os::fd::{AsFd, OwnedFd};

use crate::log::Channel;

/// Those of one container at a time.
const MOST: usize = 64;

/// Pipes that are written to.
#[derive(Debug, Default)]
pub(crate) struct Audience(Vec<Listener>);

#[derive(Debug)]
struct Listener {
    channel: Channel,
    /// Does not block.
    pipe: OwnedFd,
}

impl Audience {
    /// Whether so many more may come.
    pub(crate) fn has_room(&self, more: usize) -> bool {
        self.0.len() + more <= MOST
    }

    pub(crate) fn join(&mut self, channel: Channel, pipe: OwnedFd) {
        self.0.push(Listener { channel, pipe });
    }

    /// Passes on what was read. A pipe that does not take all of it now has a reader that is too slow, or none: closing it
    /// tells the reader, where a gap in the bytes would not.
    pub(crate) fn hear(&mut self, channel: Channel, bytes: &[u8]) {
        let took = |pipe: &OwnedFd| rustix::io::write(pipe.as_fd(), bytes) == Ok(bytes.len());
        self.0.retain(|listener| listener.channel != channel || took(&listener.pipe));
    }

    /// No more will come on this channel.
    pub(crate) fn end(&mut self, channel: Channel) {
        self.0.retain(|listener| listener.channel != channel);
    }
}
