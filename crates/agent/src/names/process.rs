//! The name server's process: started, found again by its lock, waited for.

use std::{
    ffi::CString,
    fs::File,
    io,
    os::{fd::OwnedFd, unix::ffi::OsStrExt as _},
    path::Path,
};

use podd_cgroup::Limits;
use podd_sys::spawn::{Program, Spawn, spawn};
use rustix::{
    fs::{FlockOperation, flock},
    process::{Pid, PidfdFlags, Signal, WaitId, WaitIdOptions, pidfd_open, pidfd_send_signal, waitid},
};
use std::os::fd::AsFd as _;
use tokio::io::{Interest, unix::AsyncFd};

use super::{Server, sandbox::Sandbox, table_path};

/// The file that a server holds locked while it is there: its pid, what it was started for, its version.
const LOCK: &str = "names.lock";
const LOG: &str = "names.log";

/// A server's process.
#[derive(Debug)]
pub(super) struct Process {
    pidfd: OwnedFd,
    /// What it was started with, as it has written it.
    started_for: String,
}

/// The server of this sandbox: the one that runs, or a new one.
pub(super) fn ensure(server: &Server, sandbox: &Sandbox) -> io::Result<Process> {
    let started_for = format!("{} {}", sandbox.id, server.with.version);
    match running(&server.run) {
        Some(process) if process.started_for == started_for => return Ok(process),
        // Of an earlier sandbox or version. The lock is free when it has ended.
        Some(process) => process.kill(),
        None => {}
    }
    start(server, sandbox, &started_for)
}

fn start(server: &Server, sandbox: &Sandbox, started_for: &str) -> io::Result<Process> {
    server.group.create(&Limits::default()).map_err(io::Error::other)?;
    // A server's own, so that it does not grow from one to the next.
    let log = File::create(server.run.join(LOG))?;
    let mut args = vec![text(&server.with.program)?, CString::new("dns")?];
    let mut flag = |name: &str, value: &Path| -> io::Result<()> {
        args.extend([CString::new(name)?, text(value)?]);
        Ok(())
    };
    flag("--table", &table_path(&server.run))?;
    flag("--upstream", &server.resolv_conf)?;
    flag("--network", &sandbox.network)?;
    flag("--lock", &server.run.join(LOCK))?;
    flag("--started-for", Path::new(started_for))?;
    for file in server.group.join_files() {
        flag("--join", &file)?;
    }
    for address in &sandbox.addresses {
        flag("--listen", Path::new(&address.to_string()))?;
    }
    let spawned = spawn(&Spawn {
        program: Program::Path(&server.with.program),
        args: &args,
        env: &[],
        fds: &[(2, log.as_fd())],
        new_session: true,
    })?;
    tracing::info!(pid = spawned.pid, addresses = ?sandbox.addresses, "name server started");
    Ok(Process { pidfd: spawned.pidfd, started_for: started_for.to_owned() })
}

/// The server that holds the lock of a run directory, if one does.
pub(super) fn running(run: &Path) -> Option<Process> {
    let path = run.join(LOCK);
    let file = File::open(&path).ok()?;
    if flock(&file, FlockOperation::NonBlockingLockExclusive).is_ok() {
        return None;
    }
    let written = std::fs::read_to_string(&path).ok()?;
    let (pid, started_for) = written.split_once(' ')?;
    let pid = Pid::from_raw(pid.parse().ok()?)?;
    Some(Process { pidfd: pidfd_open(pid, PidfdFlags::empty()).ok()?, started_for: started_for.to_owned() })
}

impl Process {
    pub(super) fn kill(&self) {
        if let Err(error) = pidfd_send_signal(&self.pidfd, Signal::KILL)
            && error != rustix::io::Errno::SRCH
        {
            tracing::warn!(%error, "end the name server");
        }
    }

    /// Returns when it has ended; reaps it if it is a child of this process.
    pub(super) async fn ended(&self) {
        let ended = async {
            let copy = self.pidfd.try_clone()?;
            #[expect(deprecated, reason = "only types that can change their descriptor are unsound, this one cannot")]
            let watched = AsyncFd::with_interest(copy, Interest::READABLE)?;
            let _readable = watched.readable().await?;
            io::Result::Ok(())
        };
        if let Err(error) = ended.await {
            tracing::warn!(%error, "wait for the name server");
            std::future::pending::<()>().await;
        }
        // CHILD: somebody else's child.
        let _reaped = waitid(WaitId::PidFd(self.pidfd.as_fd()), WaitIdOptions::EXITED | WaitIdOptions::NOHANG);
    }
}

fn text(path: &Path) -> io::Result<CString> {
    Ok(CString::new(path.as_os_str().as_bytes())?)
}
