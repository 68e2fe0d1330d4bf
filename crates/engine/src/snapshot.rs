//! What the page's live view shows: the state of one engine at one moment.
//!
//! `GET /live` answers with server-sent events, about four a second for each loaded model, each of
//! which is one [`Snapshot`] as JSON. What grows with time is a count since the engine started, never
//! a rate: the reader subtracts two snapshots and divides by their [`time_ms`](Snapshot::time_ms), over
//! the window it likes.
//!
//! A snapshot says nothing of what prompts and answers contain. Its size is bounded, whatever the pool
//! and the queue: a character a cell for at most [`MAX_CELLS`] cells, [`MAX_SEQUENCES`] sequences, and
//! [`MAX_TABLE_RUNS`] runs of blocks. Ten thousand blocks in use take a few kilobytes.

use std::fmt::Write;

use paged_kv::{BlockId, BlockPool};
use serde::Serialize;

/// Cells of the map at most; beyond that each stands for several blocks.
pub const MAX_CELLS: usize = 1 << 14;
/// Sequences that are listed at most; the counts are of all.
pub const MAX_SEQUENCES: usize = 256;
/// Runs of blocks that are listed at most, over all sequences.
pub const MAX_TABLE_RUNS: usize = 1 << 12;

/// The state of one engine at one moment.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Snapshot {
    /// The model's name, as `/v1/models` lists it.
    pub model: String,
    /// Milliseconds since the engine started.
    pub time_ms: u64,
    /// Steps that the engine has made.
    pub steps: u64,
    /// The blocks of the key-value cache.
    pub blocks: BlockMap,
    /// The first of the sequences: those that run, then those that wait in their order.
    pub sequences: Vec<SequenceView>,
    /// Sequences that run.
    pub running: usize,
    /// Sequences that wait.
    pub waiting: usize,
    /// Tokens that went through the model.
    pub tokens: TokenCounts,
    /// What the prefix cache was asked for.
    pub prefix: PrefixCounts,
    /// Times that a sequence lost its blocks to another and had to wait.
    pub preemptions: u64,
    /// The share of the slots of used blocks that holds no token, 0 to 1.
    pub waste: f64,
    /// What drafts achieved; absent where none are made.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub speculation: Option<SpeculationCounts>,
}

/// Tokens since the engine started.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct TokenCounts {
    /// Of prompts, and computed: those found in the prefix cache do not count.
    pub prompt: u64,
    /// Generated.
    pub generated: u64,
}

/// Tokens of prompts since the engine started.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct PrefixCounts {
    /// Looked up.
    pub queries: u64,
    /// Of them, found.
    pub hits: u64,
}

/// Draft tokens since the engine started.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct SpeculationCounts {
    /// Proposed.
    pub drafted: u64,
    /// Of them, accepted.
    pub accepted: u64,
}

/// Every block of a pool.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct BlockMap {
    /// Blocks in all: the used, the idle and the free ones.
    pub total: usize,
    /// Positions that a block holds.
    pub block_size: usize,
    /// Blocks that sequences hold.
    pub used: usize,
    /// Of them, those that several hold.
    pub shared: usize,
    /// Blocks that nobody holds and whose content can be found.
    pub idle: usize,
    /// Blocks without content.
    pub free: usize,
    /// Blocks that a cell stands for; the last cell may have fewer.
    pub blocks_per_cell: usize,
    /// The cells in order, run-length encoded: the letter of a state (`f` free, `i` idle, `u` used,
    /// `s` shared), then how many cells in a row have it unless it is one. A cell of several blocks is
    /// what most of them are.
    pub cells: String,
}

const LETTERS: [char; 4] = ['f', 'i', 'u', 's'];
const FREE: usize = 0;
const IDLE: usize = 1;
const USED: usize = 2;
const SHARED: usize = 3;

impl BlockMap {
    /// The map of a pool whose blocks hold `block_size` positions. Takes time in the blocks.
    pub fn of(pool: &BlockPool, block_size: usize) -> Self {
        let blocks_per_cell = pool.total().div_ceil(MAX_CELLS).max(1);
        let (mut shared, mut cells, mut run) = (0, String::new(), (FREE, 0));
        for first in (0..pool.total()).step_by(blocks_per_cell) {
            let mut of_state = [0; 4];
            for block in first..(first + blocks_per_cell).min(pool.total()) {
                of_state[state(pool, BlockId(block as u32))] += 1;
            }
            shared += of_state[SHARED];
            let cell = (0..4).max_by_key(|&s| of_state[s]).unwrap_or(FREE);
            if cell != run.0 {
                push_run(&mut cells, run);
                run = (cell, 0);
            }
            run.1 += 1;
        }
        push_run(&mut cells, run);
        Self {
            total: pool.total(),
            block_size,
            used: pool.used(),
            shared,
            idle: pool.idle(),
            free: pool.free(),
            blocks_per_cell,
            cells,
        }
    }
}

fn state(pool: &BlockPool, block: BlockId) -> usize {
    match pool.references(block) {
        0 if pool.is_idle(block) => IDLE,
        0 => FREE,
        1 => USED,
        _ => SHARED,
    }
}

fn push_run(cells: &mut String, (state, len): (usize, usize)) {
    if len > 0 {
        cells.push(LETTERS[state]);
    }
    if len > 1 {
        write!(cells, "{len}").expect("a string takes everything");
    }
}

/// What a sequence is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum SequenceState {
    /// In the queue; it holds nothing.
    Waiting,
    /// Its prompt is being computed.
    Prefill,
    /// It generates.
    Decode,
    /// It ran, and waits to get its blocks back.
    Preempted,
}

/// One sequence: an answer to a request, which may have several.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct SequenceView {
    /// Its number, unique in the engine's life.
    pub id: u64,
    /// The number of its request; answers to one request have the same.
    pub request: u64,
    /// What it is doing.
    pub state: SequenceState,
    /// Tokens of the prompt.
    pub prompt: usize,
    /// Of them, found in the prefix cache.
    pub cached: usize,
    /// Positions whose keys and values there are.
    pub computed: usize,
    /// Tokens generated.
    pub generated: usize,
    /// Tokens that may be generated at most.
    pub max_tokens: usize,
    /// Milliseconds since the request arrived.
    pub age_ms: u64,
    /// Its block table; see [`table_runs`].
    pub table: Vec<[u32; 2]>,
}

/// A block table as runs `[first block, blocks]` of ids that follow each other, in the table's order.
/// Ends early when `left` runs are taken, which is what remains of [`MAX_TABLE_RUNS`].
pub fn table_runs(blocks: &[BlockId], left: &mut usize) -> Vec<[u32; 2]> {
    let runs: Vec<_> = blocks
        .chunk_by(|a, b| a.0.checked_add(1) == Some(b.0))
        .take(*left)
        .map(|run| [run[0].0, run.len() as u32])
        .collect();
    *left -= runs.len();
    runs
}

#[cfg(test)]
mod tests {
    use paged_kv::Keep;

    use super::*;

    /// Blocks 0 and 1 used, 2 shared, 3 idle, the others free.
    fn pool(blocks: u32) -> BlockPool {
        let mut pool = BlockPool::new(blocks);
        let b: Vec<_> = (0..4).map(|_| pool.allocate().unwrap().block).collect();
        pool.retain(b[2]).unwrap();
        pool.release(b[3], Keep::Idle).unwrap();
        pool
    }

    /// What the page does with `cells`.
    fn decode(cells: &str) -> String {
        let mut out = String::new();
        let mut rest = cells;
        while let Some(letter) = rest.chars().next() {
            let digits = rest[1..].find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len() - 1);
            let times = rest[1..=digits].parse().unwrap_or(1);
            out.extend(std::iter::repeat_n(letter, times));
            rest = &rest[1 + digits..];
        }
        out
    }

    #[test]
    fn a_map_tells_the_state_of_every_block() {
        let map = BlockMap::of(&pool(9), 16);
        assert_eq!(map.cells, "u2sif5");
        assert_eq!(decode(&map.cells), "uusifffff");
        assert_eq!((map.total, map.used, map.shared, map.idle, map.free), (9, 3, 1, 1, 5));
        let empty = BlockMap::of(&BlockPool::new(0), 16);
        assert_eq!((empty.cells.as_str(), empty.blocks_per_cell), ("", 1));
    }

    #[test]
    fn a_table_is_told_in_runs_while_there_is_room() {
        let mut left = 3;
        let runs = |blocks: &[u32], left: &mut usize| {
            table_runs(&blocks.iter().map(|&b| BlockId(b)).collect::<Vec<_>>(), left)
        };
        assert_eq!(runs(&[4, 5, 6, 2], &mut left), [[4, 3], [2, 1]]);
        assert_eq!(runs(&[8, 1], &mut left), [[8, 1]]);
        assert_eq!((runs(&[3], &mut left).len(), left), (0, 0));
    }

    #[test]
    fn a_large_pool_has_cells_of_several_blocks() {
        let map = BlockMap::of(&pool(3 * MAX_CELLS as u32 - 2), 16);
        assert_eq!(map.blocks_per_cell, 3);
        let cells = decode(&map.cells);
        assert_eq!(cells.len(), MAX_CELLS);
        // Two of the first three are used; of the next three one is idle.
        assert!(cells.starts_with("uf"), "{}", map.cells);
        assert_eq!((map.used, map.shared, map.idle), (3, 1, 1));
    }

    #[test]
    fn the_worst_map_takes_a_byte_a_cell() {
        let mut pool = BlockPool::new(10_000);
        let all: Vec<_> = (0..10_000).map(|_| pool.allocate().unwrap().block).collect();
        for pair in all.chunks(2) {
            pool.release(pair[0], Keep::Nothing).unwrap();
        }
        let map = BlockMap::of(&pool, 16);
        assert_eq!(map.cells.len(), 10_000);
        assert_eq!(decode(&map.cells), "fu".repeat(5_000));
    }

    #[test]
    fn a_snapshot_is_compact_and_has_the_names_that_the_page_reads() {
        let mut left = MAX_TABLE_RUNS;
        let sequence = SequenceView {
            id: 3,
            request: 2,
            state: SequenceState::Decode,
            prompt: 20,
            cached: 16,
            computed: 24,
            generated: 5,
            max_tokens: 64,
            age_ms: 12,
            table: table_runs(&[BlockId(2), BlockId(0)], &mut left),
        };
        let snapshot = Snapshot {
            model: "bard".to_owned(),
            blocks: BlockMap::of(&pool(9), 16),
            sequences: vec![sequence],
            running: 1,
            ..Snapshot::default()
        };
        let text = serde_json::to_string(&snapshot).unwrap();
        let want = concat!(
            r#"{"model":"bard","time_ms":0,"steps":0,"#,
            r#""blocks":{"total":9,"block_size":16,"used":3,"shared":1,"idle":1,"free":5,"#,
            r#""blocks_per_cell":1,"cells":"u2sif5"},"#,
            r#""sequences":[{"id":3,"request":2,"state":"decode","prompt":20,"cached":16,"computed":24,"#,
            r#""generated":5,"max_tokens":64,"age_ms":12,"table":[[2,1],[0,1]]}],"#,
            r#""running":1,"waiting":0,"tokens":{"prompt":0,"generated":0},"#,
            r#""prefix":{"queries":0,"hits":0},"preemptions":0,"waste":0.0}"#,
        );
        assert_eq!(text, want);
    }
}
