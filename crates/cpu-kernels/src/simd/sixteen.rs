//! What a kernel loads sixteen rows from.

use super::{Line, Simd, Tile};

/// Bytes of sixteen rows.
pub(crate) trait Sixteen: Copy {
    /// Whether there is an even number of blocks of 32, as interleaved rows have.
    const PAIRS: bool;

    /// Bytes of a row.
    fn len(self) -> usize;
    /// 16 bytes at `at` of each of 16 rows, as four lines: line `i` has bytes `4i..4i+4` of row
    /// `r` in lane `r`.
    fn load_4<S: Simd>(self, s: S, at: usize) -> [S::I; 4];
    /// 4 bytes at `at` of each of 16 rows.
    fn load_1<S: Simd>(self, s: S, at: usize) -> S::I;
}

impl Sixteen for Tile<'_> {
    const PAIRS: bool = false;

    #[inline(always)]
    fn len(self) -> usize {
        self.len()
    }
    #[inline(always)]
    fn load_4<S: Simd>(self, s: S, at: usize) -> [S::I; 4] {
        s.load_4(self, at)
    }
    #[inline(always)]
    fn load_1<S: Simd>(self, s: S, at: usize) -> S::I {
        s.load_1(self, at)
    }
}

/// Interleaved rows that are read once, as one stream of memory. They begin in the middle of a word
/// if `HALF`; so where a field lies within its word is known when the kernel is compiled.
#[derive(Clone, Copy)]
pub(crate) struct Stream<'a, const HALF: bool> {
    lines: &'a [Line],
    len: usize,
}

impl<'a, const HALF: bool> Stream<'a, HALF> {
    /// `len` bytes of each row.
    #[inline(always)]
    pub(crate) fn new(lines: &'a [Line], len: usize) -> Self {
        assert!((len + 2 * usize::from(HALF)).div_ceil(4) <= lines.len(), "all 16 rows");
        Stream { lines, len }
    }

    #[inline(always)]
    fn lines<const N: usize>(self, at: usize) -> &'a [Line; N] {
        self.lines[at / 4..].first_chunk().expect("within the rows")
    }
}

impl<const HALF: bool> Sixteen for Stream<'_, HALF> {
    const PAIRS: bool = true;

    #[inline(always)]
    fn len(self) -> usize {
        self.len
    }

    #[inline(always)]
    fn load_4<S: Simd>(self, s: S, at: usize) -> [S::I; 4] {
        let at = at + 2 * usize::from(HALF);
        let shift = (at % 4 * 8) as u32;
        // No closures: they might not be inlined, and be compiled without the instructions.
        if shift == 0 {
            let l = self.lines::<4>(at);
            return [s.load_i(&l[0]), s.load_i(&l[1]), s.load_i(&l[2]), s.load_i(&l[3])];
        }
        let l = self.lines::<5>(at);
        let l =
            [s.load_i(&l[0]), s.load_i(&l[1]), s.load_i(&l[2]), s.load_i(&l[3]), s.load_i(&l[4])];
        [
            s.or(s.shr(l[0], shift), s.shl(l[1], 32 - shift)),
            s.or(s.shr(l[1], shift), s.shl(l[2], 32 - shift)),
            s.or(s.shr(l[2], shift), s.shl(l[3], 32 - shift)),
            s.or(s.shr(l[3], shift), s.shl(l[4], 32 - shift)),
        ]
    }

    #[inline(always)]
    fn load_1<S: Simd>(self, s: S, at: usize) -> S::I {
        let at = at + 2 * usize::from(HALF);
        let shift = (at % 4 * 8) as u32;
        if shift == 0 {
            return s.load_i(&self.lines[at / 4]);
        }
        let (low, high) = (s.load_i(&self.lines[at / 4]), s.load_i(&self.lines[at / 4 + 1]));
        s.or(s.shr(low, shift), s.shl(high, 32 - shift))
    }
}
