//! Whole models on a GPU, against what the processor computes in f32.
//!
//! Runs where `cuda:0` can be used: a build with `tensor/cuda` and an NVIDIA GPU, or with
//! `tensor/cuda-emulator` and `INFINITY_EMULATE_CUDA` set. With `REQUIRE_GPU` set its absence is a failure.

mod common;

use std::path::PathBuf;

use common::{all, folders, golden, gpu, ids, open};
use model::experts::RoutedExperts;
use model::feed_forward::FeedForward;
use model::{Batch, Error, Model, Outputs, Tap};
use paged_kv::{CacheSalt, KvCacheConfig, KvCacheManager, PagedStorage};
use tensor::kv::{KvCache, KvError, SeqId};
use tensor::{Compute, DType, Device, Tensor};

/// Of the largest logit: products of half floats.
const TOLERANCE: f32 = 2e-2;

/// The largest difference, by the largest of `want`.
fn relative(got: &[f32], want: &[f32]) -> f32 {
    let scale = want.iter().fold(1e-30f32, |most, x| most.max(x.abs()));
    common::max_abs(got, want) / scale
}

/// The logits of every row: a prompt at once, then the last tokens one by one.
fn logits(model: &Model, ids: &[u32], kv: DType) -> Vec<f32> {
    let mut cache = model.new_cache(kv, ids.len()).unwrap();
    let (prompt, last) = ids.split_at(ids.len().saturating_sub(3));
    let mut out = Vec::new();
    for piece in std::iter::once(prompt).chain(last.chunks(1)).filter(|p| !p.is_empty()) {
        let mut batch = Batch::new();
        batch.extend(SeqId(0), piece);
        out.extend_from_slice(all(model, &batch, &mut cache).logits.as_f32().unwrap());
    }
    out
}

#[test]
fn every_architecture_is_near_the_processor() {
    let Some(compute) = gpu() else { return };
    for folder in folders() {
        let ids = ids(&folder);
        let here = open(&folder);
        let there = Model::open_with(&folder, compute.clone(), model::Repack::Never).unwrap();
        if let Ok(decoder) = there.decoder()
            && !decoder.config.head_dim.is_multiple_of(8)
        {
            // Heads that no model of a useful size has, and no kernel takes.
            let mut cache = there.new_cache(DType::F16, 8).unwrap();
            let mut batch = Batch::new();
            batch.extend(SeqId(0), &ids[..1]);
            let error =
                there.forward(&batch, &mut cache, &Outputs::all_logits(&batch)).unwrap_err();
            assert!(error.to_string().contains("heads of"), "{error}");
            continue;
        }
        let (got, want) = match golden(&folder, "logits") {
            Some(_) => (logits(&there, &ids, DType::F16), logits(&here, &ids, DType::F32)),
            None => {
                let states = |m: &Model| m.encode(&[&ids]).unwrap().into_vec().unwrap();
                (states(&there), states(&here))
            }
        };
        let vocabulary = want.len() / ids.len();
        let same = rows_routed_alike(&here, &there, &ids) * vocabulary;
        let error = relative(&got[..same], &want[..same]);
        println!("{}: {error:.1e} over {} rows", folder.display(), same / vocabulary);
        assert!(error <= TOLERANCE, "{}: {error}", folder.display());
        if here.decoder().is_ok() {
            assert_same_choices(
                &got[..same],
                &want[..same],
                vocabulary,
                &folder.display().to_string(),
            );
        }
    }
}

/// How many rows go to the same experts on both. Where one does not, the processor's choice was a narrow one, and the
/// rows after it see what another expert made.
fn rows_routed_alike(here: &Model, there: &Model, ids: &[u32]) -> usize {
    let (a, b) = (routing(here, ids), routing(there, ids));
    let mut alike = ids.len();
    for (a, b) in a.iter().zip(&b) {
        for (row, (a, b)) in a.iter().zip(b).enumerate().take(alike) {
            if a.experts != b.experts {
                assert!(a.margin < TOLERANCE, "row {row} is routed otherwise, by {}", a.margin);
                alike = row;
                break;
            }
        }
    }
    assert!(alike > 0, "no row is routed alike");
    alike
}

/// Where a row goes, and how far the last expert that was chosen is from the first that was not, of the
/// largest score.
struct Routed {
    experts: Vec<usize>,
    margin: f32,
}

/// The routing of every row, a list a layer that has experts.
fn routing(model: &Model, ids: &[u32]) -> Vec<Vec<Routed>> {
    let Ok(decoder) = model.decoder() else { return Vec::new() };
    let mut seen = Inputs(Vec::new());
    let mut cache = model.new_cache(DType::F32, ids.len()).unwrap();
    let mut batch = Batch::new();
    batch.extend(SeqId(0), ids);
    model.forward_tapped(&batch, &mut cache, &Outputs::default(), &mut seen).unwrap();
    let routers = decoder.blocks.iter().filter_map(|block| match &block.feed_forward {
        FeedForward::Routed(experts) => Some(experts),
        FeedForward::Dense(_) => None,
    });
    let compute = Compute::cpu().with_activations(tensor::Activations::F32);
    let route = |(experts, x): (&RoutedExperts, &Tensor)| {
        let weight = experts.router.weight.to_device(&Device::Cpu).unwrap();
        let scores = compute.linear(x, &weight, None).unwrap();
        let ranked = compute.top_k(&scores, (experts.n_used + 1).min(scores.cols())).unwrap();
        let of_row = |ranked: Vec<(usize, f32)>| {
            let (chosen, rest) = ranked.split_at(experts.n_used);
            let mut experts: Vec<usize> = chosen.iter().map(|&(expert, _)| expert).collect();
            experts.sort_unstable();
            let last = chosen.last().map_or(0.0, |&(_, score)| score);
            let gap = rest.first().map_or(f32::INFINITY, |&(_, score)| last - score);
            Routed { experts, margin: gap / chosen.first().map_or(1.0, |c| c.1.abs()).max(1e-6) }
        };
        ranked.into_iter().map(of_row).collect()
    };
    routers.zip(&seen.0).map(route).collect()
}

/// What routers are given.
struct Inputs(Vec<Tensor>);

impl Tap for Inputs {
    fn linear_input(&mut self, weight: &str, x: &Tensor) {
        if weight.ends_with("ffn_gate_inp.weight") {
            self.0.push(x.clone());
        }
    }
}

/// bard in a block format, or the embedded one where `shared/` is absent.
fn bards() -> Vec<PathBuf> {
    let folder = testkit::shared("oracle/gguf");
    let of = |folder: PathBuf| {
        ["f16", "Q8_0", "Q4_0", "Q4_K_M", "Q6_K"].map(|t| folder.join(format!("bard-{t}.gguf")))
    };
    match folder {
        Some(folder) => of(folder).into_iter().filter(|f| f.exists()).collect(),
        None => vec![testkit::workspace().join("assets/bard-f16.gguf")],
    }
}

#[test]
fn block_formats_are_near_the_processor() {
    let Some(compute) = gpu() else { return };
    let ids: Vec<u32> = (0..14).map(|i| 3 + 37 * i).collect();
    for file in bards() {
        let exact = Compute::cpu().with_activations(tensor::Activations::F32);
        let here = Model::open(&file).unwrap().with_compute(exact);
        let there = Model::open_with(&file, compute.clone(), model::Repack::Never).unwrap();
        let want = logits(&here, &ids, DType::F32);
        for kv in [DType::F16, DType::Q8_0] {
            let (got, what) = (logits(&there, &ids, kv), format!("{}, {kv}", file.display()));
            let error = relative(&got, &want);
            println!("{what}: {error:.1e}");
            assert!(error <= TOLERANCE, "{what}: {error}");
            assert_same_choices(&got, &want, want.len() / ids.len(), &what);
        }
    }
}

/// That greedy decoding takes the same tokens, where it is not a matter of rounding.
fn assert_same_choices(got: &[f32], want: &[f32], vocabulary: usize, what: &str) {
    for (got, want) in got.chunks_exact(vocabulary).zip(want.chunks_exact(vocabulary)) {
        let best = |row: &[f32]| (0..row.len()).max_by(|&a, &b| row[a].total_cmp(&row[b])).unwrap();
        let margin = want[best(want)] - want[best(got)];
        assert!(margin < 0.02, "{what}: another token by {margin}");
    }
}

#[test]
fn pages_and_slots_give_the_same() {
    let Some(compute) = gpu() else { return };
    let file = bards().remove(0);
    let model = Model::open_with(&file, compute, model::Repack::Never).unwrap();
    let ids: Vec<u32> = (0..21).map(|i| 5 + 29 * i).collect();
    let outputs = |batch: &Batch| Outputs::all_logits(batch);
    let config = KvCacheConfig { block_size: 4, blocks: 16, ..Default::default() };
    let layout = model.decoder().unwrap().config.kv_layout(DType::F16);
    let mut storage = PagedStorage::on(Device::Cuda(0), layout, &config).unwrap();
    let mut manager = KvCacheManager::new(config).unwrap();
    let mut slots = model.new_cache(DType::F16, 64).unwrap();
    // Two sequences in turns, so that their blocks alternate.
    for seq in [1, 2] {
        manager.create(paged_kv::SeqId(seq), CacheSalt(0), &[]).unwrap();
    }
    for piece in ids.chunks(7) {
        for seq in [1, 2] {
            let tokens: Vec<u32> = piece.iter().map(|id| id + seq as u32).collect();
            let mut batch = Batch::new();
            batch.extend(SeqId(seq), &tokens);
            manager.append(paged_kv::SeqId(seq), &tokens).unwrap();
            let mut pages = storage.with(&manager);
            let a = model.forward(&batch, &mut pages, &outputs(&batch)).unwrap();
            let b = model.forward(&batch, &mut slots, &outputs(&batch)).unwrap();
            assert_eq!(a.logits.as_f32().unwrap(), b.logits.as_f32().unwrap());
            manager.commit(paged_kv::SeqId(seq)).unwrap();
        }
    }
    assert_eq!(slots.len(SeqId(2)), ids.len());
}

/// Of a model and of a cache. The emulator's second GPU has little memory.
#[test]
fn what_is_too_large_says_what_it_needs_and_takes_nothing() {
    let little = Device::Cuda(1);
    if gpu().is_none() || little.available_memory().is_none_or(|free| free > 10 << 20) {
        println!("skipped: cuda:1 is not a GPU with little memory");
        return;
    }
    let compute = Compute::on(little).unwrap();
    let before = little.available_memory().unwrap();
    let assets = testkit::workspace().join("assets");
    let open =
        |name: &str| Model::open_with(assets.join(name), compute.clone(), model::Repack::Never);
    let error = open("bard-f16.gguf").unwrap_err();
    let Error::Tensor(tensor::Error::OutOfMemory { device, needed, free }) = error else {
        panic!("{error}")
    };
    assert_eq!((device, free), (little, before));
    let file = std::fs::metadata(assets.join("bard-f16.gguf")).unwrap().len();
    assert!((file * 9 / 10..file).contains(&needed), "{needed} of {file}");
    assert_eq!(little.available_memory(), Some(before), "all is given back");

    let model = open("bard-draft-f16.gguf").unwrap();
    let before = little.available_memory().unwrap();
    let mut cache = model.new_cache(DType::F32, usize::MAX).unwrap();
    let slot = cache.layout().bytes_per_token() as u64;
    let slots = before / slot + 1;
    let error = cache.reserve(SeqId(0), slots as usize).unwrap_err();
    let needed = slots * slot;
    assert_eq!(error, KvError::OutOfMemory { device: little, needed, free: before });
    assert!(
        error.to_string().contains(&format!("{needed} bytes needed, {before} free")),
        "{error}"
    );
    assert_eq!(little.available_memory(), Some(before), "all is given back");
    let mut batch = Batch::new();
    batch.extend(SeqId(0), &[1, 2, 3]);
    let logits = all(&model, &batch, &mut cache).logits;
    assert!(logits.as_f32().unwrap().iter().all(|x| x.is_finite()));
}
