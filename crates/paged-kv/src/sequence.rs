//! A sequence on the device.

use crate::{BlockTable, CacheSalt, TokenId};

/// Names a sequence; the caller chooses the numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SeqId(pub u64);

/// What is known of a sequence.
#[derive(Clone, Debug)]
pub(crate) struct Sequence {
    pub(crate) salt: CacheSalt,
    /// As many as the table has positions.
    pub(crate) tokens: Vec<TokenId>,
    pub(crate) table: BlockTable,
    /// Positions whose keys and values are written.
    pub(crate) committed: usize,
    /// How many of the first blocks are in the prefix cache. Each is the parent of the next, so the
    /// sequence holds all ancestors of a cached block that it holds.
    pub(crate) cached: usize,
}

impl Sequence {
    pub(crate) fn new(salt: CacheSalt) -> Self {
        let table = BlockTable::default();
        Self { salt, tokens: Vec::new(), table, committed: 0, cached: 0 }
    }

    /// Whether the last block is in the prefix cache, and so must not be written.
    pub(crate) fn last_is_cached(&self) -> bool {
        self.cached == self.table.blocks.len()
    }
}
