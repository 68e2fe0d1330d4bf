//! Attention of query rows over keys and values that lie in runs.
//!
//! `out = softmax(scale * q K^T) V` for each query row and head, query heads sharing key-value
//! heads in groups of `n_heads / n_kv_heads`; with a soft cap, scores become
//! `cap * tanh(scores / cap)` (Gemma 2). Positions are taken in tiles of 64, counted from the
//! first that a row sees, with a running maximum and sum (Milakov and Gimelshein 2018; Dao et al.
//! 2022). Which positions a row sees is `from..to`; there is no other mask, and no rotation.

mod runs;
mod tile;

use crate::error::check_len;
use crate::matmul::DisjointMut;
use crate::simd::{check, dispatch};
use crate::{Isa, KernelError, ThreadPool};
use blocks::DType;
use std::ops::Range;

/// Consecutive positions of one sequence in one layer.
#[derive(Clone, Copy, Debug)]
pub struct KvRun<'a> {
    /// `[len, n_kv_heads * head_dim]` in the type of the cache.
    pub keys: &'a [u8],
    /// As the keys.
    pub values: &'a [u8],
    /// Positions.
    pub len: usize,
}

/// What all rows of a call have in common.
#[derive(Clone, Copy, Debug)]
pub struct AttentionConfig {
    /// Query heads.
    pub n_heads: usize,
    /// Key and value heads; a divisor of `n_heads`.
    pub n_kv_heads: usize,
    /// Elements of a head.
    pub head_dim: usize,
    /// Factor of the products, usually `1 / sqrt(head_dim)`.
    pub scale: f32,
    /// Bound of the scores, if there is one.
    pub softcap: Option<f32>,
    /// Type of keys and values: F32, F16 or BF16.
    pub kv_dtype: DType,
}

/// The positions that one query row sees: `from..to` of the concatenation of its runs. Rows of
/// one sequence should share one slice of runs: rows next to each other that do, with the same
/// `from`, are computed together.
#[derive(Clone, Copy, Debug)]
pub struct QueryRow<'a> {
    /// Keys and values in the order of positions.
    pub runs: &'a [KvRun<'a>],
    /// First position seen.
    pub from: usize,
    /// One past the last position seen.
    pub to: usize,
}

/// Queries (rows times heads of a group) computed together.
const MAX_QUERIES: usize = 64;

/// `out[i] = attention of q[i]` for `q`, `out`: `[rows.len(), n_heads * head_dim]`.
///
/// # Errors
/// Lengths that do not agree, a row that sees nothing or more than its runs hold, a cache type
/// other than F32, F16 and BF16, an `isa` that the processor lacks.
pub fn attention(
    pool: &ThreadPool,
    isa: Isa,
    cfg: &AttentionConfig,
    q: &[f32],
    rows: &[QueryRow<'_>],
    out: &mut [f32],
) -> Result<(), KernelError> {
    check(isa)?;
    let &AttentionConfig { n_heads, n_kv_heads, head_dim, kv_dtype, .. } = cfg;
    if n_kv_heads == 0 || n_heads == 0 || head_dim == 0 || !n_heads.is_multiple_of(n_kv_heads) {
        return Err(KernelError::Heads { n_heads, n_kv_heads, head_dim });
    }
    if !crate::matmul::float::is_plain(kv_dtype) {
        return Err(KernelError::UnsupportedDType { what: "keys and values", dtype: kv_dtype });
    }
    let width = n_heads.saturating_mul(head_dim);
    check_len("queries", rows.len().saturating_mul(width), q.len())?;
    check_len("output", q.len(), out.len())?;
    let kv_bytes = n_kv_heads * head_dim * kv_dtype.block_bytes();
    let blocks = blocks(rows, (MAX_QUERIES / (n_heads / n_kv_heads)).max(1));
    for block in &blocks {
        check_block(rows, block.clone(), kv_bytes)?;
    }
    let out = &DisjointMut::new(out);
    pool.run(blocks.len() * n_kv_heads, |task| {
        let (block, kv_head) = (blocks[task / n_kv_heads].clone(), task % n_kv_heads);
        dispatch(isa, tile::BlockOp { cfg, q, rows, block, kv_head, out });
    });
    Ok(())
}

/// Ranges of at most `max` rows that see the same runs from the same position.
fn blocks(rows: &[QueryRow<'_>], max: usize) -> Vec<Range<usize>> {
    let mut blocks: Vec<Range<usize>> = Vec::new();
    for (i, row) in rows.iter().enumerate() {
        match blocks.last_mut() {
            Some(last)
                if last.len() < max
                    && std::ptr::eq(rows[last.start].runs, row.runs)
                    && rows[last.start].from == row.from =>
            {
                last.end = i + 1;
            }
            _ => blocks.push(i..i + 1),
        }
    }
    blocks
}

fn check_block(
    rows: &[QueryRow<'_>],
    block: Range<usize>,
    kv_bytes: usize,
) -> Result<(), KernelError> {
    let mut len = 0usize;
    for run in rows[block.start].runs {
        let bytes = run.len.saturating_mul(kv_bytes);
        check_len("bytes of keys", bytes, run.keys.len())?;
        check_len("bytes of values", bytes, run.values.len())?;
        len += run.len;
    }
    for (row, &QueryRow { from, to, .. }) in block.clone().zip(&rows[block]) {
        if from >= to || to > len {
            return Err(KernelError::Positions { row, from, to, len });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
