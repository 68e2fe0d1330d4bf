//! Attention as its equation reads: all scores, their softmax, the weighted sum of values.
//!
//! To compare with and to learn from. The whole matrix of scores lies in memory, one row for each
//! query head of each row, and is gone through three times; each head reads its keys and values
//! again, one position after the other.

use super::runs::{Cursor, Part};
use super::{AttentionConfig, QueryRow};
use crate::matmul::{DisjointMut, decode};
use crate::softmax::softmax;
use crate::{Isa, ThreadPool};

/// What [`attention`](super::attention()) computes; the arguments have been checked.
pub(super) fn attention(
    pool: &ThreadPool,
    isa: Isa,
    cfg: &AttentionConfig,
    q: &[f32],
    rows: &[QueryRow<'_>],
    out: &mut [f32],
) {
    let &AttentionConfig { n_heads, head_dim, scale, softcap, .. } = cfg;
    let positions = rows.iter().map(|row| row.to - row.from).max().unwrap_or(0);
    let mut scores = vec![f32::NEG_INFINITY; rows.len() * n_heads * positions];

    let all = &DisjointMut::new(&mut scores);
    pool.run(rows.len() * n_heads, |i| {
        let (row, q) = (&rows[i / n_heads], &q[i * head_dim..][..head_dim]);
        // SAFETY: this query alone has these scores.
        let scores = unsafe { all.slice_mut(i * positions..(i + 1) * positions) };
        for_each(cfg, row, i % n_heads, Part::Keys, |position, key| {
            let score: f32 = scale * q.iter().zip(key).map(|(q, k)| q * k).sum::<f32>();
            scores[position] = softcap.map_or(score, |cap| cap * (score / cap).tanh());
        });
    });

    softmax(pool, isa, &mut scores, positions);

    let out = &DisjointMut::new(out);
    pool.run(rows.len() * n_heads, |i| {
        let weights = &scores[i * positions..][..positions];
        // SAFETY: this query alone has this output.
        let out = unsafe { out.slice_mut(i * head_dim..(i + 1) * head_dim) };
        out.fill(0.0);
        for_each(cfg, &rows[i / n_heads], i % n_heads, Part::Values, |position, value| {
            for (out, v) in out.iter_mut().zip(value) {
                *out += weights[position] * v;
            }
        });
    });
}

/// Calls `each` with the positions that a row sees, counted from the first, and the keys or values
/// that one of its heads finds there.
fn for_each(
    cfg: &AttentionConfig,
    row: &QueryRow<'_>,
    head: usize,
    part: Part,
    mut each: impl FnMut(usize, &[f32]),
) {
    let len = cfg.kv_dtype.bytes_for(cfg.head_dim).expect("whole blocks");
    let at = head / (cfg.n_heads / cfg.n_kv_heads) * len;
    let mut cursor = Cursor::new(row.runs);
    let mut element = vec![0.0; cfg.head_dim];
    for position in row.from..row.to {
        let (bytes, _) = cursor.rows(position, part, cfg.n_kv_heads * len);
        decode(cfg.kv_dtype, &bytes[at..at + len], &mut element);
        each(position - row.from, &element);
    }
}
