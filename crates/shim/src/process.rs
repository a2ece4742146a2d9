//! Forked children: their birth, the channel to them until they exec, their end.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use podd_shim::wire::Exit;
use podd_sys::fork::{Birth, Forked, fork};
use podd_sys::namespace::{Kind, enter, open_own};
use rustix::fs::{CWD, Mode, OFlags, fcntl_getfl, fcntl_setfl};
use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
use rustix::process::WaitStatus;

use crate::child::Channel;
use crate::clock;

/// How long a child may take to set itself up when nobody says otherwise.
const DEFAULT_DEADLINE_MS: u64 = 60_000;

/// A child that has not been reaped, so its pid is its own.
#[derive(Debug)]
pub(crate) struct Process {
    pub(crate) pid: u32,
    pub(crate) pidfd: OwnedFd,
}

/// What a child is born into.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Cradle<'a> {
    /// `CLONE_NEW*`.
    pub(crate) namespaces: u32,
    /// Of the child; its parent's own when there is none.
    pub(crate) pid_namespace: Option<BorrowedFd<'a>>,
    /// A cgroup v2 directory.
    pub(crate) cgroup: Option<&'a Path>,
}

impl Process {
    /// Forks; `life` is the child's, which ends with it.
    pub(crate) fn fork(cradle: &Cradle<'_>, life: impl FnOnce()) -> io::Result<Self> {
        let cgroup = cradle.cgroup.map(open_directory).transpose()?;
        let birth = Birth {
            namespaces: i32::try_from(cradle.namespaces).map_err(|_| io::ErrorKind::InvalidInput)?,
            cgroup: cgroup.as_ref().map(AsFd::as_fd),
        };
        let own = match cradle.pid_namespace {
            // The shim itself stays where it is: only its children are born elsewhere.
            Some(namespace) => {
                let own = open_own("pid")?;
                enter(namespace, Kind::Pid)?;
                Some(own)
            }
            None => None,
        };
        let forked = fork(&birth);
        match forked {
            Ok(Forked::Child) => {
                life();
                podd_sys::fork::exit_now(1)
            }
            Ok(Forked::Parent { pid, pidfd }) => {
                restore(own)?;
                Ok(Self { pid, pidfd })
            }
            Err(error) => {
                restore(own)?;
                Err(error)
            }
        }
    }

    /// Sends a signal; that the process has ended is fine.
    pub(crate) fn signal(&self, signal: i32) -> io::Result<()> {
        signal_unless_gone(self.pidfd.as_fd(), signal)
    }

    /// Ends the process.
    pub(crate) fn kill(&self) {
        // A signal of the kernel's own to a child of ours is refused only when it has ended.
        let _ended = self.signal(rustix::process::Signal::KILL.as_raw());
    }
}

fn restore(own: Option<OwnedFd>) -> io::Result<()> {
    own.map_or(Ok(()), |own| enter(own.as_fd(), Kind::Pid))
}

/// Sends a signal by pidfd; that the process has ended is fine.
pub(crate) fn signal_unless_gone(pidfd: BorrowedFd<'_>, signal: i32) -> io::Result<()> {
    match podd_sys::signal::send(pidfd, signal) {
        Err(error) if error.raw_os_error() == Some(rustix::io::Errno::SRCH.raw_os_error()) => Ok(()),
        outcome => outcome,
    }
}

/// A pair for a child's reports: the shim's side, which does not block, and the child's.
pub(crate) fn channel() -> io::Result<(OwnedFd, Channel)> {
    let (ours, theirs) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
    fcntl_setfl(&ours, fcntl_getfl(&ours)? | OFlags::NONBLOCK)?;
    Ok((ours, Channel::new(theirs)))
}

/// When a child must have set itself up, on the monotonic clock.
pub(crate) fn deadline(millis: u64) -> i64 {
    let millis = if millis == 0 { DEFAULT_DEADLINE_MS } else { millis };
    clock::monotonic().saturating_add(i64::try_from(millis).unwrap_or(i64::MAX).saturating_mul(1_000_000))
}

/// The end of a process in the words of the wire, as a shell counts: 128 + n for signal n.
pub(crate) fn exit_of(status: WaitStatus, started_at: i64) -> Exit {
    let signal = status.terminating_signal();
    let code = status.exit_status().or(signal.map(|signal| 128 + signal)).unwrap_or(128);
    Exit { code, signal, oom_killed: false, started_at, finished_at: clock::now() }
}

/// The end of a process for people.
pub(crate) fn words(status: WaitStatus) -> String {
    match (status.exit_status(), status.terminating_signal()) {
        (Some(code), _) => format!("exit status {code}"),
        (None, Some(signal)) => format!("signal {signal}"),
        (None, None) => "in an unknown way".to_owned(),
    }
}

fn open_directory(path: &Path) -> io::Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    Ok(rustix::fs::openat(CWD, path, flags, Mode::empty())?)
}
