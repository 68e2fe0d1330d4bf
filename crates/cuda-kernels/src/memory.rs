//! Device memory that is used again.
//!
//! Asking the driver for memory costs as much as a kernel and waits for the device, so what is let go of is
//! kept by size: a step of a model asks for the same sizes as the one before. Since all work of a
//! device is done in order, memory can be used again as soon as its holder has gone: whatever still reads
//! it was launched before.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::RangeInclusive;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::{Backend, DevicePtr, Error, Result};

/// What the memory of a device is used for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MemoryStats {
    /// Bytes that buffers hold.
    pub used: usize,
    /// The most that were ever held at once.
    pub peak: usize,
    /// Bytes kept for later uses.
    pub kept: usize,
    /// How often memory was asked of the driver.
    pub allocations: u64,
    /// How often it was not, since some was kept.
    pub reused: u64,
}

/// The memory of one device.
pub(crate) struct Pool {
    backend: Arc<dyn Backend>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// What nobody uses, by size.
    free: BTreeMap<usize, Vec<DevicePtr>>,
    stats: MemoryStats,
}

/// Memory on a device; it goes back to the pool when dropped.
pub(crate) struct Block {
    pub(crate) pool: Arc<Pool>,
    pub(crate) at: DevicePtr,
    /// As allocated: no less than asked for.
    capacity: usize,
}

/// From this on sizes are multiples of it; smaller ones are one of four to eight a power of two.
const LARGE: usize = 2 << 20;

/// What is kept may be larger than what is asked for by this part of it.
const SLACK: usize = 8;

/// What to allocate for so many bytes, and the largest to take that is kept.
pub(crate) fn sizes(bytes: usize) -> RangeInclusive<usize> {
    let size = rounded(bytes);
    size..=size + size / SLACK
}

fn rounded(bytes: usize) -> usize {
    if bytes >= LARGE {
        return bytes.checked_next_multiple_of(LARGE).unwrap_or(bytes);
    }
    let step = (bytes.max(1024).next_power_of_two() / 8).max(256);
    bytes.max(1).next_multiple_of(step)
}

impl Pool {
    pub(crate) fn new(backend: Arc<dyn Backend>) -> Self {
        Self { backend, state: Mutex::default() }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn stats(&self) -> MemoryStats {
        self.state().stats
    }

    pub(crate) fn backend(&self) -> &Arc<dyn Backend> {
        &self.backend
    }

    pub(crate) fn take(self: &Arc<Self>, bytes: usize) -> Result<Block> {
        let sizes = self.backend.sizes(bytes);
        let capacity = *sizes.start();
        let mut state = self.state();
        let fits = state.free.range_mut(sizes);
        let kept = fits.filter_map(|(&size, list)| Some((size, list.pop()?))).next();
        let (capacity, at) = match kept {
            Some(kept) => {
                state.stats.kept -= kept.0;
                state.stats.reused += 1;
                kept
            }
            None => {
                // What is kept is given back only if the device has nothing else.
                let at = match self.backend.allocate(capacity) {
                    Err(Error::OutOfMemory { .. }) if state.stats.kept > 0 => {
                        self.give_back(&mut state);
                        self.backend.allocate(capacity)
                    }
                    other => other,
                }?;
                state.stats.allocations += 1;
                (capacity, at)
            }
        };
        state.stats.used += capacity;
        state.stats.peak = state.stats.peak.max(state.stats.used);
        Ok(Block { pool: Arc::clone(self), at, capacity })
    }

    /// Gives the device what nobody uses.
    pub(crate) fn trim(&self) {
        self.give_back(&mut self.state());
    }

    fn give_back(&self, state: &mut State) {
        for (size, list) in std::mem::take(&mut state.free) {
            for at in list {
                // SAFETY: it was allocated with this size, and its holder has gone.
                unsafe { self.backend.free(at, size) };
            }
        }
        state.stats.kept = 0;
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.trim();
    }
}

impl Drop for Block {
    fn drop(&mut self) {
        let mut state = self.pool.state();
        state.stats.used -= self.capacity;
        state.stats.kept += self.capacity;
        state.free.entry(self.capacity).or_default().push(self.at);
    }
}

impl fmt::Debug for Block {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes at {:#x}", self.capacity, self.at)
    }
}

impl fmt::Debug for Pool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.stats())
    }
}

#[cfg(test)]
mod tests {
    use super::{LARGE, rounded};

    #[test]
    fn sizes_are_rounded_by_an_eighth_at_most() {
        assert_eq!(rounded(0), 256);
        assert_eq!(rounded(1000), 1024);
        assert_eq!(rounded(5000), 5120);
        assert_eq!(rounded(LARGE + 1), 2 * LARGE);
        for bytes in (4096..100_000).step_by(37) {
            let to = rounded(bytes);
            assert!(to >= bytes && to <= bytes + bytes / 4, "{bytes} {to}");
        }
    }
}
