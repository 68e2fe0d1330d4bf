use std::io;

use memmap2::MmapMut;

/// Memory of the process's own, zeroed, in one piece that begins at a page; for sizes that an
/// allocator should not be bothered with.
///
/// It lies on huge pages where the system has some to give, which makes filling it cheaper (one
/// fault for 2 MiB) and reading it faster. Pages that are never written take no memory.
///
/// ```
/// let mut memory = files::LargeMemory::zeroed(100)?;
/// memory.bytes_mut()[99] = 7;
/// assert_eq!(memory.bytes()[98..], [0, 7]);
/// # Ok::<(), std::io::Error>(())
/// ```
#[derive(Debug)]
pub struct LargeMemory {
    map: MmapMut,
    /// Bytes before the first: huge pages begin at multiples of their size.
    skip: usize,
    len: usize,
}

/// Bytes of a huge page, on most systems that have them.
const HUGE_PAGE: usize = 2 << 20;

impl LargeMemory {
    /// `len` bytes of zeros.
    ///
    /// # Errors
    /// What the system says when it has none to give.
    pub fn zeroed(len: usize) -> io::Result<Self> {
        // Less than a huge page gains nothing; `mmap` refuses a length of zero.
        let align = if len < HUGE_PAGE { 1 } else { HUGE_PAGE };
        let padded = len.max(1).checked_add(align - 1).ok_or(io::ErrorKind::OutOfMemory)?;
        let map = MmapMut::map_anon(padded)?;
        #[cfg(target_os = "linux")]
        if align > 1 {
            // Pages of the ordinary size do as well, where a system does without the others.
            let _ = map.advise(memmap2::Advice::HugePage);
        }
        let skip = map.as_ptr().align_offset(align).min(align - 1);
        Ok(Self { map, skip, len })
    }

    /// The bytes.
    pub fn bytes(&self) -> &[u8] {
        &self.map[self.skip..][..self.len]
    }

    /// The bytes, for writing.
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        &mut self.map[self.skip..][..self.len]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_length_is_zeros_that_begin_at_a_page() {
        for len in [0, 1, 4096, HUGE_PAGE, HUGE_PAGE + 1] {
            let mut memory = LargeMemory::zeroed(len).unwrap();
            assert_eq!(memory.bytes().len(), len);
            assert_eq!(memory.bytes().as_ptr() as usize % 4096, 0);
            assert!(memory.bytes().iter().all(|&b| b == 0));
            memory.bytes_mut().fill(1);
        }
        assert!(LargeMemory::zeroed(usize::MAX - 5).is_err());
    }
}
