//! The key-value cache as attention sees it: sequences of slots, and runs of them.
//!
//! A sequence owns slots `0..len` in every layer; slot `i` of a sequence without branches holds the
//! key and value of position `i`. A batch first reserves slots for its rows, then each layer writes
//! them and attends over the runs. A tree of drafts reserves one slot a row, and afterwards
//! [`KvCache::keep`] moves the accepted path together. Storage in pages and storage in one piece
//! differ only in how many runs they give.

use std::collections::HashMap;
use std::ops::Range;

use blocks::DType;
pub use cpu_kernels::attention::KvRun;
use cpu_kernels::codec;
pub use cpu_kernels::kv_write::KvRunMut;

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

/// A cache that holds each sequence in one piece per layer, growing as needed.
#[derive(Debug)]
pub struct ContiguousKvCache {
    layout: KvLayout,
    capacity: usize,
    used: usize,
    seqs: HashMap<SeqId, Sequence>,
}

#[derive(Debug)]
struct Sequence {
    len: usize,
    /// Per layer, keys then values: `[len, width]` elements each.
    layers: Vec<[Vec<u8>; 2]>,
}

impl ContiguousKvCache {
    /// A cache of at most `capacity` slots over all sequences.
    ///
    /// # Errors
    /// Those of [`KvLayout::check`].
    pub fn new(layout: KvLayout, capacity: usize) -> Result<Self, KvError> {
        layout.check()?;
        Ok(Self { layout, capacity, used: 0, seqs: HashMap::new() })
    }

    fn sequence(&self, seq: SeqId, slots: &Range<usize>) -> Result<&Sequence, KvError> {
        match self.seqs.get(&seq) {
            Some(s) if slots.end <= s.len && slots.start <= slots.end => Ok(s),
            s => Err(KvError::NoSuchSlot { seq, slot: slots.end, len: s.map_or(0, |s| s.len) }),
        }
    }
}

impl KvCache for ContiguousKvCache {
    fn layout(&self) -> &KvLayout {
        &self.layout
    }

    fn len(&self, seq: SeqId) -> usize {
        self.seqs.get(&seq).map_or(0, |s| s.len)
    }

    fn reserve(&mut self, seq: SeqId, slots: usize) -> Result<(), KvError> {
        let free = self.capacity - self.used;
        if slots > free {
            return Err(KvError::OutOfSpace { needed: slots, free });
        }
        let slot_bytes = self.layout.slot_bytes();
        let layers = self.layout.layers;
        let s = self.seqs.entry(seq).or_insert_with(|| Sequence {
            len: 0,
            layers: (0..layers).map(|_| Default::default()).collect(),
        });
        s.len += slots;
        for side in s.layers.iter_mut().flatten() {
            side.resize(s.len * slot_bytes, 0);
        }
        self.used += slots;
        Ok(())
    }

    fn runs_mut(
        &mut self,
        layer: usize,
        seq: SeqId,
        slots: Range<usize>,
        each: &mut dyn FnMut(KvRunMut<'_>),
    ) -> Result<(), KvError> {
        self.sequence(seq, &slots)?;
        let slot_bytes = self.layout.slot_bytes();
        let bytes = slots.start * slot_bytes..slots.end * slot_bytes;
        if let Some(s) = self.seqs.get_mut(&seq).filter(|_| !slots.is_empty()) {
            let [keys, values] = &mut s.layers[layer];
            let (keys, values) = (&mut keys[bytes.clone()], &mut values[bytes]);
            each(KvRunMut { keys, values, len: slots.len() });
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
        let s = self.sequence(seq, &slots)?;
        let slot_bytes = self.layout.slot_bytes();
        let bytes = slots.start * slot_bytes..slots.end * slot_bytes;
        if !slots.is_empty() {
            let [keys, values] = &s.layers[layer];
            out.push(KvRun {
                keys: &keys[bytes.clone()],
                values: &values[bytes],
                len: slots.len(),
            });
        }
        Ok(())
    }

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
        let slot_bytes = self.layout.slot_bytes();
        if let Some(s) = self.seqs.get_mut(&seq) {
            s.len = prefix + kept.len();
            for side in s.layers.iter_mut().flatten() {
                for (to, &from) in (prefix..).zip(kept) {
                    side.copy_within(from * slot_bytes..(from + 1) * slot_bytes, to * slot_bytes);
                }
                side.truncate(s.len * slot_bytes);
            }
            self.used -= len - s.len;
        }
        Ok(())
    }

    fn remove(&mut self, seq: SeqId) {
        if let Some(s) = self.seqs.remove(&seq) {
            self.used -= s.len;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cache(dtype: DType) -> ContiguousKvCache {
        let layout = KvLayout { layers: 2, n_kv_heads: 1, head_dim: 2, dtype };
        let layout = KvLayout { head_dim: 2 * dtype.block_len(), ..layout };
        ContiguousKvCache::new(layout, 8).unwrap()
    }

    fn keys(c: &ContiguousKvCache, layer: usize, seq: SeqId) -> Vec<f32> {
        let mut runs = Vec::new();
        c.runs(layer, seq, 0..c.len(seq), &mut runs).unwrap();
        let bytes: Vec<u8> = runs.iter().flat_map(|r| r.keys).copied().collect();
        let mut out = vec![0.0; c.len(seq) * c.layout.width()];
        blocks::decode(c.layout.dtype, &bytes, &mut out).unwrap();
        out
    }

    #[test]
    fn slots_are_written_kept_and_freed() {
        for dtype in [DType::F32, DType::F16, DType::BF16, DType::Q8_0] {
            let (mut c, a, b) = (cache(dtype), SeqId(1), SeqId(2));
            c.reserve(a, 5).unwrap();
            // Halves of slots of one number each, which every type holds exactly.
            let half = c.layout.width() / 2;
            let wide = |x: &[f32]| -> Vec<f32> {
                x.iter().flat_map(|&x| std::iter::repeat_n(x, half)).collect()
            };
            let unit = if dtype == DType::Q8_0 { 127.0 } else { 1.0 };
            let k = wide(&[0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0].map(|x| unit * x));
            c.write(1, a, 0, &k, &k).unwrap();
            c.keep(a, 1, &[2, 4]).unwrap();
            let want = wide(&[0.0, 1.0, 4.0, 5.0, 8.0, 9.0].map(|x| unit * x));
            assert_eq!(keys(&c, 1, a), want, "{dtype}");
            assert_eq!(c.reserve(b, 6), Err(KvError::OutOfSpace { needed: 6, free: 5 }));
            c.reserve(b, 5).unwrap();
            c.remove(b);
            c.truncate(a, 1).unwrap();
            assert_eq!(keys(&c, 1, a), want[..2 * half]);
            c.reserve(b, 7).unwrap();
        }
    }

    #[test]
    fn wrong_slots_are_refused() {
        let (mut c, a) = (cache(DType::F32), SeqId(1));
        c.reserve(a, 2).unwrap();
        assert!(c.write(0, a, 1, &[0.0; 4], &[0.0; 4]).is_err());
        assert!(c.write(0, a, 0, &[0.0; 3], &[0.0; 3]).is_err());
        assert!(c.write(0, a, 0, &[0.0; 2], &[0.0; 4]).is_err());
        assert!(c.keep(a, 1, &[0]).is_err());
        assert!(c.keep(a, 0, &[1, 1]).is_err());
        assert!(c.keep(a, 3, &[]).is_err());
        assert!(c.truncate(SeqId(9), 1).is_err());
        let new = |dtype, head_dim| {
            let layout = KvLayout { dtype, head_dim, ..c.layout.clone() };
            ContiguousKvCache::new(layout, 1).map(|_| ())
        };
        assert_eq!(new(DType::Q4_K, 256), Err(KvError::UnsupportedDType(DType::Q4_K)));
        let partial = KvError::PartialBlock { dtype: DType::Q8_0, head_dim: 48 };
        assert_eq!(new(DType::Q8_0, 48), Err(partial));
        assert_eq!(new(DType::Q8_0, 64), Ok(()));
    }

    #[test]
    fn what_is_not_finite_is_an_error_where_it_cannot_be_held() {
        for dtype in [DType::F32, DType::F16, DType::BF16, DType::Q8_0, DType::Q4_0] {
            let (mut c, a) = (cache(dtype), SeqId(1));
            c.reserve(a, 1).unwrap();
            let x = vec![f32::NAN; c.layout.width()];
            let result = c.write(0, a, 0, &x, &x);
            match dtype {
                DType::Q8_0 | DType::Q4_0 => {
                    assert_eq!(result, Err(KvError::NotFinite(dtype)));
                }
                _ => assert!(result.is_ok() && keys(&c, 0, a).iter().all(|k| k.is_nan())),
            }
        }
    }

    #[test]
    fn bytes_a_token_follow_the_formula() {
        let llama3 = KvLayout { layers: 32, n_kv_heads: 8, head_dim: 128, dtype: DType::F16 };
        assert_eq!(llama3.bytes_per_token(), 131_072);
    }
}
