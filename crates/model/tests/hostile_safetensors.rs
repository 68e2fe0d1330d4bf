//! Folders whose configuration, safetensors files or index of shards make no sense: each is refused
//! by a typed error that says where, within 50 ms and 16 MiB.

use std::path::Path;

use model::weights::HfModel;
use model::{Error, Model};
use serde_json::{Map, Value, json};
use testkit::bounds::{Alone, Bounds, PeakAlloc};

#[global_allocator]
static ALLOCATOR: PeakAlloc = PeakAlloc;

static BOUNDS: Bounds = Bounds::new(&ALLOCATOR);

fn config_error(changes: Value) -> Error {
    let mut object = json!({"model_type": "llama", "hidden_size": 64, "num_attention_heads": 4,
        "num_hidden_layers": 2, "num_key_value_heads": 2, "vocab_size": 320,
        "intermediate_size": 160, "max_position_embeddings": 128});
    let Value::Object(changes) = changes else { panic!("changes are an object") };
    object.as_object_mut().unwrap().extend(changes);
    let object: Map<String, Value> = object.as_object().unwrap().clone();
    let config = || model::arch::hf::config(&object).map(drop);
    BOUNDS.alone().check("config", config).expect_err("nonsense must be refused")
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
        (
            json!({"hidden_size": 1 << 30, "num_attention_heads": 1, "num_key_value_heads": 1}),
            "num_attention_heads",
        ),
        (json!({"hidden_size": [64]}), "hidden_size"),
        (json!({"head_dim": 1 << 30}), "head_dim"),
        (json!({"vocab_size": -1}), "vocab_size"),
        (json!({"vocab_size": 1e30}), "vocab_size"),
        (json!({"max_position_embeddings": 0}), "max_position_embeddings"),
        (json!({"intermediate_size": 0}), "intermediate_size"),
        (json!({"model_type": "mistral", "sliding_window": 0}), "sliding_window"),
        (json!({"architectures": "LlamaForCausalLM"}), "architectures"),
        (json!({"model_type": 7}), "model_type"),
        (json!({"text_config": []}), "text_config"),
        (json!({"rms_norm_eps": 0}), "rms_norm_eps"),
        (json!({"rms_norm_eps": "small"}), "rms_norm_eps"),
        (json!({"rms_norm_eps": -1e-5}), "rms_norm_eps"),
        // nothing is left of these in single precision
        (json!({"rms_norm_eps": 1e-300}), "rms_norm_eps"),
        (json!({"rms_norm_eps": 1e300}), "rms_norm_eps"),
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
    let alone = BOUNDS.alone();
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
        let error = refused(&alone, what, &folder(&bytes));
        let typed = matches!(
            error,
            Error::Safetensors { .. } | Error::SafetensorsHeader { .. } | Error::Json { .. }
        );
        assert!(typed, "{what}: {error:?}");
    }
}

/// The error of a folder, within the bounds.
fn refused(alone: &Alone<'_>, what: &str, dir: &tempfile::TempDir) -> Error {
    let path: &Path = dir.path();
    let error = alone.check(what, || Model::open(path).map(drop)).expect_err(what);
    assert!(!error.to_string().contains('\n'), "{what}: {error}");
    error
}

#[test]
fn a_large_header_takes_little_memory() {
    let alone = BOUNDS.alone();
    let long = |item: &str| item.repeat((1 << 20) / item.len());
    let entry = r#""dtype":"U8","data_offsets":[0,1],"shape":"#;
    let headers = [
        // one tensor of half a million dimensions, of which each is 1
        format!(r#"{{"a":{{{entry}[{}1]}}}}"#, long("1,")),
        // keys that mean nothing, within a tensor and beside them
        format!(r#"{{"a":{{"x":[{}0],{entry}[2]}}}}"#, long("0,")),
        format!(r#"{{"a":[{}0]}}"#, long("0,")),
        format!(r#"{{"__metadata__":[{}0]}}"#, long("0,")),
        // as many tensors as a megabyte holds, all in one place
        format!(
            "{{{}}}",
            (0..18_000).map(|i| format!(r#""{i}":{{{entry}[1]}}"#)).collect::<Vec<_>>().join(",")
        ),
        format!(r#"{{"{}":{{{entry}[2]}}}}"#, "n".repeat(1 << 20)),
    ];
    for header in headers {
        let what = &header[..40];
        let error = refused(&alone, what, &folder(&container(&header, 1)));
        let typed = matches!(
            error,
            Error::Safetensors { .. } | Error::SafetensorsHeader { .. } | Error::Json { .. }
        );
        assert!(typed, "{what}");
    }
}

#[test]
fn a_damaged_configuration_is_refused() {
    let alone = BOUNDS.alone();
    let sound = json!({"model_type": "llama", "hidden_size": 4, "num_attention_heads": 1,
        "num_hidden_layers": 1, "vocab_size": 2, "rope_scaling": {"type": "linear", "factor": 2}});
    let sound = sound.to_string();
    let mut cases: Vec<(&str, Vec<u8>)> = vec![
        ("nested lists", "[".repeat(100_000).into()),
        ("nested objects", r#"{"a":"#.repeat(100_000).into()),
        ("nested in a key", format!(r#"{{"model_type":{}"#, "[".repeat(100_000)).into()),
        ("beyond double precision", sound.replace(":4", ":1e400").into()),
        ("no number", sound.replace(":4", ":NaN").into()),
        ("a list", "[]".into()),
        ("null", "null".into()),
        ("not UTF-8", b"{\"model_type\":\"\xff\"}".into()),
        ("half a surrogate", r#"{"model_type":"\ud800"}"#.into()),
        ("many values", format!(r#"{{"a":[{}0]}}"#, "0,".repeat(1 << 19)).into()),
        ("many keys", format!("{{{}\"a\":0}}", "\"a\":0,".repeat(1 << 17)).into()),
    ];
    cases.extend((0..sound.len()).map(|end| ("truncated", sound[..end].into())));
    let dir = folder(&[]);
    for (what, bytes) in cases {
        std::fs::write(dir.path().join("config.json"), bytes).unwrap();
        let error = refused(&alone, what, &dir);
        assert!(matches!(error, Error::Json { .. } | Error::Io { .. }), "{what}: {error:?}");
    }
}

#[test]
fn a_damaged_index_is_refused() {
    let alone = BOUNDS.alone();
    let dir = folder(&[]);
    std::fs::remove_file(dir.path().join("model.safetensors")).unwrap();
    let many: Vec<String> = (0..70_000).map(|i| format!(r#""{i:x}":"a""#)).collect();
    for (what, index) in [
        ("nested", "[".repeat(100_000)),
        ("no map", "{}".to_owned()),
        ("a map of numbers", r#"{"weight_map":{"a":1}}"#.to_owned()),
        ("a list", r#"{"weight_map":["a"]}"#.to_owned()),
        ("twice", format!(r#"{{"weight_map":{{"{NAME}":"a","{NAME}":"b"}}}}"#)),
        ("many shards that are missing", format!(r#"{{"weight_map":{{{}}}}}"#, many.join(","))),
        ("many values", format!(r#"{{"metadata":[{}0]}}"#, "0,".repeat(1 << 19))),
    ] {
        std::fs::write(dir.path().join("model.safetensors.index.json"), index).unwrap();
        let error = refused(&alone, what, &dir);
        let typed = matches!(
            error,
            Error::Json { .. }
                | Error::Io { .. }
                | Error::MissingParameter { .. }
                | Error::RepeatedTensor { .. }
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
        json!("a\0b"),
    ] {
        let error = open(bad.clone()).unwrap_err();
        assert!(matches!(error, Error::ShardPath { .. }), "{bad}: {error}");
    }
    assert!(matches!(open(json!(7)), Err(Error::Json { .. })));
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
