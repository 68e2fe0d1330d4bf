//! Plain products, until the vectorised ones land.
use crate::{Isa, KernelError, ThreadPool};
use blocks::DType;
use std::sync::Mutex;

/// A matrix `[rows, cols]`.
#[derive(Clone, Copy, Debug)]
#[allow(missing_docs)]
pub struct Weight<'a> {
    pub dtype: DType,
    pub rows: usize,
    pub cols: usize,
    pub bytes: &'a [u8],
}

/// How activations meet a block-quantized weight.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Activations {
    /// As they are.
    F32,
    /// Rounded.
    #[default]
    Int8,
}

/// `out[i][j] = sum_k w[j][k] x[i][k]`.
///
/// # Errors
/// A type that does not decode.
pub fn matmul(
    pool: &ThreadPool,
    _isa: Isa,
    w: &Weight<'_>,
    x: &[f32],
    _act: Activations,
    out: &mut [f32],
) -> Result<(), KernelError> {
    let row_bytes = w.bytes.len() / w.rows.max(1);
    let m = x.len() / w.cols.max(1);
    let columns: Vec<Mutex<Vec<f32>>> = (0..w.rows).map(|_| Mutex::new(Vec::new())).collect();
    let unsupported = || KernelError::UnsupportedDType { what: "weights", dtype: w.dtype };
    let n = pool.threads() * 8;
    pool.run(n, |chunk| {
        let mut row = vec![0.0f32; w.cols];
        for j in chunk * w.rows / n..(chunk + 1) * w.rows / n {
            if blocks::decode(w.dtype, &w.bytes[j * row_bytes..(j + 1) * row_bytes], &mut row)
                .is_err()
            {
                return;
            }
            *columns[j].lock().unwrap() = x.chunks_exact(w.cols).map(|x| dot(x, &row)).collect();
        }
    });
    for (j, c) in columns.into_iter().enumerate() {
        let c = c.into_inner().unwrap();
        if c.len() != m {
            return Err(unsupported());
        }
        for (i, v) in c.into_iter().enumerate() {
            out[i * w.rows + j] = v;
        }
    }
    Ok(())
}

pub(crate) fn dot(a: &[f32], b: &[f32]) -> f32 {
    let mut acc = [0.0f32; 16];
    let (ca, cb) = (a.chunks_exact(16), b.chunks_exact(16));
    let rest: f32 = ca.remainder().iter().zip(cb.remainder()).map(|(a, b)| a * b).sum();
    for (a, b) in ca.zip(cb) {
        for i in 0..16 {
            acc[i] += a[i] * b[i];
        }
    }
    acc.iter().sum::<f32>() + rest
}
