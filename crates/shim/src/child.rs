//! The life of a forked child until it is the container's program.
//!
//! It is a copy of a single-threaded process with memory of its own (no `CLONE_VM`), so it may allocate and format like
//! any other; it never returns into the shim's loop. It tells the shim over a socketpair how it went, waits there for the
//! start, and the pair closes by itself when exec succeeds:
//!
//! ```text
//! child: set up ──Ready──▶ shim          shim ──go──▶ child: seccomp, exec ──(closed)──▶ shim: started
//!           └────Failed──▶                                     └──────────Failed──▶
//! ```
//!
//! With hooks of the runtime's there is one more stop on the way: *Paused*, all mounted, before the root is entered. Where
//! another OCI runtime makes the container, that is the only one (*Mounted*): the child then becomes its program.

mod container;
mod device;
mod exec;
mod external;
mod hooks;
mod init;
mod masks;
mod mounts;
mod privileges;
mod program;
mod rootfs;
mod terminal;
mod user;

use std::convert::Infallible;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use podd_shim::wire::{ResolvedUser, ShimError};
use podd_sys::socket::{receive_with_fds, send_with_fds};
use serde::{Deserialize, Serialize};

pub(crate) use container::{Inside, join_cgroups, run as run_container};
pub(crate) use exec::{Target, run as run_exec};
pub(crate) use external::{run as run_runtime, run_program};
pub(crate) use init::{keep_only, run as run_init};
pub(crate) use privileges::adjust_oom_score;
pub(crate) use program::exit_code;
pub(crate) use terminal::resize;

use crate::fault::{Outcome, Stage};

/// What a child tells the shim; one packet.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Report {
    /// Set up, waiting for the start; a terminal's master may come along.
    Ready { user: ResolvedUser, warnings: Vec<String> },
    /// Mounted, waiting for the runtime's hooks.
    Paused,
    /// Mounted, waiting for another runtime's configuration.
    Mounted { user: ResolvedUser, home: String, warnings: Vec<String> },
    /// It ends now.
    Failed(ShimError),
}

/// The longest report.
const LONGEST_REPORT: usize = 64 << 10;

/// What the shim finds on its side of the pair.
#[derive(Debug)]
pub(crate) enum Heard {
    /// A report, and the descriptor that came along.
    Report(Report, Option<OwnedFd>),
    /// Nothing yet.
    Nothing,
    /// The child has exec'd or ended.
    Closed,
}

/// The shim's side: reads a report without waiting.
pub(crate) fn hear(channel: BorrowedFd<'_>) -> Heard {
    let mut buffer = vec![0; LONGEST_REPORT];
    let mut fds = Vec::new();
    match receive_with_fds(channel, &mut buffer, &mut fds) {
        Ok(0) => Heard::Closed,
        Ok(length) => match serde_json::from_slice(&buffer[..length]) {
            Ok(report) => Heard::Report(report, fds.pop()),
            Err(_) => Heard::Closed,
        },
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Heard::Nothing,
        Err(_) => Heard::Closed,
    }
}

/// The shim's side: lets the child exec.
pub(crate) fn let_go(channel: BorrowedFd<'_>) -> io::Result<()> {
    send_with_fds(channel, b"!", &[]).map(drop)
}

/// The child's side of the pair.
#[derive(Debug)]
pub(crate) struct Channel(OwnedFd);

impl Channel {
    pub(crate) fn new(socket: OwnedFd) -> Self {
        Self(socket)
    }

    pub(crate) fn report(&self, report: &Report, fd: Option<BorrowedFd<'_>>) -> Outcome<()> {
        let bytes = serde_json::to_vec(report).map_err(io::Error::from).stage("report")?;
        send_with_fds(self.0.as_fd(), &bytes, fd.as_slice()).stage("report").map(drop)
    }

    /// Says how far it is and waits until it may go on; ends with the shim.
    fn report_and_wait(&self, report: &Report, fd: Option<BorrowedFd<'_>>) -> Outcome<()> {
        self.report(report, fd)?;
        self.wait()
    }

    /// Waits for a word of the shim; ends with it.
    pub(crate) fn wait(&self) -> Outcome<()> {
        loop {
            match receive_with_fds(self.0.as_fd(), &mut [0], &mut Vec::new()) {
                Ok(0) => podd_sys::fork::exit_now(1),
                Ok(_) => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error).stage("wait to go on"),
            }
        }
    }

    /// Runs the child's life; what comes back is a failure.
    fn finish(&self, outcome: Outcome<Infallible>) -> ! {
        let Err(error) = outcome;
        let code = exit_code(&error);
        // A filter of the user's own may forbid even this; the exit code then has to do.
        let _unheard = self.report(&Report::Failed(error), None);
        podd_sys::fork::exit_now(code)
    }
}

/// The standard descriptors of a child.
#[derive(Debug)]
pub(crate) enum Stdio {
    /// Those given; the others are `/dev/null`.
    Files([Option<OwnedFd>; 3]),
    /// A terminal, made inside the container.
    Terminal,
}
