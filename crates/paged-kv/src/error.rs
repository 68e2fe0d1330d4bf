//! What can be wrong with a request to the cache.

use crate::{BlockId, SeqId};

/// Why the cache refuses. On an error nothing has changed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PagedKvError {
    /// Blocks of no positions.
    #[error("a block must hold between 1 and {max} positions, not {got}")]
    BlockSize {
        /// The size asked for.
        got: usize,
        /// The largest that is possible.
        max: usize,
    },
    /// All blocks of the device's pool are used. Another sequence has to be preempted, or waits.
    #[error("{needed} more blocks are needed, {available} can be had")]
    OutOfBlocks {
        /// Blocks asked for.
        needed: usize,
        /// Blocks that are free or idle.
        available: usize,
    },
    /// All blocks of the host's pool are used: preempt by recomputation.
    #[error("{needed} more host blocks are needed, {available} can be had")]
    OutOfHostBlocks {
        /// Blocks asked for.
        needed: usize,
        /// Blocks that are free.
        available: usize,
    },
    /// A sequence that does not exist, or is on the host.
    #[error("there is no sequence {0:?} on the device")]
    NoSuchSequence(SeqId),
    /// A sequence that is not on the host.
    #[error("sequence {0:?} is not swapped out")]
    NotSwapped(SeqId),
    /// A new sequence with the name of another.
    #[error("there is a sequence {0:?} already")]
    SequenceExists(SeqId),
    /// A position beyond the end of a sequence.
    #[error("sequence {seq:?} has {len} positions, {position} was asked for")]
    NoSuchPosition {
        /// The sequence.
        seq: SeqId,
        /// The position.
        position: usize,
        /// The positions that it has.
        len: usize,
    },
    /// A fork or a swap of positions whose keys and values were not reported as written.
    #[error("sequence {0:?} has positions that are not committed")]
    Uncommitted(SeqId),
    /// A reference to a block that nobody holds.
    #[error("{0:?} is free or does not exist")]
    FreeBlock(BlockId),
}
