//! A quantized model takes little more memory than its file, wherever its weights lie. Each way of
//! loading is measured in a process of its own.

use std::path::{Path, PathBuf};
use std::process::Command;

use gguf::Builder;
use model::{Batch, LoadOptions, Model, Outputs, Repack};
use tensor::DType;
use tensor::kv::SeqId;

const HIDDEN: usize = 2048;
const WIDTH: usize = 5632;
const VOCAB: usize = 32_000;
const LAYERS: usize = 10;

/// A Llama of over 500 MB whose weights are zeros: what they say does not matter here.
fn write(path: &std::path::Path) -> u64 {
    let mut builder = Builder::new();
    builder.set("general.architecture", "llama");
    for (key, value) in [
        ("block_count", LAYERS),
        ("context_length", 2048),
        ("embedding_length", HIDDEN),
        ("feed_forward_length", WIDTH),
        ("attention.head_count", 32),
        ("attention.head_count_kv", 4),
    ] {
        builder.set(format!("llama.{key}"), value as u32);
    }
    builder.set("llama.attention.layer_norm_rms_epsilon", 1e-5f32);
    let mut add = |name: String, shape: Vec<usize>, dtype| {
        builder.tensor(name, shape, dtype).unwrap();
    };
    add("token_embd.weight".into(), vec![VOCAB, HIDDEN], DType::Q8_0);
    for i in 0..LAYERS {
        for (name, shape) in [
            ("attn_q", [HIDDEN, HIDDEN]),
            ("attn_k", [256, HIDDEN]),
            ("attn_v", [256, HIDDEN]),
            ("attn_output", [HIDDEN, HIDDEN]),
            ("ffn_gate", [WIDTH, HIDDEN]),
            ("ffn_up", [WIDTH, HIDDEN]),
            ("ffn_down", [HIDDEN, WIDTH]),
        ] {
            add(format!("blk.{i}.{name}.weight"), shape.to_vec(), DType::Q8_0);
        }
        for name in ["attn_norm", "ffn_norm"] {
            add(format!("blk.{i}.{name}.weight"), vec![HIDDEN], DType::F32);
        }
    }
    add("output_norm.weight".into(), vec![HIDDEN], DType::F32);
    add("output.weight".into(), vec![VOCAB, HIDDEN], DType::Q8_0);
    let mut writer = builder.create(path).unwrap();
    let zeros = vec![0; 1 << 20];
    while let Some(left) = writer.next_tensor().map(|t| t.size) {
        for start in (0..left).step_by(zeros.len()) {
            writer.append(&zeros[..zeros.len().min(left - start)]).unwrap();
        }
    }
    writer.commit().unwrap();
    std::fs::metadata(path).unwrap().len()
}

/// The most memory that this process has held, in bytes.
fn peak() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|l| l.strip_prefix("VmHWM:"))?;
    line.trim().strip_suffix(" kB")?.trim().parse().ok().map(|kb: u64| kb * 1024)
}

/// How [`measure`] hears of the model, and of the folder for repacked weights if it shall keep them.
const MODEL: &str = "MEMORY_TEST_MODEL";
const CACHE: &str = "MEMORY_TEST_CACHE";

/// Loads and runs the model of the environment, in the process that the other test starts for it.
#[test]
#[ignore = "the other test runs it"]
fn measure() {
    let path = PathBuf::from(std::env::var_os(MODEL).expect("the other test says which"));
    let cache = std::env::var_os(CACHE).map(PathBuf::from);
    let file = std::fs::metadata(&path).unwrap().len();
    let options = LoadOptions { cache: cache.as_deref(), ..Repack::Auto.into() };
    let model = Model::open_with(&path, tensor::Compute::cpu(), options).unwrap();
    let mut cache = model.new_cache(DType::F16, 2048).unwrap();
    let mut batch = Batch::new();
    batch.extend(SeqId(0), &(0..256).collect::<Vec<u32>>());
    model.forward(&batch, &mut cache, &Outputs::last_logits(&batch)).unwrap();
    for token in 0..4 {
        let mut batch = Batch::new();
        batch.extend(SeqId(0), &[token]);
        model.forward(&batch, &mut cache, &Outputs::last_logits(&batch)).unwrap();
    }
    let layout = model.decoder().unwrap().config.kv_layout(DType::F16);
    let kv = (260 * layout.bytes_per_token()) as u64;
    let Some(peak) = peak() else { return println!("skipped: this system does not tell") };
    println!("file {file}, keys and values {kv}, peak {peak}");
    assert!(peak >= file / 2, "the model was not read: {peak}");
    assert!(peak as f64 <= 1.15 * file as f64 + kv as f64 + 64e6, "{peak} for {file}");
}

#[test]
fn resident_memory_is_the_file_the_cache_and_little_more() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("model.gguf");
    let file = write(&path);
    assert!(file >= 500_000_000, "{file}");
    let cache = dir.path().join("cache");
    let run = |what: &str, cache: Option<&Path>| {
        let mut test = Command::new(std::env::current_exe().unwrap());
        test.args(["--exact", "measure", "--ignored", "--nocapture"]).env(MODEL, &path);
        if let Some(cache) = cache {
            test.env(CACHE, cache);
        }
        let out = test.output().unwrap();
        let said = String::from_utf8_lossy(&out.stdout);
        println!("{what}: {said}");
        assert!(out.status.success() && said.contains("1 passed"), "{what}: {said}");
    };
    run("repacked into memory", None);
    run("written to a file", Some(&cache));
    let entries = model::repack::cache::list(&cache).unwrap();
    assert!(entries.len() == 1 && entries[0].bytes > file / 2, "{entries:?}");
    run("mapped from it", Some(&cache));
}
