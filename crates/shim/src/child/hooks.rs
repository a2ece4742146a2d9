//! Hooks that run in the container's namespaces, one after the other, as children of the container's first process.

use std::ffi::CString;
use std::io::{self, Read as _, Seek as _, Write as _};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;
use std::time::Duration;

use podd_shim::wire::{Hook, ShimErrorKind};
use podd_sys::exec;
use podd_sys::fork::{Birth, Forked, exit_now, fork};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::{MemfdFlags, Mode, OFlags, fcntl_setfl, memfd_create};
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{Pid, Signal, WaitOptions, kill_process_group, waitpid};
use rustix::time::Timespec;

use crate::clock;
use crate::fault::{Outcome, Stage, refuse};
use crate::process::words;

/// How much of what a hook writes is kept for the error.
const LONGEST_SAYING: usize = 4096;
/// How long a hook may take that names no timeout; the deadline of the child's step ends it earlier.
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(60);

/// Runs hooks in order; `state` is their standard input. The first that fails ends it.
pub(super) fn run(stage: &str, hooks: &[Hook], state: &str) -> Outcome<()> {
    hooks.iter().try_for_each(|hook| run_one(stage, hook, state))
}

fn run_one(stage: &str, hook: &Hook, state: &str) -> Outcome<()> {
    let what = format!("run {stage} hook");
    // A file, unlike a pipe, takes any state whole and needs nobody who writes.
    let input = memfd_create("state", MemfdFlags::CLOEXEC).stage(&what)?;
    let mut input = std::fs::File::from(input);
    input.write_all(state.as_bytes()).and_then(|()| input.rewind()).stage(&what)?;
    let (read, write) = pipe_with(PipeFlags::CLOEXEC).stage(&what)?;
    fcntl_setfl(&read, OFlags::NONBLOCK).stage(&what)?;
    let strings = |values: &[String]| -> io::Result<Vec<CString>> {
        values.iter().map(|value| CString::new(value.as_str()).map_err(io::Error::from)).collect()
    };
    let path = CString::new(hook.path.as_os_str().as_bytes()).map_err(io::Error::from).on(&what, &hook.path)?;
    let args = if hook.args.is_empty() { vec![path.clone()] } else { strings(&hook.args).on(&what, &hook.path)? };
    let env = strings(&hook.env).on(&what, &hook.path)?;
    match fork(&Birth::default()).on(&what, &hook.path)? {
        Forked::Child => {
            let Err(error) = become_hook(&input.into(), &write, &path, &args, &env);
            let _unheard = rustix::io::write(&write, error.to_string().as_bytes());
            exit_now(127)
        }
        Forked::Parent { pid, pidfd } => {
            drop(write);
            let deadline = hook.timeout.map_or(DEFAULT_TIMEOUT, |seconds| Duration::from_secs(seconds.into()));
            follow(&what, &hook.path, pid, &pidfd, read, deadline)
        }
    }
}

fn become_hook(
    input: &OwnedFd,
    output: &OwnedFd,
    path: &CString,
    args: &[CString],
    env: &[CString],
) -> io::Result<std::convert::Infallible> {
    rustix::process::setsid()?;
    rustix::process::umask(Mode::from_raw_mode(0o022));
    exec::place(input, 0)?;
    exec::place(output, 1)?;
    exec::place(output, 2)?;
    exec::execve(path, args, env)
}

fn follow(what: &str, path: &Path, pid: u32, pidfd: &OwnedFd, read: OwnedFd, patience: Duration) -> Outcome<()> {
    let nanos = |duration: Duration| i64::try_from(duration.as_nanos()).unwrap_or(i64::MAX);
    let end = clock::monotonic().saturating_add(nanos(patience));
    let process = i32::try_from(pid).ok().and_then(Pid::from_raw).expect("a pid is positive");
    let mut output = Some(std::fs::File::from(read));
    let mut said = Vec::new();
    loop {
        let left = (end - clock::monotonic()).max(0);
        let left_spec = Timespec { tv_sec: left / 1_000_000_000, tv_nsec: left % 1_000_000_000 };
        let ended = {
            let mut polled = vec![PollFd::new(pidfd, PollFlags::IN)];
            polled.extend(output.as_ref().map(|output| PollFd::from_borrowed_fd(output.as_fd(), PollFlags::IN)));
            match poll(&mut polled, Some(&left_spec)) {
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error).on(what, path),
            }
            polled[0].revents().contains(PollFlags::IN)
        };
        drain(&mut output, &mut said);
        if ended {
            break;
        }
        if left == 0 {
            // It leads a session of its own: what it has started goes too.
            let _gone = kill_process_group(process, Signal::KILL);
            let _reaped = waitpid(Some(process), WaitOptions::empty());
            let message = format!("{}: killed after {} s{}", path.display(), patience.as_secs(), saying(&said));
            return Err(refuse(ShimErrorKind::System, what, message));
        }
    }
    let status = waitpid(Some(process), WaitOptions::empty()).on(what, path)?;
    match status {
        Some((_, status)) if status.exit_status() == Some(0) => Ok(()),
        Some((_, status)) => {
            let message = format!("{}: {}{}", path.display(), words(status), saying(&said));
            Err(refuse(ShimErrorKind::System, what, message))
        }
        None => Ok(()),
    }
}

/// Takes what is there, and closes the pipe at its end.
fn drain(output: &mut Option<std::fs::File>, said: &mut Vec<u8>) {
    let mut buffer = [0; LONGEST_SAYING];
    // A bound, so that one who never stops writing does not outlive its deadline here.
    for _ in 0..16 {
        let Some(pipe) = output else { return };
        match pipe.read(&mut buffer) {
            Ok(0) => *output = None,
            Ok(length) => {
                let room = LONGEST_SAYING - said.len();
                said.extend_from_slice(&buffer[..length.min(room)]);
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(_) => return,
        }
    }
}

fn saying(said: &[u8]) -> String {
    let text = String::from_utf8_lossy(said);
    let text = text.trim();
    if text.is_empty() { String::new() } else { format!(": {text}") }
}
