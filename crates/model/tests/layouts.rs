//! Other ways to store the same checkpoint: each gives the same tensors.

use std::collections::BTreeMap;
use std::path::Path;

use model::WeightSource;
use model::weights::HfModel;
use safetensors::tensor::{Dtype, SafeTensors, TensorView};
use serde_json::{Value, json};

type Tensors = BTreeMap<String, (Dtype, Vec<usize>, Vec<u8>)>;

fn fixture(name: &str) -> (Tensors, Value) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/arch").join(name);
    let bytes = std::fs::read(folder.join("model.safetensors")).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let tensor = |v: TensorView<'_>| (v.dtype(), v.shape().to_vec(), v.data().to_vec());
    let tensors = file.tensors().into_iter().map(|(n, v)| (n, tensor(v))).collect();
    let config = std::fs::read(folder.join("config.json")).unwrap();
    (tensors, serde_json::from_slice(&config).unwrap())
}

fn write(tensors: &Tensors, config: &Value) -> (tempfile::TempDir, HfModel) {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("config.json"), config.to_string()).unwrap();
    let views = tensors
        .iter()
        .map(|(n, (t, s, b))| (n.as_str(), TensorView::new(*t, s.clone(), b).unwrap()));
    let bytes = safetensors::serialize(views, None).unwrap();
    std::fs::write(dir.path().join("model.safetensors"), bytes).unwrap();
    let model = HfModel::open(dir.path()).unwrap();
    (dir, model)
}

fn assert_same(a: &HfModel, b: &HfModel) {
    assert_eq!(a.config(), b.config());
    let sorted = |m: &HfModel| {
        let mut names = m.names();
        names.sort();
        names
    };
    assert_eq!(sorted(a), sorted(b));
    assert!(b.unused().is_empty(), "{:?}", b.unused());
    for name in a.names() {
        let (x, y) = (a.require(&name).unwrap(), b.require(&name).unwrap());
        assert_eq!((x.shape(), x.dtype()), (y.shape(), y.dtype()), "{name}");
        assert!(x.bytes().unwrap() == y.bytes().unwrap(), "{name}");
        let described = b.describe(&name).unwrap().unwrap();
        let stored = b.stored(&name).unwrap().unwrap();
        assert_eq!(described, (stored.shape().dims().to_vec(), stored.dtype()), "{name}");
    }
}

/// Experts in one tensor, gates and ups fused: what transformers 5 has in memory.
#[test]
fn experts_may_be_stacked() {
    for (name, block, [gate, up, down]) in [
        ("mixtral", "block_sparse_moe", ["w1", "w3", "w2"]),
        ("qwen3-moe", "mlp", ["gate_proj", "up_proj", "down_proj"]),
    ] {
        let (mut tensors, config) = fixture(name);
        let (_a, apart) = write(&tensors, &config);
        for layer in 0..2 {
            let old = format!("model.layers.{layer}.{block}");
            let new = format!("model.layers.{layer}.mlp");
            let mut fused = (Dtype::F32, vec![4], Vec::new());
            let mut downs = (Dtype::F32, vec![4], Vec::new());
            for expert in 0..4 {
                let mut take = |w: &str| {
                    tensors.remove(&format!("{old}.experts.{expert}.{w}.weight")).unwrap()
                };
                let (gate, up, down) = (take(gate), take(up), take(down));
                fused.1 = vec![4, 2 * gate.1[0], gate.1[1]];
                fused.2.extend(gate.2.into_iter().chain(up.2));
                downs.1 = vec![4, down.1[0], down.1[1]];
                downs.2.extend(down.2);
            }
            tensors.insert(format!("{new}.experts.gate_up_proj"), fused);
            tensors.insert(format!("{new}.experts.down_proj"), downs);
            let router = tensors.remove(&format!("{old}.gate.weight")).unwrap();
            tensors.insert(format!("{new}.gate.weight"), router);
        }
        let (_b, stacked) = write(&tensors, &config);
        assert_same(&apart, &stacked);
    }
}

/// The model as a part of a larger one, or on its own.
#[test]
fn paths_may_differ() {
    let (tensors, config) = fixture("gemma3");
    let (_a, plain) = write(&tensors, &config);
    let nested = json!({"model_type": "gemma3", "text_config": config,
        "architectures": ["Gemma3ForConditionalGeneration"]});
    for (base, config) in
        [("", &config), ("language_model.model.", &nested), ("model.language_model.", &nested)]
    {
        let renamed = |n: &String| format!("{base}{}", n.strip_prefix("model.").unwrap());
        let renamed = tensors.iter().map(|(n, t)| (renamed(n), t.clone())).collect();
        let (_b, other) = write(&renamed, config);
        assert_same(&plain, &other);
    }
    // A head of its own, inside and outside of the larger model.
    let (tensors, config) = fixture("mistral");
    let (_a, plain) = write(&tensors, &config);
    for (base, head) in [
        ("language_model.model.", "language_model.lm_head.weight"),
        ("model.language_model.", "lm_head.weight"),
    ] {
        let renamed = |n: &String| match n.strip_prefix("model.") {
            Some(rest) => format!("{base}{rest}"),
            None => head.to_owned(),
        };
        let renamed = tensors.iter().map(|(n, t)| (renamed(n), t.clone())).collect();
        let (_b, other) = write(&renamed, &config);
        assert_same(&plain, &other);
    }
}

/// Double precision is read as single.
#[test]
fn doubles_are_rounded() {
    let (mut tensors, config) = fixture("mistral");
    let (_a, single) = write(&tensors, &config);
    for (dtype, _, bytes) in tensors.values_mut() {
        let wide = |b: &[u8]| f64::from(f32::from_le_bytes(b.try_into().unwrap())).to_le_bytes();
        *bytes = bytes.chunks_exact(4).flat_map(wide).collect();
        *dtype = Dtype::F64;
    }
    let (_b, double) = write(&tensors, &config);
    for name in single.names() {
        let (x, y) = (single.require(&name).unwrap(), double.require(&name).unwrap());
        assert!(x.bytes().unwrap() == y.bytes().unwrap(), "{name}");
    }
}
