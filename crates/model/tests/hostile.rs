//! Configurations, safetensors and GGUF files that make no sense: each is refused by a typed error
//! that says where, quickly.

use std::path::Path;

use model::Error;
use model::weights::{GgufModel, HfModel};
use serde_json::{Map, Value, json};

fn config_error(changes: Value) -> Error {
    let mut object = json!({"model_type": "llama", "hidden_size": 64, "num_attention_heads": 4,
        "num_hidden_layers": 2, "num_key_value_heads": 2, "vocab_size": 320,
        "intermediate_size": 160, "max_position_embeddings": 128});
    let Value::Object(changes) = changes else { panic!("changes are an object") };
    object.as_object_mut().unwrap().extend(changes);
    let object: Map<String, Value> = object.as_object().unwrap().clone();
    model::arch::hf::config(&object).map(drop).expect_err("nonsense must be refused")
}

#[test]
fn a_nonsensical_parameter_is_named() {
    let rope = |parameters: Value| json!({ "rope_parameters": parameters });
    for (changes, key) in [
        (json!({"num_hidden_layers": 0}), "num_hidden_layers"),
        (json!({"num_hidden_layers": 1_000_000_000_000_u64}), "num_hidden_layers"),
        (json!({"num_attention_heads": 0}), "num_attention_heads"),
        (json!({"num_attention_heads": -4}), "num_attention_heads"),
        (json!({"num_attention_heads": 5, "num_key_value_heads": 5}), "num_attention_heads"),
        (json!({"num_key_value_heads": 3}), "num_key_value_heads"),
        (json!({"num_key_value_heads": 8}), "num_key_value_heads"),
        (json!({"hidden_size": 64.5}), "hidden_size"),
        (json!({"hidden_size": "64"}), "hidden_size"),
        (json!({"hidden_size": u64::MAX}), "hidden_size"),
        (json!({"head_dim": 15}), "partial_rotary_factor"),
        (json!({"vocab_size": -1}), "vocab_size"),
        (json!({"rms_norm_eps": 0}), "rms_norm_eps"),
        (json!({"rms_norm_eps": "small"}), "rms_norm_eps"),
        (json!({"hidden_act": "snake"}), "hidden_act"),
        (json!({"tie_word_embeddings": 1}), "tie_word_embeddings"),
        (json!({"rope_theta": 0}), "rope_theta"),
        (json!({"rope_scaling": [4]}), "rope_scaling"),
        (json!({"rope_scaling": {"type": "linear", "factor": -4}}), "factor"),
        (json!({"rope_scaling": {"type": "unheard of"}}), "rope_type"),
        (rope(json!({"rope_type": "yarn", "factor": 4, "rope_theta": 1})), "rope_theta"),
        (
            rope(json!({"rope_type": "llama3", "factor": 8, "low_freq_factor": 4,
                "high_freq_factor": 4})),
            "high_freq_factor",
        ),
        (
            rope(json!({"rope_type": "longrope", "long_factor": [1, 2],
                "short_factor": [1, 1, 1, 1, 1, 1, 1, 1]})),
            "long_factor",
        ),
        (json!({"model_type": "mixtral", "num_experts_per_tok": 9}), "num_experts_per_tok"),
        (json!({"model_type": "mixtral", "num_local_experts": 0}), "num_local_experts"),
        (json!({"model_type": "gemma2", "layer_types": ["full_attention"]}), "layer_types"),
        (
            json!({"model_type": "gemma3_text", "sliding_window_pattern": 0}),
            "sliding_window_pattern",
        ),
        (json!({"model_type": "gpt2", "n_head": 7}), "n_head"),
        (json!({"model_type": "bert", "num_attention_heads": 5}), "num_attention_heads"),
    ] {
        match config_error(changes.clone()) {
            Error::InvalidParameter { key: named, .. } => assert_eq!(named, key, "{changes}"),
            other => panic!("{changes}: {other}"),
        }
    }
    match config_error(json!({"rope_scaling": {"type": "linear"}})) {
        Error::MissingParameter { key } => assert_eq!(key, "factor"),
        other => panic!("{other}"),
    }
}

#[test]
fn an_unknown_architecture_is_named_with_the_known_ones() {
    let error = config_error(json!({"model_type": "mamba", "architectures": ["MambaForCausalLM"]}));
    let message = error.to_string();
    assert!(message.contains("MambaForCausalLM") && message.contains("qwen3_moe"), "{message}");
}

/// A folder with a configuration and this file of weights.
fn folder(weights: &[u8]) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let config = json!({"model_type": "llama", "hidden_size": 4, "num_attention_heads": 1,
        "num_hidden_layers": 1, "vocab_size": 2});
    std::fs::write(dir.path().join("config.json"), config.to_string()).unwrap();
    std::fs::write(dir.path().join("model.safetensors"), weights).unwrap();
    dir
}

fn container(header: &str, data: usize) -> Vec<u8> {
    let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
    bytes.extend(header.as_bytes());
    bytes.extend(vec![0; data]);
    bytes
}

const NAME: &str = "model.embed_tokens.weight";

#[test]
fn a_sound_file_of_weights_is_read() {
    let header = json!({NAME: {"dtype": "F32", "shape": [2, 4], "data_offsets": [0, 32]}});
    let dir = folder(&container(&header.to_string(), 32));
    let model = HfModel::open(dir.path()).unwrap();
    assert_eq!(model.names(), ["token_embd.weight"]);
    assert_eq!(model.stored("token_embd.weight").unwrap().unwrap().shape().dims(), [2, 4]);
}

#[test]
fn a_damaged_file_of_weights_is_refused() {
    let one = |shape: Value, offsets: Value| {
        json!({NAME: {"dtype": "F32", "shape": shape, "data_offsets": offsets}}).to_string()
    };
    let entry = r#"{"dtype":"F32","shape":[2,4],"data_offsets":[0,32]}"#;
    let empty = r#"{"dtype":"F32","shape":[0],"data_offsets":[32,32]}"#;
    let sound = container(&one(json!([2, 4]), json!([0, 32])), 32);
    let mut cases = vec![
        ("empty", vec![]),
        ("too short", vec![1, 2, 3]),
        ("header over the file", 1_000_000_u64.to_le_bytes().to_vec()),
        ("header over 100 MB", (u64::MAX - 7).to_le_bytes().to_vec()),
        ("no JSON", container("{{{{", 0)),
        ("no object", container("[]", 0)),
        ("nested", container(&"[".repeat(3000), 0)),
        ("duplicate name", container(&format!(r#"{{"{NAME}":{entry},"{NAME}":{entry}}}"#), 32)),
        (
            "duplicate field",
            container(
                &format!(
                    r#"{{"{NAME}":{{"dtype":"F32","dtype":"F32","shape":[2,4],"data_offsets":[0,32]}}}}"#
                ),
                32,
            ),
        ),
        ("no elements", container(&format!(r#"{{"{NAME}":{entry},"a":{empty}}}"#), 32)),
        ("shape other than offsets", container(&one(json!([2, 5]), json!([0, 32])), 32)),
        ("shape wraps", container(&one(json!([1_u64 << 32, 1_u64 << 32]), json!([0, 32])), 32)),
        ("offsets reversed", container(&one(json!([2, 4]), json!([32, 0])), 32)),
        ("offsets beyond the data", container(&one(json!([2, 4]), json!([0, 32])), 31)),
        ("offsets wrap", container(&one(json!([u64::MAX / 8]), json!([0, u64::MAX - 3])), 32)),
        ("offset negative", container(&one(json!([2, 4]), json!([-32, 0])), 32)),
        ("gap", container(&one(json!([2, 4]), json!([4, 36])), 36)),
        ("overlap", container(&format!(r#"{{"{NAME}":{entry},"a":{entry}}}"#), 32)),
        ("trailing bytes", container(&one(json!([2, 4]), json!([0, 32])), 40)),
        ("unknown type", container(&one(json!([2, 4]), json!([0, 32])).replace("F32", "F99"), 32)),
    ];
    for end in 0..sound.len() {
        cases.push(("truncated", sound[..end].to_vec()));
    }
    for (what, bytes) in cases {
        let dir = folder(&bytes);
        let error = HfModel::open(dir.path()).map(drop).expect_err(what);
        let typed = matches!(
            error,
            Error::Safetensors { .. } | Error::SafetensorsHeader { .. } | Error::Json { .. }
        );
        assert!(typed, "{what}: {error:?}");
    }
}

#[test]
fn elements_that_are_no_weights_are_refused_by_name() {
    let header = json!({NAME: {"dtype": "I32", "shape": [2, 4], "data_offsets": [0, 32]}});
    let dir = folder(&container(&header.to_string(), 32));
    let error = HfModel::open(dir.path()).unwrap().stored("token_embd.weight").unwrap_err();
    assert!(matches!(&error, Error::ElementType { name, .. } if name == NAME), "{error}");
}

#[test]
fn shards_do_not_leave_the_folder() {
    let header = json!({NAME: {"dtype": "F32", "shape": [2, 4], "data_offsets": [0, 32]}});
    let outside = tempfile::tempdir().unwrap();
    let shard = outside.path().join("x.safetensors");
    std::fs::write(&shard, container(&header.to_string(), 32)).unwrap();
    let dir = folder(&[]);
    std::fs::remove_file(dir.path().join("model.safetensors")).unwrap();
    let up = format!("../{}/x.safetensors", outside.path().file_name().unwrap().to_str().unwrap());
    let open = |shard: Value| {
        let index = json!({"weight_map": {NAME: shard}}).to_string();
        std::fs::write(dir.path().join("model.safetensors.index.json"), index).unwrap();
        HfModel::open(dir.path()).map(drop)
    };
    for bad in [
        json!(up),
        json!(shard.to_str().unwrap()),
        json!(".."),
        json!(""),
        json!("a/b"),
        json!("a\\b"),
        json!("c:b"),
        json!(7),
        json!("a\0b"),
    ] {
        let error = open(bad.clone()).unwrap_err();
        assert!(matches!(error, Error::ShardPath { .. }), "{bad}: {error}");
    }
    assert!(matches!(open(json!("absent.safetensors")), Err(Error::Io { .. })));
    std::fs::copy(&shard, dir.path().join("x.safetensors")).unwrap();
    open(json!("x.safetensors")).unwrap();
    let index = json!({"weight_map": {NAME: "x.safetensors", "other": "x.safetensors"}});
    let path = dir.path().join("model.safetensors.index.json");
    std::fs::write(path, index.to_string()).unwrap();
    let error = HfModel::open(dir.path()).map(drop).unwrap_err();
    assert!(matches!(&error, Error::NotInShard { name, .. } if name == "other"), "{error}");
}

#[test]
fn a_folder_without_weights_says_so() {
    let dir = folder(&[]);
    std::fs::remove_file(dir.path().join("model.safetensors")).unwrap();
    assert!(matches!(HfModel::open(dir.path()).map(drop), Err(Error::NoWeights { .. })));
}

/// A GGUF file of a tiny Llama, with changes to its metadata.
fn gguf_error(path: &Path, change: impl FnOnce(&mut gguf::Builder)) -> Option<Error> {
    let mut b = gguf::Builder::new();
    b.set("general.architecture", "llama")
        .set("llama.block_count", 1u32)
        .set("llama.context_length", 8u32)
        .set("llama.embedding_length", 8u32)
        .set("llama.feed_forward_length", 8u32)
        .set("llama.attention.head_count", 4u32)
        .set("llama.attention.head_count_kv", 2u32)
        .set("llama.attention.layer_norm_rms_epsilon", 1e-5f32)
        .set("tokenizer.ggml.tokens", vec!["a", "b"]);
    b.tensor("token_embd.weight", vec![2, 8], tensor::DType::F32).unwrap();
    change(&mut b);
    let mut w = b.create(path).unwrap();
    while let Some(t) = w.next_tensor() {
        let zeros = vec![0; t.size];
        w.append(&zeros).unwrap();
    }
    w.commit().unwrap();
    GgufModel::open(path).err()
}

#[test]
fn nonsensical_metadata_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("model.gguf");
    assert!(gguf_error(&path, |_| ()).is_none());
    let cases: [(&str, gguf::Value); 14] = [
        ("llama.block_count", 0u32.into()),
        ("llama.block_count", u32::MAX.into()),
        ("llama.attention.head_count", 0u32.into()),
        ("llama.attention.head_count", 3u32.into()),
        ("llama.attention.head_count_kv", 3u32.into()),
        ("llama.attention.head_count_kv", vec![2u32, 1].into()),
        ("llama.embedding_length", 0u32.into()),
        ("llama.embedding_length", "8".into()),
        ("llama.attention.layer_norm_rms_epsilon", f32::NAN.into()),
        ("llama.rope.freq_base", (-1.0f32).into()),
        ("llama.rope.dimension_count", 7u32.into()),
        ("llama.rope.scaling.type", "unheard of".into()),
        ("llama.attention.value_length", 3u32.into()),
        ("tokenizer.ggml.tokens", vec!["a", "b", "c"].into()),
    ];
    for (key, value) in cases {
        let error = gguf_error(&path, |b| {
            b.set(key, value.clone());
        });
        let error = error.unwrap_or_else(|| panic!("{key} = {value:?}"));
        assert!(error.to_string().contains(key), "{key}: {error}");
        let typed = matches!(error, Error::InvalidParameter { .. } | Error::Gguf(_));
        assert!(typed, "{key}: {error:?}");
    }
    let error = gguf_error(&path, |b| {
        b.set("general.architecture", "mamba");
    });
    assert!(matches!(&error, Some(Error::UnknownArchitecture { name, .. }) if name == "mamba"));
}

/// Bytes of a sound file changed at random, two thousand times: a model or a typed error, and every
/// tensor of a model that opens can be looked at.
#[test]
fn random_damage_makes_no_panic() {
    use rand::{RngExt, SeedableRng};
    let mut rng = rand_chacha::ChaCha8Rng::seed_from_u64(7);
    let header = json!({
        "__metadata__": {"format": "pt"},
        NAME: {"dtype": "F32", "shape": [2, 4], "data_offsets": [0, 32]},
        "model.norm.weight": {"dtype": "F16", "shape": [4], "data_offsets": [32, 40]},
    });
    let sound = container(&header.to_string(), 40);
    let dir = folder(&sound);
    let path = dir.path().join("model.safetensors");
    let mut opened = 0;
    for _ in 0..2000 {
        let mut bytes = sound.clone();
        for _ in 0..rng.random_range(1..4) {
            let at = rng.random_range(0..bytes.len());
            match rng.random_range(0..4) {
                0 => bytes[at] = rng.random(),
                1 => bytes[at] = b"0123456789-eE\",:{}[]"[rng.random_range(0..20)],
                2 => drop(bytes.remove(at)),
                _ => bytes.insert(at, rng.random_range(b'0'..=b'9')),
            }
        }
        std::fs::write(&path, &bytes).unwrap();
        if let Ok(model) = HfModel::open(dir.path()) {
            opened += 1;
            for name in model.names() {
                let _ = model.stored(&name);
            }
        }
    }
    assert!(opened > 0 && opened < 2000, "{opened}");
}
