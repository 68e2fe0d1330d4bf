//! Where sixteen rows of bytes come from.

use crate::simd::{LANES, Tile};

/// Rows of `stride` bytes each, one after the other.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Source<'a> {
    pub(crate) bytes: &'a [u8],
    pub(crate) stride: usize,
    pub(crate) rows: usize,
}

impl<'a> Source<'a> {
    /// Bytes `at..at + len` of rows `row..row + 16`. Rows past the end are zeros: then, and where
    /// rows are too far apart for a [`Tile`], the bytes are copied to `pad` first.
    #[inline(always)]
    pub(crate) fn tile<'b>(
        &self,
        row: usize,
        at: usize,
        len: usize,
        pad: &'b mut Vec<u8>,
    ) -> Tile<'b>
    where
        'a: 'b,
    {
        if row + LANES <= self.rows && self.stride <= Tile::MAX_STRIDE {
            Tile::new(&self.bytes[row * self.stride + at..], self.stride, len)
        } else {
            self.copied_tile(row, at, len, pad)
        }
    }

    #[cold]
    fn copied_tile<'b>(&self, row: usize, at: usize, len: usize, pad: &'b mut Vec<u8>) -> Tile<'b> {
        pad.clear();
        pad.resize(LANES * len, 0);
        for r in 0..LANES.min(self.rows - row) {
            let from = (row + r) * self.stride + at;
            pad[r * len..][..len].copy_from_slice(&self.bytes[from..from + len]);
        }
        Tile::new(pad, len, len)
    }
}
