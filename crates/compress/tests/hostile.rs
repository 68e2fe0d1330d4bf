//! Converter, quantizer and loader on files that are damaged or make no sense: a typed error or a
//! result, never a panic.

mod common;

use std::path::{Path, PathBuf};

use common::go_on;
use compress::QuantizeOptions;
use compress::convert::{Options, gguf_to_hf, hf_to_gguf};
use gguf::{Builder, Gguf, Value};
use model::Model;
use quant_core::FileType;
use tensor::DType;

/// A folder in memory where there is one: thousands of files are written and synchronised here.
fn scratch() -> tempfile::TempDir {
    tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap()
}

/// Everything that reads a GGUF file; the number of those that succeeded.
fn all(file: &Path, dir: &Path) -> usize {
    let (folder, quantized) = (dir.join("folder"), dir.join("quantized.gguf"));
    let _ = std::fs::remove_dir_all(&folder);
    let converted = gguf_to_hf(file, &folder, &Options::default(), &mut go_on());
    assert_eq!(converted.is_ok(), folder.exists());
    let loaded = Model::open(file);
    let quantized = Gguf::open(file).map(|input| {
        let go = &mut |_: &compress::Quantized, _: f64| std::ops::ControlFlow::Continue(());
        compress::quantize(&input, &quantized, FileType::Q8_0, &QuantizeOptions::default(), go)
    });
    let left: Vec<PathBuf> = std::fs::read_dir(dir).unwrap().map(|e| e.unwrap().path()).collect();
    let partial = |p: &PathBuf| p.file_name().unwrap().to_str().unwrap().starts_with(".partial");
    assert!(!left.iter().any(partial), "{left:?}");
    usize::from(converted.is_ok())
        + usize::from(loaded.is_ok())
        + usize::from(quantized.is_ok_and(|q| q.is_ok()))
}

/// A file like `input`, with changes.
fn write(
    input: &Gguf,
    path: &Path,
    set: Option<(&str, Value)>,
    change: impl Fn(&str, &[usize]) -> Option<Vec<usize>>,
) {
    let mut builder = Builder::with_metadata(input.metadata().clone());
    if let Some((key, value)) = set {
        builder.set(key, value);
    }
    let mut kept = Vec::new();
    for info in input.tensors() {
        if let Some(shape) = change(&info.name, &info.shape) {
            builder.tensor(&info.name, shape, info.dtype).unwrap();
            kept.push(info);
        }
    }
    let mut writer = builder.create(path).unwrap();
    for info in kept {
        let size = writer.next_tensor().unwrap().size;
        let mut data = input.data(info).to_vec();
        data.resize(size, 0);
        writer.tensor(&info.name, &data).unwrap();
    }
    writer.commit().unwrap();
}

fn small_models(dir: &Path) -> Vec<PathBuf> {
    let variants = testkit::workspace().join("crates/model/tests/fixtures/variants");
    [
        "llama-bias",
        "qwen3-moe-nonorm",
        "gemma3-v4",
        "phi3-longrope-long",
        "gpt2-ninner",
        "opt-350m-style",
    ]
    .iter()
    .map(|name| {
        let file = dir.join(format!("{name}.gguf"));
        let exact = Options { dtype: Some(DType::F32), ..Options::default() };
        hf_to_gguf(&variants.join(name), &file, &exact, &mut go_on()).unwrap();
        file
    })
    .collect()
}

#[test]
fn no_value_of_a_key_makes_a_panic() {
    let dir = scratch();
    let work = scratch();
    for file in small_models(dir.path()) {
        let input = Gguf::open(&file).unwrap();
        assert_eq!(all(&file, work.path()), 3, "{file:?}");
        let changed = work.path().join("changed.gguf");
        let keys: Vec<String> = input
            .metadata()
            .iter()
            .map(|(key, _)| key.to_owned())
            .filter(|key| !key.starts_with("general."))
            .collect();
        for key in keys {
            for value in [
                Value::U32(0),
                Value::U32(3),
                Value::U32(u32::MAX),
                Value::I32(-1),
                Value::F32(f32::NAN),
                Value::String("x".to_owned()),
                vec![1u32, 2].into(),
            ] {
                write(&input, &changed, Some((&key, value)), |_, shape| Some(shape.to_vec()));
                all(&changed, work.path());
            }
        }
    }
}

#[test]
fn no_missing_or_misshapen_tensor_makes_a_panic() {
    let dir = scratch();
    let work = scratch();
    for file in small_models(dir.path()) {
        let input = Gguf::open(&file).unwrap();
        let changed = work.path().join("changed.gguf");
        for info in input.tensors() {
            /// `None` leaves the tensor out.
            type Reshape = fn(&[usize]) -> Option<Vec<usize>>;
            let shapes: [Reshape; 5] = [
                |_| None,
                |_| Some(vec![1]),
                |s| Some(s.iter().rev().copied().collect()),
                |s| Some(s.iter().map(|d| d + 1).collect()),
                |s| Some(s.iter().copied().chain([2]).collect()),
            ];
            for shape in shapes {
                write(&input, &changed, None, |name, s| {
                    if name == info.name { shape(s) } else { Some(s.to_vec()) }
                });
                all(&changed, work.path());
            }
        }
    }
}

#[test]
fn the_corpus_of_the_reader_makes_no_panic() {
    let corpus = testkit::workspace().join("fuzz/corpus/gguf_reader");
    let work = scratch();
    let mut n = 0;
    for entry in std::fs::read_dir(corpus).unwrap() {
        all(&entry.unwrap().path(), work.path());
        n += 1;
    }
    assert!(n > 10, "{n}");
}

#[test]
fn a_checkpoint_that_lacks_a_tensor_is_refused() {
    let dir = scratch();
    let work = scratch();
    let file = small_models(dir.path()).remove(0);
    let input = Gguf::open(&file).unwrap();
    let changed = work.path().join("changed.gguf");
    write(&input, &changed, None, |name, shape| {
        (name != "blk.1.ffn_down.weight").then(|| shape.to_vec())
    });
    let folder = work.path().join("folder");
    let error = gguf_to_hf(&changed, &folder, &Options::default(), &mut go_on()).unwrap_err();
    assert!(error.to_string().contains("blk.1.ffn_down.weight"), "{error}");
}

/// Everything that reads a folder.
fn all_of_folder(folder: &Path, dir: &Path) -> usize {
    let file = dir.join("model.gguf");
    let converted = hf_to_gguf(folder, &file, &Options::default(), &mut go_on());
    usize::from(converted.is_ok()) + usize::from(Model::open(folder).is_ok())
}

#[test]
fn no_value_of_a_configuration_makes_a_panic() {
    let work = scratch();
    let variants = testkit::workspace().join("crates/model/tests/fixtures/variants");
    for name in [
        "llama-yarn-mscale",
        "gemma3-v4",
        "qwen3-moe-sparse2",
        "phi3-longrope-long",
        "gpt2-ninner",
        "opt-350m-style",
    ] {
        let folder = work.path().join(name);
        std::fs::create_dir(&folder).unwrap();
        std::fs::copy(
            variants.join(name).join("model.safetensors"),
            folder.join("model.safetensors"),
        )
        .unwrap();
        let config = std::fs::read(variants.join(name).join("config.json")).unwrap();
        let config: serde_json::Value = serde_json::from_slice(&config).unwrap();
        let write = |config: &serde_json::Value| {
            std::fs::write(folder.join("config.json"), config.to_string()).unwrap();
        };
        write(&config);
        assert_eq!(all_of_folder(&folder, work.path()), 2, "{name}");
        for key in config.as_object().unwrap().keys() {
            for value in [
                serde_json::json!(0),
                serde_json::json!(1),
                serde_json::json!(3),
                serde_json::json!(-7),
                serde_json::json!(u64::MAX),
                serde_json::json!(1e300),
                serde_json::json!("x"),
                serde_json::json!(null),
                serde_json::json!([[1, 2], "x", {}]),
                serde_json::json!({"rope_type": "yarn", "type": "yarn", "factor": 1e300}),
                serde_json::json!({"rope_type": "llama3", "factor": 1e-300, "low_freq_factor": 1e-9,
                    "high_freq_factor": 2e-9}),
            ] {
                let mut config = config.clone();
                config[key] = value;
                write(&config);
                all_of_folder(&folder, work.path());
            }
        }
    }
}
