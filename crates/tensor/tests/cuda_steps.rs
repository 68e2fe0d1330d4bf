//! A layer of attention over an embedding, whose steps fail in all ways that a driver has.
#![cfg(feature = "cuda-emulator")]

use std::sync::Arc;

use cuda_kernels::emulator::{self, Faulty};
use cuda_kernels::{Backend, Gpu};
use tensor::kv::{KvCache, KvLayout, SeqId, SlotKvCache, Span};
use tensor::{
    Activation, AttentionRow, AttentionSpec, Compute, DType, Device, Result, Rope, RopeLayout,
    Steps, Tensor,
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

/// A layer of a decoder at decoding, weights in blocks: what shares a row is one launch, and rows are rounded where
/// they are made.
#[test]
fn a_layer_takes_few_launches_and_gives_what_its_parts_give() {
    const WIDTH: usize = 256;
    const HEADS: AttentionSpec = AttentionSpec { n_heads: 4, n_kv_heads: 2, head_dim: 64, ..SPEC };
    let Some(machine) = Machine::new(94) else { return };
    let compute = Compute::on(machine.device).unwrap();
    let tensor = |rows: usize, cols: usize, dtype: DType| {
        let number = |i: usize| ((i * 37 + rows) % 61) as f32 / 40.0 - 0.75;
        let elements = (0..rows * cols).map(number).collect();
        let host = Tensor::from_vec([rows, cols], elements).unwrap().to_dtype(dtype).unwrap();
        host.to_device(&machine.device).unwrap()
    };
    let weight = |rows, cols| tensor(rows, cols, DType::Q4_K);
    let (query, key, output) = (weight(WIDTH, WIDTH), weight(128, WIDTH), weight(WIDTH, WIDTH));
    let (gate, up, down) = (weight(512, WIDTH), weight(512, WIDTH), weight(WIDTH, 512));
    let norm = tensor(1, WIDTH, DType::F32).reshape([WIDTH]).unwrap();
    let (x, y) = (tensor(1, WIDTH, DType::F32), tensor(1, WIDTH, DType::F32));
    let angles = Rope::new(&[0], &[1.0; 32], 1.0, RopeLayout::Half);
    let (spans, rows) = (
        [Span { rows: 0..1, seq: SeqId(0), slot: 0 }],
        [AttentionRow { seq: SeqId(0), prefix: 1, branch: Vec::new() }],
    );
    // A copy of a row has not its rounded bytes: what is made of it was rounded by a launch of its own.
    let fresh = |x: &Tensor, apart: bool| match apart {
        true => x.to_device(&Device::Cpu).unwrap().to_device(&machine.device).unwrap(),
        false => x.clone(),
    };
    // Values of one type with queries and keys, or of another, as a Q4_K_M file has them in half of its layers.
    for (value, launches) in [(weight(128, WIDTH), 10), (tensor(128, WIDTH, DType::Q6_K), 11)] {
        let layer = |apart: bool| -> Result<Vec<f32>> {
            let layout = KvLayout { layers: 1, n_kv_heads: 2, head_dim: 64, dtype: DType::F16 };
            let mut cache = SlotKvCache::new(layout, 8, machine.device)?;
            cache.reserve(SeqId(0), 1)?;
            let (x, normed) = compute.add_rms_norm(x.clone(), &y, &norm, 1e-5, 0.0)?;
            let (normed, weights) = (fresh(&normed, apart), [&query, &key, &value]);
            let qkv = match apart {
                true => weights.map(|w| compute.linear(&normed, w, None).unwrap()),
                false => compute.linears(&normed, weights.map(|w| (w, None)))?,
            };
            let q = compute.turn_and_store(qkv, Some(&angles), &mut cache, 0, &spans)?;
            let mixed = compute.attention(&q, &HEADS, &cache, 0, &rows)?;
            let attended = compute.linear(&mixed, &output, None)?;
            let (x, normed) = compute.add_rms_norm(x, &attended, &norm, 1e-5, 0.0)?;
            let normed = fresh(&normed, apart);
            let [gates, values] = match apart {
                true => [&gate, &up].map(|w| compute.linear(&normed, w, None).unwrap()),
                false => compute.linears(&normed, [(&gate, None), (&up, None)])?,
            };
            let inner = compute.gated(gates, &values, Activation::Silu)?;
            let out = compute.linear(&fresh(&inner, apart), &down, None)?;
            compute.add(x, &out)?.to_device(&Device::Cpu)?.into_vec()
        };
        let apart = layer(true).unwrap();
        machine.gpu.start_profile();
        let together = layer(false).unwrap();
        let profile = machine.gpu.stop_profile().unwrap();
        assert_eq!(together, apart);
        let copies = ["copy", "fill", "download"];
        let kernels = profile.kernels.iter().filter(|kernel| !copies.contains(&kernel.name));
        let count: u64 = kernels.map(|kernel| kernel.count).sum();
        // The sum after the layer is part of the next one's norm.
        assert_eq!(count - 1, launches, "{profile}");
    }
}

/// Rounded bytes are of what was there before a row is written.
#[test]
fn what_is_written_again_is_rounded_again() {
    let Some(machine) = Machine::new(95) else { return };
    let compute = Compute::on(machine.device).unwrap();
    let host = |n: usize, cols: usize| {
        let elements = (0..n * cols).map(|i| (i % 19) as f32 - 9.0).collect();
        Tensor::from_vec([n, cols], elements).unwrap()
    };
    let there = |x: Tensor| x.to_device(&machine.device).unwrap();
    let weight = there(host(5, 64).to_dtype(DType::Q8_0).unwrap());
    let (x, norm) = (there(host(3, 64)), there(host(1, 64).reshape([64]).unwrap()));
    let product = |x: &Tensor| compute.linear(x, &weight, None).unwrap().to_device(&Device::Cpu);
    let normed = compute.rms_norm(&x, &norm, 1e-5, 0.0).unwrap();
    let again = |x: &Tensor| product(&there(x.to_device(&Device::Cpu).unwrap())).unwrap();
    let check = |x: &Tensor| {
        assert_eq!(product(x).unwrap().as_f32().unwrap(), again(x).as_f32().unwrap());
    };
    check(&normed);
    check(&normed.slice_rows(1..2).unwrap());
    let shared = compute.scale(normed.clone(), 3.0).unwrap();
    check(&shared);
    check(&compute.scale(normed, 2.0).unwrap());
}
