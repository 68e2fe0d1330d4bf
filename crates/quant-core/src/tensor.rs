//! Whole tensors from one element type to another.

use blocks::{AbsMax, BlockError, DType, Target};
use cpu_kernels::{Isa, codec};

use crate::chunks::{Work, for_each_chunk, rows_per_chunk};
use crate::error::QuantError;

/// The elements of a tensor, row after row.
#[derive(Clone, Copy, Debug)]
pub enum Source<'a> {
    /// Values in memory.
    Values(&'a [f32]),
    /// Elements of any type as they lie in a file.
    Bytes(DType, &'a [u8]),
}

impl<'a> Source<'a> {
    /// The element type.
    pub fn dtype(&self) -> DType {
        match self {
            Source::Values(_) => DType::F32,
            Source::Bytes(dtype, _) => *dtype,
        }
    }

    /// Checks that these are `rows` rows of `cols`; returns how many elements that is.
    pub(crate) fn check(&self, rows: usize, cols: usize) -> Result<usize, QuantError> {
        let dtype = self.dtype();
        let expected = rows.checked_mul(cols).ok_or(QuantError::TooLarge { rows, cols, dtype })?;
        match *self {
            Source::Values(values) if values.len() != expected => {
                Err(QuantError::ValueCount { rows, cols, expected, got: values.len() })
            }
            Source::Values(_) => Ok(expected),
            Source::Bytes(dtype, bytes) => {
                row_bytes(dtype, rows, cols)?;
                let need =
                    dtype.bytes_for(expected).ok_or(QuantError::TooLarge { rows, cols, dtype })?;
                if need != bytes.len() {
                    let got = bytes.len();
                    return Err(BlockError::ByteCount {
                        dtype,
                        elements: expected,
                        expected: need,
                        got,
                    }
                    .into());
                }
                Ok(expected)
            }
        }
    }

    /// Rows `first..first + count` as f32, decoded into `scratch` if need be. The source must have
    /// been checked.
    pub(crate) fn rows<'s>(
        &self,
        first: usize,
        count: usize,
        cols: usize,
        scratch: &'s mut Vec<f32>,
    ) -> &'s [f32]
    where
        'a: 's,
    {
        match *self {
            Source::Values(values) => &values[first * cols..][..count * cols],
            Source::Bytes(dtype, bytes) => {
                scratch.resize(count * cols, 0.0);
                let row = dtype.bytes_for(cols).expect("checked");
                codec::decode(dtype, &bytes[first * row..][..count * row], scratch)
                    .expect("checked");
                scratch
            }
        }
    }
}

/// Bytes a row, which must be whole blocks, of a tensor that fits in memory.
fn row_bytes(dtype: DType, rows: usize, cols: usize) -> Result<usize, QuantError> {
    if !cols.is_multiple_of(dtype.block_len()) {
        return Err(BlockError::PartialBlock { dtype, elements: cols }.into());
    }
    let row = dtype.bytes_for(cols).ok_or(QuantError::TooLarge { rows, cols, dtype })?;
    row.checked_mul(rows).ok_or(QuantError::TooLarge { rows, cols, dtype })?;
    Ok(row)
}

/// Encodes `rows` rows of `cols` elements to `dtype`.
///
/// `importance` holds a weight for each column; or, for a stack of matrices with equally many rows
/// (experts), one for each column of each matrix in turn. Elements that have the type already are
/// copied.
///
/// # Errors
/// If lengths disagree, rows are no whole blocks of either type, the type cannot be encoded, a value
/// cannot be held by it, or the callback cancels.
///
/// ```
/// use blocks::DType;
/// use quant_core::{Source, Work, dequantize_tensor, quantize_tensor};
/// let x: Vec<f32> = (0..128).map(|i| (i as f32 / 10.0).sin()).collect();
/// let bytes = quantize_tensor(Source::Values(&x), 2, 64, DType::Q8_0, None, Work::default()).unwrap();
/// assert_eq!(bytes.len(), 4 * 34);
/// let y = dequantize_tensor(Source::Bytes(DType::Q8_0, &bytes), 2, 64, Work::default()).unwrap();
/// assert!(x.iter().zip(&y).all(|(x, y)| (x - y).abs() < 0.5 / 127.0 + 1e-4));
/// ```
pub fn quantize_tensor(
    source: Source<'_>,
    rows: usize,
    cols: usize,
    dtype: DType,
    importance: Option<&[f32]>,
    work: Work<'_>,
) -> Result<Vec<u8>, QuantError> {
    source.check(rows, cols)?;
    let mut out = vec![0; row_bytes(dtype, rows, cols)? * rows];
    quantize_into(source, rows, cols, dtype, importance, work, &mut out)?;
    Ok(out)
}

/// [`quantize_tensor`] into a buffer, of exactly the bytes that the tensor takes.
///
/// # Errors
/// As [`quantize_tensor`]; the buffer may be partly written then.
pub fn quantize_into(
    source: Source<'_>,
    rows: usize,
    cols: usize,
    dtype: DType,
    importance: Option<&[f32]>,
    work: Work<'_>,
    out: &mut [u8],
) -> Result<(), QuantError> {
    let elements = source.check(rows, cols)?;
    let row_bytes = row_bytes(dtype, rows, cols)?;
    if out.len() != row_bytes * rows {
        let (expected, got) = (row_bytes * rows, out.len());
        return Err(BlockError::ByteCount { dtype, elements, expected, got }.into());
    }
    if !blocks::can_encode(dtype) && dtype != source.dtype() {
        return Err(BlockError::NoEncoder { dtype }.into());
    }
    // Rows that share their importances.
    let matrix_rows = match importance {
        None => rows,
        Some(importance) => {
            let matrices = importance.len().checked_div(cols).unwrap_or(1);
            if matrices == 0
                || importance.len() != matrices * cols
                || !rows.is_multiple_of(matrices)
            {
                return Err(QuantError::ImportanceCount { rows, cols, got: importance.len() });
            }
            rows / matrices
        }
    };
    if elements == 0 {
        return Ok(());
    }
    let per_chunk = rows_per_chunk(cols);
    for_each_chunk(
        work,
        rows,
        out.chunks_mut(per_chunk * row_bytes),
        |out| out.len() / row_bytes,
        Vec::new,
        |index, out, scratch| {
            let (first, count) = (index * per_chunk, out.len() / row_bytes);
            if let Source::Bytes(same, bytes) = source
                && same == dtype
            {
                out.copy_from_slice(&bytes[first * row_bytes..][..out.len()]);
                return Ok(());
            }
            let x = source.rows(first, count, cols, scratch);
            let Some(importance) = importance else {
                return encode(dtype, x, cols, None, out, first);
            };
            // The chunk may straddle matrices.
            let mut row = first;
            while row < first + count {
                let matrix = row / matrix_rows;
                let end = ((matrix + 1) * matrix_rows).min(first + count);
                let x = &x[(row - first) * cols..(end - first) * cols];
                let out = &mut out[(row - first) * row_bytes..(end - first) * row_bytes];
                encode(dtype, x, cols, Some(&importance[matrix * cols..][..cols]), out, row)?;
                row = end;
            }
            Ok(())
        },
    )
}

/// Encodes rows of which the first is row `first` of the tensor.
fn encode(
    dtype: DType,
    x: &[f32],
    cols: usize,
    importance: Option<&[f32]>,
    out: &mut [u8],
    first: usize,
) -> Result<(), QuantError> {
    let at = |index: usize| (first + index / cols, index % cols);
    codec::encode(dtype, x, cols, importance, out).map_err(|error| match error {
        BlockError::NotFinite { dtype, index } => {
            let (row, col) = at(index);
            QuantError::NotFinite { dtype, row, col }
        }
        other => QuantError::Block(other),
    })?;
    // Half precision, which most scales have, ends at 65504; smaller values cannot overflow.
    let can_overflow = dtype.is_quantized() || dtype == DType::F16;
    let largest = if can_overflow { Isa::active().run(AbsMax(x)) } else { 0.0 };
    if largest > 65504.0 || largest.is_nan() {
        let mut decoded = vec![0.0; x.len()];
        codec::decode(dtype, out, &mut decoded)?;
        let lost = |i: &usize| x[*i].is_finite() && !decoded[*i].is_finite();
        let indices = 0..x.len();
        let largest = indices.filter(lost).max_by(|&a, &b| x[a].abs().total_cmp(&x[b].abs()));
        if let Some(index) = largest {
            let (row, col) = at(index);
            return Err(QuantError::Overflow { dtype, row, col, value: x[index] });
        }
    }
    Ok(())
}

/// Decodes `rows` rows of `cols` elements.
///
/// # Errors
/// If lengths disagree, rows are no whole blocks, or the callback cancels.
pub fn dequantize_tensor(
    source: Source<'_>,
    rows: usize,
    cols: usize,
    work: Work<'_>,
) -> Result<Vec<f32>, QuantError> {
    let elements = source.check(rows, cols)?;
    let mut out = vec![0.0; elements];
    if elements == 0 {
        return Ok(out);
    }
    let per_chunk = rows_per_chunk(cols);
    for_each_chunk(
        work,
        rows,
        out.chunks_mut(per_chunk * cols),
        |out| out.len() / cols,
        || (),
        |index, out, ()| {
            let first = index * per_chunk;
            match source {
                Source::Values(values) => out.copy_from_slice(&values[first * cols..][..out.len()]),
                Source::Bytes(dtype, bytes) => {
                    let row = dtype.bytes_for(cols).expect("checked");
                    codec::decode(dtype, &bytes[first * row..][..out.len() / cols * row], out)?;
                }
            }
            Ok(())
        },
    )?;
    Ok(out)
}
