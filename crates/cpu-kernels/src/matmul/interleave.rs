//! Weights repacked into groups of 16 interleaved rows.
//!
//! Nothing is decoded: the words of 16 rows take turns, so that any block type keeps its size, one
//! line of memory holds four bytes of each of 16 rows, and a product reads one stream and needs no
//! transposition. Rows that are no whole number of words stay as they are.

use super::int8::looks_up_rows;
use super::{DisjointMut, Layout, Weight};
use crate::error::check_len;
use crate::simd::{LANES, Line};
use crate::{KernelError, ThreadPool};
use blocks::DType;

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

/// Writes the interleaved form of `w` to `out`.
///
/// # Errors
/// Lengths that do not agree (`out` has [`interleaved_bytes`]), rows that cannot be interleaved or
/// already are.
pub fn interleave(pool: &ThreadPool, w: &Weight<'_>, out: &mut [u8]) -> Result<(), KernelError> {
    if w.layout == Layout::Interleaved {
        return Err(KernelError::NotInterleavable { dtype: w.dtype, cols: w.cols });
    }
    let stride = w.row_bytes()?;
    check_len("interleaved bytes", interleaved_bytes(w.dtype, w.rows, w.cols)?, out.len())?;
    let group_bytes = LANES * stride;
    let out = DisjointMut::new(out);
    // Some groups a chunk: a group of a small model takes less than handing it out.
    let step = (65_536 / group_bytes).max(1);
    let groups = w.rows.div_ceil(LANES);
    pool.run(groups.div_ceil(step), |chunk| {
        for group in chunk * step..groups.min((chunk + 1) * step) {
            // SAFETY: groups are disjoint, and each belongs to one chunk.
            let out = unsafe { out.slice_mut(group * group_bytes..(group + 1) * group_bytes) };
            let rows = &w.bytes[group * group_bytes..];
            interleave_group(&rows[..rows.len().min(group_bytes)], stride, out);
        }
    });
    Ok(())
}

/// Up to 16 rows of `stride` bytes; those that are missing become zeros.
fn interleave_group(rows: &[u8], stride: usize, out: &mut [u8]) {
    let (lines, _) = out.as_chunks_mut::<{ size_of::<Line>() }>();
    // 16 words of each row at a time are a cache line of it, and 16 whole lines of the output.
    for (first, lines) in (0..stride / 4).step_by(16).zip(lines.chunks_mut(16)) {
        for lane in 0..LANES {
            let row = rows.get(lane * stride..(lane + 1) * stride).unwrap_or(&[]);
            let words = row.get(first * 4..).unwrap_or(&[]).as_chunks::<4>().0;
            for (i, line) in lines.iter_mut().enumerate() {
                let word = words.get(i).copied().unwrap_or_default();
                line[lane * 4..][..4].copy_from_slice(&word);
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
