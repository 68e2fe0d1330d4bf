//! Preemption by swapping: blocks move to the host and back. (The other way is recomputation:
//! [`free`](KvCacheManager::free), then [`create`](KvCacheManager::create) with all tokens, which
//! finds whatever has not been evicted meanwhile.)

use std::collections::HashMap;
use std::hash::BuildHasher;

use crate::pool::{BlockPool, Keep};
use crate::{BlockId, KvCacheManager, PagedKvError, SeqId};

/// A block to copy between device and host, in every layer, keys and values, all its slots.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SwapCopy {
    /// The block in the device's pool.
    pub device: BlockId,
    /// The block in the host's pool.
    pub host: BlockId,
}

impl<S: BuildHasher> KvCacheManager<S> {
    /// Moves sequences to the host and says what to copy there before anything else is written. What
    /// they share with one another stays shared; a block shared with a sequence that stays is copied
    /// too.
    ///
    /// # Errors
    /// [`PagedKvError::NoSuchSequence`], [`PagedKvError::Uncommitted`],
    /// [`PagedKvError::OutOfHostBlocks`]; a name that comes twice is [`PagedKvError::SequenceExists`].
    pub fn swap_out(&mut self, seqs: &[SeqId]) -> Result<Vec<SwapCopy>, PagedKvError> {
        must_differ(seqs)?;
        for &seq in seqs {
            let sequence = self.sequence(seq)?;
            if sequence.committed < sequence.table.len {
                return Err(PagedKvError::Uncommitted(seq));
            }
        }
        let blocks = distinct(seqs.iter().flat_map(|seq| &self.sequences[seq].table.blocks));
        let (needed, available) = (blocks.len(), self.host.available());
        if needed > available {
            return Err(PagedKvError::OutOfHostBlocks { needed, available });
        }
        let copies: Vec<SwapCopy> = blocks
            .iter()
            .map(|&device| {
                let host = self.host.allocate().expect("counted just above").block;
                SwapCopy { device, host }
            })
            .collect();
        let moved: HashMap<_, _> = copies.iter().map(|c| (c.device, c.host)).collect();
        for &seq in seqs {
            let mut sequence = self.sequences.remove(&seq).expect("looked up above");
            self.drop_blocks(&sequence.table.blocks);
            rename(&mut sequence.table.blocks, &moved, &mut self.host);
            // Another copy than the one that is cached: it is registered again when it is back.
            sequence.cached = 0;
            self.swapped.insert(seq, sequence);
        }
        give_up_first_references(&mut self.host, moved.values());
        self.counters.swapped_out += copies.len() as u64;
        Ok(copies)
    }

    /// Moves sequences back from the host and says what to copy before they are read. What they share
    /// with one another stays shared.
    ///
    /// # Errors
    /// [`PagedKvError::NotSwapped`], [`PagedKvError::OutOfBlocks`]; a name that comes twice is
    /// [`PagedKvError::SequenceExists`].
    pub fn swap_in(&mut self, seqs: &[SeqId]) -> Result<Vec<SwapCopy>, PagedKvError> {
        must_differ(seqs)?;
        if let Some(&seq) = seqs.iter().find(|seq| !self.swapped.contains_key(seq)) {
            return Err(PagedKvError::NotSwapped(seq));
        }
        let blocks = distinct(seqs.iter().flat_map(|seq| &self.swapped[seq].table.blocks));
        let (needed, available) = (blocks.len(), self.pool.available());
        if needed > available {
            return Err(PagedKvError::OutOfBlocks { needed, available });
        }
        let copies: Vec<SwapCopy> =
            blocks.iter().map(|&host| SwapCopy { device: self.take_block(), host }).collect();
        let moved: HashMap<_, _> = copies.iter().map(|c| (c.host, c.device)).collect();
        for &seq in seqs {
            let mut sequence = self.swapped.remove(&seq).expect("looked up above");
            for &block in &sequence.table.blocks {
                self.host.release(block, Keep::Nothing).expect("the table holds it");
            }
            rename(&mut sequence.table.blocks, &moved, &mut self.pool);
            self.counters.table_entries += sequence.table.blocks.len();
            self.sequences.insert(seq, sequence);
        }
        give_up_first_references(&mut self.pool, moved.values());
        self.counters.swapped_in += copies.len() as u64;
        Ok(copies)
    }

    /// Whether a sequence is on the host.
    pub fn is_swapped(&self, seq: SeqId) -> bool {
        self.swapped.contains_key(&seq)
    }
}

fn must_differ(seqs: &[SeqId]) -> Result<(), PagedKvError> {
    let mut sorted = seqs.to_vec();
    sorted.sort_unstable();
    match sorted.windows(2).find(|pair| pair[0] == pair[1]) {
        Some(pair) => Err(PagedKvError::SequenceExists(pair[0])),
        None => Ok(()),
    }
}

/// Each block once, in ascending order.
fn distinct<'a>(blocks: impl Iterator<Item = &'a BlockId>) -> Vec<BlockId> {
    let mut blocks: Vec<BlockId> = blocks.copied().collect();
    blocks.sort_unstable();
    blocks.dedup();
    blocks
}

/// Replaces a table's blocks by those they moved to, with a reference for each entry.
fn rename(table: &mut [BlockId], moved: &HashMap<BlockId, BlockId>, pool: &mut BlockPool) {
    for block in table {
        *block = moved[block];
        pool.retain(*block).expect("allocated for this");
    }
}

/// Allocation counts one reference, the tables' entries are counted by [`rename`].
fn give_up_first_references<'a>(pool: &mut BlockPool, blocks: impl Iterator<Item = &'a BlockId>) {
    for &block in blocks {
        pool.release(block, Keep::Nothing).expect("a table holds it");
    }
}
