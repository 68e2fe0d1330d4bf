//! Weights repacked into groups of 16 interleaved rows.
//!
//! Nothing is decoded: the words of 16 rows take turns, so that any block type keeps its size, one
//! line of memory holds four bytes of each of 16 rows, and a product reads one stream and needs no
//! transposition. Rows that are no whole number of words stay as they are.

use super::int8::looks_up_rows;
use super::{Activations, DisjointMut, Layout, Source, Weight};
use crate::error::check_len;
use crate::simd::{LANES, Line, Op, Simd, dispatch};
use crate::{Isa, KernelError, ThreadPool};
use blocks::DType;

/// Counts the changes of what [`interleave`] writes, for those who keep it in files.
pub const INTERLEAVED_VERSION: u32 = 1;

/// Whether rows of `cols` elements of this type can be interleaved: whole words, and whole loads of
/// 16 bytes for plain types. Types whose codes are looked up row by row (IQ1, IQ2, IQ3) gain nothing
/// from it and stay as they are.
pub fn can_interleave(dtype: DType, cols: usize) -> bool {
    if looks_up_rows(dtype) {
        return false;
    }
    let unit = if dtype.is_quantized() { 4 } else { 16 };
    dtype.bytes_for(cols).is_some_and(|bytes| bytes > 0 && bytes.is_multiple_of(unit))
}

/// Whether products with weights of this type that [can](can_interleave) be interleaved are faster then:
/// block types, and bf16 where tiles multiply it, whose right factor it is.
pub fn gains_from_interleaving(isa: Isa, act: Activations, dtype: DType) -> bool {
    let bf16_tiles = isa == Isa::Amx && crate::amx::detect().bf16 && act != Activations::F32;
    dtype.is_quantized() || dtype == DType::BF16 && bf16_tiles
}

pub(super) fn check(dtype: DType, cols: usize) -> Result<(), KernelError> {
    if can_interleave(dtype, cols) {
        Ok(())
    } else {
        Err(KernelError::NotInterleavable { dtype, cols })
    }
}

/// Bytes of the interleaved form of a weight: the same, with the rows rounded up to a multiple
/// of 16.
///
/// # Errors
/// A row that is no whole number of blocks, or cannot be interleaved.
pub fn interleaved_bytes(dtype: DType, rows: usize, cols: usize) -> Result<usize, KernelError> {
    let row = dtype.bytes_for(cols).ok_or(KernelError::PartialBlock { dtype, cols })?;
    check(dtype, cols)?;
    Ok(rows.next_multiple_of(LANES).saturating_mul(row))
}

/// Bytes of output that one thread makes in one go.
const PIECE: usize = 2 << 20;

/// Writes the interleaved form of `w` to `out`.
///
/// # Errors
/// As [`interleave_all`].
pub fn interleave(pool: &ThreadPool, w: &Weight<'_>, out: &mut [u8]) -> Result<(), KernelError> {
    interleave_all(pool, std::slice::from_ref(w), out)
}

/// Writes the interleaved forms of `weights` to `out`, one right after the other.
///
/// # Errors
/// Lengths that do not agree (`out` has the sum of [`interleaved_bytes`]), rows that cannot be
/// interleaved or already are.
pub fn interleave_all(
    pool: &ThreadPool,
    weights: &[Weight<'_>],
    out: &mut [u8],
) -> Result<(), KernelError> {
    let (mut pieces, mut end) = (Vec::new(), 0);
    for w in weights {
        if w.layout == Layout::Interleaved {
            return Err(KernelError::NotInterleavable { dtype: w.dtype, cols: w.cols });
        }
        let source = w.source()?;
        let bytes = interleaved_bytes(w.dtype, w.rows, w.cols)?;
        let rows = LANES * (PIECE / (LANES * source.stride)).max(1);
        for row in (0..w.rows).step_by(rows) {
            let start = end + row * source.stride;
            let stop = end + bytes.min((row + rows) * source.stride);
            pieces.push((source, row, start..stop));
        }
        end += bytes;
    }
    check_len("interleaved bytes", end, out.len())?;
    let out = DisjointMut::new(out);
    let isa = Isa::active();
    pool.run(pieces.len(), |i| {
        let (source, row, range) = pieces[i].clone();
        // SAFETY: the pieces follow each other in the output, and each is worked on once.
        let out = unsafe { out.slice_mut(range) };
        dispatch(isa, Interleave { source, row, out });
    });
    Ok(())
}

/// Groups of 16 rows from `row` on, as many as `out` has room for.
struct Interleave<'a> {
    source: Source<'a>,
    row: usize,
    out: &'a mut [u8],
}

impl Op for Interleave<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        /// Bytes of a row that are looked at together.
        const SPAN: usize = 4096;
        let Interleave { source, row, out } = self;
        let mut pad = Vec::new();
        for (group, out) in out.chunks_mut(LANES * source.stride).enumerate() {
            let (lines, _) = out.as_chunks_mut::<{ size_of::<Line>() }>();
            for (i, lines) in lines.chunks_mut(SPAN / 4).enumerate() {
                let tile = source.tile(row + group * LANES, i * SPAN, lines.len() * 4, &mut pad);
                let (fours, rest) = lines.as_chunks_mut::<4>();
                for (j, four) in fours.iter_mut().enumerate() {
                    let words = s.gather_4(tile, j * 16);
                    for k in 0..4 {
                        s.store_i(words[k], &mut four[k]);
                    }
                }
                for (j, line) in rest.iter_mut().enumerate() {
                    s.store_i(s.gather_1(tile, fours.len() * 16 + j * 4), line);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_take_turns_and_missing_rows_are_zeros() {
        let pool = ThreadPool::new(2);
        let (rows, cols) = (19, 36);
        let words: Vec<u32> = (0..rows as u32 * 36).collect();
        let bytes = bytemuck::cast_slice(&words);
        let w = Weight { dtype: DType::F32, rows, cols, bytes, layout: Layout::Rows };
        let mut out = vec![7u8; interleaved_bytes(DType::F32, rows, cols).unwrap()];
        interleave(&pool, &w, &mut out).unwrap();
        let out: &[u32] = bytemuck::cast_slice(&out);
        for (i, &word) in out.iter().enumerate() {
            let (row, column) = (i / (16 * cols) * 16 + i % 16, i / 16 % cols);
            let want = if row < rows { words[row * cols + column] } else { 0 };
            assert_eq!(word, want, "row {row}, word {column}");
        }
    }

    #[test]
    fn every_instruction_set_moves_the_same_words() {
        // A row longer than a span, no whole number of 16 bytes, and a last group that is not full.
        let (rows, cols) = (35, 22 * 256);
        let stride = DType::Q6_K.bytes_for(cols).unwrap();
        let bytes: Vec<u8> = (0..rows * stride).map(|i| (i * 31 % 251) as u8).collect();
        let w = Weight { dtype: DType::Q6_K, rows, cols, bytes: &bytes, layout: Layout::Rows };
        for isa in Isa::supported() {
            let mut out = vec![7u8; interleaved_bytes(DType::Q6_K, rows, cols).unwrap()];
            dispatch(isa, Interleave { source: w.source().unwrap(), row: 0, out: &mut out });
            for (i, word) in out.chunks(4).enumerate() {
                let (row, at) = (i / (4 * stride) * 16 + i % 16, i / 16 * 4 % stride);
                let want = if row < rows { &bytes[row * stride + at..][..4] } else { &[0; 4] };
                assert_eq!(word, want, "{isa:?}, row {row}, byte {at}");
            }
        }
    }

    #[test]
    fn weights_follow_each_other() {
        let pool = ThreadPool::new(2);
        let (a, b) = (vec![1u8; 19 * 68], vec![2u8; 16 * 136]);
        let weight = |bytes, rows, cols| Weight {
            dtype: DType::Q8_0,
            rows,
            cols,
            bytes,
            layout: Layout::Rows,
        };
        let both = [weight(&a[..], 19, 64), weight(&b[..], 16, 128)];
        let mut out = vec![7u8; 32 * 68 + 16 * 136];
        interleave_all(&pool, &both, &mut out).unwrap();
        assert!(out[32 * 68..].iter().all(|&x| x == 2));
        assert_eq!(out.iter().filter(|&&x| x == 1).count(), a.len());
        assert!(interleave_all(&pool, &both, &mut out[1..]).is_err());
    }

    #[test]
    fn half_words_are_refused() {
        assert!(can_interleave(DType::Q8_0, 64) && !can_interleave(DType::Q8_0, 32));
        assert!(!can_interleave(DType::F16, 4));
        let bytes = [0; 34 * 16];
        let w =
            Weight { dtype: DType::Q8_0, rows: 16, cols: 32, bytes: &bytes, layout: Layout::Rows };
        let refused = interleave(&ThreadPool::new(1), &w, &mut [0; 34 * 16]);
        let want = KernelError::NotInterleavable { dtype: DType::Q8_0, cols: 32 };
        assert_eq!(refused, Err(want));
    }
}
