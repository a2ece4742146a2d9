//! Starting a helper from a process with many threads and much memory: `posix_spawn`, which shares the parent's memory
//! until exec (`CLONE_VM | CLONE_VFORK`) and so costs the same whatever the parent's size. Nothing of the parent runs
//! in the child, so neither its locks nor its descriptors get there.
//!
//! For the shim and other helpers only; containers are forked by the shim ([`crate::fork`]).

use std::ffi::{CString, c_char, c_short};
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::path::Path;
use std::ptr;

use rustix::io::fcntl_dupfd_cloexec;
use rustix::process::{Pid, PidfdFlags, pidfd_open};

/// What to execute.
#[derive(Debug, Clone, Copy)]
pub enum Program<'a> {
    /// A file by its path; no `PATH` lookup.
    Path(&'a Path),
    /// An open executable, such as a sealed memfd ([`crate::memfd`]). The child finds it open, one above its highest
    /// mapped descriptor, and should close it.
    Fd(BorrowedFd<'a>),
}

/// A helper to start.
#[derive(Debug)]
pub struct Spawn<'a> {
    /// The executable.
    pub program: Program<'a>,
    /// Arguments, the program's name first.
    pub args: &'a [CString],
    /// The whole environment, `NAME=value`.
    pub env: &'a [CString],
    /// The child's descriptors: (number in the child, descriptor here). 0, 1 and 2 are `/dev/null` when not given; every
    /// other descriptor is closed.
    pub fds: &'a [(RawFd, BorrowedFd<'a>)],
    /// The child leads a session of its own.
    pub new_session: bool,
}

/// A started helper, a child of this process: someone has to wait for it.
#[derive(Debug)]
pub struct Spawned {
    /// Its process id.
    pub pid: u32,
    /// Its pidfd.
    pub pidfd: OwnedFd,
}

/// Starts a helper with `/` as working directory, no blocked signals and default signal actions.
///
/// An exec that does not succeed is an error here, not an exit status.
pub fn spawn(request: &Spawn<'_>) -> io::Result<Spawned> {
    let highest = request.fds.iter().map(|(number, _)| *number).max().unwrap_or(0).max(2);
    // Copies above every target number: a mapping can then never overwrite the source of a later one.
    let copy = |fd| fcntl_dupfd_cloexec(fd, highest + 2);
    let mut actions = Actions::new()?;
    actions.change_directory(c"/")?;
    let mut keep = Vec::new();
    for number in 0..=2 {
        if request.fds.iter().all(|(target, _)| *target != number) {
            actions.open_null(number)?;
        }
    }
    for (number, fd) in request.fds {
        let source = copy(*fd)?;
        actions.duplicate(source.as_raw_fd(), *number)?;
        keep.push(source);
    }
    let path = match request.program {
        Program::Path(path) => {
            actions.close_from(highest + 1)?;
            CString::new(path.as_os_str().as_encoded_bytes())?
        }
        Program::Fd(fd) => {
            let source = copy(fd)?;
            actions.duplicate(source.as_raw_fd(), highest + 1)?;
            actions.close_from(highest + 2)?;
            keep.push(source);
            CString::new(format!("/proc/self/fd/{}", highest + 1))?
        }
    };
    let attributes = Attributes::new(request.new_session)?;
    let pid = actions.spawn(&path, &attributes, request.args, request.env)?;
    drop(keep);
    let id = Pid::from_raw(pid).ok_or(io::ErrorKind::InvalidData)?;
    // The child is ours and unreaped, so the number still means it.
    let pidfd = pidfd_open(id, PidfdFlags::empty())?;
    Ok(Spawned { pid: pid.unsigned_abs(), pidfd })
}

/// posix_spawn's functions return the error number instead of setting errno.
fn check(error: libc::c_int) -> io::Result<()> {
    if error == 0 { Ok(()) } else { Err(io::Error::from_raw_os_error(error)) }
}

struct Actions(libc::posix_spawn_file_actions_t);

impl Actions {
    fn new() -> io::Result<Self> {
        let mut actions = MaybeUninit::uninit();
        // SAFETY: the pointer is valid for a write of the type that init fills in.
        check(unsafe { libc::posix_spawn_file_actions_init(actions.as_mut_ptr()) })?;
        // SAFETY: init returned 0, so the value is initialised. glibc keeps no pointer to it, so it may move.
        Ok(Self(unsafe { actions.assume_init() }))
    }

    fn change_directory(&mut self, path: &std::ffi::CStr) -> io::Result<()> {
        // SAFETY: self.0 was initialised by `new`; the string is NUL-terminated and copied by the call.
        check(unsafe { libc::posix_spawn_file_actions_addchdir_np(&mut self.0, path.as_ptr()) })
    }

    fn open_null(&mut self, number: RawFd) -> io::Result<()> {
        let path = c"/dev/null".as_ptr();
        // SAFETY: self.0 was initialised by `new`; the string is NUL-terminated and copied by the call.
        check(unsafe { libc::posix_spawn_file_actions_addopen(&mut self.0, number, path, libc::O_RDWR, 0) })
    }

    fn duplicate(&mut self, from: RawFd, to: RawFd) -> io::Result<()> {
        // SAFETY: self.0 was initialised by `new`; the numbers are only looked at in the child.
        check(unsafe { libc::posix_spawn_file_actions_adddup2(&mut self.0, from, to) })
    }

    fn close_from(&mut self, lowest: RawFd) -> io::Result<()> {
        // SAFETY: self.0 was initialised by `new`; the number is only looked at in the child.
        check(unsafe { libc::posix_spawn_file_actions_addclosefrom_np(&mut self.0, lowest) })
    }

    fn spawn(&self, path: &CString, attributes: &Attributes, args: &[CString], env: &[CString]) -> io::Result<i32> {
        let args = pointers(args);
        let env = pointers(env);
        let mut pid = 0;
        // SAFETY: path is NUL-terminated, both vectors are NULL-terminated arrays of NUL-terminated strings, actions and
        // attributes are initialised; all of them outlive the call, and the call does not write to them.
        check(unsafe {
            libc::posix_spawn(&mut pid, path.as_ptr(), &self.0, &attributes.0, args.as_ptr(), env.as_ptr())
        })?;
        Ok(pid)
    }
}

impl Drop for Actions {
    fn drop(&mut self) {
        // SAFETY: initialised by `new` and destroyed once.
        unsafe { libc::posix_spawn_file_actions_destroy(&mut self.0) };
    }
}

struct Attributes(libc::posix_spawnattr_t);

impl Attributes {
    fn new(new_session: bool) -> io::Result<Self> {
        let mut attributes = MaybeUninit::uninit();
        // SAFETY: the pointer is valid for a write of the type that init fills in.
        check(unsafe { libc::posix_spawnattr_init(attributes.as_mut_ptr()) })?;
        // SAFETY: init returned 0, so the value is initialised; glibc keeps no pointer to it.
        let mut attributes = Self(unsafe { attributes.assume_init() });
        let (all, none) = (signal_set(libc::sigfillset), signal_set(libc::sigemptyset));
        // SAFETY: initialised above; the set is copied.
        check(unsafe { libc::posix_spawnattr_setsigdefault(&mut attributes.0, &all) })?;
        // SAFETY: initialised above; the set is copied.
        check(unsafe { libc::posix_spawnattr_setsigmask(&mut attributes.0, &none) })?;
        let mut flags = libc::POSIX_SPAWN_SETSIGDEF | libc::POSIX_SPAWN_SETSIGMASK;
        if new_session {
            flags |= libc::c_int::from(libc::POSIX_SPAWN_SETSID);
        }
        let flags = c_short::try_from(flags).expect("the flags fit a short by their definition");
        // SAFETY: initialised above.
        check(unsafe { libc::posix_spawnattr_setflags(&mut attributes.0, flags) })?;
        Ok(attributes)
    }
}

impl Drop for Attributes {
    fn drop(&mut self) {
        // SAFETY: initialised by `new` and destroyed once.
        unsafe { libc::posix_spawnattr_destroy(&mut self.0) };
    }
}

fn signal_set(fill: unsafe extern "C" fn(*mut libc::sigset_t) -> libc::c_int) -> libc::sigset_t {
    let mut set = MaybeUninit::uninit();
    // SAFETY: both functions that are passed here initialise the set that the pointer is valid for, and can't fail.
    unsafe { fill(set.as_mut_ptr()) };
    // SAFETY: initialised by the call above.
    unsafe { set.assume_init() }
}

fn pointers(strings: &[CString]) -> Vec<*mut c_char> {
    let strings = strings.iter().map(|string| string.as_ptr().cast_mut());
    strings.chain([ptr::null_mut()]).collect()
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::os::fd::AsFd;
    use std::os::unix::net::UnixStream;

    use super::*;

    #[test]
    fn a_helper_gets_its_descriptors_and_no_others() {
        let (mut here, there) = UnixStream::pair().unwrap();
        let args =
            ["busybox", "sh", "-c", "ls /proc/self/fd >&5; pwd >&5; echo $A >&5"].map(|s| CString::new(s).unwrap());
        let env = [CString::new("A=b").unwrap()];
        let leak = rustix::io::dup(here.as_fd()).unwrap();
        let spawned = spawn(&Spawn {
            program: Program::Path(Path::new("/bin/busybox")),
            args: &args,
            env: &env,
            fds: &[(5, there.as_fd()), (1, there.as_fd())],
            new_session: true,
        })
        .unwrap();
        drop((there, leak));
        let mut text = String::new();
        here.read_to_string(&mut text).unwrap();
        // 3 is the directory that ls itself reads.
        assert_eq!(text, "0\n1\n2\n3\n5\n/\nb\n");
        rustix::process::waitpid(Pid::from_raw(spawned.pid as i32), rustix::process::WaitOptions::empty()).unwrap();
    }

    #[test]
    fn a_missing_program_is_an_error_at_once() {
        let request = Spawn {
            program: Program::Path(Path::new("/nonexistent")),
            args: &[],
            env: &[],
            fds: &[],
            new_session: false,
        };
        assert_eq!(spawn(&request).unwrap_err().kind(), io::ErrorKind::NotFound);
    }

    #[test]
    fn a_program_in_memory_runs_and_crossed_descriptors_arrive() {
        let bytes = std::fs::read("/bin/busybox").unwrap();
        let program = crate::memfd::sealed_executable("busybox", &bytes).unwrap();
        let [(mut first, a), (mut second, b)] = [(); 2].map(|()| UnixStream::pair().unwrap());
        let args = ["sh", "-c", "echo to $A >&\"$A\"; echo to $B >&\"$B\""].map(|s| CString::new(s).unwrap());
        let (here, there) = (a.as_raw_fd(), b.as_raw_fd());
        let env = [format!("A={there}"), format!("B={here}")].map(|s| CString::new(s).unwrap());
        let spawned = spawn(&Spawn {
            program: Program::Fd(program.as_fd()),
            args: &args,
            env: &env,
            // Each has the other's number in the child.
            fds: &[(there, a.as_fd()), (here, b.as_fd())],
            new_session: false,
        })
        .unwrap();
        drop((a, b));
        let mut texts = [String::new(), String::new()];
        first.read_to_string(&mut texts[0]).unwrap();
        second.read_to_string(&mut texts[1]).unwrap();
        assert_eq!(texts, [format!("to {there}\n"), format!("to {here}\n")]);
        rustix::process::waitpid(Pid::from_raw(spawned.pid as i32), rustix::process::WaitOptions::empty()).unwrap();
    }
}
