//! Unreferenced blocks whose content is kept, in the order in which they go: two doubly linked
//! lists threaded through arrays, so that a block leaves from the middle in constant time.

use crate::BlockId;

const NONE: u32 = u32::MAX;

/// A block's neighbours in its list; `list` is `NONE` outside both.
#[derive(Clone, Copy, Debug)]
struct Link {
    list: u32,
    previous: u32,
    next: u32,
}

#[derive(Clone, Copy, Debug)]
struct Ends {
    first: u32,
    last: u32,
}

/// The first of list 0 goes first; list 1 goes when list 0 is empty.
#[derive(Clone, Debug)]
pub(crate) struct IdleBlocks {
    links: Vec<Link>,
    ends: [Ends; 2],
    len: usize,
}

impl IdleBlocks {
    pub(crate) fn new(blocks: u32) -> Self {
        let outside = Link { list: NONE, previous: NONE, next: NONE };
        let empty = Ends { first: NONE, last: NONE };
        Self { links: vec![outside; blocks as usize], ends: [empty; 2], len: 0 }
    }

    pub(crate) fn len(&self) -> usize {
        self.len
    }

    pub(crate) fn contains(&self, block: BlockId) -> bool {
        self.links.get(block.index()).is_some_and(|l| l.list != NONE)
    }

    /// Appends a block that is in neither list.
    pub(crate) fn push(&mut self, block: BlockId, list: usize) {
        debug_assert!(!self.contains(block));
        let last = self.ends[list].last;
        self.links[block.index()] = Link { list: list as u32, previous: last, next: NONE };
        match last {
            NONE => self.ends[list].first = block.0,
            last => self.links[last as usize].next = block.0,
        }
        self.ends[list].last = block.0;
        self.len += 1;
    }

    /// Takes a block out; false if it was not in.
    pub(crate) fn remove(&mut self, block: BlockId) -> bool {
        if !self.contains(block) {
            return false;
        }
        let Link { list, previous, next } = self.links[block.index()];
        let ends = &mut self.ends[list as usize];
        match previous {
            NONE => ends.first = next,
            previous => self.links[previous as usize].next = next,
        }
        match next {
            NONE => ends.last = previous,
            next => self.links[next as usize].previous = previous,
        }
        self.links[block.index()].list = NONE;
        self.len -= 1;
        true
    }

    /// Takes out the block that is first to go.
    pub(crate) fn pop(&mut self) -> Option<BlockId> {
        let first = self.ends.iter().map(|e| e.first).find(|&f| f != NONE)?;
        self.remove(BlockId(first));
        Some(BlockId(first))
    }
}
