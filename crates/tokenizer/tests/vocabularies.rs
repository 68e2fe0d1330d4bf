//! Vocabularies of real models against the ids that their own tokenizers give.

use std::path::Path;

use tokenizer::{DecodeOptions, EncodeOptions, Tokenizer};

const SEPARATOR: &str = "\n__ggml_vocab_test__\n";

/// Every text of `NAME.inp` gives the line of `NAME.out`, and decoding gives the text back.
fn check_vocabulary(path: &Path, lossless: bool) {
    let name = path.file_name().unwrap().to_string_lossy().into_owned();
    let tokenizer = Tokenizer::from_path(path).unwrap();
    let beside = |suffix: &str| {
        std::fs::read_to_string(path.with_file_name(format!("{name}{suffix}"))).unwrap()
    };
    let (input, output) = (beside(".inp"), beside(".out"));
    let texts: Vec<&str> = input.split(SEPARATOR).collect();
    let lines: Vec<&str> = output.lines().collect();
    assert!(
        texts.len() > 30 && lines.len() >= texts.len() - 1,
        "{name}: {} {}",
        texts.len(),
        lines.len()
    );
    for (text, line) in texts.iter().zip(&lines) {
        let expected: Vec<u32> = line.split_whitespace().map(|n| n.parse().unwrap()).collect();
        let ids = tokenizer.encode(text, EncodeOptions::default()).unwrap();
        assert_eq!(ids, expected, "{name}: {text:?}");
        if lossless {
            let back = tokenizer.decode(&ids, DecodeOptions::default()).unwrap();
            assert_eq!(back, *text, "{name}");
        }
    }
}

#[test]
fn vocabularies_of_llama_cpp() {
    let Some(folder) = testkit::shared("data/vocab") else { return };
    let mut checked = 0;
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|e| e == "gguf") {
            check_vocabulary(&path, true);
            checked += 1;
        }
    }
    assert!(checked >= 3);
}

/// More of them, where a checkout of llama.cpp is named: `LLAMA_CPP=DIR cargo test -- --ignored`.
#[test]
#[ignore = "needs a checkout of llama.cpp"]
fn further_vocabularies_of_llama_cpp() {
    let folder = std::env::var("LLAMA_CPP").expect("LLAMA_CPP names a checkout of llama.cpp");
    for entry in std::fs::read_dir(Path::new(&folder).join("models")).unwrap() {
        let path = entry.unwrap().path();
        let has_output = path
            .with_file_name(format!("{}.out", path.file_name().unwrap().to_string_lossy()))
            .exists();
        if path.extension().is_some_and(|e| e == "gguf") && has_output {
            println!("{}", path.display());
            check_vocabulary(&path, !path.to_string_lossy().contains("bert"));
        }
    }
}
