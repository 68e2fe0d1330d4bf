//! Blocks of one memory: which are free, how often each is referenced, which of them keep content
//! that nobody references.

use crate::PagedKvError;
use crate::idle::IdleBlocks;

/// A block of one memory, numbered from 0; where it lies is the storage's business.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct BlockId(pub u32);

impl BlockId {
    /// As an index.
    pub fn index(self) -> usize {
        self.0 as usize
    }
}

/// What becomes of a block's content when its last reference goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Keep {
    /// The block is free at once.
    Nothing,
    /// The content stays until the block is needed, those used least recently going first.
    Idle,
    /// As [`Idle`](Self::Idle), but after all of those.
    Protected,
}

/// A block that [`BlockPool::allocate`] gave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Allocation {
    /// The block, referenced once.
    pub block: BlockId,
    /// Whether it was idle: content that was kept is lost, and whoever finds it by that content
    /// must forget it.
    pub evicted: bool,
}

/// A fixed number of blocks with reference counts. Every operation takes constant time.
///
/// A block is *used* (referenced at least once), *idle* (unreferenced, its content kept) or *free*;
/// the three add up to [`total`](Self::total).
#[derive(Clone, Debug)]
pub struct BlockPool {
    references: Vec<u32>,
    /// Blocks that were returned; the last is taken first, while it is warm.
    returned: Vec<BlockId>,
    /// Blocks from here on were never taken.
    fresh: u32,
    idle: IdleBlocks,
}

impl BlockPool {
    /// A pool of free blocks.
    pub fn new(blocks: u32) -> Self {
        Self {
            references: vec![0; blocks as usize],
            returned: Vec::new(),
            fresh: 0,
            idle: IdleBlocks::new(blocks),
        }
    }

    /// Blocks in all.
    pub fn total(&self) -> usize {
        self.references.len()
    }

    /// Blocks with neither references nor content.
    pub fn free(&self) -> usize {
        self.returned.len() + self.total() - self.fresh as usize
    }

    /// Unreferenced blocks whose content is kept.
    pub fn idle(&self) -> usize {
        self.idle.len()
    }

    /// Referenced blocks.
    pub fn used(&self) -> usize {
        self.total() - self.available()
    }

    /// Blocks that can be allocated: the free and the idle ones.
    pub fn available(&self) -> usize {
        self.free() + self.idle()
    }

    /// References to a block; 0 for one that does not exist.
    pub fn references(&self, block: BlockId) -> u32 {
        self.references.get(block.index()).copied().unwrap_or(0)
    }

    /// Whether a block is idle.
    pub fn is_idle(&self, block: BlockId) -> bool {
        self.idle.contains(block)
    }

    /// Takes a block: a free one, else the idle one that is first to go. None if all are used.
    pub fn allocate(&mut self) -> Option<Allocation> {
        let (block, evicted) = if let Some(block) = self.returned.pop() {
            (block, false)
        } else if (self.fresh as usize) < self.total() {
            self.fresh += 1;
            (BlockId(self.fresh - 1), false)
        } else {
            (self.idle.pop()?, true)
        };
        self.references[block.index()] = 1;
        Some(Allocation { block, evicted })
    }

    /// Adds a reference to a used block, or takes an idle one back with its content.
    ///
    /// # Errors
    /// [`PagedKvError::FreeBlock`] if the block is free or does not exist.
    pub fn retain(&mut self, block: BlockId) -> Result<(), PagedKvError> {
        if self.references(block) == 0 && !self.idle.remove(block) {
            return Err(PagedKvError::FreeBlock(block));
        }
        self.references[block.index()] += 1;
        Ok(())
    }

    /// Drops a reference; with the last one the block becomes free or idle. Returns how many are
    /// left.
    ///
    /// # Errors
    /// [`PagedKvError::FreeBlock`] if the block has no reference.
    pub fn release(&mut self, block: BlockId, keep: Keep) -> Result<u32, PagedKvError> {
        if self.references(block) == 0 {
            return Err(PagedKvError::FreeBlock(block));
        }
        self.references[block.index()] -= 1;
        let left = self.references[block.index()];
        if left == 0 {
            match keep {
                Keep::Nothing => self.returned.push(block),
                Keep::Idle => self.idle.push(block, 0),
                Keep::Protected => self.idle.push(block, 1),
            }
        }
        Ok(left)
    }

    /// Gives up the content of an idle block: it is free. False if it is not idle.
    pub fn discard(&mut self, block: BlockId) -> bool {
        let was_idle = self.idle.remove(block);
        if was_idle {
            self.returned.push(block);
        }
        was_idle
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn take(pool: &mut BlockPool, n: usize) -> Vec<BlockId> {
        (0..n).map(|_| pool.allocate().unwrap().block).collect()
    }

    #[test]
    fn idle_blocks_go_least_recently_used_first_and_protected_ones_last() {
        let mut pool = BlockPool::new(4);
        let b = take(&mut pool, 4);
        assert_eq!(pool.allocate(), None);
        pool.release(b[0], Keep::Protected).unwrap();
        pool.release(b[1], Keep::Idle).unwrap();
        pool.release(b[2], Keep::Idle).unwrap();
        // Used again, so that it goes after block 2.
        pool.retain(b[1]).unwrap();
        pool.release(b[1], Keep::Idle).unwrap();
        pool.release(b[3], Keep::Nothing).unwrap();
        let order: Vec<_> = std::iter::from_fn(|| pool.allocate()).collect();
        let gone = |block, evicted| Allocation { block, evicted };
        let want = [gone(b[3], false), gone(b[2], true), gone(b[1], true), gone(b[0], true)];
        assert_eq!(order, want);
    }

    #[test]
    fn misuse_is_an_error_and_changes_nothing() {
        let mut pool = BlockPool::new(2);
        let b = pool.allocate().unwrap().block;
        assert_eq!(pool.release(b, Keep::Nothing), Ok(0));
        assert_eq!(pool.release(b, Keep::Nothing), Err(PagedKvError::FreeBlock(b)));
        assert_eq!(pool.retain(b), Err(PagedKvError::FreeBlock(b)));
        assert_eq!(pool.retain(BlockId(9)), Err(PagedKvError::FreeBlock(BlockId(9))));
        assert!(!pool.discard(b) && !pool.discard(BlockId(9)));
        assert_eq!((pool.free(), pool.idle(), pool.used()), (2, 0, 0));
    }
}
