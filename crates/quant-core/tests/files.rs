//! Against the files that llama.cpp made of bard: from its f16 file come the same types and, for
//! types that can be encoded, the same bytes.

use std::path::{Path, PathBuf};

use blocks::DType;
use gguf::Gguf;
use quant_core::*;

fn facts(file: &Gguf) -> ModelFacts {
    let metadata = file.metadata();
    let arch = metadata.str("general.architecture").expect("an architecture").to_owned();
    let number = |key: &str| metadata.optional(&format!("{arch}.{key}")).expect("a number");
    let n_head = number("attention.head_count").expect("heads");
    ModelFacts {
        n_layer: number("block_count").expect("layers"),
        n_head,
        n_head_kv: number("attention.head_count_kv").unwrap_or(n_head),
        n_expert: number("expert_count").unwrap_or(0),
        arch,
    }
}

/// The files made of `bard-f16.gguf`, that one among them.
fn files() -> Option<(Gguf, Vec<PathBuf>)> {
    let folder = testkit::shared("oracle/gguf")?;
    let files: Vec<PathBuf> = std::fs::read_dir(&folder)
        .expect("a folder")
        .map(|entry| entry.expect("an entry").path())
        .filter(|p| {
            !p.ends_with("bard-draft-f16.gguf") && p.extension().is_some_and(|e| e == "gguf")
        })
        .collect();
    Some((Gguf::open(folder.join("bard-f16.gguf")).expect("a GGUF file"), files))
}

fn check(source: &Gguf, path: &Path) -> usize {
    let target = Gguf::open(path).expect("a GGUF file");
    let file_type =
        FileType::from_id(target.metadata().u32("general.file_type").expect("a file type"));
    let file_type = file_type.expect("a known file type");
    let tensors: Vec<TensorFacts<'_>> = source
        .tensors()
        .iter()
        .map(|t| TensorFacts { name: &t.name, shape: &t.shape, dtype: t.dtype })
        .collect();
    let choices =
        choose(file_type, &facts(source), &tensors, &RecipeOptions::default()).expect("a choice");
    let mut compared = 0;
    for (info, choice) in source.tensors().iter().zip(choices) {
        let theirs = target.tensor(&info.name).expect("the same tensors");
        assert_eq!(choice.dtype, theirs.dtype, "{file_type}: {}", info.name);
        if !blocks::can_encode(choice.dtype) {
            continue;
        }
        let (cols, rows) = (info.row_len(), info.elements() / info.row_len());
        let bytes = Source::Bytes(info.dtype, source.data(info));
        let ours = quantize_tensor(bytes, rows, cols, choice.dtype, None, Work::threads(2))
            .expect("encodable");
        assert!(ours == target.data(theirs), "{file_type}: bytes of {}", info.name);
        compared += 1;
    }
    compared
}

#[test]
fn the_same_types_and_bytes_as_llama_cpp() {
    let Some((source, files)) = files() else { return };
    assert!(files.len() >= 10, "{files:?}");
    let compared: usize = files.iter().map(|path| check(&source, path)).sum();
    assert!(compared >= 10 * source.tensors().len() - 60, "{compared} tensors compared");
}

#[test]
fn losses_are_as_expected_of_the_types() {
    let Some((source, _)) = files() else { return };
    let info = source.tensor("blk.0.ffn_up.weight").expect("a tensor");
    let (cols, rows) = (info.row_len(), info.elements() / info.row_len());
    let x = Source::Bytes(info.dtype, source.data(info));
    let mut last = f64::INFINITY;
    // In falling order of quality: each loses at least 2 dB against the one before.
    for dtype in
        [DType::F16, DType::Q8_0, DType::Q6_K, DType::Q5_K, DType::Q4_K, DType::Q3_K, DType::Q2_K]
    {
        let bytes =
            quantize_tensor(x, rows, cols, dtype, None, Work::default()).expect("encodable");
        let stats = compare(x, Source::Bytes(dtype, &bytes), rows, cols, Work::default())
            .expect("comparable");
        assert!(
            stats.snr_db() < last - 2.0 || last.is_infinite(),
            "{dtype}: {} after {last} dB",
            stats.snr_db()
        );
        assert!(stats.cosine() > 0.95 && stats.max_abs() < 1.0, "{dtype}: {stats:?}");
        last = stats.snr_db();
    }
    assert!(last > 8.0, "Q2_K: {last} dB");
}
