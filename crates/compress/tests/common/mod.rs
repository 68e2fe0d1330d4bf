//! What the tests of this crate share: the reference models and their answers.

#![allow(dead_code, unreachable_pub)] // each test uses a part

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use compress::Step;
use model::{Batch, Model, ModelConfig, Outputs};
use safetensors::SafeTensors;
use tensor::kv::SeqId;
use tensor::{Activations, Compute, DType};

/// Every folder with a reference answer: those committed with the crate `model`, those of
/// `shared/oracle/arch`, and those under the folders that the variable `EXTRA_ARCH` lists (separated
/// by `:`).
pub fn folders() -> Vec<PathBuf> {
    let fixtures = testkit::workspace().join("crates/model/tests/fixtures");
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

/// A progress callback that goes on.
pub fn go_on() -> impl FnMut(Step<'_>) -> ControlFlow<()> {
    |_: Step<'_>| ControlFlow::Continue(())
}

/// The tensors of a safetensors file: type, shape, bytes.
pub type Tensors = BTreeMap<String, (String, Vec<usize>, Vec<u8>)>;

/// All tensors of a Hugging Face folder.
pub fn tensors(folder: &Path) -> Tensors {
    let mut all = Tensors::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap();
        if !(name.starts_with("model") && name.ends_with(".safetensors")) {
            continue;
        }
        let bytes = std::fs::read(&path).unwrap();
        let file = SafeTensors::deserialize(&bytes).unwrap();
        for (name, view) in file.tensors() {
            let entry =
                (format!("{:?}", view.dtype()), view.shape().to_vec(), view.data().to_vec());
            all.insert(name, entry);
        }
    }
    all
}

/// How far a model's logits (or hidden states) are from a folder's reference.
pub fn distance(model: &Path, folder: &Path) -> f32 {
    let bytes = std::fs::read(folder.join("golden.safetensors")).unwrap();
    let golden = SafeTensors::deserialize(&bytes).unwrap();
    let ids: Vec<u32> = golden
        .tensor("input_ids")
        .unwrap()
        .data()
        .chunks_exact(8)
        .map(|b| i64::from_le_bytes(b.try_into().unwrap()) as u32)
        .collect();
    let answer = golden.tensor("logits").or_else(|_| golden.tensor("last_hidden_state")).unwrap();
    let expected: Vec<f32> =
        answer.data().chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect();
    let compute = Compute::cpu().with_activations(Activations::F32).with_threads(2);
    let model = Model::open(model)
        .unwrap_or_else(|e| panic!("{}: {e}", folder.display()))
        .with_compute(compute);
    let got = match model.config() {
        ModelConfig::Decoder(_) => {
            let mut batch = Batch::new();
            batch.extend(SeqId(0), &ids);
            let mut cache = model.new_cache(DType::F32, ids.len()).unwrap();
            model.forward(&batch, &mut cache, &Outputs::all_logits(&batch)).unwrap().logits
        }
        _ => model.encode(&[&ids]).unwrap(),
    };
    let got = got.as_f32().unwrap();
    assert_eq!(got.len(), expected.len());
    got.iter().zip(&expected).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
}
