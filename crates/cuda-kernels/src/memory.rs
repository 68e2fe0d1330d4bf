//! Device memory that is used again.
//!
//! Asking the driver for memory costs as much as a kernel and waits for the device, so what is let go of is
//! kept by size: a step of a model asks for the same sizes as the one before. Since all work of a
//! device is done in order, memory can be used again as soon as its holder has gone: whatever still reads
//! it was launched before.
//!
//! What a graph uses is not used again while the graph is there, since each replay writes to it: a
//! capture takes memory into an [`Arena`] of its own, and holds on to buffers from before.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::ops::RangeInclusive;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::gate::Gate;
use crate::profile::Recorder;
use crate::{Backend, DevicePtr, Error, Result};

/// What the memory of a device is used for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MemoryStats {
    /// Bytes that buffers hold, and graphs.
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

/// One device: its memory, who may give it work, where its time goes.
pub(crate) struct Pool {
    backend: Arc<dyn Backend>,
    state: Mutex<State>,
    pub(crate) gate: Gate,
    pub(crate) recorder: Recorder,
    /// Whether `State::arena` is there, for a look without a lock.
    capturing: AtomicBool,
}

#[derive(Default)]
struct State {
    free: Free,
    stats: MemoryStats,
    /// Of the capture that goes on.
    arena: Option<Arc<Arena>>,
}

/// What nobody uses, by size.
#[derive(Default)]
struct Free(BTreeMap<usize, Vec<DevicePtr>>);

impl Free {
    fn smallest(&self, sizes: &RangeInclusive<usize>) -> Option<usize> {
        self.0.range(sizes.clone()).find(|(_, list)| !list.is_empty()).map(|(&size, _)| size)
    }

    fn take(&mut self, size: usize) -> Option<DevicePtr> {
        self.0.get_mut(&size)?.pop()
    }

    fn put(&mut self, size: usize, at: DevicePtr) {
        self.0.entry(size).or_default().push(at);
    }
}

/// Memory on a device; it goes back to the pool, or to its graph, when dropped.
pub(crate) struct Block {
    pub(crate) pool: Arc<Pool>,
    pub(crate) at: DevicePtr,
    /// As allocated: no less than asked for.
    capacity: usize,
    arena: Option<Arc<Arena>>,
}

/// What a graph uses.
pub(crate) struct Arena {
    pool: Arc<Pool>,
    /// Taken in the capture and let go of.
    free: Mutex<Free>,
    /// Blocks from before the capture.
    holds: Mutex<HashMap<DevicePtr, Arc<Block>>>,
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
        Self {
            backend,
            state: Mutex::default(),
            gate: Gate::default(),
            recorder: Recorder::default(),
            capturing: AtomicBool::new(false),
        }
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

    /// Gives the device work, of that name in a profile.
    pub(crate) fn work<R>(
        &self,
        name: &'static str,
        work: impl FnOnce(&dyn Backend) -> Result<R>,
    ) -> Result<R> {
        let turn = self.gate.enter();
        let backend = &*self.backend;
        if turn.capturing {
            return work(backend);
        }
        self.recorder.around(backend, name, || work(backend))
    }

    /// Gives it what cannot be part of a graph.
    pub(crate) fn work_outside_graphs<R>(
        &self,
        name: &'static str,
        work: impl FnOnce(&dyn Backend) -> Result<R>,
    ) -> Result<R> {
        let turn = self.gate.enter();
        if turn.capturing {
            let what = format!("{name} cannot be part of it");
            return Err(Error::Capture { ordinal: self.backend.properties().ordinal, what });
        }
        self.recorder.around(&*self.backend, name, || work(&*self.backend))
    }

    pub(crate) fn take(self: &Arc<Self>, bytes: usize) -> Result<Block> {
        let turn = self.gate.enter();
        let sizes = self.backend.sizes(bytes);
        let capacity = *sizes.start();
        let mut state = self.state();
        if turn.capturing {
            let arena = state.arena.clone();
            let found = arena.and_then(|arena| self.take_into(arena, &mut state, &sizes));
            return found.ok_or_else(|| {
                let what =
                    format!("no {capacity} bytes of memory are kept: do the same once before");
                Error::Capture { ordinal: self.backend.properties().ordinal, what }
            });
        }
        let kept = state.free.smallest(&sizes);
        let (capacity, at) = match kept.and_then(|size| Some((size, state.free.take(size)?))) {
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
        Ok(Block { pool: Arc::clone(self), at, capacity, arena: None })
    }

    /// For a capture: the smallest that fits of what it has let go of and what is kept, as if both were
    /// one, so that it finds what the same work before it has left behind.
    fn take_into(
        self: &Arc<Self>,
        arena: Arc<Arena>,
        state: &mut State,
        sizes: &RangeInclusive<usize>,
    ) -> Option<Block> {
        let mut own = arena.free.lock().unwrap_or_else(PoisonError::into_inner);
        let (from_own, from_kept) = (own.smallest(sizes), state.free.smallest(sizes));
        let capacity = from_own.into_iter().chain(from_kept).min()?;
        let at = if from_own == Some(capacity) {
            own.take(capacity)?
        } else {
            let at = state.free.take(capacity)?;
            state.stats.kept -= capacity;
            state.stats.used += capacity;
            state.stats.peak = state.stats.peak.max(state.stats.used);
            at
        };
        state.stats.reused += 1;
        drop(own);
        Some(Block { pool: Arc::clone(self), at, capacity, arena: Some(arena) })
    }

    /// From now on this thread takes memory into an arena; it captures.
    pub(crate) fn open_arena(self: &Arc<Self>) -> Arc<Arena> {
        let (pool, free, holds) = (Arc::clone(self), Mutex::default(), Mutex::default());
        let arena = Arc::new(Arena { pool, free, holds });
        self.state().arena = Some(Arc::clone(&arena));
        self.capturing.store(true, Ordering::Release);
        arena
    }

    pub(crate) fn close_arena(&self) {
        self.capturing.store(false, Ordering::Release);
        let arena = self.state().arena.take();
        drop(arena); // not under the lock, which it takes
    }

    /// If a graph is captured: it uses this block, which therefore stays.
    pub(crate) fn used(&self, block: &Arc<Block>) {
        if !self.capturing.load(Ordering::Acquire) || block.arena.is_some() {
            return;
        }
        let arena = self.state().arena.clone();
        if let Some(arena) = arena.filter(|_| self.gate.enter().capturing) {
            let mut holds = arena.holds.lock().unwrap_or_else(PoisonError::into_inner);
            holds.entry(block.at).or_insert_with(|| Arc::clone(block));
        }
    }

    /// Gives the device what nobody uses; nothing in a capture.
    pub(crate) fn trim(&self) {
        if !self.gate.enter().capturing {
            self.give_back(&mut self.state());
        }
    }

    fn give_back(&self, state: &mut State) {
        for (size, list) in std::mem::take(&mut state.free.0) {
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
        self.recorder.forget(&*self.backend);
        self.trim();
    }
}

impl Drop for Block {
    fn drop(&mut self) {
        if let Some(arena) = &self.arena {
            let mut free = arena.free.lock().unwrap_or_else(PoisonError::into_inner);
            return free.put(self.capacity, self.at);
        }
        let mut state = self.pool.state();
        state.stats.used -= self.capacity;
        state.stats.kept += self.capacity;
        state.free.put(self.capacity, self.at);
    }
}

impl Drop for Arena {
    fn drop(&mut self) {
        let free = self.free.get_mut().unwrap_or_else(PoisonError::into_inner);
        let mut state = self.pool.state();
        for (size, list) in std::mem::take(&mut free.0) {
            for at in list {
                state.stats.used -= size;
                state.stats.kept += size;
                state.free.put(size, at);
            }
        }
    }
}

impl fmt::Debug for Arena {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a graph's memory")
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
