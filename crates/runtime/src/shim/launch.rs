//! Starting a shim, and finding one again after the agent was away.
//!
//! What a boot invalidates lies here, in the run directory: the socket, and a small file beside it that says which
//! boot and which pid it belongs to. The shim's binary is part of podd; all shims run from one sealed memfd, so that
//! its pages are shared and no container can reach the file.

use std::ffi::CString;
use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use podd_shim::wire::{HOLDER, LISTENER_FD};
use podd_sys::spawn::{Program, Spawn, spawn};
use rustix::process::{Pid, PidfdFlags, Signal, WaitId, WaitIdOptions, pidfd_open, pidfd_send_signal, waitid};
use serde::{Deserialize, Serialize};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use crate::error::{Context, Result};

/// The shim as built beside this crate (build.rs).
const BINARY: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/podd-shim"));
/// What the shim calls itself before it knows its sandbox.
const NAME: &str = "podd-shim";

/// Starts shims and knows where they lie.
#[derive(Clone)]
pub(crate) struct Launcher {
    binary: Arc<OwnedFd>,
    directory: PathBuf,
    /// The directory, opened: a socket's path must fit 108 bytes, and one through /proc/self/fd always does.
    handle: Arc<File>,
    boot_id: String,
}

/// A process that does nothing until this value goes, or this process ends.
pub(crate) struct Holder {
    pub(crate) process: Process,
    _rope: OwnedFd,
}

/// A shim that was started or found, and the socket to it.
pub(crate) struct Launched {
    pub(crate) socket: UnixStream,
    pub(crate) process: Process,
}

/// A shim's process.
#[derive(Debug)]
pub(crate) struct Process {
    pub(crate) pid: u32,
    pub(crate) pidfd: OwnedFd,
}

/// The file beside the socket.
#[derive(Serialize, Deserialize)]
struct Trace {
    boot_id: String,
    pid: u32,
}

impl Launcher {
    pub(crate) fn open(directory: PathBuf, boot_id: String) -> Result<Self> {
        let what = || format!("open {}", directory.display());
        fs::DirBuilder::new().recursive(true).mode(0o700).create(&directory).context(what)?;
        let handle = File::open(&directory).context(what)?;
        let binary = podd_sys::memfd::sealed_executable(NAME, BINARY).context(|| "keep the shim's binary in memory")?;
        Ok(Self { binary: Arc::new(binary), directory, handle: Arc::new(handle), boot_id })
    }

    /// Starts a process that does nothing.
    pub(crate) fn hold(&self) -> Result<Holder> {
        let what = || "start the holder of a scope".to_owned();
        let (end, rope) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).context(what)?;
        let spawned = spawn(&Spawn {
            program: Program::Fd(self.binary.as_fd()),
            args: &[CString::new(HOLDER).expect("a constant without NUL")],
            env: &[],
            fds: &[(LISTENER_FD, end.as_fd())],
            new_session: true,
        })
        .context(what)?;
        Ok(Holder { process: Process { pid: spawned.pid, pidfd: spawned.pidfd }, _rope: rope })
    }

    /// Starts the shim of a sandbox. Blocking, about a quarter of a millisecond.
    pub(crate) fn launch(&self, sandbox: &str) -> Result<Launched> {
        let what = || format!("start the shim of sandbox {sandbox}");
        let path = self.socket_path(sandbox);
        let listener = UnixListener::bind(&path).context(what)?;
        fs::set_permissions(&path, PermissionsExt::from_mode(0o600)).context(what)?;
        let args = [NAME, sandbox].map(|arg| CString::new(arg).expect("names and ids have no NUL"));
        let spawned = spawn(&Spawn {
            program: Program::Fd(self.binary.as_fd()),
            args: &args,
            env: &[],
            fds: &[(LISTENER_FD, listener.as_fd())],
            new_session: true,
        })
        .context(what)?;
        let trace = Trace { boot_id: self.boot_id.clone(), pid: spawned.pid };
        let text = serde_json::to_vec(&trace).context(what)?;
        fs::write(self.trace_path(sandbox), text).context(what)?;
        let socket = UnixStream::connect(&path).context(what)?;
        Ok(Launched { socket, process: Process { pid: spawned.pid, pidfd: spawned.pidfd } })
    }

    /// The shim of a sandbox, if it was started in this boot, its process is still there and its socket takes
    /// connections.
    pub(crate) fn find(&self, sandbox: &str) -> Option<Launched> {
        let process = self.process(sandbox)?;
        let socket = UnixStream::connect(self.socket_path(sandbox)).ok()?;
        Some(Launched { socket, process })
    }

    /// The process that was started for a sandbox in this boot, alive or dying.
    pub(crate) fn process(&self, sandbox: &str) -> Option<Process> {
        let trace: Trace = serde_json::from_slice(&fs::read(self.trace_path(sandbox)).ok()?).ok()?;
        if trace.boot_id != self.boot_id {
            return None;
        }
        let pid = Pid::from_raw(i32::try_from(trace.pid).ok()?)?;
        let pidfd = pidfd_open(pid, PidfdFlags::empty()).ok()?;
        // The number may be somebody else's by now; what it is called is read after the pidfd holds it.
        let title = fs::read(format!("/proc/{}/cmdline", trace.pid)).ok()?;
        let ours = title.windows(sandbox.len()).any(|window| window == sandbox.as_bytes());
        ours.then_some(Process { pid: trace.pid, pidfd })
    }

    /// Removes socket and trace. That they are gone already is fine.
    pub(crate) fn forget(&self, sandbox: &str) -> io::Result<()> {
        for path in [self.socket_path(sandbox), self.trace_path(sandbox)] {
            match fs::remove_file(path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        Ok(())
    }

    /// The sandboxes that have left something in the directory.
    pub(crate) fn traces(&self) -> io::Result<Vec<String>> {
        let mut ids = Vec::new();
        for entry in fs::read_dir(&self.directory)? {
            let path = entry?.path();
            ids.extend(path.file_stem().and_then(|stem| stem.to_str()).map(str::to_owned));
        }
        ids.sort();
        ids.dedup();
        Ok(ids)
    }

    fn socket_path(&self, sandbox: &str) -> PathBuf {
        format!("/proc/self/fd/{}/{sandbox}.sock", self.handle.as_raw_fd()).into()
    }

    fn trace_path(&self, sandbox: &str) -> PathBuf {
        self.directory.join(sandbox).with_extension("json")
    }
}

impl Process {
    /// Ends the process; that it has ended is fine.
    pub(crate) fn kill(&self) {
        if let Err(error) = pidfd_send_signal(&self.pidfd, Signal::KILL)
            && error != rustix::io::Errno::SRCH
        {
            tracing::warn!(pid = self.pid, %error, "kill a shim");
        }
    }

    /// Waits for the end of the process, and reaps it when it is a child of this one (it is not after a restart).
    pub(crate) async fn ended_within(&self, patience: Duration) -> bool {
        let ended = async {
            let copy = self.pidfd.try_clone()?;
            #[expect(deprecated, reason = "only types that can change their descriptor are unsound, this one cannot")]
            let watched = AsyncFd::with_interest(copy, Interest::READABLE)?;
            let _readable = watched.readable().await?;
            io::Result::Ok(())
        };
        // Cancelling the wait loses nothing: the descriptor stays readable.
        match tokio::time::timeout(patience, ended).await {
            Ok(Ok(())) => {
                // CHILD: somebody else's child.
                let _reaped = waitid(WaitId::PidFd(self.pidfd.as_fd()), WaitIdOptions::EXITED | WaitIdOptions::NOHANG);
                true
            }
            Ok(Err(error)) => {
                tracing::warn!(pid = self.pid, %error, "wait for a shim's end");
                false
            }
            Err(_) => false,
        }
    }
}
