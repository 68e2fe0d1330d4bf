//! What the tests of this crate share: the reference models and their answers.

#![allow(dead_code, unreachable_pub)] // each test is a crate of its own and uses a part

use std::path::{Path, PathBuf};

use model::{Batch, Forward, Model, Outputs};
use safetensors::SafeTensors;
use tensor::kv::{KvCache, SeqId};
use tensor::{Compute, DType, Device, Tensor};

/// Every folder with a reference answer: the committed ones, those of `shared/oracle/arch`, and
/// those under the folders that the variable `EXTRA_ARCH` lists (separated by `:`).
pub fn folders() -> Vec<PathBuf> {
    let fixtures = fixture("");
    let mut roots = vec![fixtures.join("arch"), fixtures.join("variants")];
    roots.extend(testkit::shared("oracle/arch"));
    if let Some(extra) = std::env::var_os("EXTRA_ARCH") {
        roots.extend(std::env::split_paths(&extra));
    }
    let mut all: Vec<PathBuf> = roots
        .iter()
        .flat_map(|root| std::fs::read_dir(root).expect("a folder of reference models"))
        .map(|entry| entry.expect("readable").path())
        .filter(|path| path.join("golden.safetensors").exists())
        .collect();
    all.sort();
    assert!(all.len() >= 8, "the committed fixtures are there");
    all
}

/// The folders of decoders.
pub fn decoders() -> Vec<PathBuf> {
    folders().into_iter().filter(|f| golden(f, "logits").is_some()).collect()
}

/// A committed model of this name.
pub fn fixture(name: &str) -> PathBuf {
    testkit::workspace().join("crates/model/tests/fixtures").join(name)
}

/// Opens a model to run with exact activations on two threads.
pub fn open(folder: &Path) -> Model {
    let compute = Compute::cpu().with_activations(tensor::Activations::F32).with_threads(2);
    Model::open(folder)
        .unwrap_or_else(|e| panic!("{}: {e}", folder.display()))
        .with_compute(compute)
}

/// What to compute with on `cuda:0`; without it says so, and fails where `REQUIRE_GPU` is set.
pub fn gpu() -> Option<Compute> {
    Compute::on(Device::Cuda(0)).map_err(testkit::skip_without_gpu).ok()
}

/// The token ids of a folder's reference.
pub fn ids(folder: &Path) -> Vec<u32> {
    let bytes = std::fs::read(folder.join("golden.safetensors")).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let ids = file.tensor("input_ids").unwrap();
    ids.data().chunks_exact(8).map(|b| i64::from_le_bytes(b.try_into().unwrap()) as u32).collect()
}

/// A tensor of a folder's reference, as rows `[tokens, features]`.
pub fn golden(folder: &Path, name: &str) -> Option<Vec<f32>> {
    let bytes = std::fs::read(folder.join("golden.safetensors")).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let data = file.tensor(name).ok()?.data().to_vec();
    Some(data.chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect())
}

/// The largest difference; infinite if lengths differ or something is not a number.
pub fn max_abs(a: &[f32], b: &[f32]) -> f32 {
    if a.len() != b.len() {
        return f32::INFINITY;
    }
    let worse = |m: f32, (x, y): (&f32, &f32)| match (x - y).abs() {
        d if d.is_nan() => f32::INFINITY,
        d => m.max(d),
    };
    a.iter().zip(b).fold(0.0, worse)
}

/// The logits of every row of one sequence in a new `f32` cache, computed in one batch.
pub fn logits(model: &Model, ids: &[u32]) -> Tensor {
    let mut cache = model.new_cache(DType::F32, ids.len()).unwrap();
    let mut batch = Batch::new();
    batch.extend(SeqId(0), ids);
    all(model, &batch, &mut cache).logits
}

/// A forward that asks for the logits of every row.
pub fn all(model: &Model, batch: &Batch, cache: &mut dyn KvCache) -> Forward {
    model.forward(batch, cache, &Outputs::all_logits(batch)).unwrap()
}
