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
const PIECES_A_THREAD: usize = 8;

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

/// Some tiles of a block with one key-value head.
#[derive(Clone, Debug)]
pub(super) struct Piece {
    pub(super) block: usize,
    pub(super) kv_head: usize,
    pub(super) tiles: Range<usize>,
    /// If these are not all tiles of the block.
    pub(super) split: Option<Split>,
}

/// All pieces of a block with one key-value head.
#[derive(Clone, Copy, Debug)]
pub(super) struct Split {
    /// Which counter of [`Plan::left`] is theirs.
    pub(super) counter: usize,
    /// Where in [`Plan::partials`] the records of the block's first tile begin.
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
        let Plan { blocks, pieces, partials, left, .. } = self;
        let shared = cfg.n_heads / cfg.n_kv_heads;
        let record = RECORD_HEAD + cfg.head_dim.div_ceil(LANES);
        // A block's tiles cost as many rows as it has, at least about those that fill a register
        // tile.
        let total: usize = blocks.iter().map(|b| b.tiles().len()).sum::<usize>() * cfg.n_kv_heads;
        let longest = match threads {
            1 => usize::MAX,
            _ => total.div_ceil(PIECES_A_THREAD * threads),
        };
        pieces.clear();
        left.clear();
        let mut start = 0;
        for (block, Block { rows, .. }) in blocks.iter().enumerate() {
            let tiles = blocks[block].tiles();
            let cuts = tiles.len().div_ceil(longest);
            let step = tiles.len().div_ceil(cuts);
            let stride = rows.len() * shared * record;
            let counter = left.len();
            if cuts > 1 {
                let count = tiles.len().div_ceil(step);
                left.extend((0..cfg.n_kv_heads).map(|_| AtomicUsize::new(count)));
            }
            for from in tiles.clone().step_by(step) {
                for kv_head in 0..cfg.n_kv_heads {
                    let split = (cuts > 1).then(|| Split {
                        counter: counter + kv_head,
                        start: start + kv_head * tiles.len() * stride,
                        stride,
                        first: tiles.start,
                        tiles: tiles.len(),
                    });
                    let tiles = from..tiles.end.min(from + step);
                    pieces.push(Piece { block, kv_head, tiles, split });
                }
            }
            if cuts > 1 {
                start += cfg.n_kv_heads * tiles.len() * stride;
            }
        }
        // Those that need no more than what the others leave come last.
        let cost = |p: &Piece| p.tiles.len() * blocks[p.block].rows.len();
        pieces.sort_by_key(|p| std::cmp::Reverse((cost(p), blocks[p.block].seen.end)));
        if partials.len() < start {
            partials.resize(start, Vector::default());
        }
    }
}
