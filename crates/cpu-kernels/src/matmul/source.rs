//! Where sixteen rows of bytes come from.

use super::Layout;
use crate::simd::{LANES, Line, Tile};

/// The rows of a weight.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Source<'a> {
    pub(crate) bytes: &'a [u8],
    /// Bytes of a row.
    pub(crate) stride: usize,
    pub(crate) rows: usize,
    pub(crate) layout: Layout,
}

impl<'a> Source<'a> {
    /// Bytes `at..at + len` of rows `row..row + 16`; of interleaved rows, 16 must divide `row`. Rows
    /// past the end are zeros: then, and where rows are too far apart for a [`Tile`], the bytes are
    /// copied to `pad` first.
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
        match self.layout {
            Layout::Interleaved => {
                debug_assert!(row.is_multiple_of(LANES));
                let group = &self.bytes[row * self.stride..];
                Tile::interleaved(&group[..LANES * self.stride], at, len)
            }
            Layout::Rows if row + LANES <= self.rows && self.stride <= Tile::MAX_STRIDE => {
                Tile::new(&self.bytes[row * self.stride + at..], self.stride, len)
            }
            Layout::Rows => self.copied_tile(row, at, len, pad),
        }
    }

    /// The lines of an interleaved group from the one that has byte `at` of its rows.
    #[inline(always)]
    pub(crate) fn lines(&self, row: usize, at: usize) -> &'a [Line] {
        debug_assert!(self.layout == Layout::Interleaved && row.is_multiple_of(LANES));
        let group = &self.bytes[row * self.stride..][..LANES * self.stride];
        &group.as_chunks().0[at / 4..]
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

    /// Bytes `at..at + len` of one row, copied to `buffer` if they do not lie together.
    pub(crate) fn row<'b>(
        &self,
        row: usize,
        at: usize,
        len: usize,
        buffer: &'b mut Vec<u8>,
    ) -> &'b [u8]
    where
        'a: 'b,
    {
        match self.layout {
            Layout::Rows => &self.bytes[row * self.stride + at..][..len],
            Layout::Interleaved => {
                let group = &self.bytes[row / LANES * LANES * self.stride..];
                let words = group[at / 4 * 4 * LANES + row % LANES * 4..].chunks(4 * LANES);
                let n = (at % 4 + len).div_ceil(4);
                buffer.clear();
                buffer.extend(words.take(n).flat_map(|word| &word[..4]));
                &buffer[at % 4..][..len]
            }
        }
    }
}
