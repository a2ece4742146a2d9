//! Signals by number, real-time ones included, to pidfds; and their reception through a descriptor.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::ptr;

/// The highest signal number.
pub const MAX: i32 = 64;

/// Sends a signal to the process of a pidfd; 0 only asks whether it is there. `ESRCH` once it is gone.
pub fn send(pidfd: BorrowedFd<'_>, signal: i32) -> io::Result<()> {
    let info: *const libc::siginfo_t = ptr::null();
    // SAFETY: with a null siginfo the kernel makes one up, as for kill(2); no other memory is involved.
    let result = unsafe { libc::syscall(libc::SYS_pidfd_send_signal, pidfd.as_raw_fd(), signal, info, 0) };
    crate::check(result).map(drop)
}

/// Blocks the signals in this thread and gives a non-blocking descriptor that reads them.
pub fn descriptor(signals: &[i32]) -> io::Result<OwnedFd> {
    let set = set_of(signals)?;
    // SAFETY: the set is initialised and the third pointer may be null.
    crate::check(unsafe { libc::sigprocmask(libc::SIG_BLOCK, &set, ptr::null_mut()) }.into())?;
    // SAFETY: the set is initialised; -1 asks for a new descriptor.
    let fd = unsafe { libc::signalfd(-1, &set, libc::SFD_CLOEXEC | libc::SFD_NONBLOCK) };
    crate::check(fd.into())?;
    // SAFETY: signalfd returned a new descriptor that nobody else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Gives every signal its default action and unblocks all: a program expects that at its start.
pub fn reset() -> io::Result<()> {
    for signal in 1..=MAX {
        // SAFETY: SIG_DFL is a valid action, no code of ours runs. SIGKILL, SIGSTOP and the two that libc keeps are
        // refused, which is fine: theirs is the default.
        unsafe { libc::signal(signal, libc::SIG_DFL) };
    }
    let none = set_of(&[])?;
    // SAFETY: the set is initialised and the third pointer may be null.
    crate::check(unsafe { libc::sigprocmask(libc::SIG_SETMASK, &none, ptr::null_mut()) }.into()).map(drop)
}

fn set_of(signals: &[i32]) -> io::Result<libc::sigset_t> {
    let mut set = MaybeUninit::uninit();
    // SAFETY: the pointer is valid for the write of a set.
    crate::check(unsafe { libc::sigemptyset(set.as_mut_ptr()) }.into())?;
    // SAFETY: initialised by the call above.
    let mut set = unsafe { set.assume_init() };
    for signal in signals {
        // SAFETY: the set is initialised; a wrong number is answered with EINVAL.
        crate::check(unsafe { libc::sigaddset(&mut set, *signal) }.into())?;
    }
    Ok(set)
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;
    use std::os::unix::process::ExitStatusExt;
    use std::process::Command;

    use rustix::process::{Pid, PidfdFlags, pidfd_open};

    use super::*;

    #[test]
    fn a_process_is_signalled_until_it_is_gone() {
        let mut child = Command::new("sleep").arg("60").spawn().unwrap();
        let pid = Pid::from_raw(child.id() as i32).unwrap();
        let pidfd = pidfd_open(pid, PidfdFlags::empty()).unwrap();
        send(pidfd.as_fd(), 0).unwrap();
        // A real-time one, beyond what libraries name.
        send(pidfd.as_fd(), MAX).unwrap();
        assert_eq!(child.wait().unwrap().signal(), Some(MAX));
        assert_eq!(send(pidfd.as_fd(), 0).unwrap_err().raw_os_error(), Some(libc::ESRCH));
    }

    #[test]
    fn a_number_that_is_no_signal_is_refused() {
        assert_eq!(descriptor(&[0]).unwrap_err().raw_os_error(), Some(libc::EINVAL));
        assert_eq!(descriptor(&[MAX + 1]).unwrap_err().raw_os_error(), Some(libc::EINVAL));
    }
}
