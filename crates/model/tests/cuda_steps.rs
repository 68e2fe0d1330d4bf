//! Steps on a GPU that are captured and replayed give the bits of those that are computed one by one.
//!
//! Runs where `cuda:0` can be used, as the tests of `cuda.rs` do.

mod common;

use std::sync::{Mutex, MutexGuard, PoisonError};

use common::{decoders, fixture, gpu};
use model::{Batch, Model, Outputs, Repack};
use paged_kv::{CacheSalt, KvCacheConfig, KvCacheManager, PagedStorage};
use tensor::kv::{KvCache, SeqId};
use tensor::{DType, Device};

/// One test at a time: a capture fails (and is tried again) where another thread has taken the memory that the step
/// before it left, and these tests count captures.
static ALONE: Mutex<()> = Mutex::new(());

fn alone() -> MutexGuard<'static, ()> {
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The same model with graphs and without.
fn both(path: &std::path::Path) -> Option<[Model; 2]> {
    let compute = gpu()?;
    let graphs = Model::open_with(path, compute.clone(), Repack::Never).unwrap();
    let eager = graphs.clone().with_compute(compute.with_graphs(false));
    Some([graphs, eager])
}

/// What both give for a batch; it must be the same.
fn step(models: &[Model; 2], caches: [&mut dyn KvCache; 2], batch: &Batch, outputs: &Outputs) {
    let mut all = models.iter().zip(caches).map(|(model, cache)| {
        let forward = model.forward(batch, cache, outputs).unwrap();
        [forward.logits, forward.hidden].map(|t| t.into_vec().unwrap())
    });
    assert_eq!(all.next(), all.next());
}

/// A token of each sequence.
fn batch(sequences: impl IntoIterator<Item = u64>, salt: u32) -> Batch {
    let mut batch = Batch::new();
    for seq in sequences {
        batch.extend(SeqId(seq), &[3 + (salt * 31 + seq as u32 * 7) % 90]);
    }
    batch
}

/// Sequences of different lengths that come and go, each token's logits as a server asks for them.
#[test]
fn every_decoder_repeats_its_steps() {
    let _alone = alone();
    for folder in decoders() {
        let Some(models) = both(&folder) else { return };
        let config = &models[0].decoder().unwrap().config;
        if !config.head_dim.is_multiple_of(8) {
            continue;
        }
        let [mut a, mut b] = models.each_ref().map(|m| m.new_cache(DType::F16, 300).unwrap());
        let mut prompt = Batch::new();
        prompt.extend(SeqId(0), &[5, 7, 11, 13, 17]);
        prompt.extend(SeqId(1), &[19, 23]);
        step(&models, [&mut a, &mut b], &prompt, &Outputs::last_logits(&prompt));
        // Who is there in each step: 2 joins, 0 leaves and another 0 comes, twice.
        let there: [&[u64]; 12] = [
            &[0, 1],
            &[0, 1],
            &[0, 1],
            &[0, 1, 2],
            &[0, 1, 2],
            &[0, 1, 2],
            &[1, 2],
            &[1, 2],
            &[0, 1, 2],
            &[2],
            &[2],
            &[2],
        ];
        for (i, there) in there.into_iter().enumerate() {
            if i == 6 {
                a.remove(SeqId(0));
                b.remove(SeqId(0));
            }
            let batch = batch(there.iter().copied(), i as u32);
            step(&models, [&mut a, &mut b], &batch, &Outputs::all_logits(&batch));
        }
        let counts = models[0].step_counts();
        println!("{}: {counts:?}", folder.display());
        match config.experts {
            Some(_) => assert_eq!((counts.captured, counts.failed), (0, 0)),
            None => assert!(counts.captured >= 3 && counts.replayed >= 4 && counts.failed == 0),
        }
        assert_eq!(models[1].step_counts(), Default::default());
    }
}

/// Over blocks of four slots, and past 256 and 512 positions, where the attention is split otherwise.
#[test]
fn a_graph_serves_lengths_up_to_a_power_of_two() {
    let _alone = alone();
    let Some(models) = both(&fixture("arch/qwen3")) else { return };
    let layout = models[0].decoder().unwrap().config.kv_layout(DType::F16);
    let config = KvCacheConfig { block_size: 4, blocks: 300, ..Default::default() };
    let mut storages =
        [(); 2].map(|()| PagedStorage::on(Device::Cuda(0), layout.clone(), &config).unwrap());
    let mut manager = KvCacheManager::new(config).unwrap();
    let sequences = [1, 2].map(paged_kv::SeqId);
    for seq in sequences {
        manager.create(seq, CacheSalt(0), &[]).unwrap();
    }
    let mut number = 0;
    let mut run = |lengths: [usize; 2]| {
        let mut batch = Batch::new();
        for (seq, length) in sequences.into_iter().zip(lengths) {
            let tokens: Vec<u32> = (0..length as u32).map(|i| 3 + (number + i * 7) % 300).collect();
            number += 1;
            batch.extend(SeqId(seq.0), &tokens);
            manager.append(seq, &tokens).unwrap();
        }
        let [a, b] = &mut storages;
        let [mut a, mut b] = [a.with(&manager), b.with(&manager)];
        step(&models, [&mut a, &mut b], &batch, &Outputs::last_logits(&batch));
        for seq in sequences {
            manager.commit(seq).unwrap();
        }
    };
    run([250, 40]);
    for _ in 0..12 {
        run([1, 1]);
    }
    run([244, 1]);
    for _ in 0..12 {
        run([1, 1]);
    }
    // Past 256, 512, and the 128 blocks of both: of each kind a step eagerly, and one that is captured.
    let counts = models[0].step_counts();
    assert_eq!((counts.captured, counts.failed), (4, 0), "{counts:?}");
    assert_eq!(counts.replayed, 2 * 12 - 4 * 2, "{counts:?}");
}

/// The same launches on other results are other steps.
#[test]
fn what_is_wanted_of_a_step_is_told_apart() {
    let _alone = alone();
    let Some(models) = both(&fixture("arch/qwen3")) else { return };
    let [mut a, mut b] = models.each_ref().map(|m| m.new_cache(DType::F32, 128).unwrap());
    let mut prompt = Batch::new();
    prompt.extend(SeqId(0), &[9; 33]);
    prompt.extend(SeqId(1), &[8; 33]);
    step(&models, [&mut a, &mut b], &prompt, &Outputs::default());
    let wanted: [[&[usize]; 2]; 6] = [
        [&[0, 1], &[]],
        [&[], &[0, 1]],
        [&[1], &[0]],
        [&[0], &[1]],
        [&[1, 0], &[1, 0]],
        [&[], &[]],
    ];
    for i in 0..18 {
        let [logits, hidden] = wanted[i % wanted.len()].map(<[usize]>::to_vec);
        let batch = batch([0, 1], i as u32);
        step(&models, [&mut a, &mut b], &batch, &Outputs { logits, hidden, ..Default::default() });
    }
    let counts = models[0].step_counts();
    assert_eq!((counts.captured, counts.replayed, counts.failed), (6, 6, 0), "{counts:?}");
}

/// Logits that stay on the device are those that come to the host, and no later step writes to them.
#[test]
fn results_that_stay_are_kept() {
    let _alone = alone();
    let Some(models) = both(&fixture("arch/qwen3")) else { return };
    let [mut a, mut b] = models.each_ref().map(|m| m.new_cache(DType::F16, 128).unwrap());
    let mut prompt = Batch::new();
    prompt.extend(SeqId(0), &[9; 33]);
    prompt.extend(SeqId(1), &[8; 33]);
    step(&models, [&mut a, &mut b], &prompt, &Outputs::default());
    let mut kept = Vec::new();
    for i in 0..6 {
        let batch = batch([0, 1], i);
        let here = Outputs::all_logits(&batch);
        let there = Outputs { on_device: true, ..here.clone() };
        let stays = models[0].forward(&batch, &mut a, &there).unwrap().logits;
        assert_eq!(stays.device(), Device::Cuda(0));
        kept.push((stays, models[1].forward(&batch, &mut b, &here).unwrap().logits));
    }
    for (stays, here) in kept {
        let stays = stays.to_device(&Device::Cpu).unwrap();
        assert_eq!(stays.as_f32().unwrap(), here.as_f32().unwrap());
    }
    let counts = models[0].step_counts();
    assert_eq!((counts.captured, counts.replayed, counts.failed), (1, 4, 0), "{counts:?}");
}
