//! GGUF files whose model makes no sense: each is refused by a typed error within 50 ms and 16 MiB.

use std::path::Path;

use model::{Batch, Error, Model, Outputs};
use testkit::bounds::{Bounds, PeakAlloc};
use testkit::gguf::File;
use testkit::hostile::{self, Fault, llama};

#[global_allocator]
static ALLOCATOR: PeakAlloc = PeakAlloc;

static BOUNDS: Bounds = Bounds::new(&ALLOCATOR);

/// Opens these bytes as a model, within the bounds.
fn open(what: &str, bytes: &[u8]) -> Result<Model, Error> {
    let path = tempfile::NamedTempFile::new().unwrap().into_temp_path();
    std::fs::write(&path, bytes).unwrap();
    let path: &Path = &path;
    BOUNDS.alone().check(what, || Model::open(path))
}

#[test]
fn what_makes_no_sense_is_refused() {
    let mut taken = Vec::new();
    for case in hostile::cases() {
        let result = open(&case.name, &case.bytes);
        match (case.fault, result) {
            (Fault::Container | Fault::Model, Ok(_)) => taken.push(case.name),
            (Fault::Container, Err(e)) => assert!(matches!(e, Error::Gguf(_)), "{e:?}"),
            (Fault::Model, Err(e)) => {
                let typed = matches!(
                    e,
                    Error::Gguf(_)
                        | Error::InvalidParameter { .. }
                        | Error::MissingParameter { .. }
                        | Error::MissingTensor { .. }
                        | Error::TensorShape { .. }
                        | Error::TensorType { .. }
                        | Error::UnknownArchitecture { .. }
                );
                assert!(typed, "{}: {e:?}", case.name);
                assert!(!e.to_string().contains('\n'), "{e}");
            }
            // Nobody has asked for text or for a forward yet.
            (Fault::Vocabulary | Fault::Weight, result) => {
                result.unwrap_or_else(|e| panic!("{}: {e}", case.name));
            }
        }
    }
    assert!(taken.is_empty(), "taken: {taken:?}");
}

#[test]
fn the_key_is_named() {
    for (key, value) in [
        ("block_count", 0u32),
        ("block_count", 1_000_000_000),
        ("attention.head_count", 0),
        ("attention.head_count", 3),
        ("attention.head_count_kv", 3),
        ("embedding_length", 0),
        ("context_length", 0),
        ("feed_forward_length", 0),
        ("rope.dimension_count", 1),
        ("attention.value_length", 3),
    ] {
        let key = format!("llama.{key}");
        let error = open(&key, &llama().set(&key, value).bytes()).unwrap_err();
        assert!(error.to_string().contains(&key), "{key}: {error}");
    }
    let mamba = llama().set("general.architecture", "mamba").bytes();
    let error = open("mamba", &mamba).unwrap_err().to_string();
    assert!(error.contains("mamba") && error.contains("qwen3moe"), "{error}");
}

#[test]
fn what_is_unusual_but_right_is_read() {
    let sound: [File; 5] = [
        llama(),
        llama().set("llama.context_length", 1_000_000_000u32),
        llama().set("llama.attention.sliding_window", 0u32),
        llama().set("llama.attention.head_count_kv", vec![2u32]),
        llama().without("tokenizer.ggml.tokens"),
    ];
    for file in sound {
        open("sound", &file.bytes()).unwrap();
    }
    for bytes in hostile::ids_out_of_range() {
        open("ids out of range", &bytes).unwrap();
    }
}

#[test]
fn truncated_at_every_byte() {
    let bytes = llama().bytes();
    for n in 0..bytes.len() {
        let error = open("truncated", &bytes[..n]).map(drop).unwrap_err();
        assert!(matches!(error, Error::Gguf(_)), "{n}: {error:?}");
    }
}

/// Every byte before the weights, changed: a model that runs, or an error.
#[test]
fn every_byte_changed() {
    let bytes = llama().bytes();
    let head = bytes.len() - llama_weights();
    for at in 0..head {
        for value in [0, 1, 0xff] {
            let mut bytes = bytes.clone();
            bytes[at] = value;
            let Ok(model) = open("changed", &bytes) else { continue };
            let mut cache = model.new_cache(tensor::DType::F32, 4).unwrap();
            let mut batch = Batch::new();
            batch.extend(tensor::kv::SeqId(0), &[1, 5]);
            let _ = model.forward(&batch, &mut cache, &Outputs::all_logits(&batch));
        }
    }
}

/// Bytes of the tensors' data.
fn llama_weights() -> usize {
    4 * (6 * 8 + 8 + 2 * 8 + 2 * 64 + 2 * 32 + 3 * 128)
}
