use std::collections::HashMap;
use std::ops::Range;

use super::{KvCache, KvError, KvLayout, KvPages, KvRun, KvRunMut, KvStorage, SeqId, check_kept};
use crate::Device;

/// Slots that storage grows by, at least.
const GROWTH: usize = 256;

/// A cache whose sequences take single slots wherever there are some free: pages of one slot, on any
/// device. It grows as needed.
#[derive(Debug)]
pub struct SlotKvCache {
    storage: KvStorage,
    capacity: usize,
    free: Vec<i32>,
    seqs: HashMap<SeqId, Vec<i32>>,
}

impl SlotKvCache {
    /// A cache of at most `capacity` slots over all sequences.
    ///
    /// # Errors
    /// Those of [`KvStorage::new`].
    pub fn new(layout: KvLayout, capacity: usize, device: Device) -> Result<Self, KvError> {
        let storage = KvStorage::new(layout, 0, device)?;
        Ok(Self { storage, capacity, free: Vec::new(), seqs: HashMap::new() })
    }

    fn used(&self) -> usize {
        self.storage.slots() - self.free.len()
    }

    /// Makes room for so many more slots.
    fn grow(&mut self, slots: usize) -> Result<(), KvError> {
        let old = self.storage.slots();
        let missing = slots.saturating_sub(self.free.len());
        if missing == 0 {
            return Ok(());
        }
        let new = (old + missing).max(2 * old).max(GROWTH).min(self.capacity);
        let (layout, device) = (self.storage.layout().clone(), self.storage.device());
        let mut larger = KvStorage::new(layout, new, device)?;
        self.storage.copy_to(0..old, &mut larger, 0)?;
        self.storage = larger;
        // The lowest is taken first.
        self.free.extend((old..new).rev().map(|slot| slot as i32));
        Ok(())
    }

    fn table(&self, seq: SeqId) -> &[i32] {
        self.seqs.get(&seq).map_or(&[], Vec::as_slice)
    }

    fn physical(&self, seq: SeqId, slots: &Range<usize>) -> Result<&[i32], KvError> {
        let table = self.table(seq);
        let none = KvError::NoSuchSlot { seq, slot: slots.end, len: table.len() };
        table.get(slots.clone()).ok_or(none)
    }

    fn bytes(&self, slot: i32) -> Range<usize> {
        let bytes = self.storage.layout().slot_bytes();
        let slot = slot as usize;
        slot * bytes..(slot + 1) * bytes
    }
}

impl KvCache for SlotKvCache {
    fn layout(&self) -> &KvLayout {
        self.storage.layout()
    }

    fn len(&self, seq: SeqId) -> usize {
        self.table(seq).len()
    }

    fn reserve(&mut self, seq: SeqId, slots: usize) -> Result<(), KvError> {
        let free = self.capacity - self.used();
        if slots > free {
            return Err(KvError::OutOfSpace { needed: slots, free });
        }
        self.grow(slots)?;
        let taken = self.free.split_off(self.free.len() - slots);
        self.seqs.entry(seq).or_default().extend(taken.into_iter().rev());
        Ok(())
    }

    fn runs_mut(
        &mut self,
        layer: usize,
        seq: SeqId,
        slots: Range<usize>,
        each: &mut dyn FnMut(KvRunMut<'_>),
    ) -> Result<(), KvError> {
        let physical = self.physical(seq, &slots)?.to_vec();
        for slot in physical {
            let bytes = self.bytes(slot);
            if let Some([keys, values]) = self.storage.host_mut(layer) {
                let (keys, values) = (&mut keys[bytes.clone()], &mut values[bytes]);
                each(KvRunMut { keys, values, len: 1 });
            }
        }
        Ok(())
    }

    fn runs<'a>(
        &'a self,
        layer: usize,
        seq: SeqId,
        slots: Range<usize>,
        out: &mut Vec<KvRun<'a>>,
    ) -> Result<(), KvError> {
        let physical = self.physical(seq, &slots)?;
        if let Some([keys, values]) = self.storage.host(layer) {
            out.extend(physical.iter().map(|&slot| {
                let bytes = self.bytes(slot);
                KvRun { keys: &keys[bytes.clone()], values: &values[bytes], len: 1 }
            }));
        }
        Ok(())
    }

    fn pages(&self) -> Option<KvPages<'_>> {
        let on_gpu = self.storage.device() != Device::Cpu;
        on_gpu.then_some(KvPages { storage: &self.storage, page_slots: 1 })
    }

    fn page_table(&self, seq: SeqId, table: &mut Vec<i32>) -> Result<(), KvError> {
        table.extend_from_slice(self.table(seq));
        Ok(())
    }

    /// Moves no bytes: the table forgets what is not kept.
    fn keep(&mut self, seq: SeqId, prefix: usize, kept: &[usize]) -> Result<(), KvError> {
        check_kept(seq, self.len(seq), prefix, kept)?;
        if let Some(table) = self.seqs.get_mut(&seq) {
            let tail = table.split_off(prefix);
            let mut kept = kept.iter().map(|slot| slot - prefix).peekable();
            for (i, slot) in tail.into_iter().enumerate() {
                match kept.next_if_eq(&i) {
                    Some(_) => table.push(slot),
                    None => self.free.push(slot),
                }
            }
        }
        Ok(())
    }

    fn remove(&mut self, seq: SeqId) {
        self.free.extend(self.seqs.remove(&seq).into_iter().flatten());
    }
}

#[cfg(test)]
mod tests {
    use blocks::DType;

    use super::super::ContiguousKvCache;
    use super::*;

    fn keys(cache: &dyn KvCache, seq: SeqId) -> Vec<u8> {
        let mut runs = Vec::new();
        cache.runs(1, seq, 0..cache.len(seq), &mut runs).unwrap();
        runs.iter().flat_map(|run| run.keys).copied().collect()
    }

    /// The same calls give what a cache in one piece has, though slots are given back and taken again.
    #[test]
    fn slots_hold_what_one_piece_does() {
        let layout = KvLayout { layers: 2, n_kv_heads: 1, head_dim: 2, dtype: DType::F32 };
        let mut slots = SlotKvCache::new(layout.clone(), 600, Device::Cpu).unwrap();
        let mut piece = ContiguousKvCache::new(layout, 600).unwrap();
        let (a, b) = (SeqId(1), SeqId(2));
        for cache in [&mut slots as &mut dyn KvCache, &mut piece] {
            let mut number = 0.0;
            let mut append = |cache: &mut dyn KvCache, seq, n: usize| {
                let at = cache.len(seq);
                cache.reserve(seq, n).unwrap();
                let x: Vec<f32> = (0..2 * n).map(|i| number + i as f32).collect();
                number += 1000.0;
                cache.write(1, seq, at, &x, &x).unwrap();
            };
            append(cache, a, 5);
            append(cache, b, 300); // it grows
            cache.keep(a, 1, &[2, 4]).unwrap();
            append(cache, b, 2); // in what was given back
            append(cache, a, 3);
            cache.truncate(b, 7).unwrap();
            append(cache, a, 4);
            assert_eq!((cache.len(a), cache.len(b)), (10, 7));
            assert!(cache.keep(a, 4, &[3]).is_err() && cache.truncate(b, 8).is_err());
            assert!(matches!(cache.reserve(b, 584), Err(KvError::OutOfSpace { free: 583, .. })));
        }
        for seq in [a, b] {
            assert_eq!(keys(&slots, seq), keys(&piece, seq));
        }
        slots.remove(b);
        assert!(slots.reserve(a, 590).is_ok());
    }
}
