//! Plain attention, until the tiled one lands.
use crate::matmul::dot;
use crate::{Isa, KernelError, ThreadPool};
use blocks::DType;
use std::sync::Mutex;

/// Keys and values of consecutive positions.
#[derive(Clone, Copy, Debug)]
#[allow(missing_docs)]
pub struct KvRun<'a> {
    pub keys: &'a [u8],
    pub values: &'a [u8],
    pub len: usize,
}

/// The shape.
#[derive(Clone, Debug)]
#[allow(missing_docs)]
pub struct AttentionConfig {
    pub n_heads: usize,
    pub n_kv_heads: usize,
    pub head_dim: usize,
    pub scale: f32,
    pub softcap: Option<f32>,
    pub kv_dtype: DType,
}

/// What a row sees.
#[derive(Clone, Copy, Debug)]
#[allow(missing_docs)]
pub struct QueryRow<'a> {
    pub runs: &'a [KvRun<'a>],
    pub from: usize,
    pub to: usize,
}

/// Attention of each row.
///
/// # Errors
/// A cache type that does not decode.
pub fn attention(
    pool: &ThreadPool,
    _isa: Isa,
    c: &AttentionConfig,
    q: &[f32],
    rows: &[QueryRow<'_>],
    out: &mut [f32],
) -> Result<(), KernelError> {
    let (hd, width) = (c.head_dim, c.n_kv_heads * c.head_dim);
    let cells: Vec<Mutex<&mut [f32]>> = out.chunks_mut(c.n_heads * hd).map(Mutex::new).collect();
    pool.run(rows.len(), |r| {
        let (row, q) = (&rows[r], &q[r * c.n_heads * hd..]);
        let decode = |bytes: &[u8]| {
            let mut o = vec![0.0; bytes.len() / c.kv_dtype.block_bytes()];
            blocks::decode(c.kv_dtype, bytes, &mut o).unwrap();
            o
        };
        let (mut k, mut v) = (Vec::new(), Vec::new());
        let mut left = row.to;
        for run in row.runs {
            let n = run.len.min(left);
            left -= n;
            let bytes = n * width * c.kv_dtype.block_bytes();
            k.extend(decode(&run.keys[..bytes]));
            v.extend(decode(&run.values[..bytes]));
        }
        let mut out = cells[r].lock().unwrap();
        for h in 0..c.n_heads {
            let at = h / (c.n_heads / c.n_kv_heads) * hd;
            let q = &q[h * hd..(h + 1) * hd];
            let mut s: Vec<f32> = (row.from..row.to)
                .map(|p| {
                    let s = dot(q, &k[p * width + at..][..hd]) * c.scale;
                    c.softcap.map_or(s, |cap| cap * (s / cap).tanh())
                })
                .collect();
            let max = s.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            let mut sum = 0.0;
            for x in &mut s {
                *x = (*x - max).exp();
                sum += *x;
            }
            let o = &mut out[h * hd..(h + 1) * hd];
            o.fill(0.0);
            for (x, p) in s.iter().zip(row.from..) {
                for (o, v) in o.iter_mut().zip(&v[p * width + at..][..hd]) {
                    *o += x / sum * v;
                }
            }
        }
    });
    Ok(())
}
