use std::collections::HashMap;
use std::ops::Range;

use super::{KvCache, KvError, KvLayout, KvRun, KvRunMut, SeqId, check_kept};

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
        check_kept(seq, len, prefix, kept)?;
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
    use blocks::DType;

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
