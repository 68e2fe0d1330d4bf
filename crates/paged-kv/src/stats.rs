//! How well the memory is used.

use std::hash::BuildHasher;

use crate::{BlockId, KvCacheManager};

/// What is counted as it happens.
#[derive(Clone, Debug, Default)]
pub(crate) struct Counters {
    pub(crate) table_entries: usize,
    pub(crate) prefix_queries: u64,
    pub(crate) prefix_hits: u64,
    pub(crate) copies: u64,
    pub(crate) merged: u64,
    pub(crate) evictions: u64,
    pub(crate) swapped_out: u64,
    pub(crate) swapped_in: u64,
}

/// The state of a cache in numbers. Blocks and slots are those of the device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KvStats {
    /// Blocks in all: used, idle and free ones.
    pub total_blocks: usize,
    /// Referenced blocks.
    pub used_blocks: usize,
    /// Unreferenced blocks whose content can be found.
    pub idle_blocks: usize,
    /// Blocks without references or content.
    pub free_blocks: usize,
    /// Entries of all tables; more than used blocks where blocks are shared.
    pub table_entries: usize,
    /// Slots of used blocks.
    pub used_slots: usize,
    /// Slots of used blocks that hold no position of any sequence.
    pub empty_slots: usize,
    /// Sequences on the device.
    pub sequences: usize,
    /// Sequences on the host.
    pub swapped_sequences: usize,
    /// Tokens of all prompts that were looked up.
    pub prefix_queries: u64,
    /// Tokens of them that were found.
    pub prefix_hits: u64,
    /// Blocks copied on a write.
    pub copies: u64,
    /// Blocks freed because another held the same.
    pub merged: u64,
    /// Idle blocks whose content was given up for something new.
    pub evictions: u64,
    /// Blocks copied to the host.
    pub swapped_out: u64,
    /// Blocks copied from the host.
    pub swapped_in: u64,
}

impl KvStats {
    /// The share of the used slots that holds no position, 0 to 1.
    pub fn waste(&self) -> f64 {
        share(self.empty_slots, self.used_slots)
    }

    /// The share of the blocks that sequences would take without sharing which sharing saves, 0
    /// to 1.
    pub fn sharing(&self) -> f64 {
        share(self.table_entries - self.used_blocks, self.table_entries)
    }

    /// The share of looked-up tokens that was found, 0 to 1.
    pub fn hit_rate(&self) -> f64 {
        match self.prefix_queries {
            0 => 0.0,
            all => self.prefix_hits as f64 / all as f64,
        }
    }
}

fn share(part: usize, of: usize) -> f64 {
    if of == 0 { 0.0 } else { part as f64 / of as f64 }
}

impl<S: BuildHasher> KvCacheManager<S> {
    /// The state now. Takes time in the number of sequences, for their half-filled blocks.
    pub fn stats(&self) -> KvStats {
        let (pool, counters) = (&self.pool, &self.counters);
        KvStats {
            total_blocks: pool.total(),
            used_blocks: pool.used(),
            idle_blocks: pool.idle(),
            free_blocks: pool.free(),
            table_entries: counters.table_entries,
            used_slots: pool.used() * self.config.block_size,
            empty_slots: self.empty_slots(),
            sequences: self.sequences.len(),
            swapped_sequences: self.swapped.len(),
            prefix_queries: counters.prefix_queries,
            prefix_hits: counters.prefix_hits,
            copies: counters.copies,
            merged: counters.merged,
            evictions: counters.evictions,
            swapped_out: counters.swapped_out,
            swapped_in: counters.swapped_in,
        }
    }

    /// Only the last block of a table can have empty slots, and only if no other table holds more
    /// of it.
    fn empty_slots(&self) -> usize {
        let block_size = self.config.block_size;
        let tables = self.sequences.values().map(|s| &s.table);
        let mut last: Vec<(BlockId, usize)> =
            tables.filter_map(|t| t.partly_filled(block_size)).collect();
        last.sort_unstable();
        last.chunk_by(|a, b| a.0 == b.0)
            .filter(|same| same.len() == self.pool.references(same[0].0) as usize)
            .map(|same| block_size - same[same.len() - 1].1)
            .sum()
    }
}
