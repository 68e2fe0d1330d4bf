use std::io;

use memmap2::MmapMut;

/// Memory of the process's own, zeroed, in one piece that begins at a page; for sizes that the
/// allocator should not be bothered with. Pages that are never written take no memory.
///
/// Huge pages are not asked for: on a virtual machine filling 630 MB with them took between as long
/// and three times as long, and products that read it gained at most a few percent.
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
    len: usize,
}

impl LargeMemory {
    /// `len` bytes of zeros.
    ///
    /// # Errors
    /// What the system says when it has none to give.
    pub fn zeroed(len: usize) -> io::Result<Self> {
        // `mmap` refuses a length of zero.
        Ok(Self { map: MmapMut::map_anon(len.max(1))?, len })
    }

    /// The bytes.
    pub fn bytes(&self) -> &[u8] {
        &self.map[..self.len]
    }

    /// The bytes, for writing.
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        &mut self.map[..self.len]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_length_is_zeros_that_begin_at_a_page() {
        for len in [0, 1, 4096, 4097] {
            let mut memory = LargeMemory::zeroed(len).unwrap();
            assert_eq!(memory.bytes().len(), len);
            assert_eq!(memory.bytes().as_ptr() as usize % 4096, 0);
            assert!(memory.bytes().iter().all(|&b| b == 0));
            memory.bytes_mut().fill(1);
        }
        assert!(LargeMemory::zeroed(usize::MAX / 2).is_err());
    }
}
