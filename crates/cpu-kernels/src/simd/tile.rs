//! Sixteen rows of bytes: each in one piece at an even distance, or interleaved by words.

use super::{CACHE_LINE, Line, prefetch};

/// Rows of a tile: one a lane.
pub(crate) const LANES: usize = 16;

/// 16 rows of `len` bytes each, `stride` bytes apart. The rows lie within `bytes`, and offsets
/// fit the signed 32 bits of a gather instruction. Or, with a stride of 0, interleaved rows: word
/// `w` (of 4 bytes) of all 16 is the line `w` of `bytes`, and the tile begins at byte `start` of
/// each row.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Tile<'a> {
    bytes: &'a [u8],
    stride: usize,
    start: usize,
    len: usize,
}

impl<'a> Tile<'a> {
    /// The largest distance of rows.
    pub(crate) const MAX_STRIDE: usize = i32::MAX as usize / (2 * LANES);

    #[inline(always)]
    pub(crate) fn new(bytes: &'a [u8], stride: usize, len: usize) -> Self {
        assert!(0 < stride && stride <= Self::MAX_STRIDE && len <= Self::MAX_STRIDE);
        assert!((LANES - 1) * stride + len <= bytes.len(), "16 rows lie within the bytes");
        Tile { bytes, stride, start: 0, len }
    }

    /// Bytes `start..start + len` of 16 rows that are interleaved in `lines`.
    #[inline(always)]
    pub(crate) fn interleaved(lines: &'a [u8], start: usize, len: usize) -> Self {
        assert!((start + len).div_ceil(4) * size_of::<Line>() <= lines.len(), "all 16 rows");
        Tile { bytes: lines, stride: 0, start, len }
    }

    /// Where `n` bytes at `at` of interleaved rows lie: the lines that hold them, and how many
    /// bits of the first come before. `None` if rows are apart.
    #[inline(always)]
    pub(crate) fn lines(self, at: usize, n: usize) -> Option<(&'a [Line], u32)> {
        if self.stride != 0 {
            return None;
        }
        assert!(at + n <= self.len);
        let at = self.start + at;
        let (lines, _) = self.bytes.as_chunks::<{ size_of::<Line>() }>();
        Some((&lines[at / 4..(at + n).div_ceil(4)], (at % 4 * 8) as u32))
    }

    /// Bytes of a row.
    #[inline(always)]
    pub(crate) fn len(self) -> usize {
        self.len
    }

    /// One row, of rows that are apart.
    #[inline(always)]
    pub(crate) fn row(self, r: usize) -> &'a [u8] {
        debug_assert!(self.stride != 0);
        &self.bytes[r * self.stride..][..self.len]
    }

    /// Asks for the same bytes of the 16 rows that lie `ahead` further, if there are any, to be
    /// brought to the second-level cache.
    #[inline(always)]
    pub(crate) fn prefetch(self, ahead: usize) {
        for r in 0..LANES {
            let row = self.bytes.as_ptr().wrapping_add(r * self.stride + ahead);
            for at in (0..self.len).step_by(CACHE_LINE) {
                prefetch(row.wrapping_add(at));
            }
        }
    }

    /// The address of byte `at` of row 0, from which `n` bytes may be read in each row, and the
    /// distance of rows, which are apart.
    #[inline(always)]
    #[cfg_attr(not(target_arch = "x86_64"), allow(dead_code))]
    pub(crate) fn pointer(self, at: usize, n: usize) -> (*const u8, usize) {
        assert!(at + n <= self.len && self.stride != 0);
        (self.bytes[at..].as_ptr(), self.stride)
    }
}
