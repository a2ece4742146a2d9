//! Forking, for the single-threaded shim alone.
//!
//! The child gets a copy of the memory: `CLONE_VM` would hand the parent's memory to whoever gets at the child. A copy of
//! a single-threaded process is whole, so the child may allocate and lock like any process; what makes fork dangerous
//! elsewhere (locks held by threads that do not exist in the child) can't happen.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

/// What a child is born into.
#[derive(Debug, Clone, Copy, Default)]
pub struct Birth<'a> {
    /// `CLONE_NEW*` flags.
    pub namespaces: libc::c_int,
    /// A cgroup v2 directory to be born in.
    pub cgroup: Option<BorrowedFd<'a>>,
}

/// Which of the two returned.
#[derive(Debug)]
pub enum Forked {
    /// The child.
    Child,
    /// The parent.
    Parent {
        /// The child's id.
        pid: u32,
        /// The child's pidfd.
        pidfd: OwnedFd,
    },
}

/// Forks by clone3. `WouldBlock` when this process has more than one thread.
pub fn fork(birth: &Birth<'_>) -> io::Result<Forked> {
    // A directory has two links and one for each subdirectory: here, for each thread.
    if rustix::fs::stat("/proc/self/task")?.st_nlink != 3 {
        return Err(io::Error::new(io::ErrorKind::WouldBlock, "fork of a process with threads"));
    }
    let mut pidfd: libc::c_int = -1;
    // SAFETY: all fields are integers, for which zero is a value.
    let mut args: libc::clone_args = unsafe { std::mem::zeroed() };
    args.flags = (libc::CLONE_PIDFD | birth.namespaces) as u64;
    args.pidfd = (&raw mut pidfd) as u64;
    args.exit_signal = libc::SIGCHLD as u64;
    if let Some(cgroup) = birth.cgroup {
        args.flags |= CLONE_INTO_CGROUP;
        args.cgroup = cgroup.as_raw_fd() as u64;
    }
    // SAFETY: args is a valid clone_args of the size told and pidfd outlives the call. Without CLONE_VM and with a null
    // stack the child continues on its own copy of this stack, as after fork(2). There is no other thread (checked
    // above), so no lock or allocator state in the copy is held by a thread that the child lacks.
    let pid = crate::check(unsafe { libc::syscall(libc::SYS_clone3, &raw mut args, size_of::<libc::clone_args>()) })?;
    if pid == 0 {
        return Ok(Forked::Child);
    }
    // SAFETY: with CLONE_PIDFD a successful clone3 stores a new descriptor there that nobody else owns.
    let pidfd = unsafe { OwnedFd::from_raw_fd(pidfd) };
    Ok(Forked::Parent { pid: u32::try_from(pid).expect("a pid is positive"), pidfd })
}

const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;

/// Ends a forked child at once, without running anything that belongs to the parent (buffers, destructors).
pub fn exit_now(code: i32) -> ! {
    // SAFETY: _exit takes any number and does not return.
    unsafe { libc::_exit(code) }
}

// Forks that succeed are what the shim's tests are made of; a test of this crate has threads.
#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_with_threads_is_not_forked() {
        let (done, wait) = std::sync::mpsc::channel::<()>();
        let other = std::thread::spawn(move || wait.recv());
        let refused = fork(&Birth::default());
        drop(done);
        let _hung_up = other.join().unwrap();
        assert_eq!(refused.unwrap_err().kind(), io::ErrorKind::WouldBlock);
    }
}
