//! Keys and values in blocks, as the cache that a model's forward reads and writes.
//!
//! [`PagedStorage`] holds the bytes, [`KvCacheManager`] says whose they are; a
//! [`PagedKvCache`] is both for the time of one forward.
//!
//! ```
//! use paged_kv::{CacheSalt, KvCacheConfig, KvCacheManager, PagedStorage, SeqId};
//! use tensor::DType;
//! use tensor::kv::{KvCache, KvLayout};
//!
//! let config = KvCacheConfig { block_size: 4, blocks: 8, ..Default::default() };
//! let layout = KvLayout { layers: 1, n_kv_heads: 1, head_dim: 2, dtype: DType::F32 };
//! let mut storage = PagedStorage::new(layout, &config)?;
//! let mut manager = KvCacheManager::new(config)?;
//! manager.create(SeqId(1), CacheSalt(0), &[7, 8, 9, 7, 8])?;
//! manager.append(SeqId(1), &[7, 8, 9, 7, 8])?; // two blocks
//!
//! let mut cache = storage.with(&manager);
//! let seq = SeqId(1).into();
//! cache.reserve(seq, 5)?; // what a forward does with its rows
//! cache.write(0, seq, 0, &[0.5; 10], &[0.25; 10])?;
//! assert_eq!(cache.len(seq), 5);
//! manager.commit(SeqId(1))?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

use std::hash::BuildHasher;
use std::ops::Range;

use tensor::kv::{KvCache, KvError, KvLayout, KvRun, KvRunMut};

use crate::{BlockCopy, BlockId, KvCacheConfig, KvCacheManager, SeqId, SwapCopy};

impl From<SeqId> for tensor::kv::SeqId {
    fn from(seq: SeqId) -> Self {
        Self(seq.0)
    }
}

impl From<tensor::kv::SeqId> for SeqId {
    fn from(seq: tensor::kv::SeqId) -> Self {
        Self(seq.0)
    }
}

/// The bytes of all blocks, on the device and on the host.
///
/// Memory is taken from the system block by block, as it is first written.
#[derive(Debug)]
pub struct PagedStorage {
    layout: KvLayout,
    block_size: usize,
    device: Blocks,
    host: Blocks,
    /// Slots that the forward under way has reserved, by sequence.
    reserved: Vec<(SeqId, usize)>,
}

/// Per layer, keys then values: `[blocks * block_size, width]` elements each.
#[derive(Debug)]
struct Blocks(Vec<[Vec<u8>; 2]>);

impl PagedStorage {
    /// Room for the blocks of a configuration, of a model's layout.
    ///
    /// # Errors
    /// Those of [`KvLayout::check`]; [`KvError::OutOfSpace`] where the bytes cannot be counted or the
    /// system does not give them.
    pub fn new(layout: KvLayout, config: &KvCacheConfig) -> Result<Self, KvError> {
        layout.check()?;
        let room = |blocks: u32| -> Result<Blocks, KvError> {
            let slots = (blocks as usize).checked_mul(config.block_size);
            let none = || KvError::OutOfSpace { needed: slots.unwrap_or(usize::MAX), free: 0 };
            let side = slots.and_then(|slots| slots.checked_mul(layout.slot_bytes()));
            let side = side.ok_or_else(none)?;
            // Zeroed memory is the system's to refuse, and a refusal would end the process: it is
            // asked for, whole, and given back first.
            let all = side.checked_mul(2 * layout.layers).ok_or_else(none)?;
            Vec::<u8>::new().try_reserve_exact(all).map_err(|_| none())?;
            Ok(Blocks((0..layout.layers).map(|_| [vec![0; side], vec![0; side]]).collect()))
        };
        let (device, host) = (room(config.blocks)?, room(config.host_blocks)?);
        Ok(Self { layout, block_size: config.block_size, device, host, reserved: Vec::new() })
    }

    /// What it stores.
    pub fn layout(&self) -> &KvLayout {
        &self.layout
    }

    /// Bytes of one block: all layers, keys and values.
    pub fn block_bytes(&self) -> usize {
        self.block_size * self.layout.bytes_per_token()
    }

    /// Does a step's copies, in the order in which they must be done: blocks to the host, so that
    /// theirs are free; blocks back from there; copies on write.
    pub fn transfer(&mut self, out: &[SwapCopy], back: &[SwapCopy], copies: &[BlockCopy]) {
        out.iter().for_each(|&copy| self.swap_out(copy));
        back.iter().for_each(|&copy| self.swap_in(copy));
        copies.iter().for_each(|&copy| self.copy(copy));
    }

    /// Copies the filled slots of a block, before the copy is written to.
    pub fn copy(&mut self, copy: BlockCopy) {
        let from = self.slots(copy.from, 0..copy.slots);
        let to = self.slots(copy.to, 0..copy.slots).start;
        for side in self.device.0.iter_mut().flatten() {
            side.copy_within(from.clone(), to);
        }
    }

    /// Copies a block to the host.
    pub fn swap_out(&mut self, copy: SwapCopy) {
        let [from, to] =
            [copy.device, copy.host].map(|block| self.slots(block, 0..self.block_size));
        copy_blocks(&self.device, from, &mut self.host, to);
    }

    /// Copies a block back from the host.
    pub fn swap_in(&mut self, copy: SwapCopy) {
        let [from, to] =
            [copy.host, copy.device].map(|block| self.slots(block, 0..self.block_size));
        copy_blocks(&self.host, from, &mut self.device, to);
    }

    /// The cache of a forward, whose rows must have been [appended](KvCacheManager::append) to their
    /// sequences and not been [committed](KvCacheManager::commit).
    pub fn with<'a, S: BuildHasher>(
        &'a mut self,
        manager: &'a KvCacheManager<S>,
    ) -> PagedKvCache<'a, S> {
        self.reserved.clear();
        PagedKvCache { storage: self, manager }
    }

    /// The bytes of slots of a block, in each layer's keys and in its values.
    fn slots(&self, block: BlockId, slots: Range<usize>) -> Range<usize> {
        let first = block.0 as usize * self.block_size;
        let bytes = self.layout.slot_bytes();
        (first + slots.start) * bytes..(first + slots.end) * bytes
    }
}

fn copy_blocks(from: &Blocks, source: Range<usize>, to: &mut Blocks, target: Range<usize>) {
    for (from, to) in from.0.iter().flatten().zip(to.0.iter_mut().flatten()) {
        to[target.clone()].copy_from_slice(&from[source.clone()]);
    }
}

/// Blocks as the cache of one forward.
///
/// A sequence has the positions that were committed before, and those that the forward reserves: no
/// more than its table has. What a forward reserved can be given up again
/// ([`truncate`](KvCache::truncate), [`keep`](KvCache::keep)); what was committed is shortened by
/// [`KvCacheManager::truncate`] alone.
#[derive(Debug)]
pub struct PagedKvCache<'a, S> {
    storage: &'a mut PagedStorage,
    manager: &'a KvCacheManager<S>,
}

impl<S: BuildHasher + Send + Sync> PagedKvCache<'_, S> {
    fn committed(&self, seq: SeqId) -> usize {
        self.manager.committed(seq).unwrap_or(0)
    }

    /// Where a sequence stands in `reserved`, or would.
    fn reserved(&self, seq: SeqId) -> Result<usize, usize> {
        self.storage.reserved.binary_search_by_key(&seq, |&(s, _)| s)
    }

    fn set_reserved(&mut self, seq: SeqId, slots: usize) {
        match self.reserved(seq) {
            Ok(at) => self.storage.reserved[at].1 = slots,
            Err(at) => self.storage.reserved.insert(at, (seq, slots)),
        }
    }

    fn slots_of(&self, seq: SeqId) -> usize {
        let reserved = self.reserved(seq).map_or(0, |at| self.storage.reserved[at].1);
        self.committed(seq) + reserved
    }

    /// Calls `each` with the bytes of `slots` of a sequence, and how many slots they are: blocks that
    /// follow each other in memory are one piece.
    fn pieces(
        &self,
        seq: SeqId,
        slots: Range<usize>,
        mut each: impl FnMut(Range<usize>, usize),
    ) -> Result<(), KvError> {
        let (seq, len) = (SeqId(seq.0), self.slots_of(seq));
        let none = KvError::NoSuchSlot { seq: seq.into(), slot: slots.end, len };
        if slots.end > len || slots.start > slots.end {
            return Err(none);
        }
        let table = self.manager.table(seq).map_err(|_| none)?;
        let mut piece: Option<(Range<usize>, usize)> = None;
        for run in table.runs(slots, self.storage.block_size) {
            let bytes = self.storage.slots(run.block, run.offset..run.offset + run.len);
            match &mut piece {
                Some((whole, slots)) if whole.end == bytes.start => {
                    whole.end = bytes.end;
                    *slots += run.len;
                }
                _ => {
                    if let Some((bytes, slots)) = piece.replace((bytes, run.len)) {
                        each(bytes, slots);
                    }
                }
            }
        }
        if let Some((bytes, slots)) = piece {
            each(bytes, slots);
        }
        Ok(())
    }
}

impl<S: BuildHasher + Send + Sync> KvCache for PagedKvCache<'_, S> {
    fn layout(&self) -> &KvLayout {
        &self.storage.layout
    }

    fn len(&self, seq: tensor::kv::SeqId) -> usize {
        self.slots_of(seq.into())
    }

    fn reserve(&mut self, seq: tensor::kv::SeqId, slots: usize) -> Result<(), KvError> {
        let seq = SeqId::from(seq);
        let had = self.slots_of(seq);
        let free = self.manager.table(seq).map_or(0, |table| table.len() - had);
        if slots > free {
            return Err(KvError::OutOfSpace { needed: slots, free });
        }
        self.set_reserved(seq, had + slots - self.committed(seq));
        Ok(())
    }

    fn runs_mut(
        &mut self,
        layer: usize,
        seq: tensor::kv::SeqId,
        slots: Range<usize>,
        each: &mut dyn FnMut(KvRunMut<'_>),
    ) -> Result<(), KvError> {
        // Layers are taken out so that the tables can be read while their bytes are written.
        let mut sides = std::mem::take(&mut self.storage.device.0[layer]);
        let [keys, values] = &mut sides;
        let done = self.pieces(seq.into(), slots, |bytes, len| {
            let (keys, values) = (&mut keys[bytes.clone()], &mut values[bytes]);
            each(KvRunMut { keys, values, len });
        });
        self.storage.device.0[layer] = sides;
        done
    }

    fn runs<'a>(
        &'a self,
        layer: usize,
        seq: tensor::kv::SeqId,
        slots: Range<usize>,
        out: &mut Vec<KvRun<'a>>,
    ) -> Result<(), KvError> {
        let [keys, values] = &self.storage.device.0[layer];
        self.pieces(seq.into(), slots, |bytes, len| {
            out.push(KvRun { keys: &keys[bytes.clone()], values: &values[bytes], len });
        })
    }

    fn keep(
        &mut self,
        seq: tensor::kv::SeqId,
        prefix: usize,
        kept: &[usize],
    ) -> Result<(), KvError> {
        let (name, seq) = (seq, SeqId::from(seq));
        let (len, committed) = (self.slots_of(seq), self.committed(seq));
        let none = |slot| KvError::NoSuchSlot { seq: name, slot, len };
        if !(committed..=len).contains(&prefix) {
            return Err(none(prefix));
        }
        let mut next = prefix;
        for &slot in kept {
            if slot < next || slot >= len {
                return Err(none(slot));
            }
            next = slot + 1;
        }
        for (to, &from) in (prefix..).zip(kept) {
            let at = |slot: usize| -> Result<Range<usize>, KvError> {
                let mut found = 0..0;
                self.pieces(seq, slot..slot + 1, |bytes, _| found = bytes)?;
                Ok(found)
            };
            let (from, to) = (at(from)?, at(to)?);
            for side in self.storage.device.0.iter_mut().flatten() {
                side.copy_within(from.clone(), to.start);
            }
        }
        self.set_reserved(seq, prefix + kept.len() - committed);
        Ok(())
    }

    /// Gives up what the forward reserved.
    fn remove(&mut self, seq: tensor::kv::SeqId) {
        self.set_reserved(seq.into(), 0);
    }
}
