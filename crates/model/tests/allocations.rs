//! After warm-up a step's memory is used again, whichever thread works on it.

use std::alloc::{GlobalAlloc, Layout, System};
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};

use model::{Batch, Model, Outputs, Repack};
use tensor::kv::{KvCache, SeqId};
use tensor::{Activations, Compute, DType};

/// The system's allocator, which counts what all threads ask for.
struct Counting;

static CALLS: AtomicUsize = AtomicUsize::new(0);
static BYTES: AtomicUsize = AtomicUsize::new(0);

// SAFETY: what the system's allocator gives and takes is passed on unchanged. The other methods are the trait's
// own, which call these.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        CALLS.fetch_add(1, Ordering::Relaxed);
        BYTES.fetch_add(layout.size(), Ordering::Relaxed);
        // SAFETY: the caller's promise.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        // SAFETY: the caller's promise.
        unsafe { System.dealloc(memory, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Calls and bytes that `work` takes.
fn allocated(work: impl FnOnce()) -> (usize, usize) {
    let now = || (CALLS.load(Ordering::Relaxed), BYTES.load(Ordering::Relaxed));
    let before = now();
    work();
    let after = now();
    (after.0 - before.0, after.1 - before.1)
}

const SEQ: SeqId = SeqId(0);

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

fn a_decode_step_allocates_nothing(path: &Path, compute: Compute, repack: Repack, kv: DType) {
    let threads = compute.pool().threads();
    let what = format!("{}, {threads} threads, {repack:?}, {kv}", path.display());
    let model = Model::open_with(path, compute, repack).unwrap();
    let mut cache = model.new_cache(kv, 256).unwrap();
    let (mut batch, outputs) = (Batch::new(), Outputs { logits: vec![0], ..Default::default() });
    let mut prompt = Batch::new();
    prompt.extend(SEQ, &[1; 100]);
    model.forward(&prompt, &mut cache, &Outputs::last_logits(&prompt)).unwrap();
    // A cache that grows doubles its memory: here at the first of these steps.
    let token = decode(&model, (&mut batch, &outputs), &mut cache, 5, 20);
    let used = allocated(|| {
        decode(&model, (&mut batch, &outputs), &mut cache, token, 5);
    });
    assert_eq!(cache.len(SEQ), 125);
    assert_eq!(used, (0, 0), "calls and bytes in 5 steps of {what}");
}

fn a_prompt_takes_its_memory_from_the_one_before(path: &Path) {
    let model = Model::open(path).unwrap().with_compute(Compute::cpu().with_threads(2));
    let run = || {
        let mut cache = model.new_cache(DType::F16, 256).unwrap();
        let mut prompt = Batch::new();
        prompt.extend(SEQ, &[1; 200]);
        let outputs = Outputs::all_logits(&prompt);
        let (_, bytes) = allocated(|| {
            model.forward(&prompt, &mut cache, &outputs).unwrap();
        });
        bytes
    };
    let (first, second) = (run(), run());
    let logits = 200 * 2048 * 4;
    assert!(second + 2 * logits < first, "{first} bytes, then {second}");
}

/// One test, since others beside it would be counted.
#[test]
fn memory_is_used_again() {
    let bard = testkit::workspace().join("assets/bard-f16.gguf");
    let cpu = |threads| Compute::cpu().with_threads(threads);
    for (threads, kv) in [(1, DType::F16), (2, DType::F16), (2, DType::Q8_0)] {
        a_decode_step_allocates_nothing(&bard, cpu(threads), Repack::Never, kv);
    }
    let rounded = cpu(2).with_activations(Activations::Bf16);
    a_decode_step_allocates_nothing(&bard, rounded, Repack::Always, DType::F16);
    for name in ["Q8_0", "Q4_0", "Q4_K_M", "Q6_K"] {
        let Some(path) = testkit::shared(&format!("oracle/gguf/bard-{name}.gguf")) else {
            continue;
        };
        for repack in [Repack::Always, Repack::Never] {
            a_decode_step_allocates_nothing(&path, cpu(2), repack, DType::F16);
        }
    }
    a_prompt_takes_its_memory_from_the_one_before(&bard);
}
