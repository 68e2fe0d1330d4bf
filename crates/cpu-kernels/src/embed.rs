//! Rows of a table.
use crate::KernelError;
use crate::matmul::Weight;

/// Decodes rows `ids` to `out`.
///
/// # Errors
/// A type that does not decode.
pub fn gather(w: &Weight<'_>, ids: &[u32], out: &mut [f32]) -> Result<(), KernelError> {
    let row = w.bytes.len() / w.rows.max(1);
    for (&id, out) in ids.iter().zip(out.chunks_exact_mut(w.cols.max(1))) {
        let id = id as usize;
        blocks::decode(w.dtype, &w.bytes[id * row..(id + 1) * row], out)
            .map_err(|_| KernelError::UnsupportedDType { what: "tables", dtype: w.dtype })?;
    }
    Ok(())
}
