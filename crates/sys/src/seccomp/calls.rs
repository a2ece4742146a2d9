//! The names of system calls, as profiles in files say them, in the three ways that an x86_64 kernel can be called.
//!
//! The tables are the kernel's own (`arch/x86/entry/syscalls`) up to Linux 6.17; `calls/x32.txt` has only what differs
//! from x86_64.

use std::collections::BTreeMap;

/// What distinguishes a call of x32 from one of x86_64, whose architecture it shares.
pub const X32_BIT: u32 = 0x4000_0000;

/// A way to call the kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Abi {
    /// The 64-bit one.
    X86_64,
    /// The 64-bit one with short pointers.
    X32,
    /// The 32-bit one.
    I386,
}

impl Abi {
    /// `AUDIT_ARCH_*`.
    pub fn architecture(self) -> u32 {
        match self {
            Self::X86_64 | Self::X32 => 0xc000_003e,
            Self::I386 => 0x4000_0003,
        }
    }

    /// The number of each call by its name, as a filter sees it.
    pub fn numbers(self) -> BTreeMap<&'static str, u32> {
        const COMMON: &str = include_str!("calls/x86_64.txt");
        match self {
            Self::X86_64 => table(COMMON).collect(),
            Self::X32 => {
                let own = include_str!("calls/x32.txt");
                // Its own numbers come later and take the place of the common ones.
                table(COMMON).chain(table(own)).map(|(name, number)| (name, number | X32_BIT)).collect()
            }
            Self::I386 => table(include_str!("calls/i386.txt")).collect(),
        }
    }
}

fn table(text: &'static str) -> impl Iterator<Item = (&'static str, u32)> {
    text.lines().map(|line| {
        let (name, number) = line.split_once(' ').expect("a line of our own tables has a name and a number");
        (name, number.parse().expect("a number of our own tables is one"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_have_the_numbers_of_the_kernel() {
        let rows = [
            (Abi::X86_64, "read", 0),
            (Abi::X86_64, "chmod", u32::try_from(libc::SYS_chmod).unwrap()),
            (Abi::X86_64, "clone3", u32::try_from(libc::SYS_clone3).unwrap()),
            (Abi::X86_64, "sethostname", u32::try_from(libc::SYS_sethostname).unwrap()),
            (Abi::X32, "read", X32_BIT),
            (Abi::X32, "execve", X32_BIT | 520),
            (Abi::I386, "read", 3),
            (Abi::I386, "waitpid", 7),
            (Abi::I386, "clone3", 435),
        ];
        for (abi, name, number) in rows {
            assert_eq!(abi.numbers().get(name), Some(&number), "{abi:?} {name}");
        }
    }

    #[test]
    fn no_table_says_a_name_twice() {
        for text in [include_str!("calls/x86_64.txt"), include_str!("calls/i386.txt"), include_str!("calls/x32.txt")] {
            let names: BTreeMap<_, _> = table(text).collect();
            assert_eq!(names.len(), text.lines().count());
        }
    }
}
