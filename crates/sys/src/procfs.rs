//! Writes to `/proc` that are sure to reach procfs.
//!
//! A container's image or volume may put something else where `/proc` is expected (CVE-2019-16884 and its family): each
//! file is opened without following links or crossing mounts and its file system's magic number is checked.

use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::fs::{CWD, Mode, OFlags, ResolveFlags, fstatfs, openat2};

const PROC_SUPER_MAGIC: i64 = 0x9fa0;

/// Writes `value` to `/proc/<path>` of the current mount namespace.
pub fn write(path: impl AsRef<Path>, value: &str) -> io::Result<()> {
    let file = open(path.as_ref(), OFlags::WRONLY)?;
    std::fs::File::from(file).write_all(value.as_bytes())
}

/// Sets a sysctl by its dotted name (`net.ipv4.ip_forward`) in the namespaces of this thread. `InvalidInput` when the
/// name is not one.
///
/// As sysctl(8) has it, a slash in the name stands for a dot in a file name (`net.ipv4.conf.eth0/100.forwarding`), and a
/// name that begins with a slash-separated part is read with the two exchanged.
pub fn write_sysctl(name: &str, value: &str) -> io::Result<()> {
    let slashes_separate = name.find(['.', '/']).is_some_and(|at| name.as_bytes()[at] == b'/');
    let path: String = name
        .chars()
        .map(|c| match c {
            '.' if !slashes_separate => '/',
            '/' if !slashes_separate => '.',
            other => other,
        })
        .collect();
    let plain = |part: &str| !part.is_empty() && part != "." && part != "..";
    if !path.split('/').all(plain) {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "not the name of a sysctl"));
    }
    write(Path::new("sys").join(path), value)
}

/// Opens `/proc/<path>`, verified.
pub fn open(path: &Path, flags: OFlags) -> io::Result<OwnedFd> {
    let root = rustix::fs::openat(CWD, "/proc", OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    verify(&root)?;
    // /proc/self and /proc/thread-self are symbolic links of procfs itself, so links are allowed, but only below /proc
    // and never the magic ones.
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS | ResolveFlags::NO_XDEV;
    let file = openat2(&root, path, flags | OFlags::CLOEXEC, Mode::empty(), resolve)?;
    verify(&file)?;
    Ok(file)
}

fn verify(fd: &OwnedFd) -> io::Result<()> {
    if fstatfs(fd)?.f_type == PROC_SUPER_MAGIC {
        Ok(())
    } else {
        Err(io::Error::new(io::ErrorKind::InvalidData, "not procfs"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_that_leaves_procfs_is_refused() {
        assert!(open(Path::new("../etc/passwd"), OFlags::RDONLY).is_err());
        assert!(open(Path::new("self/root/etc/passwd"), OFlags::RDONLY).is_err());
        assert!(open(Path::new("self/status"), OFlags::RDONLY).is_ok());
    }

    #[test]
    fn a_sysctl_name_can_not_climb() {
        for name in ["net..ipv4", "", "../kernel.core_pattern", "kernel.//.x", "net.ipv4.", "a/../b"] {
            assert_eq!(write_sysctl(name, "0").unwrap_err().kind(), io::ErrorKind::InvalidInput, "{name}");
        }
    }

    /// In a mount namespace of a thread of its own.
    fn with_mount_over(path: &'static str, make: fn() -> io::Result<OwnedFd>, check: fn()) {
        use crate::mount::{attach, make_all_private};
        use std::os::fd::AsFd;
        let thread = std::thread::spawn(move || {
            crate::namespace::unshare_own(rustix::thread::UnshareFlags::NEWNS).unwrap();
            make_all_private().unwrap();
            let target = rustix::fs::open(path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).unwrap();
            attach(make().unwrap().as_fd(), target.as_fd()).unwrap();
            check();
        });
        if let Err(panic) = thread.join() {
            std::panic::resume_unwind(panic);
        }
    }

    #[test]
    fn something_else_at_proc_is_noticed() {
        let tmpfs = || crate::mount::filesystem("tmpfs", &[], Default::default());
        with_mount_over("/proc", tmpfs, || {
            std::fs::create_dir("/proc/self").unwrap();
            std::fs::write("/proc/self/oom_score_adj", "").unwrap();
            assert_eq!(write("self/oom_score_adj", "0").unwrap_err().kind(), io::ErrorKind::InvalidData);
        });
    }

    #[test]
    fn a_file_mounted_over_one_of_procfs_is_not_written_to() {
        let null = || crate::mount::clone_tree(CWD, Path::new("/dev/null"), false);
        with_mount_over("/proc/sys/kernel/ostype", null, || {
            let error = write_sysctl("kernel.ostype", "x").unwrap_err();
            assert_eq!(rustix::io::Errno::from_io_error(&error), Some(rustix::io::Errno::XDEV));
        });
    }
}
