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
