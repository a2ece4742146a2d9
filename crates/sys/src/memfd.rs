//! Files in memory that nobody can change any more.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::OwnedFd;

use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, memfd_create};

/// An executable as a sealed file in memory: every process that runs it shares its pages, and no process, root in a
/// container included, can write to it through `/proc/self/exe`.
pub fn sealed_executable(name: &str, bytes: &[u8]) -> io::Result<OwnedFd> {
    // MFD_EXEC (6.3) says that the sysctl vm.memfd_noexec may not take the executable bit away; older kernels have
    // neither the flag nor the sysctl.
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    let fd = memfd_create(name, flags | MemfdFlags::EXEC).or_else(|_| memfd_create(name, flags))?;
    let mut file = File::from(fd);
    file.write_all(bytes)?;
    let fd = OwnedFd::from(file);
    fcntl_add_seals(&fd, SealFlags::WRITE | SealFlags::GROW | SealFlags::SHRINK | SealFlags::SEAL)?;
    Ok(fd)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sealed_executable_refuses_writes() {
        let fd = sealed_executable("test", b"#!/bin/true").unwrap();
        assert_eq!(rustix::io::pwrite(&fd, b"x", 0).unwrap_err(), rustix::io::Errno::PERM);
    }
}
