//! From a sequence's positions to blocks.

use std::ops::Range;

use crate::BlockId;

/// Which blocks hold a sequence: entry `i` holds positions `i * block_size..(i + 1) * block_size`,
/// and the last may be filled in part.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BlockTable {
    pub(crate) blocks: Vec<BlockId>,
    pub(crate) len: usize,
}

/// Positions that lie together in one block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BlockRun {
    /// The block.
    pub block: BlockId,
    /// The first slot within the block.
    pub offset: usize,
    /// How many slots.
    pub len: usize,
}

impl BlockTable {
    /// The blocks, in the order of the positions.
    pub fn blocks(&self) -> &[BlockId] {
        &self.blocks
    }

    /// Positions held.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether no position is held.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The runs that hold `positions` (cut at the end of the table), in order: one a block, each
    /// one `KvRun` of attention a layer.
    pub fn runs(
        &self,
        positions: Range<usize>,
        block_size: usize,
    ) -> impl Iterator<Item = BlockRun> + '_ {
        let end = positions.end.min(self.len);
        let mut at = positions.start;
        std::iter::from_fn(move || {
            if at >= end {
                return None;
            }
            let offset = at % block_size;
            let len = (block_size - offset).min(end - at);
            let block = self.blocks[at / block_size];
            at += len;
            Some(BlockRun { block, offset, len })
        })
    }

    /// Filled slots of the last block if it has room left.
    pub(crate) fn partly_filled(&self, block_size: usize) -> Option<(BlockId, usize)> {
        let filled = self.len % block_size;
        let last = *self.blocks.last()?;
        (filled > 0).then_some((last, filled))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_end_with_their_block_and_with_the_table() {
        let table = BlockTable { blocks: [7, 2, 9].map(BlockId).to_vec(), len: 10 };
        let runs = |range| {
            let parts = table.runs(range, 4).map(|r| (r.block.0, r.offset, r.len));
            parts.collect::<Vec<_>>()
        };
        assert_eq!(runs(0..10), [(7, 0, 4), (2, 0, 4), (9, 0, 2)]);
        assert_eq!(runs(3..6), [(7, 3, 1), (2, 0, 2)]);
        assert_eq!(runs(9..99), [(9, 1, 1)]);
        assert_eq!(runs(5..5), []);
    }
}
