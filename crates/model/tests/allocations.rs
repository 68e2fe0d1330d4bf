//! After warm-up a step's memory is used again.

use model::{Batch, Model, Outputs};
use tensor::kv::{KvCache, SeqId};
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
    cache: &mut dyn KvCache,
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

#[test]
fn a_decode_step_allocates_nothing() {
    for (threads, dtype) in [(1, DType::F16), (2, DType::F16), (2, DType::Q8_0)] {
        let model = bard().with_compute(Compute::cpu().with_threads(threads));
        let mut cache = model.new_cache(dtype, 256).unwrap();
        let (mut batch, outputs) =
            (Batch::new(), Outputs { logits: vec![0], ..Default::default() });
        let mut prompt = Batch::new();
        prompt.extend(SEQ, &[1; 100]);
        model.forward(&prompt, &mut cache, &Outputs::last_logits(&prompt)).unwrap();
        // A cache that grows doubles its memory: here at the first of these steps.
        let token = decode(&model, (&mut batch, &outputs), &mut cache, 5, 20);
        let used = allocation_counter::measure(|| {
            decode(&model, (&mut batch, &outputs), &mut cache, token, 5);
        });
        assert_eq!(cache.len(SEQ), 125);
        assert_eq!(used.count_total, 0, "{threads} threads, {dtype}: {used:?} in 5 steps");
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
