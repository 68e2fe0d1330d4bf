//! Attention of query rows over keys and values that lie in runs.
//!
//! `out = softmax(scale * q K^T) V` for each query row and head, query heads sharing key-value
//! heads in groups of `n_heads / n_kv_heads`; with a soft cap, scores become
//! `cap * tanh(scores / cap)` (Gemma 2). Which positions a row sees is `from..to`; there is no
//! other mask, and no rotation.
//!
//! Positions are taken in tiles of 256, counted from position 0. Over a tile a row has a maximum,
//! a sum of weights and a weighted sum of values of its own, and those of one tile after the other
//! are put together with a running maximum (Milakov and Gimelshein 2018; Dao et al. 2022). So
//! tiles can be computed by different threads, and the result is the same bits whichever way they
//! were shared out, whatever rows were computed together and however positions are cut into runs.
//!
//! Within a tile, 64 positions at a time are widened to f32 in the first-level cache, once for all
//! rows and all query heads that share the key-value head, and swept by them in register tiles.
//! Scores over Q8_0 keys are integer dot products instead.

mod naive;
mod plan;
mod quantized;
mod runs;
mod softmax;
mod sweep;
mod tile;
mod unpack;

use crate::error::check_len;
use crate::matmul::DisjointMut;
use crate::simd::{check, dispatch};
use crate::{Isa, KernelError, ThreadPool};
use blocks::DType;
use plan::{Block, Plan};

/// Positions of a tile: long enough that putting tiles together costs little, short enough that
/// a few thousand positions keep many threads busy.
const TILE: usize = 256;

/// Positions widened at once.
const SPAN: usize = 64;

const _: () = assert!(TILE.is_multiple_of(SPAN));

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
    /// Type of keys and values: F32, F16, BF16, or Q8_0 and Q4_0 (`head_dim` a multiple of 32).
    pub kv_dtype: DType,
    /// How it is computed.
    pub algorithm: AttentionAlgorithm,
}

/// Ways to compute the same attention, to be compared. They agree to rounding.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum AttentionAlgorithm {
    /// Online softmax in tiles: memory for a tile a thread, keys read once for a group of heads.
    #[default]
    Tiled,
    /// All scores in memory, then their softmax, then the sum of values, each query head for
    /// itself. Memory of `rows * n_heads * positions` floats: slow, for comparison and teaching.
    Naive,
}

impl AttentionAlgorithm {
    /// Every algorithm.
    pub const ALL: &'static [AttentionAlgorithm] =
        &[AttentionAlgorithm::Tiled, AttentionAlgorithm::Naive];

    /// `tiled` or `naive`.
    pub const fn name(self) -> &'static str {
        match self {
            AttentionAlgorithm::Tiled => "tiled",
            AttentionAlgorithm::Naive => "naive",
        }
    }
}

impl std::fmt::Display for AttentionAlgorithm {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(self.name())
    }
}

/// A name that no algorithm has.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("unknown attention algorithm '{0}': use tiled or naive")]
pub struct UnknownAttention(pub String);

impl std::str::FromStr for AttentionAlgorithm {
    type Err = UnknownAttention;

    fn from_str(s: &str) -> Result<Self, UnknownAttention> {
        let found = Self::ALL.iter().copied().find(|a| a.name().eq_ignore_ascii_case(s));
        found.ok_or_else(|| UnknownAttention(s.to_owned()))
    }
}

/// The positions that one query row sees: `from..to` of the concatenation of its runs. Rows of
/// one sequence should share one slice of runs: rows next to each other that do are computed
/// together.
#[derive(Clone, Copy, Debug)]
pub struct QueryRow<'a> {
    /// Keys and values in the order of positions.
    pub runs: &'a [KvRun<'a>],
    /// First position seen.
    pub from: usize,
    /// One past the last position seen.
    pub to: usize,
}

/// `out[i] = attention of q[i]` for `q`, `out`: `[rows.len(), n_heads * head_dim]`.
///
/// # Errors
/// Lengths that do not agree, a row that sees nothing or more than its runs hold, a cache type
/// other than F32, F16, BF16, Q8_0 and Q4_0, heads that are no whole number of its blocks, an `isa` that
/// the processor lacks.
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
    if !matches!(kv_dtype, DType::F32 | DType::F16 | DType::BF16) && !unpack::is_quantized(kv_dtype)
    {
        return Err(KernelError::UnsupportedDType { what: "keys and values", dtype: kv_dtype });
    }
    let head_bytes = kv_dtype
        .bytes_for(head_dim)
        .ok_or(KernelError::PartialBlock { dtype: kv_dtype, cols: head_dim })?;
    let width = n_heads.saturating_mul(head_dim);
    check_len("queries", rows.len().saturating_mul(width), q.len())?;
    check_len("output", q.len(), out.len())?;
    let mut plan = Plan::take();
    plan.gather(cfg, rows);
    for block in &plan.blocks {
        check_block(rows, block, n_kv_heads * head_bytes)?;
    }
    match cfg.algorithm {
        AttentionAlgorithm::Tiled => {
            plan.cut(cfg, pool.threads());
            let mut partials = std::mem::take(&mut plan.partials);
            run_pieces(pool, isa, &plan, &mut partials, (cfg, q, rows), out);
            plan.partials = partials;
        }
        AttentionAlgorithm::Naive => naive::attention(pool, isa, cfg, q, rows, out),
    }
    plan.give_back();
    Ok(())
}

fn run_pieces(
    pool: &ThreadPool,
    isa: Isa,
    plan: &Plan,
    partials: &mut [tile::Vector],
    (cfg, q, rows): (&AttentionConfig, &[f32], &[QueryRow<'_>]),
    out: &mut [f32],
) {
    let (out, partials) = (&DisjointMut::new(out), &DisjointMut::new(partials));
    pool.run(plan.pieces.len(), |i| {
        let (piece, left) = (&plan.pieces[i], &plan.left[..]);
        dispatch(isa, tile::PieceOp { cfg, q, rows, plan, piece, partials, left, out });
    });
}

fn check_block(rows: &[QueryRow<'_>], block: &Block, kv_bytes: usize) -> Result<(), KernelError> {
    let mut len = 0usize;
    for run in rows[block.rows.start].runs {
        let bytes = run.len.saturating_mul(kv_bytes);
        check_len("bytes of keys", bytes, run.keys.len())?;
        check_len("bytes of values", bytes, run.values.len())?;
        len += run.len;
    }
    for (row, &QueryRow { from, to, .. }) in block.rows.clone().zip(&rows[block.rows.clone()]) {
        if from >= to || to > len {
            return Err(KernelError::Positions { row, from, to, len });
        }
    }
    Ok(())
}
