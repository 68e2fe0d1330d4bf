//! Rows of a weight by index, decoded to f32.

use crate::error::check_len;
use crate::matmul::{DisjointMut, Weight};
use crate::{KernelError, ThreadPool, elementwise};

/// `out[i] = w[ids[i]]` for `out: [ids.len(), cols]`, of any type that decodes to f32.
///
/// # Errors
/// Lengths that do not agree, an id outside the table, a type that is no weight.
pub fn gather(
    pool: &ThreadPool,
    w: &Weight<'_>,
    ids: &[u32],
    out: &mut [f32],
) -> Result<(), KernelError> {
    let source = w.source()?;
    check_len("output", ids.len().saturating_mul(w.cols), out.len())?;
    crate::matmul::check_dtype(w.dtype)?;
    if let Some(&id) = ids.iter().find(|&&id| id as usize >= w.rows) {
        return Err(KernelError::RowOutOfRange { id, rows: w.rows });
    }
    if w.cols == 0 {
        return Ok(());
    }
    let out = DisjointMut::new(out);
    let step = (elementwise::CHUNK / w.cols).max(1);
    pool.run(ids.len().div_ceil(step), |chunk| {
        let rows = chunk * step..ids.len().min((chunk + 1) * step);
        // SAFETY: rows are disjoint, and each belongs to one chunk.
        let out = unsafe { out.slice_mut(rows.start * w.cols..rows.end * w.cols) };
        let mut buffer = Vec::new();
        for (&id, out) in ids[rows].iter().zip(out.chunks_exact_mut(w.cols)) {
            let row = source.row(id as usize, 0, source.stride, &mut buffer);
            crate::matmul::decode(w.dtype, row, out);
        }
    });
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::matmul::Layout;
    use blocks::DType;

    #[test]
    fn rows_come_in_the_order_asked() {
        let table: Vec<f32> = (0..12).map(|i| i as f32).collect();
        let w = Weight {
            dtype: DType::F32,
            rows: 4,
            cols: 3,
            bytes: bytemuck::cast_slice(&table),
            layout: Layout::Rows,
        };
        let (pool, mut out) = (ThreadPool::new(2), [0.0; 6]);
        gather(&pool, &w, &[3, 1], &mut out).unwrap();
        assert_eq!(out, [9.0, 10.0, 11.0, 3.0, 4.0, 5.0]);
        let outside = gather(&pool, &w, &[4, 1], &mut out);
        assert_eq!(outside, Err(KernelError::RowOutOfRange { id: 4, rows: 4 }));
        assert!(gather(&pool, &w, &[1], &mut out).is_err());
    }
}
