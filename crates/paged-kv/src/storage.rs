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

use tensor::Device;
use tensor::kv::{KvCache, KvError, KvLayout, KvPages, KvRun, KvRunMut, KvStorage, check_kept};

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
/// On the processor memory is taken from the system block by block, as it is first written.
#[derive(Debug)]
pub struct PagedStorage {
    block_size: usize,
    device: KvStorage,
    host: KvStorage,
    /// Slots that the forward under way has reserved, by sequence.
    reserved: Vec<(SeqId, usize)>,
}

impl PagedStorage {
    /// Room for the blocks of a configuration, of a model's layout, on the processor.
    ///
    /// # Errors
    /// Those of [`KvStorage::new`].
    pub fn new(layout: KvLayout, config: &KvCacheConfig) -> Result<Self, KvError> {
        Self::on(Device::Cpu, layout, config)
    }

    /// The same with the blocks that a forward uses on `device`.
    ///
    /// # Errors
    /// Those of [`KvStorage::new`].
    pub fn on(device: Device, layout: KvLayout, config: &KvCacheConfig) -> Result<Self, KvError> {
        let room = |blocks: u32, device| {
            let slots = (blocks as usize).checked_mul(config.block_size);
            let slots = slots.ok_or(KvError::OutOfSpace { needed: usize::MAX, free: 0 })?;
            KvStorage::new(layout.clone(), slots, device)
        };
        let (device, host) = (room(config.blocks, device)?, room(config.host_blocks, Device::Cpu)?);
        Ok(Self { block_size: config.block_size, device, host, reserved: Vec::new() })
    }

    /// What it stores.
    pub fn layout(&self) -> &KvLayout {
        self.device.layout()
    }

    /// Bytes of one block: all layers, keys and values.
    pub fn block_bytes(&self) -> usize {
        self.block_size * self.layout().bytes_per_token()
    }

    /// Does a step's copies, in the order in which they must be done: blocks to the host, so that
    /// theirs are free; blocks back from there; copies on write.
    ///
    /// # Errors
    /// [`KvError::Device`], on a GPU alone.
    pub fn transfer(
        &mut self,
        out: &[SwapCopy],
        back: &[SwapCopy],
        copies: &[BlockCopy],
    ) -> Result<(), KvError> {
        out.iter().try_for_each(|&copy| self.swap_out(copy))?;
        back.iter().try_for_each(|&copy| self.swap_in(copy))?;
        copies.iter().try_for_each(|&copy| self.copy(copy))
    }

    /// Copies the filled slots of a block, before the copy is written to.
    ///
    /// # Errors
    /// As [`transfer`](Self::transfer).
    pub fn copy(&mut self, copy: BlockCopy) -> Result<(), KvError> {
        let from = self.slots(copy.from, 0..copy.slots);
        let to = self.slots(copy.to, 0..copy.slots).start;
        self.device.copy_within(from, to)
    }

    /// Copies a block to the host.
    ///
    /// # Errors
    /// As [`transfer`](Self::transfer).
    pub fn swap_out(&mut self, copy: SwapCopy) -> Result<(), KvError> {
        let [from, to] =
            [copy.device, copy.host].map(|block| self.slots(block, 0..self.block_size));
        self.device.copy_to(from, &mut self.host, to.start)
    }

    /// Copies a block back from the host.
    ///
    /// # Errors
    /// As [`transfer`](Self::transfer).
    pub fn swap_in(&mut self, copy: SwapCopy) -> Result<(), KvError> {
        let [from, to] =
            [copy.host, copy.device].map(|block| self.slots(block, 0..self.block_size));
        self.host.copy_to(from, &mut self.device, to.start)
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

    /// The storage's slots of those of a block.
    fn slots(&self, block: BlockId, slots: Range<usize>) -> Range<usize> {
        let first = block.0 as usize * self.block_size;
        first + slots.start..first + slots.end
    }

    /// The bytes of slots of a block, in each layer's keys and in its values.
    fn bytes(&self, block: BlockId, slots: Range<usize>) -> Range<usize> {
        let (slots, bytes) = (self.slots(block, slots), self.layout().slot_bytes());
        slots.start * bytes..slots.end * bytes
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
            let bytes = self.storage.bytes(run.block, run.offset..run.offset + run.len);
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
        self.storage.layout()
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
        let Some(place) = self.storage.device.host_mut(layer) else { return Ok(()) };
        let mut sides = std::mem::take(place);
        let [keys, values] = &mut sides;
        let done = self.pieces(seq.into(), slots, |bytes, len| {
            let (keys, values) = (&mut keys[bytes.clone()], &mut values[bytes]);
            each(KvRunMut { keys, values, len });
        });
        if let Some(place) = self.storage.device.host_mut(layer) {
            *place = sides;
        }
        done
    }

    fn runs<'a>(
        &'a self,
        layer: usize,
        seq: tensor::kv::SeqId,
        slots: Range<usize>,
        out: &mut Vec<KvRun<'a>>,
    ) -> Result<(), KvError> {
        let Some([keys, values]) = self.storage.device.host(layer) else { return Ok(()) };
        self.pieces(seq.into(), slots, |bytes, len| {
            out.push(KvRun { keys: &keys[bytes.clone()], values: &values[bytes], len });
        })
    }

    fn pages(&self) -> Option<KvPages<'_>> {
        let PagedStorage { device: storage, block_size, .. } = &*self.storage;
        let on_gpu = storage.device() != Device::Cpu;
        on_gpu.then_some(KvPages { storage, page_slots: *block_size })
    }

    fn page_table(&self, seq: tensor::kv::SeqId, table: &mut Vec<i32>) -> Result<(), KvError> {
        let slots = 0..self.slots_of(seq.into());
        let none = KvError::NoSuchSlot { seq, slot: slots.end, len: 0 };
        let blocks = self.manager.table(seq.into()).map_err(|_| none)?;
        let runs = blocks.runs(slots, self.storage.block_size);
        table.extend(runs.map(|run| run.block.0.cast_signed()));
        Ok(())
    }

    fn keep(
        &mut self,
        seq: tensor::kv::SeqId,
        prefix: usize,
        kept: &[usize],
    ) -> Result<(), KvError> {
        let (name, seq) = (seq, SeqId::from(seq));
        let (len, committed) = (self.slots_of(seq), self.committed(seq));
        check_kept(name, len, prefix, kept)?;
        if prefix < committed {
            return Err(KvError::NoSuchSlot { seq: name, slot: prefix, len });
        }
        for (to, &from) in (prefix..).zip(kept) {
            if from == to {
                continue;
            }
            let size = self.storage.layout().slot_bytes();
            let at = |slot: usize| -> Result<usize, KvError> {
                let mut found = 0;
                self.pieces(seq, slot..slot + 1, |bytes, _| found = bytes.start / size)?;
                Ok(found)
            };
            let (from, to) = (at(from)?, at(to)?);
            self.storage.device.copy_within(from..from + 1, to)?;
        }
        self.set_reserved(seq, prefix + kept.len() - committed);
        Ok(())
    }

    /// Gives up what the forward reserved.
    fn remove(&mut self, seq: tensor::kv::SeqId) {
        self.set_reserved(seq.into(), 0);
    }
}
