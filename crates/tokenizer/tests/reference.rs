//! Ids and texts against SentencePiece's, transformers' and the crate's own other paths.

use serde_json::Value;
use tokenizer::{DecodeOptions, EncodeOptions, Tokenizer};

fn json(path: &std::path::Path) -> Value {
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

fn ids(value: &Value) -> Vec<u32> {
    value.as_array().unwrap().iter().map(|id| id.as_u64().unwrap() as u32).collect()
}

/// SentencePiece's own ids, by the model in a folder and by the vocabulary of a GGUF file.
#[test]
fn bard_is_tokenized_as_by_sentencepiece() {
    let Some(expected) = testkit::shared("oracle/expected.json") else { return };
    let folder = expected.with_file_name("bard");
    let gguf = expected.with_file_name("gguf").join("bard-f16.gguf");
    let model = expected.with_file_name("tokenizer.model");
    let rows = json(&expected)["tokenize"].as_array().unwrap().clone();
    assert!(rows.len() > 10);
    for path in [&folder, &gguf, &model] {
        let tokenizer = Tokenizer::from_path(path).unwrap();
        assert_eq!(
            (tokenizer.vocab_size(), tokenizer.bos(), tokenizer.eos()),
            (2048, Some(1), Some(2))
        );
        assert!(tokenizer.add_bos() && tokenizer.is_eog(2));
        for row in &rows {
            let text = row["text"].as_str().unwrap();
            let got = tokenizer.encode(text, EncodeOptions::default()).unwrap();
            assert_eq!(got, ids(&row["ids"]), "{}: {text:?}", path.display());
            assert_eq!(tokenizer.decode(&got, DecodeOptions::default()).unwrap(), text);
        }
        let with_bos = EncodeOptions { add_special: true, ..EncodeOptions::default() };
        assert_eq!(tokenizer.encode("", with_bos).unwrap(), [1]);
        let parsed = EncodeOptions { parse_special: true, ..EncodeOptions::default() };
        assert_eq!(tokenizer.encode("<s></s>", parsed).unwrap(), [1, 2]);
        assert!(!tokenizer.encode("<s></s>", EncodeOptions::default()).unwrap().contains(&1));
    }
}

#[test]
fn minilm_is_tokenized_as_by_transformers() {
    let Some(expected) = testkit::shared("oracle/minilm/expected.json") else { return };
    let folder = expected.parent().unwrap().to_owned();
    let whole = Tokenizer::from_folder(&folder).unwrap();
    let words = Tokenizer::from_path(folder.join("vocab.txt")).unwrap();
    let gguf = Tokenizer::new(whole.to_gguf_vocabulary(None).unwrap()).unwrap();
    let special = EncodeOptions { add_special: true, ..EncodeOptions::default() };
    for case in json(&expected)["cases"].as_array().unwrap() {
        let text = case["text"].as_str().unwrap();
        for tokenizer in [&whole, &words, &gguf] {
            assert_eq!(tokenizer.encode(text, special).unwrap(), ids(&case["ids"]), "{text:?}");
        }
    }
    for tokenizer in [&whole, &words, &gguf] {
        let ids = tokenizer.encode("Hello, world! It's unaffable.", special).unwrap();
        let text = tokenizer.decode(&ids, DecodeOptions { skip_special: true, continues: false });
        assert_eq!(text.unwrap(), "hello, world! it ' s unaffable.");
    }
}

/// A `tokenizer.model` read, written and read again is the same vocabulary; and through GGUF.
#[test]
fn a_sentencepiece_model_survives_the_way_there_and_back() {
    let Some(path) = testkit::shared("oracle/tokenizer.model") else { return };
    let first = Tokenizer::from_path(&path).unwrap();
    let gguf = first.to_gguf_vocabulary(Some(2050)).unwrap();
    assert_eq!((gguf.tokens.len(), gguf.tokens[2049].as_slice()), (2050, &b"[PAD2049]"[..]));
    let mut metadata = gguf::Metadata::default();
    gguf.write_gguf(&mut metadata);
    let second = Tokenizer::from_gguf(&metadata).unwrap();
    let files = second.vocabulary().to_hugging_face().unwrap();
    let folder = tempfile::tempdir().unwrap();
    for (name, bytes) in &files {
        std::fs::write(folder.path().join(name), bytes).unwrap();
    }
    let third = Tokenizer::from_folder(folder.path()).unwrap();
    for text in ["To be, or not", "  naïve 日本 🙂\n\n", "<s> </s>", ""] {
        let want = first.encode(text, EncodeOptions::default()).unwrap();
        assert_eq!(second.encode(text, EncodeOptions::default()).unwrap(), want);
        assert_eq!(third.encode(text, EncodeOptions::default()).unwrap(), want);
    }
}

/// Encoding word by word is what makes long texts quick: it must not show in the ids.
#[test]
fn long_texts_are_their_words() {
    let Some(text) = testkit::shared("data/wikitext-2/test.txt") else { return };
    let Some(gguf) = testkit::shared("data/vocab/ggml-vocab-llama-spm.gguf") else { return };
    let text = std::fs::read_to_string(text).unwrap();
    let tokenizer = Tokenizer::from_path(gguf).unwrap();
    let start = std::time::Instant::now();
    let ids = tokenizer.encode(&text, EncodeOptions::default()).unwrap();
    // As many as llama.cpp's llama-tokenize counts.
    assert_eq!(ids.len(), 339_369);
    assert_eq!(tokenizer.decode(&ids, DecodeOptions::default()).unwrap(), text);
    assert!(start.elapsed().as_secs() < 20);
}

/// A byte-level vocabulary of GGUF written as `tokenizer.json` gives the same ids, and back.
#[test]
fn byte_level_vocabularies_survive_the_way_there_and_back() {
    let Some(folder) = testkit::shared("data/vocab") else { return };
    for name in ["gpt-2", "starcoder"] {
        let first = Tokenizer::from_path(folder.join(format!("ggml-vocab-{name}.gguf"))).unwrap();
        let out = tempfile::tempdir().unwrap();
        for (name, bytes) in first.vocabulary().to_hugging_face().unwrap() {
            std::fs::write(out.path().join(name), bytes).unwrap();
        }
        let second = Tokenizer::from_folder(out.path()).unwrap();
        assert_eq!((second.bos(), second.eos()), (first.bos(), first.eos()));
        let back = second.to_gguf_vocabulary(None).unwrap();
        assert_eq!(back.tokens, first.vocabulary().tokens);
        assert_eq!(back.merges, first.vocabulary().merges);
        assert_eq!(back.types, first.vocabulary().types);
        let third = Tokenizer::new(back).unwrap();
        let text = std::fs::read_to_string(folder.join("ggml-vocab-gpt-2.gguf.inp")).unwrap();
        let text = format!("{text} <|endoftext|> {text}");
        for parse_special in [false, true] {
            let options = EncodeOptions { add_special: false, parse_special };
            let want = first.encode(&text, options).unwrap();
            assert_eq!(second.encode(&text, options).unwrap(), want, "{name}");
            assert_eq!(third.encode(&text, options).unwrap(), want, "{name}");
            let decoded = second.decode(&want, DecodeOptions::default()).unwrap();
            assert_eq!(decoded, text);
        }
    }
}
