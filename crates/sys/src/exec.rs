//! The last steps of a process before it becomes another program.

use std::convert::Infallible;
use std::ffi::{CStr, CString, c_char};
use std::io;
use std::os::fd::RawFd;
use std::ptr;

/// execve(2). Returns only with an error.
pub fn execve(path: &CStr, args: &[CString], env: &[CString]) -> io::Result<Infallible> {
    let list = |strings: &[CString]| -> Vec<*const c_char> {
        strings.iter().map(|string| string.as_ptr()).chain([ptr::null()]).collect()
    };
    let (args, env) = (list(args), list(env));
    // SAFETY: path is NUL-terminated, both vectors are NULL-terminated arrays of NUL-terminated strings, all alive
    // during the call.
    unsafe { libc::execve(path.as_ptr(), args.as_ptr(), env.as_ptr()) };
    Err(io::Error::last_os_error())
}

/// Closes every descriptor from `first` on.
///
/// For a process about to exec or one that has just begun: an [`OwnedFd`](std::os::fd::OwnedFd) of such a number must not
/// be used or dropped afterwards.
pub fn close_from(first: RawFd) -> io::Result<()> {
    let first = libc::c_uint::try_from(first).map_err(|_| io::ErrorKind::InvalidInput)?;
    // SAFETY: the call touches no memory. Callers own no descriptor from `first` on that they use later (documented).
    let result = unsafe { libc::syscall(libc::SYS_close_range, first, libc::c_uint::MAX, 0) };
    crate::check(result).map(drop)
}

/// Marks every descriptor from `first` on close-on-exec.
pub fn close_from_on_exec(first: RawFd) -> io::Result<()> {
    let first = libc::c_uint::try_from(first).map_err(|_| io::ErrorKind::InvalidInput)?;
    // SAFETY: the call touches no memory and only changes a flag of descriptors.
    let result = unsafe { libc::syscall(libc::SYS_close_range, first, libc::c_uint::MAX, libc::CLOSE_RANGE_CLOEXEC) };
    crate::check(result).map(drop)
}

/// Makes `number` a copy of `fd`, inherited over exec.
///
/// The number's former descriptor is closed: for the standard descriptors of a process about to exec.
pub fn place(fd: impl std::os::fd::AsFd, number: RawFd) -> io::Result<()> {
    use std::os::fd::AsRawFd;
    let from = fd.as_fd().as_raw_fd();
    if from == number {
        rustix::io::fcntl_setfd(fd, rustix::io::FdFlags::empty())?;
        return Ok(());
    }
    // SAFETY: the call touches no memory; nobody holds an OwnedFd of a number that is placed (documented).
    crate::check(unsafe { libc::dup2(from, number) }.into()).map(drop)
}

/// Takes ownership of an inherited descriptor. `BadF` when the number is not open.
pub fn adopt(number: RawFd) -> io::Result<std::os::fd::OwnedFd> {
    use std::os::fd::FromRawFd;
    // SAFETY: the call touches no memory.
    crate::check(unsafe { libc::fcntl(number, libc::F_SETFD, libc::FD_CLOEXEC) }.into())?;
    // SAFETY: the descriptor is open (checked by the call above) and was inherited, so no value in this process owns it;
    // callers adopt a number once, at the start of the process.
    Ok(unsafe { std::os::fd::OwnedFd::from_raw_fd(number) })
}
