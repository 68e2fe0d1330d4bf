//! How a call is cut into pieces for threads.
//!
//! Results do not depend on it: a tile of positions is the same work in whatever piece it is, and
//! tiles are put together in the order of positions.

use super::tile::{RECORD_HEAD, Vector};
use super::{AttentionConfig, QueryRow, TILE};
use crate::simd::LANES;
use std::cell::Cell;
use std::ops::Range;
use std::sync::atomic::AtomicUsize;

/// Queries (rows times heads of a group) computed together.
const MAX_QUERIES: usize = 64;

/// Pieces a thread gets at least, where there is enough to cut.
const PIECES_A_THREAD: usize = 4;

/// Rows up to which a block waits for memory.
const FEW_ROWS: usize = 2;

/// Rows next to each other that see the same runs.
#[derive(Clone, Debug)]
pub(super) struct Block {
    pub(super) rows: Range<usize>,
    /// The positions that any of them sees lie within.
    pub(super) seen: Range<usize>,
}

impl Block {
    fn tiles(&self) -> Range<usize> {
        self.seen.start / TILE..self.seen.end.div_ceil(TILE)
    }
}

/// Some tiles of a block with some key-value heads.
#[derive(Clone, Debug)]
pub(super) struct Piece {
    pub(super) block: usize,
    pub(super) kv_heads: Range<usize>,
    pub(super) tiles: Range<usize>,
    /// If these are not all tiles of the block.
    pub(super) split: Option<Split>,
}

/// How a block is split.
#[derive(Clone, Copy, Debug)]
pub(super) struct Split {
    /// Which counter of [`Plan::left`] is that of key-value head 0.
    pub(super) counter: usize,
    /// Where in [`Plan::partials`] the records of the block's first tile and head 0 begin; the
    /// tiles of a head follow each other.
    pub(super) start: usize,
    /// Vectors of a tile's records.
    pub(super) stride: usize,
    /// The block's first tile, and how many it has.
    pub(super) first: usize,
    pub(super) tiles: usize,
}

/// The pieces of a call, the longest first.
#[derive(Default)]
pub(super) struct Plan {
    pub(super) blocks: Vec<Block>,
    pub(super) pieces: Vec<Piece>,
    /// Records of tiles of blocks that are split.
    pub(super) partials: Vec<Vector>,
    /// Pieces of each split block and head that are not done yet.
    pub(super) left: Vec<AtomicUsize>,
}

thread_local! {
    static PLAN: Cell<Option<Box<Plan>>> = const { Cell::new(None) };
}

impl Plan {
    /// This thread's plan of the last call, to be made anew.
    pub(super) fn take() -> Box<Plan> {
        PLAN.take().unwrap_or_default()
    }

    /// Keeps the buffers for the next call.
    pub(super) fn give_back(self: Box<Self>) {
        PLAN.set(Some(self));
    }

    /// Puts rows together to blocks.
    pub(super) fn gather(&mut self, cfg: &AttentionConfig, rows: &[QueryRow<'_>]) {
        let max = (MAX_QUERIES / (cfg.n_heads / cfg.n_kv_heads)).max(1);
        self.blocks.clear();
        for (i, row) in rows.iter().enumerate() {
            match self.blocks.last_mut() {
                Some(last)
                    if last.rows.len() < max
                        && std::ptr::eq(rows[last.rows.start].runs, row.runs) =>
                {
                    last.rows.end = i + 1;
                    last.seen.start = last.seen.start.min(row.from);
                    last.seen.end = last.seen.end.max(row.to);
                }
                _ => self.blocks.push(Block { rows: i..i + 1, seen: row.from..row.to }),
            }
        }
    }

    /// Cuts the blocks into pieces for `threads` threads.
    pub(super) fn cut(&mut self, cfg: &AttentionConfig, threads: usize) {
        let Plan { blocks, pieces, partials, left } = self;
        let n_kv_heads = cfg.n_kv_heads;
        let shared = cfg.n_heads / n_kv_heads;
        let record = RECORD_HEAD + cfg.head_dim.div_ceil(LANES);
        // In tiles of one head.
        let total: usize = blocks.iter().map(|b| b.tiles().len()).sum::<usize>() * n_kv_heads;
        let longest = match threads {
            1 => usize::MAX,
            _ => total.div_ceil(PIECES_A_THREAD * threads),
        };
        pieces.clear();
        left.clear();
        let mut start = 0;
        for (block, b) in blocks.iter().enumerate() {
            let (rows, tiles) = (b.rows.len(), b.tiles());
            // Few rows wait for memory, which is read best as it lies: all heads of a position.
            let heads = if rows <= FEW_ROWS { n_kv_heads.min(longest).max(1) } else { 1 };
            let step = (longest / heads).clamp(1, tiles.len());
            let count = tiles.len().div_ceil(step);
            let stride = rows * shared * record;
            let split = (count > 1).then(|| Split {
                counter: left.len(),
                start,
                stride,
                first: tiles.start,
                tiles: tiles.len(),
            });
            if count > 1 {
                left.extend((0..n_kv_heads).map(|_| AtomicUsize::new(count)));
                start += n_kv_heads * tiles.len() * stride;
            }
            for from in tiles.clone().step_by(step) {
                for head in (0..n_kv_heads).step_by(heads) {
                    let kv_heads = head..n_kv_heads.min(head + heads);
                    let tiles = from..tiles.end.min(from + step);
                    pieces.push(Piece { block, kv_heads, tiles, split });
                }
            }
        }
        if blocks.len() > 1 {
            let cost = |p: &Piece| p.tiles.len() * p.kv_heads.len() * blocks[p.block].rows.len();
            pieces.sort_by_key(|p| std::cmp::Reverse((cost(p), blocks[p.block].seen.end)));
        }
        if partials.len() < start {
            partials.resize(start, Vector::default());
        }
    }
}
