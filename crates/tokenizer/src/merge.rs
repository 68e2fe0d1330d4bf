//! Merging neighbours, best pair first: the loop that both kinds of BPE share.
//!
//! Symbols are a linked list over the text; a heap holds every pair that may merge. A merge takes
//! the pair of highest priority (of equal ones the leftmost) and offers the two pairs that it
//! makes. Each symbol starts at most two pairs, so n symbols take O(n log n).

use std::cmp::{Ordering, Reverse};
use std::collections::BinaryHeap;

/// A run of bytes of the text, linked to its neighbours.
#[derive(Clone, Copy, Debug)]
struct Symbol {
    start: u32,
    len: u32,
    prev: u32,
    next: u32,
    tag: u32,
}

const END: u32 = u32::MAX;

struct Pair<P> {
    priority: P,
    left: u32,
    right: u32,
    /// Lengths when the pair was offered: a symbol that has grown since makes it stale.
    lens: (u32, u32),
    tag: u32,
}

impl<P: Ord> Ord for Pair<P> {
    fn cmp(&self, other: &Self) -> Ordering {
        (&self.priority, Reverse(self.left)).cmp(&(&other.priority, Reverse(other.left)))
    }
}
impl<P: Ord> PartialOrd for Pair<P> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}
impl<P: Ord> PartialEq for Pair<P> {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}
impl<P: Ord> Eq for Pair<P> {}

/// Two neighbours that might merge.
pub(crate) struct Pairing<'a> {
    /// What the caller knows them by.
    pub(crate) tags: (u32, u32),
    /// The bytes of the left one.
    pub(crate) left_len: usize,
    /// The text of both together.
    pub(crate) both: &'a [u8],
}

/// The working memory of the loop, reused from word to word.
pub(crate) struct Merger<P> {
    symbols: Vec<Symbol>,
    heap: BinaryHeap<Pair<P>>,
}

impl<P: Ord> Default for Merger<P> {
    fn default() -> Self {
        Merger { symbols: Vec::new(), heap: BinaryHeap::new() }
    }
}

impl<P: Ord> Merger<P> {
    /// Forgets the last word.
    pub(crate) fn clear(&mut self) {
        self.symbols.clear();
        self.heap.clear();
    }

    /// Adds a symbol of `len` bytes behind the others.
    pub(crate) fn push(&mut self, len: usize, tag: u32) {
        let i = self.symbols.len() as u32;
        let start = self.symbols.last().map_or(0, |s| s.start + s.len);
        if let Some(last) = self.symbols.last_mut() {
            last.next = i;
        }
        let prev = i.wrapping_sub(1); // END for the first
        self.symbols.push(Symbol { start, len: len as u32, prev, next: END, tag });
    }

    /// Merges while `rank` allows: given two neighbours it says how urgent their merge is and the tag
    /// of the result. Then calls `each` with the tag
    /// and the bytes of every symbol that is left.
    pub(crate) fn run<'t>(
        &mut self,
        text: &'t [u8],
        rank: impl Fn(Pairing<'_>) -> Option<(P, u32)>,
        mut each: impl FnMut(u32, &'t [u8]),
    ) {
        for i in 1..self.symbols.len() as u32 {
            self.offer(i - 1, i, text, &rank);
        }
        while let Some(pair) = self.heap.pop() {
            let (left, right) =
                (self.symbols[pair.left as usize], self.symbols[pair.right as usize]);
            if (left.len, right.len) != pair.lens || left.next != pair.right {
                continue;
            }
            self.symbols[pair.right as usize].len = 0;
            let merged = &mut self.symbols[pair.left as usize];
            merged.len += right.len;
            merged.next = right.next;
            merged.tag = pair.tag;
            if right.next != END {
                self.symbols[right.next as usize].prev = pair.left;
            }
            self.offer(left.prev, pair.left, text, &rank);
            self.offer(pair.left, right.next, text, &rank);
        }
        let mut i = if self.symbols.is_empty() { END } else { 0 };
        while i != END {
            let s = self.symbols[i as usize];
            each(s.tag, &text[s.start as usize..][..s.len as usize]);
            i = s.next;
        }
    }

    fn offer(
        &mut self,
        left: u32,
        right: u32,
        text: &[u8],
        rank: &impl Fn(Pairing<'_>) -> Option<(P, u32)>,
    ) {
        if left == END || right == END {
            return;
        }
        let (l, r) = (self.symbols[left as usize], self.symbols[right as usize]);
        let both = &text[l.start as usize..][..(l.len + r.len) as usize];
        if let Some((priority, tag)) =
            rank(Pairing { tags: (l.tag, r.tag), left_len: l.len as usize, both })
        {
            self.heap.push(Pair { priority, left, right, lens: (l.len, r.len), tag });
        }
    }
}
