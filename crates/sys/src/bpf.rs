//! Device filters of cgroup v2 (bpf(2), `BPF_PROG_TYPE_CGROUP_DEVICE`).

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

const PROG_LOAD: libc::c_int = 5;
const PROG_ATTACH: libc::c_int = 8;
const TYPE_CGROUP_DEVICE: u32 = 15;
const ATTACH_CGROUP_DEVICE: u32 = 6;

/// Replaces whatever this caller attached before without the flag; programs of groups above still count.
pub const ALLOW_OVERRIDE: u32 = 1;
/// Several programs may be attached; all have to allow.
pub const ALLOW_MULTI: u32 = 2;

/// The head of `union bpf_attr` for a load.
#[repr(C)]
#[derive(Default)]
struct Load {
    kind: u32,
    instruction_count: u32,
    instructions: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log: u64,
}

/// The head of `union bpf_attr` for an attachment.
#[repr(C)]
#[derive(Default)]
struct Attach {
    target_fd: u32,
    program_fd: u32,
    kind: u32,
    flags: u32,
}

/// Loads a device filter: eBPF instructions as the kernel encodes them, 8 bytes each. It returns 1 to allow.
pub fn load_cgroup_device(instructions: &[u64]) -> io::Result<OwnedFd> {
    let mut attributes = Load {
        kind: TYPE_CGROUP_DEVICE,
        instruction_count: u32::try_from(instructions.len()).map_err(|_| io::ErrorKind::InvalidInput)?,
        instructions: instructions.as_ptr() as u64,
        license: c"Apache-2.0".as_ptr() as u64,
        ..Load::default()
    };
    // SAFETY: the attributes are the head of a bpf_attr of the size told (the kernel takes the rest as zero); the
    // instructions and the NUL-terminated license outlive the call, and the kernel only reads them.
    let result = unsafe { libc::syscall(libc::SYS_bpf, PROG_LOAD, &raw mut attributes, size_of::<Load>()) };
    let fd = crate::check(result)?;
    let fd = i32::try_from(fd).expect("a descriptor is an int");
    // SAFETY: a successful load returns a new descriptor (close-on-exec, as bpf(2) says) that nobody else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Attaches a loaded filter to a cgroup directory, with [`ALLOW_MULTI`], [`ALLOW_OVERRIDE`] or 0.
pub fn attach_cgroup_device(program: BorrowedFd<'_>, cgroup: BorrowedFd<'_>, flags: u32) -> io::Result<()> {
    let raw = |fd: BorrowedFd<'_>| u32::try_from(fd.as_raw_fd()).expect("a descriptor is not negative");
    let mut attributes = Attach { target_fd: raw(cgroup), program_fd: raw(program), kind: ATTACH_CGROUP_DEVICE, flags };
    // SAFETY: the attributes are the head of a bpf_attr of the size told; no pointers are in it.
    let result = unsafe { libc::syscall(libc::SYS_bpf, PROG_ATTACH, &raw mut attributes, size_of::<Attach>()) };
    crate::check(result).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_filter_that_allows_everything_loads() {
        // r0 = 1; exit
        let program = [0x0000_0001_0000_00b7, 0x0000_0000_0000_0095];
        match load_cgroup_device(&program) {
            Ok(_) => {}
            // Kernels without CONFIG_CGROUP_BPF have no such program type.
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => {
                println!("skipped: no cgroup BPF here")
            }
            Err(error) => panic!("{error}"),
        }
    }
}
