use std::collections::HashMap;
use std::ops::Range;

use super::{KvCache, KvError, KvLayout, KvPages, KvRun, KvRunMut, KvStorage, SeqId};
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
        let len = self.len(seq);
        let mut next = prefix;
        for &slot in kept {
            if slot < next || slot >= len {
                return Err(KvError::NoSuchSlot { seq, slot, len });
            }
            next = slot + 1;
        }
        if prefix > len {
            return Err(KvError::NoSuchSlot { seq, slot: prefix, len });
        }
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
