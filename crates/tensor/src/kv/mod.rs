//! The key-value cache as attention sees it: sequences of slots, and runs of them.
//!
//! A sequence owns slots `0..len` in every layer; slot `i` of a sequence without branches holds the
//! key and value of position `i`. A batch first reserves slots for its rows, then each layer writes
//! them and attends over the runs. A tree of drafts reserves one slot a row, and afterwards
//! [`KvCache::keep`] moves the accepted path together. Storage in pages and storage in one piece
//! differ only in how many runs they give.
//!
//! On a GPU nobody here can read the bytes: a cache there names its storage and the physical slots of a
//! sequence ([`KvCache::pages`], [`KvCache::page_table`]), and the kernels do the rest.

mod contiguous;
mod slots;
mod storage;

pub use contiguous::ContiguousKvCache;
pub use slots::SlotKvCache;
pub use storage::KvStorage;

use std::ops::Range;

use blocks::DType;
pub use cpu_kernels::attention::KvRun;
use cpu_kernels::codec;
pub use cpu_kernels::kv_write::KvRunMut;

use crate::Device;

/// Which sequence of a cache a row belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SeqId(pub u64);

/// What a model needs of a cache.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KvLayout {
    /// Layers that attend.
    pub layers: usize,
    /// Key-value heads a layer.
    pub n_kv_heads: usize,
    /// Elements a head.
    pub head_dim: usize,
    /// How keys and values are stored: `F32`, `F16`, `BF16`, or `Q8_0` or `Q4_0` where heads are whole
    /// blocks of 32.
    pub dtype: DType,
}

impl KvLayout {
    /// Elements of one position's keys (as many of its values) in one layer.
    pub fn width(&self) -> usize {
        self.n_kv_heads * self.head_dim
    }

    /// Bytes that one token takes: `2 * layers * kv_heads * head_dim * bytes`.
    pub fn bytes_per_token(&self) -> usize {
        2 * self.layers * self.width() * self.dtype.block_bytes() / self.dtype.block_len()
    }

    /// Whether keys and values can be stored so.
    ///
    /// # Errors
    /// [`KvError::UnsupportedDType`], [`KvError::PartialBlock`].
    pub fn check(&self) -> Result<(), KvError> {
        let &Self { head_dim, dtype, .. } = self;
        match dtype {
            DType::F32 | DType::F16 | DType::BF16 => Ok(()),
            DType::Q8_0 | DType::Q4_0 if dtype.bytes_for(head_dim).is_some() => Ok(()),
            DType::Q8_0 | DType::Q4_0 => Err(KvError::PartialBlock { dtype, head_dim }),
            other => Err(KvError::UnsupportedDType(other)),
        }
    }

    /// Writes keys or values of whole slots as this layout stores them: `source` of
    /// [`width`](Self::width) elements a slot, `bytes` of [`slot_bytes`](Self::slot_bytes).
    ///
    /// # Errors
    /// Those of [`check`](Self::check); [`KvError::Width`] if the lengths do not agree,
    /// [`KvError::NotFinite`].
    pub fn store(&self, source: &[f32], bytes: &mut [u8]) -> Result<(), KvError> {
        self.check()?;
        let expected = bytes.len() / self.slot_bytes().max(1) * self.width();
        if source.len() != expected {
            return Err(KvError::Width { expected, got: source.len() });
        }
        let stored = codec::encode(self.dtype, source, self.width(), None, bytes);
        // What else could be wrong has been looked for.
        stored.map_err(|_| KvError::NotFinite(self.dtype))
    }

    /// Bytes of one position's keys (as many of its values) in one layer.
    pub fn slot_bytes(&self) -> usize {
        self.width() / self.dtype.block_len() * self.dtype.block_bytes()
    }
}

/// What can go wrong with a cache.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum KvError {
    /// There are not enough free slots.
    #[error("the key-value cache is full: {needed} more slots needed, {free} free")]
    OutOfSpace {
        /// Slots asked for.
        needed: usize,
        /// Slots left.
        free: usize,
    },
    /// A slot beyond the end of its sequence.
    #[error("sequence {seq:?} has {len} slots, slot {slot} was asked for")]
    NoSuchSlot {
        /// The sequence.
        seq: SeqId,
        /// The slot.
        slot: usize,
        /// The slots it has.
        len: usize,
    },
    /// Keys and values cannot be stored as this type.
    #[error("the key-value cache cannot hold {0}; use F32, F16, BF16, Q8_0 or Q4_0")]
    UnsupportedDType(DType),
    /// A head ends within a block of this type.
    #[error(
        "the key-value cache cannot hold {dtype}: heads of {head_dim} elements are no whole blocks of {}",
        dtype.block_len()
    )]
    PartialBlock {
        /// The type asked for.
        dtype: DType,
        /// Elements of a head.
        head_dim: usize,
    },
    /// Keys or values that are infinite or not numbers, in a type that cannot hold those.
    #[error("the key-value cache cannot hold what is not finite as {0}; use F32, F16 or BF16")]
    NotFinite(DType),
    /// There is not enough memory on the device.
    #[error("the key-value cache on {device}: out of memory: {needed} bytes needed, {free} free")]
    OutOfMemory {
        /// Where it was to lie.
        device: Device,
        /// Bytes of the whole cache.
        needed: u64,
        /// Bytes that the device has left.
        free: u64,
    },
    /// The device cannot be used, or a copy failed.
    #[error("the key-value cache on {device}: {reason}")]
    Device {
        /// Where it lies.
        device: Device,
        /// What the device says.
        reason: String,
    },
    /// Keys or values of another width than the layout's.
    #[error("keys and values of {got} elements, the cache holds {expected}")]
    Width {
        /// Elements needed.
        expected: usize,
        /// Elements given.
        got: usize,
    },
}

/// Rows of one sequence that follow each other in a batch and in the cache.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Span {
    /// Rows of the batch.
    pub rows: Range<usize>,
    /// Their sequence.
    pub seq: SeqId,
    /// The slot of the first; the others follow.
    pub slot: usize,
}

/// A cache's storage on a GPU: slot `i` of a sequence is slot `table[i / page_slots] * page_slots + i %
/// page_slots` of it.
#[derive(Clone, Copy, Debug)]
pub struct KvPages<'a> {
    /// The bytes.
    pub storage: &'a KvStorage,
    /// Slots a page.
    pub page_slots: usize,
}

/// Keys and values of many sequences.
pub trait KvCache: Send + Sync {
    /// What it stores.
    fn layout(&self) -> &KvLayout;

    /// Slots of a sequence; 0 for one it has not seen.
    fn len(&self, seq: SeqId) -> usize;

    /// Appends `slots` slots to a sequence, creating it if it is new. On an error nothing changes.
    ///
    /// # Errors
    /// [`KvError::OutOfSpace`].
    fn reserve(&mut self, seq: SeqId, slots: usize) -> Result<(), KvError>;

    /// Calls `each` for the runs that hold `slots` of a sequence in one layer, in order, to be
    /// written. On an error it is not called.
    ///
    /// # Errors
    /// [`KvError::NoSuchSlot`].
    fn runs_mut(
        &mut self,
        layer: usize,
        seq: SeqId,
        slots: Range<usize>,
        each: &mut dyn FnMut(KvRunMut<'_>),
    ) -> Result<(), KvError>;

    /// Writes keys and values `[n, n_kv_heads * head_dim]` to the slots from `slot` on.
    ///
    /// # Errors
    /// [`KvError::NoSuchSlot`], and those of [`KvLayout::store`].
    fn write(
        &mut self,
        layer: usize,
        seq: SeqId,
        slot: usize,
        keys: &[f32],
        values: &[f32],
    ) -> Result<(), KvError> {
        let layout = self.layout().clone();
        let width = layout.width();
        if keys.len() != values.len() || !keys.len().is_multiple_of(width) {
            return Err(KvError::Width { expected: keys.len(), got: values.len() });
        }
        let (mut at, mut failed) = (0, None);
        let slots = slot..slot + keys.len() / width;
        self.runs_mut(layer, seq, slots, &mut |run| {
            let here = at..at + run.len * width;
            at = here.end;
            let stored = layout.store(&keys[here.clone()], run.keys);
            failed = stored
                .and_then(|()| layout.store(&values[here], run.values))
                .err()
                .or(failed.take());
        })?;
        failed.map_or(Ok(()), Err)
    }

    /// Appends the runs that hold `slots` of a sequence in one layer, in order.
    ///
    /// # Errors
    /// [`KvError::NoSuchSlot`].
    fn runs<'a>(
        &'a self,
        layer: usize,
        seq: SeqId,
        slots: Range<usize>,
        out: &mut Vec<KvRun<'a>>,
    ) -> Result<(), KvError>;

    /// Where the bytes lie if that is a GPU, whose kernels write and read them: [`runs`](Self::runs) and
    /// [`runs_mut`](Self::runs_mut) have none then.
    fn pages(&self) -> Option<KvPages<'_>> {
        None
    }

    /// Appends the numbers of the pages that hold a sequence's slots, in order; of a cache on a GPU.
    ///
    /// # Errors
    /// [`KvError::NoSuchSlot`] for a sequence it has not seen.
    fn page_table(&self, seq: SeqId, table: &mut Vec<i32>) -> Result<(), KvError> {
        let _ = table;
        Err(KvError::NoSuchSlot { seq, slot: 0, len: self.len(seq) })
    }

    /// Shortens a sequence to `len` slots.
    ///
    /// # Errors
    /// [`KvError::NoSuchSlot`] if it has fewer.
    fn truncate(&mut self, seq: SeqId, len: usize) -> Result<(), KvError> {
        self.keep(seq, len, &[])
    }

    /// Keeps slots `0..prefix` and, moved to follow them, the slots `kept` (ascending, each at
    /// least `prefix`); the others are freed.
    ///
    /// # Errors
    /// [`KvError::NoSuchSlot`] if one of them does not exist or is out of order.
    fn keep(&mut self, seq: SeqId, prefix: usize, kept: &[usize]) -> Result<(), KvError>;

    /// Forgets a sequence and frees its slots.
    fn remove(&mut self, seq: SeqId);
}

/// Whether [`KvCache::keep`] can keep these slots of a sequence that has `len`.
///
/// # Errors
/// [`KvError::NoSuchSlot`] for one that does not exist or is out of order.
pub fn check_kept(seq: SeqId, len: usize, prefix: usize, kept: &[usize]) -> Result<(), KvError> {
    let none = |slot| Err(KvError::NoSuchSlot { seq, slot, len });
    if prefix > len {
        return none(prefix);
    }
    let mut next = prefix;
    for &slot in kept {
        if slot < next || slot >= len {
            return none(slot);
        }
        next = slot + 1;
    }
    Ok(())
}

impl<T: KvCache + ?Sized> KvCache for Box<T> {
    fn layout(&self) -> &KvLayout {
        (**self).layout()
    }

    fn len(&self, seq: SeqId) -> usize {
        (**self).len(seq)
    }

    fn reserve(&mut self, seq: SeqId, slots: usize) -> Result<(), KvError> {
        (**self).reserve(seq, slots)
    }

    fn runs_mut(
        &mut self,
        layer: usize,
        seq: SeqId,
        slots: Range<usize>,
        each: &mut dyn FnMut(KvRunMut<'_>),
    ) -> Result<(), KvError> {
        (**self).runs_mut(layer, seq, slots, each)
    }

    fn runs<'a>(
        &'a self,
        layer: usize,
        seq: SeqId,
        slots: Range<usize>,
        out: &mut Vec<KvRun<'a>>,
    ) -> Result<(), KvError> {
        (**self).runs(layer, seq, slots, out)
    }

    fn pages(&self) -> Option<KvPages<'_>> {
        (**self).pages()
    }

    fn page_table(&self, seq: SeqId, table: &mut Vec<i32>) -> Result<(), KvError> {
        (**self).page_table(seq, table)
    }

    fn keep(&mut self, seq: SeqId, prefix: usize, kept: &[usize]) -> Result<(), KvError> {
        (**self).keep(seq, prefix, kept)
    }

    fn remove(&mut self, seq: SeqId) {
        (**self).remove(seq);
    }
}
