//! A layer of attention over an embedding, whose steps fail in all ways that a driver has.
#![cfg(feature = "cuda-emulator")]

use std::sync::Arc;

use cuda_kernels::emulator::{self, Faulty};
use cuda_kernels::{Backend, Gpu};
use tensor::kv::{KvCache, KvLayout, SeqId, SlotKvCache, Span};
use tensor::{
    AttentionRow, AttentionSpec, Compute, DType, Device, Result, Rope, RopeLayout, Steps, Tensor,
};

const VOCABULARY: usize = 20;
const WIDTH: usize = 16;
const SPEC: AttentionSpec = AttentionSpec {
    n_heads: 2,
    n_kv_heads: 1,
    head_dim: 8,
    scale: 0.35,
    softcap: None,
    window: None,
};

/// A device of its own, whose next calls can be made to fail.
struct Machine {
    faults: Arc<Faulty>,
    gpu: Gpu,
    device: Device,
}

impl Machine {
    /// `None` where kernels cannot be compiled. Tests take different numbers.
    fn new(ordinal: usize) -> Option<Self> {
        if let Err(why) = emulator::compiler() {
            assert!(std::env::var_os("CI").is_none(), "CI is set, but {why}");
            println!("skipped: {why}");
            return None;
        }
        let faults = Faulty::new(ordinal, 1 << 30);
        let gpu = Gpu::new(Arc::clone(&faults) as Arc<dyn Backend>);
        let device = Device::emulated(ordinal, gpu.clone());
        Some(Self { faults, gpu, device })
    }

    fn cache(&self) -> SlotKvCache {
        let layout = KvLayout { layers: 1, n_kv_heads: 1, head_dim: 8, dtype: DType::F16 };
        SlotKvCache::new(layout, 1000, self.device).unwrap()
    }

    fn layer(&self) -> Layer {
        let matrix = |rows: usize, salt: usize| {
            let number = |i: usize| ((i * 37 + salt) % 23) as f32 / 40.0 - 0.25;
            let elements = (0..rows * WIDTH).map(number).collect();
            Tensor::from_vec([rows, WIDTH], elements).unwrap().to_device(&self.device).unwrap()
        };
        let (table, query) = (matrix(VOCABULARY, 1), matrix(WIDTH, 2));
        Layer { table, query, key: matrix(8, 3), value: matrix(8, 4), steps: Steps::default() }
    }

    fn graphs(&self) -> i64 {
        self.faults.held()[2]
    }

    fn used(&self) -> usize {
        self.gpu.memory_stats().used
    }
}

struct Layer {
    table: Tensor,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    steps: Steps,
}

impl Layer {
    /// Appends tokens to sequences, and gives the scores of each for the next.
    fn forward(
        &self,
        compute: &Compute,
        cache: &mut SlotKvCache,
        tokens: &[(SeqId, &[u32])],
    ) -> Result<Vec<f32>> {
        let (mut ids, mut positions) = (Vec::new(), Vec::new());
        let (mut spans, mut rows) = (Vec::new(), Vec::new());
        let before: Vec<usize> = tokens.iter().map(|&(seq, _)| cache.len(seq)).collect();
        for (&(seq, tokens), &slot) in tokens.iter().zip(&before) {
            cache.reserve(seq, tokens.len())?;
            spans.push(Span { rows: ids.len()..ids.len() + tokens.len(), seq, slot });
            for (position, &token) in (slot..).zip(tokens) {
                ids.push(token);
                positions.push(position as u32);
                rows.push(AttentionRow { seq, prefix: position + 1, branch: Vec::new() });
            }
        }
        let angles = Rope::new(&positions, &[1.0, 0.5, 0.2, 0.1], 1.0, RopeLayout::Half);
        let inputs = compute.step_inputs(ids.len()).and_then(|mut inputs| {
            inputs.embedding(&ids).ok()?;
            inputs.attention(Some(&angles), cache, &spans, &rows).ok()?;
            Some(inputs)
        });
        let result = compute.step(&self.steps, inputs, [false], |compute| {
            let x = compute.embedding(&self.table, &ids)?;
            let weights = [&self.query, &self.key, &self.value].map(|w| (w, None));
            let qkv = compute.linears(&x, weights)?;
            let q = compute.turn_and_store(qkv, Some(&angles), cache, 0, &spans)?;
            let x = compute.add(compute.attention(&q, &SPEC, cache, 0, &rows)?, &x)?;
            Ok::<_, tensor::Error>([Some(compute.linear(&x, &self.table, None)?)])
        });
        if result.is_err() {
            for (&(seq, _), len) in tokens.iter().zip(before) {
                cache.truncate(seq, len)?;
            }
        }
        let [scores] = result?;
        scores.map_or(Ok(Vec::new()), Tensor::into_vec)
    }
}

/// Two sequences' tokens of a step.
fn tokens(step: u32) -> [u32; 2] {
    [step * 7 % VOCABULARY as u32, (step * 3 + 1) % VOCABULARY as u32]
}

/// Both sequences with a prompt that leaves their tables room for some steps.
fn begun(machine: &Machine, layer: &Layer, compute: &Compute) -> SlotKvCache {
    let mut cache = machine.cache();
    let prompt = [(SeqId(0), &[1; 35][..]), (SeqId(1), &[2; 40][..])];
    layer.forward(compute, &mut cache, &prompt).unwrap();
    cache
}

fn step(layer: &Layer, compute: &Compute, cache: &mut SlotKvCache, at: u32) -> Result<Vec<f32>> {
    let [a, b] = tokens(at);
    layer.forward(compute, cache, &[(SeqId(0), &[a]), (SeqId(1), &[b])])
}

#[test]
fn whatever_fails_a_step_is_computed_or_can_be_computed_again() {
    let Some(machine) = Machine::new(90) else { return };
    let eager = Compute::on(machine.device).unwrap().with_graphs(false);
    let reference = machine.layer();
    let mut cache = begun(&machine, &reference, &eager);
    let wanted: Vec<Vec<f32>> =
        (0..8).map(|at| step(&reference, &eager, &mut cache, at).unwrap()).collect();
    let weights = machine.layer();
    let compute = Compute::on(machine.device).unwrap();
    // In which step what fails: the second captures, the third replays.
    let faults = [
        (1, "begin_capture", true),
        (1, "end_capture", true),
        (1, "allocate", true),
        (1, "launch", false),
        (2, "replay", true),
        (2, "upload", true),
        (2, "download", true),
    ];
    for (when, call, hidden) in faults {
        let layer = Layer { steps: Steps::default(), ..machine_weights(&weights) };
        let mut cache = begun(&machine, &layer, &compute);
        for (at, wanted) in (0..).zip(&wanted) {
            if at == when {
                machine.gpu.trim();
                machine.faults.fail(call, 1);
            }
            let mut got = step(&layer, &compute, &mut cache, at);
            if at == when && !hidden {
                assert!(got.is_err(), "{call}");
                got = step(&layer, &compute, &mut cache, at);
            }
            assert_eq!(got.unwrap(), *wanted, "{call}, step {at}");
        }
        let counts = layer.steps.counts();
        assert_eq!(counts.failed, u64::from(hidden), "{call}: {counts:?}");
        assert!(counts.captured >= 1 && counts.replayed >= 2, "{call}: {counts:?}");
        assert_eq!(machine.graphs(), 1, "{call}");
        drop(layer);
        assert_eq!(machine.graphs(), 0, "{call}");
    }
}

/// The same tensors.
fn machine_weights(layer: &Layer) -> Layer {
    let Layer { table, query, key, value, .. } = layer;
    let [table, query, key, value] = [table, query, key, value].map(Clone::clone);
    Layer { table, query, key, value, steps: Steps::default() }
}

#[test]
fn what_cannot_be_captured_is_tried_three_times() {
    let Some(machine) = Machine::new(91) else { return };
    let compute = Compute::on(machine.device).unwrap();
    let layer = machine.layer();
    let mut cache = begun(&machine, &layer, &compute);
    machine.faults.fail("begin_capture", 100);
    for at in 0..8 {
        step(&layer, &compute, &mut cache, at).unwrap();
    }
    let counts = layer.steps.counts();
    assert_eq!((counts.failed, counts.captured, counts.replayed), (3, 0, 0), "{counts:?}");
}

#[test]
fn graphs_go_with_the_model_and_with_the_cache() {
    let Some(machine) = Machine::new(92) else { return };
    let weights = machine.layer();
    let empty = machine.used();
    for model_first in [true, false] {
        let compute = Compute::on(machine.device).unwrap();
        let layer = machine_weights(&weights);
        let mut cache = begun(&machine, &layer, &compute);
        let eager = machine.used();
        for at in 0..4 {
            step(&layer, &compute, &mut cache, at).unwrap();
        }
        assert_eq!(machine.graphs(), 1);
        let captured = machine.used();
        assert!(captured > eager);
        if model_first {
            drop(layer);
            assert_eq!(machine.graphs(), 0, "the cache is there still");
            drop(cache);
        } else {
            drop(cache);
            assert_eq!(machine.graphs(), 0, "the model is there still");
        }
        drop(compute);
        assert_eq!(machine.used(), empty);
    }
}

/// A cache that grows has other memory, to which the graphs of before do not write.
#[test]
fn graphs_go_with_the_memory_of_a_cache_that_grows() {
    let Some(machine) = Machine::new(93) else { return };
    let compute = Compute::on(machine.device).unwrap();
    let eager = compute.clone().with_graphs(false);
    let layer = machine.layer();
    let mut runs = [&compute, &eager].map(|compute| {
        let mut cache = begun(&machine, &layer, compute);
        let more = [(SeqId(1), &[5; 170][..])];
        layer.forward(compute, &mut cache, &more).unwrap();
        (compute, cache)
    });
    for at in 0..12 {
        let [a, b] = &mut runs;
        let [a, b] = [a, b].map(|(compute, cache)| step(&layer, compute, cache, at).unwrap());
        assert_eq!(a, b, "step {at}");
        // 245 slots, two a step.
        match at {
            2 => assert_eq!(machine.graphs(), 1),
            5 => assert_eq!(machine.graphs(), 0),
            _ => {}
        }
    }
    assert!(layer.steps.counts().captured >= 2);
}
