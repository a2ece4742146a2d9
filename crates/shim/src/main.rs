//! The per-pod process: it parents the pod's containers, pumps their output into logs and keeps their exits.
//!
//! One thread, one loop that never waits for anybody:
//!
//! ```text
//!  listener ─► clients ──calls──► pod ─► containers, execs ─► children (fork, set-up, exec)
//!                ▲                 │          │
//!                └─replies, events─┘          └─ output pipes ─► log files
//!  SIGCHLD ──► reap ──► exits, kept until they are forgotten
//! ```
//!
//! It stays in the host's namespaces and holds the pod's as descriptors. What runs between fork and exec is in `child`.

mod audience;
mod child;
mod client;
mod clock;
mod container;
mod fault;
mod group;
mod launch;
mod log;
mod oom;
mod outbox;
mod output;
mod pod;
mod poller;
mod process;
mod sandbox;
mod server;
mod session;
mod users;

use std::io;
use std::os::fd::OwnedFd;
use std::process::ExitCode;

use podd_shim::wire::{HOLDER, LISTENER_FD};
use rustix::process::{DumpableBehavior, Signal, getpid, set_child_subreaper, set_dumpable_behavior};

/// What would end the shim or mean nothing to it: read and dropped. A shim ends when it is told, or by SIGKILL.
const UNHEEDED: [Signal; 9] = [
    Signal::TERM,
    Signal::INT,
    Signal::HUP,
    Signal::QUIT,
    Signal::PIPE,
    Signal::USR1,
    Signal::USR2,
    Signal::ALARM,
    Signal::TSTP,
];

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        // Its standard error leads nowhere: the runtime sees that the shim has ended.
        Err(_) => ExitCode::FAILURE,
    }
}

fn run() -> io::Result<()> {
    let listener = podd_sys::exec::adopt(LISTENER_FD)?;
    // The descriptor that it was executed from comes next; nothing else is open.
    podd_sys::exec::close_from(LISTENER_FD + 1)?;
    if std::env::args_os().next().is_some_and(|name| name == HOLDER) {
        return hold(&listener);
    }
    // Its name is that of the descriptor otherwise.
    rustix::thread::set_name(c"podd-shim")?;
    set_dumpable_behavior(DumpableBehavior::NotDumpable)?;
    set_child_subreaper(Some(getpid()))?;
    let mut signals = vec![Signal::CHILD.as_raw()];
    signals.extend(UNHEEDED.map(Signal::as_raw));
    let signals = podd_sys::signal::descriptor(&signals)?;
    server::Server::new(listener, signals)?.run()
}

/// Waits for the end of a pipe that nobody writes to.
fn hold(rope: &OwnedFd) -> io::Result<()> {
    loop {
        match rustix::io::read(rope, &mut [0; 16]) {
            Ok(0) => return Ok(()),
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}
