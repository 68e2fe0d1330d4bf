//! How long it takes to open a file with a vocabulary of 128 thousand pieces, and a large one.
//!
//! The limits are those asked of the release build; `--nocapture` prints the figures.

use std::io::{Seek, SeekFrom, Write};
use std::path::Path;
use std::time::{Duration, Instant};

use blocks::DType;
use gguf::{Array, Builder, Gguf};

/// Writes a file with the metadata of a model of 128,256 pieces and `tensors` tensors of `mib`
/// MiB each, which are holes in the file.
fn large(path: &Path, tensors: usize, mib: usize) {
    let mut b = Builder::new();
    b.set("general.architecture", "llama");
    let pieces = 128_256;
    let tokens = (0..pieces).map(|i| format!("piece {i}"));
    b.set("tokenizer.ggml.tokens", Array::from_strings(tokens));
    b.set("tokenizer.ggml.scores", (0..pieces).map(|i| -(i as f32)).collect::<Vec<_>>());
    b.set("tokenizer.ggml.token_type", vec![1i32; pieces]);
    let merges = (0..280_147).map(|i| format!("left{i} right{i}"));
    b.set("tokenizer.ggml.merges", Array::from_strings(merges));
    for i in 0..tensors {
        b.tensor(format!("blk.{i}.ffn_up.weight"), [mib, 1 << 18], DType::F32).unwrap();
    }
    let mut file = std::fs::File::create(path).unwrap();
    let writer = b.write_to(&mut file).unwrap();
    drop(writer);
    file.flush().unwrap();
    let end = file.seek(SeekFrom::End(0)).unwrap() + ((tensors * mib) << 20) as u64;
    file.set_len(end).unwrap();
}

/// The least of several times, so that what else the machine does counts for little.
fn time_to_open(path: &Path) -> Duration {
    let open = || {
        let start = Instant::now();
        let file = Gguf::open(path).unwrap();
        assert_eq!(file.metadata().strings("tokenizer.ggml.tokens").unwrap().len(), 128_256);
        start.elapsed()
    };
    (0..7).map(|_| open()).min().unwrap()
}

#[test]
fn a_large_vocabulary_and_a_large_file_open_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let (small, big) = (dir.path().join("small.gguf"), dir.path().join("big.gguf"));
    large(&small, 0, 0);
    large(&big, 256, 8);
    assert!(std::fs::metadata(&big).unwrap().len() > 2 << 30);
    let (small, big) = (time_to_open(&small), time_to_open(&big));
    println!("vocabulary of 128,256 pieces: {small:?}; in a file of 2 GiB: {big:?}");
    assert!(small < Duration::from_millis(30), "{small:?}");
    assert!(big < small + Duration::from_millis(10), "{big:?} against {small:?}");
}
