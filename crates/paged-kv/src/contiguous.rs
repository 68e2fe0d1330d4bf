//! What pages replace: one contiguous stretch of memory a sequence.
//!
//! The allocators differ in how they choose among the holes ([`Fit`]) and in what the caller asks
//! for: the length that a request declares, or the longest that the model allows (*reserve-maximum*:
//! [`ContiguousAllocator::reserve_maximum`], "Orca (Max)" in Kwon et al. 2023, section 6.1). Both
//! lose memory, to *internal* fragmentation (reserved and never used) or *external* fragmentation (holes
//! that add up to enough, none of which is enough).

use std::collections::{BTreeMap, BTreeSet};

/// Which hole is taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fit {
    /// The first that is large enough, from the lowest address on.
    First,
    /// The smallest that is large enough; of several, the one at the lowest address.
    Best,
}

/// A stretch of memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Extent {
    /// The first unit.
    pub start: u64,
    /// How many units.
    pub len: u64,
}

/// Why there is no stretch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ContiguousError {
    /// No hole is large enough, though the holes together may be.
    #[error("need {needed}, largest hole {largest_hole}, {free} free in all")]
    NoHole {
        /// Units asked for.
        needed: u64,
        /// Units of the largest hole.
        largest_hole: u64,
        /// Units of all holes.
        free: u64,
    },
    /// A stretch of length 0, or longer than the longest that reserve-maximum allows.
    #[error("a stretch must have between 1 and {max} units, not {got}")]
    Length {
        /// Units asked for.
        got: u64,
        /// The most that is allowed.
        max: u64,
    },
    /// A stretch that is not allocated.
    #[error("{0:?} is not allocated")]
    NotAllocated(Extent),
}

/// Memory of `total` units (bytes or slots) handed out in stretches. Freed neighbours become one
/// hole. An allocation takes time logarithmic in the holes with [`Fit::Best`], linear with
/// [`Fit::First`].
#[derive(Clone, Debug)]
pub struct ContiguousAllocator {
    total: u64,
    fit: Fit,
    reserve: Option<u64>,
    /// Start to length.
    holes: BTreeMap<u64, u64>,
    /// Length and start.
    by_len: BTreeSet<(u64, u64)>,
    allocated: BTreeMap<u64, u64>,
    free: u64,
}

impl ContiguousAllocator {
    /// One hole of `total` units.
    pub fn new(total: u64, fit: Fit) -> Self {
        let mut empty = Self {
            total,
            fit,
            reserve: None,
            holes: BTreeMap::new(),
            by_len: BTreeSet::new(),
            allocated: BTreeMap::new(),
            free: 0,
        };
        empty.add_hole(Extent { start: 0, len: total });
        empty.free = total;
        empty
    }

    /// Gives `maximum` units whatever is asked for.
    pub fn reserve_maximum(total: u64, maximum: u64) -> Self {
        Self { reserve: Some(maximum), ..Self::new(total, Fit::First) }
    }

    /// Units in all.
    pub fn total(&self) -> u64 {
        self.total
    }

    /// Units of all holes.
    pub fn free(&self) -> u64 {
        self.free
    }

    /// Units of the largest hole.
    pub fn largest_hole(&self) -> u64 {
        self.by_len.last().map_or(0, |&(len, _)| len)
    }

    /// The holes, by address.
    pub fn holes(&self) -> impl Iterator<Item = Extent> + '_ {
        self.holes.iter().map(|(&start, &len)| Extent { start, len })
    }

    /// What the stretch for `len` units will take.
    pub fn reserved_for(&self, len: u64) -> u64 {
        self.reserve.unwrap_or(len)
    }

    /// The share of the free memory that is not in the largest hole, 0 to 1.
    pub fn external_fragmentation(&self) -> f64 {
        if self.free == 0 { 0.0 } else { 1.0 - self.largest_hole() as f64 / self.free as f64 }
    }

    /// Takes a stretch of at least `len` units.
    ///
    /// # Errors
    /// [`ContiguousError::NoHole`], [`ContiguousError::Length`].
    pub fn allocate(&mut self, len: u64) -> Result<Extent, ContiguousError> {
        let max = self.reserve.unwrap_or(u64::MAX);
        if len == 0 || len > max {
            return Err(ContiguousError::Length { got: len, max });
        }
        let needed = self.reserved_for(len);
        let hole = match self.fit {
            Fit::First => self.holes().find(|h| h.len >= needed),
            Fit::Best => {
                let best = self.by_len.range((needed, 0)..).next();
                best.map(|&(len, start)| Extent { start, len })
            }
        };
        let Some(hole) = hole else {
            let (largest_hole, free) = (self.largest_hole(), self.free);
            return Err(ContiguousError::NoHole { needed, largest_hole, free });
        };
        self.take_hole(hole);
        self.add_hole(Extent { start: hole.start + needed, len: hole.len - needed });
        self.allocated.insert(hole.start, needed);
        self.free -= needed;
        Ok(Extent { start: hole.start, len: needed })
    }

    /// Gives a stretch back.
    ///
    /// # Errors
    /// [`ContiguousError::NotAllocated`].
    pub fn release(&mut self, extent: Extent) -> Result<(), ContiguousError> {
        if self.allocated.get(&extent.start) != Some(&extent.len) {
            return Err(ContiguousError::NotAllocated(extent));
        }
        self.allocated.remove(&extent.start);
        self.free += extent.len;
        let mut hole = extent;
        let before = self.holes.range(..extent.start).next_back();
        if let Some((&start, &len)) = before
            && start + len == hole.start
        {
            self.take_hole(Extent { start, len });
            hole = Extent { start, len: len + hole.len };
        }
        let end = hole.start + hole.len;
        if let Some(&len) = self.holes.get(&end) {
            self.take_hole(Extent { start: end, len });
            hole.len += len;
        }
        self.add_hole(hole);
        Ok(())
    }

    fn add_hole(&mut self, hole: Extent) {
        if hole.len > 0 {
            self.holes.insert(hole.start, hole.len);
            self.by_len.insert((hole.len, hole.start));
        }
    }

    fn take_hole(&mut self, hole: Extent) {
        self.holes.remove(&hole.start);
        self.by_len.remove(&(hole.len, hole.start));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Holes of 30, 10 and 20 units, in this order.
    fn with_holes(fit: Fit) -> ContiguousAllocator {
        let mut memory = ContiguousAllocator::new(75, fit);
        let all: Vec<Extent> =
            [30, 5, 10, 5, 20, 5].map(|len| memory.allocate(len).unwrap()).to_vec();
        for hole in [all[0], all[2], all[4]] {
            memory.release(hole).unwrap();
        }
        memory
    }

    #[test]
    fn fits_choose_as_their_names_say() {
        assert_eq!(with_holes(Fit::First).allocate(8), Ok(Extent { start: 0, len: 8 }));
        assert_eq!(with_holes(Fit::Best).allocate(8), Ok(Extent { start: 35, len: 8 }));
        assert_eq!(with_holes(Fit::Best).allocate(15), Ok(Extent { start: 50, len: 15 }));
    }

    #[test]
    fn holes_that_add_up_to_enough_may_not_do() {
        let mut memory = with_holes(Fit::First);
        let refused = ContiguousError::NoHole { needed: 40, largest_hole: 30, free: 60 };
        assert_eq!(memory.allocate(40), Err(refused));
        assert_eq!(memory.external_fragmentation(), 0.5);
    }

    #[test]
    fn reserve_maximum_takes_the_same_for_all() {
        let mut memory = ContiguousAllocator::reserve_maximum(100, 40);
        assert_eq!(memory.allocate(1).unwrap().len, 40);
        assert_eq!(memory.allocate(41), Err(ContiguousError::Length { got: 41, max: 40 }));
        memory.allocate(40).unwrap();
        let refused = ContiguousError::NoHole { needed: 40, largest_hole: 20, free: 20 };
        assert_eq!(memory.allocate(3), Err(refused));
    }

    #[test]
    fn only_what_was_taken_can_be_given_back() {
        let mut memory = ContiguousAllocator::new(10, Fit::First);
        let taken = memory.allocate(4).unwrap();
        let half = Extent { len: 2, ..taken };
        assert_eq!(memory.release(half), Err(ContiguousError::NotAllocated(half)));
        memory.release(taken).unwrap();
        assert_eq!(memory.release(taken), Err(ContiguousError::NotAllocated(taken)));
        assert_eq!(memory.allocate(0), Err(ContiguousError::Length { got: 0, max: u64::MAX }));
    }
}
