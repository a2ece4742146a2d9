//! Anonymous memory that can be given back while its address stays.

use std::io;
use std::ops::{Deref, DerefMut};
use std::ptr::{self, NonNull};

use rustix::mm::{Advice, MapFlags, ProtFlags, madvise, mmap_anonymous, munmap};

/// A buffer of zeroed pages, allocated by the first touch.
#[derive(Debug)]
pub struct Pages {
    start: NonNull<u8>,
    length: usize,
}

impl Pages {
    /// Maps `length` bytes (rounded up to pages by the kernel).
    pub fn map(length: usize) -> io::Result<Self> {
        // SAFETY: with a null hint and without MAP_FIXED the kernel picks unused addresses, so no memory is replaced.
        let start =
            unsafe { mmap_anonymous(ptr::null_mut(), length, ProtFlags::READ | ProtFlags::WRITE, MapFlags::PRIVATE) }?;
        let start = NonNull::new(start.cast()).ok_or(io::ErrorKind::OutOfMemory)?;
        Ok(Self { start, length })
    }

    /// Gives the pages back; the contents become zero.
    pub fn release(&mut self) {
        // SAFETY: the range is this mapping, and `&mut self` says that no reference into it is alive. Anonymous private
        // pages read as zero afterwards, which is a value of u8.
        let result = unsafe { madvise(self.start.as_ptr().cast(), self.length, Advice::LinuxDontNeed) };
        result.expect("the range is a mapping of ours");
    }
}

impl Deref for Pages {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        // SAFETY: start is valid for reads of length bytes until drop, initialised (zero) by the kernel, and only changed
        // through `&mut self`.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.length) }
    }
}

impl DerefMut for Pages {
    fn deref_mut(&mut self) -> &mut [u8] {
        // SAFETY: as in `deref`, and `&mut self` makes the access exclusive.
        unsafe { std::slice::from_raw_parts_mut(self.start.as_ptr(), self.length) }
    }
}

impl Drop for Pages {
    fn drop(&mut self) {
        // SAFETY: the range is this mapping, unmapped once, and no reference outlives self.
        let result = unsafe { munmap(self.start.as_ptr().cast(), self.length) };
        debug_assert!(result.is_ok(), "the range is a mapping of ours");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_are_zero_at_first_and_again_once_they_are_released() {
        let mut pages = Pages::map(3 * 4096).unwrap();
        assert_eq!((pages.len(), pages.iter().all(|byte| *byte == 0)), (3 * 4096, true));
        pages.fill(7);
        assert!(pages.iter().all(|byte| *byte == 7));
        pages.release();
        assert!(pages.iter().all(|byte| *byte == 0));
    }
}
