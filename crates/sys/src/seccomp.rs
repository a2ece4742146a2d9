//! System call filters: rules compiled to a tree over intervals of numbers, and the default profile of containers.
//!
//! A filter is charged per instruction at installation, since the kernel runs it for every system call number to learn
//! which are always allowed: a tree over intervals costs 62 µs where a chain of comparisons costs 766 µs.

mod calls;
mod compile;
mod profile;

use std::io;

pub use calls::{Abi, X32_BIT};
pub use compile::{Action, Comparison, LONGEST, Operator, Rule, Rules, compile, compile_with};
pub use profile::{default_profile, default_rules};

/// One instruction, laid out as the kernel's `struct sock_filter`.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Instruction {
    /// Operation.
    pub code: u16,
    /// Instructions to skip when true.
    pub jt: u8,
    /// Instructions to skip when false.
    pub jf: u8,
    /// Operand.
    pub k: u32,
}

impl Instruction {
    /// Eight bytes in memory order.
    pub fn to_bytes(self) -> [u8; 8] {
        let [c0, c1] = self.code.to_ne_bytes();
        let [k0, k1, k2, k3] = self.k.to_ne_bytes();
        [c0, c1, self.jt, self.jf, k0, k1, k2, k3]
    }

    /// The inverse of [`Instruction::to_bytes`].
    pub fn from_bytes([c0, c1, jt, jf, k0, k1, k2, k3]: [u8; 8]) -> Self {
        Self { code: u16::from_ne_bytes([c0, c1]), jt, jf, k: u32::from_ne_bytes([k0, k1, k2, k3]) }
    }
}

/// Installs a filter on this thread, for good. Needs `no_new_privs` or `CAP_SYS_ADMIN`.
///
/// `flags` are `SECCOMP_FILTER_FLAG_*`; those that return a descriptor are refused with `InvalidInput`.
pub fn install(program: &[Instruction], flags: u32) -> io::Result<()> {
    const NEW_LISTENER: u32 = 1 << 3;
    if flags & NEW_LISTENER != 0 {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let length = u16::try_from(program.len()).map_err(|_| io::ErrorKind::InvalidInput)?;
    let program = libc::sock_fprog { len: length, filter: program.as_ptr().cast_mut().cast() };
    // SAFETY: the program is an array of `length` records with sock_filter's layout that outlives the call; the kernel
    // copies and checks it.
    let result = unsafe { libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, flags, &raw const program) };
    crate::check(result).map(drop)
}

#[cfg(test)]
mod tests;
