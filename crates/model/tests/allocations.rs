//! After warm-up a step's memory is used again.

use model::{Batch, Model, Outputs};
use tensor::kv::{ContiguousKvCache, KvCache, SeqId};
use tensor::{Compute, DType, Tensor};

const SEQ: SeqId = SeqId(0);

fn bard() -> Model {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../assets/bard-f16.gguf");
    Model::open(path).unwrap()
}

/// Decodes `steps` tokens, each one the most probable; returns the last.
fn decode(
    model: &Model,
    (batch, outputs): (&mut Batch, &Outputs),
    cache: &mut ContiguousKvCache,
    mut token: u32,
    steps: usize,
) -> u32 {
    for _ in 0..steps {
        batch.clear();
        batch.extend(SEQ, &[token]);
        let logits = model.forward(batch, cache, outputs).unwrap().logits;
        let logits: &[f32] = logits.as_f32().unwrap();
        token = (0..logits.len()).max_by(|&a, &b| logits[a].total_cmp(&logits[b])).unwrap() as u32;
    }
    token
}

/// What a step of `layers` layers may allocate: its cosines and sines, and for each layer the lists
/// of an attention and, for each key-value head, the scores.
fn allowed(layers: usize, kv_heads: usize) -> u64 {
    (2 + layers * (4 + 2 * kv_heads)) as u64
}

#[test]
fn a_decode_step_allocates_next_to_nothing() {
    for threads in [1, 2] {
        let model = bard().with_compute(Compute::cpu().with_threads(threads));
        let config = &model.decoder().unwrap().config;
        let allowed = allowed(config.n_layers, config.n_kv_heads);
        let mut cache = model.new_cache(DType::F16, 256).unwrap();
        let (mut batch, outputs) = (Batch::new(), Outputs { logits: vec![0], hidden: vec![] });
        let mut prompt = Batch::new();
        prompt.extend(SEQ, &[1; 100]);
        model.forward(&prompt, &mut cache, &Outputs::last_logits(&prompt)).unwrap();
        let token = decode(&model, (&mut batch, &outputs), &mut cache, 5, 20);
        let steps = 5;
        let used = allocation_counter::measure(|| {
            decode(&model, (&mut batch, &outputs), &mut cache, token, steps);
        });
        let a_step = used.count_total.div_ceil(steps as u64);
        println!("{threads} threads: {a_step} allocations, {} bytes a step", used.bytes_total / 5);
        assert_eq!(cache.len(SEQ), 125);
        assert!(a_step <= allowed, "{threads} threads: {a_step} allocations");
    }
}

#[test]
fn a_prompt_takes_its_memory_from_the_one_before() {
    let model = bard().with_compute(Compute::cpu().with_threads(1));
    let run = || {
        let mut cache = model.new_cache(DType::F16, 256).unwrap();
        let mut prompt = Batch::new();
        prompt.extend(SEQ, &[1; 200]);
        let outputs = Outputs::all_logits(&prompt);
        let used = allocation_counter::measure(|| {
            model.forward(&prompt, &mut cache, &outputs).unwrap();
        });
        used.bytes_total
    };
    let (first, second) = (run(), run());
    let logits = 200 * 2048 * 4;
    assert!(second + 2 * logits < first, "{first} bytes, then {second}");
}

#[test]
fn results_that_are_held_stay_as_they_are() {
    let model = bard().with_compute(Compute::cpu().with_threads(1));
    let mut cache = model.new_cache(DType::F16, 256).unwrap();
    let mut held: Vec<(Tensor, Vec<f32>)> = Vec::new();
    for token in 3..20 {
        let mut batch = Batch::new();
        batch.extend(SEQ, &[token]);
        let out = model.forward(&batch, &mut cache, &Outputs::last_logits(&batch)).unwrap();
        let copy = out.logits.as_f32().unwrap().to_vec();
        held.push((out.logits, copy));
    }
    for (tensor, copy) in held {
        assert_eq!(tensor.as_f32().unwrap(), copy);
    }
}
