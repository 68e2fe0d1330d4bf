//! What a forward returns, what it refuses, what a tap sees, and what errors leave behind.

mod common;

use std::collections::BTreeMap;
use std::ops::Range;

use common::{all, fixture, golden, ids, max_abs, open};
use model::{Batch, Error, Model, Outputs, Row, batch::Tap};
use tensor::kv::{ContiguousKvCache, KvCache, KvError, KvLayout, KvRun, KvRunMut, SeqId};
use tensor::{DType, Tensor};

const A: SeqId = SeqId(0);
const B: SeqId = SeqId(1);

fn batch_of(seq: SeqId, ids: &[u32]) -> Batch {
    let mut batch = Batch::new();
    batch.extend(seq, ids);
    batch
}

#[test]
fn only_the_rows_asked_for_come_back() {
    for name in ["arch/mixtral", "arch/gemma2", "variants/opt-350m-style", "variants/gpt2-ninner"] {
        let folder = fixture(name);
        let (model, ids) = (open(&folder), ids(&folder));
        let batch = batch_of(A, &ids);
        let new = || model.new_cache(DType::F32, ids.len()).unwrap();
        let everything = (0..ids.len()).collect::<Vec<_>>();
        let outputs =
            Outputs { logits: everything.clone(), hidden: everything, ..Default::default() };
        let full = model.forward(&batch, &mut new(), &outputs).unwrap();
        for (logits, hidden) in [
            (vec![39], vec![]),
            (vec![], vec![3, 5]),
            (vec![4, 2, 2], vec![39, 0]),
            (vec![7, 1], vec![1, 7]),
            (vec![], vec![]),
        ] {
            let mut cache = new();
            let outputs = Outputs { logits, hidden, ..Default::default() };
            let part = model.forward(&batch, &mut cache, &outputs).unwrap();
            for (part, full, rows) in [
                (&part.logits, &full.logits, &outputs.logits),
                (&part.hidden, &full.hidden, &outputs.hidden),
            ] {
                assert_eq!(part.shape().dims(), [rows.len(), full.cols()]);
                let expected: Vec<f32> = rows
                    .iter()
                    .flat_map(|&r| full.slice_rows(r..r + 1).unwrap().into_vec().unwrap())
                    .collect();
                assert_eq!(max_abs(part.as_f32().unwrap(), &expected), 0.0, "{name}");
            }
            // Rows that were not asked for are in the cache all the same.
            let next = all(&model, &batch_of(B, &ids[..1]), &mut new()).logits;
            cache.truncate(A, 0).unwrap();
            let again = all(&model, &batch_of(A, &ids[..1]), &mut cache).logits;
            assert_eq!(next.as_f32().unwrap(), again.as_f32().unwrap());
        }
    }
}

#[test]
fn a_prefill_without_outputs_fills_the_cache() {
    let folder = fixture("arch/mistral");
    let (model, ids) = (open(&folder), ids(&folder));
    let expected = golden(&folder, "logits").unwrap();
    let mut cache = model.new_cache(DType::F32, ids.len()).unwrap();
    let (last, before) = ids.split_last().unwrap();
    model.forward(&batch_of(A, before), &mut cache, &Outputs::default()).unwrap();
    let batch = batch_of(A, &[*last]);
    let got = model.forward(&batch, &mut cache, &Outputs::last_logits(&batch)).unwrap().logits;
    let vocab = got.cols();
    assert!(max_abs(got.as_f32().unwrap(), &expected[expected.len() - vocab..]) < 1e-4);
}

/// The model, and a cache with `n` tokens of a sequence in it.
fn begun(name: &str, capacity: usize, n: usize) -> (Model, Box<dyn KvCache>, Vec<u32>) {
    let folder = fixture(name);
    let (model, ids) = (open(&folder), ids(&folder));
    let mut cache = model.new_cache(DType::F32, capacity).unwrap();
    all(&model, &batch_of(A, &ids[..n]), &mut cache);
    (model, cache, ids)
}

#[test]
fn what_cannot_be_computed_is_refused_and_leaves_the_cache_alone() {
    let (model, mut cache, ids) = begun("variants/gpt2-ninner", 200, 10);
    let config = &model.decoder().unwrap().config;
    let (vocab, context) = (config.vocab_size, config.context_length);
    let mut refuse = |batch: &Batch, outputs: &Outputs| {
        let error = model.forward(batch, &mut cache, outputs).unwrap_err();
        assert_eq!((cache.len(A), cache.len(B)), (10, 0), "{error}");
        error
    };
    let none = &Outputs::default();
    assert!(matches!(refuse(&Batch::new(), none), Error::EmptyBatch));
    let beyond = batch_of(A, &[1, vocab as u32]);
    assert!(
        matches!(refuse(&beyond, none), Error::TokenOutOfRange { id, .. } if id == vocab as u32)
    );
    let long: Vec<u32> = ids.iter().copied().cycle().take(context - 9).collect();
    let error = refuse(&batch_of(A, &long), none);
    assert!(matches!(error, Error::PositionOutOfRange { position, len }
        if position == context && len == context));
    for parent in [0, 5] {
        let mut batch = Batch::new();
        batch.push(Row { token: 1, seq: A, parent: Some(parent) });
        let error = refuse(&batch, none);
        assert!(matches!(error, Error::InvalidParent { row: 0, parent: p } if p == parent));
    }
    let mut batch = batch_of(A, &[1]);
    batch.push(Row { token: 1, seq: B, parent: Some(0) });
    assert!(matches!(refuse(&batch, none), Error::InvalidParent { row: 1, parent: 0 }));
    let missing = Outputs { hidden: vec![1], ..Default::default() };
    let error = refuse(&batch_of(A, &[1]), &missing);
    assert!(matches!(error, Error::NoSuchRow { row: 1, rows: 1 }));

    let layout = KvLayout { layers: 1, n_kv_heads: 9, head_dim: 2, dtype: DType::F32 };
    let mut other = ContiguousKvCache::new(layout, 8).unwrap();
    let error = model.forward(&batch_of(A, &[1]), &mut other, none).unwrap_err();
    assert!(matches!(error, Error::CacheLayout { got: [1, 9, 2], .. }));
    assert!(matches!(model.encode(&[&[1]]), Err(Error::WrongFamily { .. })));
}

#[test]
fn a_full_cache_is_refused_whole() {
    let (model, mut cache, ids) = begun("arch/qwen3", 20, 10);
    let mut batch = batch_of(A, &ids[10..15]);
    batch.extend(B, &ids[..6]);
    let error = model.forward(&batch, &mut cache, &Outputs::default()).unwrap_err();
    assert!(matches!(error, Error::Kv(KvError::OutOfSpace { needed: 6, free: 5 })), "{error}");
    assert_eq!((cache.len(A), cache.len(B)), (10, 0));
    let mut batch = batch_of(A, &ids[10..15]);
    batch.extend(B, &ids[..5]);
    all(&model, &batch, &mut cache);
}

/// A cache that fails in the middle of a forward.
struct Failing(Box<dyn KvCache>);

impl KvCache for Failing {
    fn layout(&self) -> &KvLayout {
        self.0.layout()
    }
    fn len(&self, seq: SeqId) -> usize {
        self.0.len(seq)
    }
    fn reserve(&mut self, seq: SeqId, slots: usize) -> Result<(), KvError> {
        self.0.reserve(seq, slots)
    }
    fn runs_mut(
        &mut self,
        layer: usize,
        seq: SeqId,
        slots: Range<usize>,
        each: &mut dyn FnMut(KvRunMut<'_>),
    ) -> Result<(), KvError> {
        match layer {
            1 => Err(KvError::NoSuchSlot { seq, slot: slots.start, len: 0 }),
            _ => self.0.runs_mut(layer, seq, slots, each),
        }
    }
    fn runs<'a>(
        &'a self,
        layer: usize,
        seq: SeqId,
        slots: Range<usize>,
        out: &mut Vec<KvRun<'a>>,
    ) -> Result<(), KvError> {
        self.0.runs(layer, seq, slots, out)
    }
    fn keep(&mut self, seq: SeqId, prefix: usize, kept: &[usize]) -> Result<(), KvError> {
        self.0.keep(seq, prefix, kept)
    }
    fn remove(&mut self, seq: SeqId) {
        self.0.remove(seq);
    }
}

#[test]
fn a_failure_on_the_way_gives_the_slots_back() {
    let (model, cache, ids) = begun("arch/qwen3", 20, 10);
    let expected = {
        let (_, mut cache, _) = begun("arch/qwen3", 20, 10);
        all(&model, &batch_of(A, &ids[10..15]), &mut cache).logits
    };
    let mut batch = batch_of(A, &ids[10..15]);
    batch.extend(B, &ids[..5]);
    let mut failing = Failing(cache);
    let error = model.forward(&batch, &mut failing, &Outputs::default()).unwrap_err();
    assert!(matches!(error, Error::Kv(KvError::NoSuchSlot { .. })), "{error}");
    assert_eq!((failing.len(A), failing.len(B)), (10, 0));
    let mut cache = failing.0;
    let again = all(&model, &batch, &mut cache).logits.slice_rows(0..5).unwrap();
    assert_eq!(again.as_f32().unwrap(), expected.as_f32().unwrap());
}

#[test]
fn results_that_are_held_stay_as_they_are() {
    let (model, mut cache, ids) = begun("arch/mixtral", 40, 20);
    let mut held: Vec<(Tensor, Vec<f32>)> = Vec::new();
    for &id in &ids[20..] {
        let batch = batch_of(A, &[id]);
        let out = model.forward(&batch, &mut *cache, &Outputs::last_logits(&batch)).unwrap();
        let copy = out.logits.as_f32().unwrap().to_vec();
        held.push((out.logits, copy));
    }
    for (tensor, copy) in held {
        assert_eq!(tensor.as_f32().unwrap(), copy);
    }
}

#[test]
fn models_are_shared_between_threads() {
    fn shared<T: Send + Sync + Clone>() {}
    shared::<Model>();
}

#[derive(Default)]
struct Seen(BTreeMap<String, Vec<[usize; 2]>>);

impl Tap for Seen {
    fn linear_input(&mut self, weight: &str, x: &Tensor) {
        self.0.entry(weight.to_owned()).or_default().push([x.rows(), x.cols()]);
    }
}

#[test]
fn a_tap_sees_every_row_of_every_linear_layer() {
    let (model, mut cache, ids) = begun("arch/mixtral", 60, 1);
    let mut seen = Seen::default();
    let batch = batch_of(A, &ids[1..]);
    let outputs = Outputs::last_logits(&batch);
    let tapped = model.forward_tapped(&batch, &mut cache, &outputs, &mut seen).unwrap();
    let (_, mut cache, _) = begun("arch/mixtral", 60, 1);
    let plain = model.forward(&batch, &mut cache, &outputs).unwrap();
    assert_eq!(tapped.logits.as_f32().unwrap(), plain.logits.as_f32().unwrap());

    let config = &model.decoder().unwrap().config;
    let (rows, hidden) = (batch.len(), config.hidden_size);
    for layer in 0..config.n_layers {
        for stem in ["attn_q", "attn_k", "attn_v", "ffn_gate_inp"] {
            assert_eq!(seen.0[&format!("blk.{layer}.{stem}.weight")], [[rows, hidden]]);
        }
        let experts = config.experts.as_ref().unwrap();
        let of_expert = |expert: usize, stem: &str| {
            let name = format!("blk.{layer}.{stem}.{expert}.weight");
            seen.0.get(&name).map_or([0, 0], |calls| calls[0])
        };
        let routed: usize = (0..experts.n_experts).map(|e| of_expert(e, "ffn_up")[0]).sum();
        assert_eq!(routed, rows * experts.n_used);
        for e in 0..experts.n_experts {
            assert_eq!(of_expert(e, "ffn_up"), of_expert(e, "ffn_gate"));
            assert_eq!(of_expert(e, "ffn_up")[0], of_expert(e, "ffn_down")[0]);
        }
    }
    assert_eq!(seen.0["output.weight"], [[1, hidden]]);
}
