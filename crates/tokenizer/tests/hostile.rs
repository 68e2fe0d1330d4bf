//! Malformed vocabularies and templates: a typed error, soon, and no control token out of text.

use std::path::Path;
use std::time::{Duration, Instant};

use gguf::{Array, Metadata};
use proptest::prelude::*;
use serde_json::json;
use tokenizer::template::ChatTemplate;
use tokenizer::{
    DecodeOptions, EncodeOptions, Error, TokenType, Tokenizer, Vocabulary, VocabularyModel,
};

const PLAIN: EncodeOptions = EncodeOptions { add_special: false, parse_special: false };
const PARSED: EncodeOptions = EncodeOptions { add_special: false, parse_special: true };

/// A vocabulary of characters, bytes, and two control tokens.
fn small_spm() -> Vocabulary {
    let mut v = Vocabulary::new(VocabularyModel::Spm);
    let mut add = |text: &str, score: f32, kind| {
        v.tokens.push(text.as_bytes().to_vec());
        v.scores.push(score);
        v.types.push(kind);
    };
    add("<unk>", 0.0, TokenType::Unknown);
    add("<s>", 0.0, TokenType::Control);
    add("</s>", 0.0, TokenType::Control);
    for byte in 0..=255u8 {
        add(&format!("<0x{byte:02X}>"), 0.0, TokenType::Byte);
    }
    // Pieces that would make "</s>" and "<|im_end|>" by merging, if that were allowed.
    for (i, piece) in ["▁", "a", "b", "</", "s>", "<|", "im", "_end", "|>", "<|im", "_end|>", "aa"]
        .iter()
        .enumerate()
    {
        add(piece, -(i as f32), TokenType::Normal);
    }
    add("<|im_end|>", 0.0, TokenType::Control);
    add("<tool>", 0.0, TokenType::UserDefined);
    v
}

fn metadata(v: &Vocabulary) -> Metadata {
    let mut m = Metadata::default();
    v.write_gguf(&mut m);
    m
}

fn refused(m: &Metadata) -> Error {
    Tokenizer::from_gguf(m).err().expect("the vocabulary must be refused")
}

#[test]
fn vocabularies_of_gguf() {
    let good = metadata(&small_spm());
    Tokenizer::from_gguf(&good).unwrap();
    let with = |key: &str, value: gguf::Value| {
        let mut m = good.clone();
        m.set(key, value);
        m
    };
    let n = small_spm().tokens.len();
    assert!(matches!(
        refused(&with("tokenizer.ggml.scores", Array::from(vec![1i8; n]).into())),
        Error::Gguf(_)
    ));
    assert!(matches!(
        refused(&with("tokenizer.ggml.scores", Array::from(vec![1f32; 3]).into())),
        Error::LengthMismatch { .. }
    ));
    assert!(matches!(
        refused(&with("tokenizer.ggml.token_type", Array::from(vec![1i32; 3]).into())),
        Error::LengthMismatch { .. }
    ));
    assert!(matches!(
        refused(&with("tokenizer.ggml.model", "quux".to_owned().into())),
        Error::UnknownModel { .. }
    ));
    assert!(matches!(refused(&with("tokenizer.ggml.tokens", 7u32.into())), Error::Gguf(_)));
    let mut m = good.clone();
    m.remove("tokenizer.ggml.tokens");
    assert!(matches!(refused(&m), Error::Gguf(_)));
    // Ids out of range are no ids.
    let t = Tokenizer::from_gguf(&with("tokenizer.ggml.eos_token_id", u32::MAX.into())).unwrap();
    assert_eq!(t.eos(), Some(2));
    for text in ["<0x-1>", "<0xGG>", "<0x100>", "<0x0>", "x"] {
        let mut v = small_spm();
        v.tokens[3] = text.as_bytes().to_vec();
        assert!(matches!(refused(&metadata(&v)), Error::InvalidByteToken { id: 3, .. }), "{text}");
    }
    let mut bpe = Vocabulary::new(VocabularyModel::Bpe);
    bpe.pre = Some("gpt-2".to_owned());
    for text in ["a", "b", "ab"] {
        bpe.tokens.push(text.as_bytes().to_vec());
        bpe.types.push(TokenType::Normal);
    }
    for merge in ["a c", "ab a", "ab", "", " "] {
        bpe.merges = vec!["a b".to_owned(), merge.to_owned()];
        assert!(
            matches!(refused(&metadata(&bpe)), Error::MergeOfMissingToken { index: 1, .. }),
            "{merge}"
        );
    }
    bpe.merges.truncate(1);
    bpe.pre = Some("no-such".to_owned());
    assert!(matches!(refused(&metadata(&bpe)), Error::UnknownPreTokenizer { .. }));
    bpe.pre = None;
    let t = Tokenizer::from_gguf(&metadata(&bpe)).unwrap();
    assert_eq!(t.encode("ab", PLAIN).unwrap(), [2]);
    assert!(matches!(t.encode("c", PLAIN), Err(Error::Unencodable { .. })));
    for map in [vec![1u8], vec![255; 8], vec![4, 0, 0, 0, 255, 255, 255, 255, 0xFF], vec![0; 64]] {
        let mut v = small_spm();
        v.model = VocabularyModel::Unigram;
        v.charsmap = map;
        if let Ok(t) = Tokenizer::from_gguf(&metadata(&v)) {
            let _ = t.encode("some text, été", PLAIN);
        }
    }
}

#[test]
fn ids_and_control_tokens() {
    let t = Tokenizer::new(small_spm()).unwrap();
    let n = t.vocab_size() as u32;
    assert!(matches!(t.decode(&[n], DecodeOptions::default()), Err(Error::IdOutOfRange { .. })));
    assert!(matches!(
        t.decode(&[u32::MAX], DecodeOptions::default()),
        Err(Error::IdOutOfRange { .. })
    ));
    assert!(t.token_bytes(n).is_err());
    let end = t.id_of("<|im_end|>").unwrap();
    let text = "a</s><|im_end|><s><unk><0x41>";
    let plain = t.encode(text, PLAIN).unwrap();
    assert!(plain.iter().all(|&id| !t.is_special(id)), "{plain:?}");
    assert_eq!(t.decode(&plain, DecodeOptions::default()).unwrap(), text);
    let parsed = t.encode(text, PARSED).unwrap();
    assert!(parsed.contains(&end) && parsed.contains(&1) && parsed.contains(&2));
    // What files call user-defined is found in any text.
    assert!(t.encode("a<tool>b", PLAIN).unwrap().contains(&t.id_of("<tool>").unwrap()));
    assert!(t.is_eog(end) && t.is_eog(2) && !t.is_eog(1));
}

#[test]
fn lone_bytes_become_replacement_characters_at_the_end() {
    let t = Tokenizer::new(small_spm()).unwrap();
    let byte = |b: u8| u32::from(b) + 3;
    let mut s = t.decode_stream();
    assert_eq!(s.push(byte(0xF0)).unwrap(), None);
    assert_eq!(s.push(byte(0x9F)).unwrap(), None);
    assert_eq!(s.push(byte(0x99)).unwrap(), None);
    assert_eq!(s.push(byte(0x82)).unwrap().as_deref(), Some("🙂"));
    assert_eq!(s.push(byte(0xE2)).unwrap(), None);
    assert_eq!(s.push(byte(b'x')).unwrap().as_deref(), Some("\u{FFFD}x"));
    assert_eq!(s.push(byte(0xC3)).unwrap(), None);
    assert_eq!(s.finish().as_deref(), Some("\u{FFFD}"));
}

#[test]
fn sentencepiece_models() {
    let good = small_spm().to_sentencepiece().unwrap();
    Vocabulary::from_sentencepiece(&good).unwrap();
    for cut in 0..good.len() {
        // A message cut at a field's border is a message; nothing else may pass.
        let _ = Vocabulary::from_sentencepiece(&good[..cut]).and_then(Tokenizer::new);
    }
    for bytes in [
        &[][..],
        &[0x0A, 0xFF, 0xFF, 0xFF, 0xFF, 0x0F],
        &[0x0A, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x01],
        &[0x0A, 0x00],
        &[0x03],
        &[0x00, 0x00],
        b"version https://git-lfs.github.com/spec/v1\n",
    ] {
        let e = Vocabulary::from_sentencepiece(bytes).unwrap_err();
        assert!(matches!(e, Error::Protobuf { .. }), "{e}");
    }
    let words = [&good[..], &[0x12, 0x02, 0x18, 0x03]].concat();
    let e = Vocabulary::from_sentencepiece(&words).unwrap_err();
    assert!(matches!(e, Error::SentencePieceKind { kind: 3 }));
}

fn tokenizer_json(change: impl FnOnce(&mut serde_json::Value)) -> Result<Tokenizer, Error> {
    let mut file = json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": [
            {"id": 3, "content": "<|im_end|>", "special": true, "single_word": false,
             "lstrip": false, "rstrip": false, "normalized": false}],
        "normalizer": null, "post_processor": null, "decoder": null,
        "pre_tokenizer": {"type": "Split", "pattern": {"Regex": "a+"}, "behavior": "Isolated",
                          "invert": false},
        "model": {"type": "BPE", "dropout": null, "unk_token": "a", "continuing_subword_prefix":
            null, "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false,
            "vocab": {"a": 0, "b": 1, "ab": 2}, "merges": [["a", "b"]]}});
    change(&mut file);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tokenizer.json");
    std::fs::write(&path, serde_json::to_vec(&file).unwrap()).unwrap();
    Tokenizer::from_path(&path)
}

#[test]
fn tokenizer_jsons() {
    let t = tokenizer_json(|_| {}).unwrap();
    assert_eq!(t.encode("ab<|im_end|>", PARSED).unwrap().last(), Some(&3));
    assert!(!t.encode("ab<|im_end|>", PLAIN).unwrap().contains(&3));
    assert!(t.decode(&[4], DecodeOptions::default()).is_err());

    let start = Instant::now();
    let slow =
        tokenizer_json(|f| f["pre_tokenizer"]["pattern"]["Regex"] = "(a+)+$".into()).unwrap();
    let _ = slow.encode(&("a".repeat(5000) + "b"), PLAIN);
    let slow =
        tokenizer_json(|f| f["pre_tokenizer"]["pattern"]["Regex"] = "(a+)+(?!c)$".into()).unwrap();
    let _ = slow.encode(&("a".repeat(30) + "b"), PLAIN);
    assert!(start.elapsed() < Duration::from_secs(10), "{:?}", start.elapsed());

    assert!(tokenizer_json(|f| f["model"]["merges"] = json!([["a", "zz"]])).is_err());
    assert!(tokenizer_json(|f| f["model"]["vocab"]["far"] = json!(4_000_000_000u32)).is_err());
    assert!(tokenizer_json(|f| f["model"]["continuing_subword_prefix"] = json!("####")).is_err());
    assert!(tokenizer_json(|f| f["pre_tokenizer"]["pattern"]["Regex"] = "(".into()).is_err());
    assert!(
        tokenizer_json(
            |f| f["normalizer"] = json!({"type": "Precompiled", "precompiled_charsmap": "AAAA"})
        )
        .is_err()
    );
    assert!(tokenizer_json(|f| *f = json!([])).is_err());
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tokenizer.json");
    std::fs::write(&path, "[".repeat(100_000)).unwrap();
    assert!(Tokenizer::from_path(&path).is_err());
    std::fs::write(&path, [0xFF, 0xFE]).unwrap();
    assert!(Tokenizer::from_path(&path).is_err());
    assert!(matches!(
        Tokenizer::from_folder(folder.path().join("no")),
        Err(Error::NoTokenizer { .. })
    ));
}

/// A Unigram model holds its special tokens as pieces: text must not become them all the same.
#[test]
fn a_unigram_json_keeps_control_tokens_out_of_text() {
    let t = tokenizer_json(|f| {
        f["model"] = json!({"type": "Unigram", "unk_id": 0, "byte_fallback": false, "vocab":
            [["<unk>", 0.0], ["</s>", 0.0], ["<", -2.0], ["/", -2.0], ["s", -2.0], [">", -2.0], ["x", -2.0]]});
        f["added_tokens"] = json!([{"id": 1, "content": "</s>", "special": true, "single_word": false,
            "lstrip": false, "rstrip": false, "normalized": false}]);
        f["pre_tokenizer"] = serde_json::Value::Null;
    })
    .unwrap();
    assert_eq!(t.encode("x</s>x", PARSED).unwrap(), [6, 1, 6]);
    assert_eq!(t.encode("x</s>x", PLAIN).unwrap(), [6, 2, 3, 4, 5, 6]);
    let mixed = t.encode_parts(&[("x</s>", false), ("</s>", true), ("x", false)], false).unwrap();
    assert_eq!(mixed, [6, 2, 3, 4, 5, 1, 6]);
}

#[test]
fn templates() {
    let refused = |source: &str| ChatTemplate::new(source).err().map(|e| e.to_string());
    let request = json!({"messages": []});
    let start = Instant::now();
    let nested = "{% if true %}".repeat(5500) + &"{% endif %}".repeat(5500);
    assert!(refused(&nested).is_some());
    assert!(refused(&format!("{{{{ {} }}}}", "(".repeat(5000))).is_some());
    assert!(refused(&format!("{{{{ {}1 }}}}", "1+".repeat(100_000))).is_some());
    let _ = refused(&format!("{{{{ {}1 }}}}", "1+".repeat(8_000)));
    let _ = refused(&format!("{{{{ {}1 }}}}", "not ".repeat(8_000)));
    let _ = refused(&format!("{{{{ x{} }}}}", "|e".repeat(16_000)));
    let elifs = format!("{{% if a %}}{}{{% endif %}}", "{% elif b %}".repeat(50_000));
    assert!(refused(&elifs).is_some());
    let _ = refused(&format!("{{% if a %}}{}{{% endif %}}", "{% elif b %}".repeat(1_900)));
    assert!(refused("{% for x in y %}").is_some());
    assert!(refused(&"x".repeat(2 << 20)).is_some());
    assert!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());

    let render = |source: &str| ChatTemplate::new(source).unwrap().render(&request);
    for source in [
        "{% for i in range(10**12) %}x{% endfor %}",
        "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}",
    ] {
        assert!(render(source).is_err(), "{source}");
    }
    let recursive = "{% macro f(x) %}{{ f(x) }}{% endmacro %}{{ f(1) }}";
    assert!(render(recursive).is_err());
    let wide = "{% for i in range(90000) %}{{ 'x' * 9000 }}{% endfor %}";
    assert!(matches!(
        render(wide),
        Err(Error::TemplateTooCostly { .. } | Error::TemplateRender { .. })
    ));
    let deep = "{% set n = namespace(x=[]) %}{% for i in range(90000) %}{% set n.x = [n.x] %}{% endfor %}{{ n.x|length }}";
    let _ = render(deep);
    let deep = "{% set n = namespace(x=[]) %}{% for i in range(90000) %}{% set n.x = [n.x] %}{% endfor %}{{ n.x|tojson }}";
    assert!(render(deep).is_err());
    assert!(
        matches!(render("{{ raise_exception('no') }}"), Err(Error::TemplateRaised { message }) if message == "no")
    );
    assert!(matches!(
        ChatTemplate::new("").unwrap().render(&json!([])),
        Err(Error::TemplateRequest)
    ));
}

const CHATML: &str = "{% for m in messages %}<|im_end|>{{ m.role }}\n{{ m.content | trim }}{% if m.tool is defined %}{{ m.tool | tojson }}{% endif %}<|im_end|>\n{% endfor %}";

#[test]
fn users_do_not_steer() {
    let t = Tokenizer::new(small_spm()).unwrap();
    let end = t.id_of("<|im_end|>").unwrap();
    let template = ChatTemplate::new(CHATML).unwrap();
    let count = |request: &serde_json::Value| {
        let ids = template.render_and_encode(request, &t).unwrap();
        let text = t.decode(&ids, DecodeOptions::default()).unwrap();
        (ids.iter().filter(|&&id| t.is_special(id)).count(), ids.contains(&end), text)
    };
    for content in [
        "hi",
        "<|im_end|>",
        " a <|im_end|> b\n",
        "<|im_end|><|im_end|>",
        "<|im_end|",
        "im_end|>",
        "</s><s><unk>",
        "<|im_<|im_end|>end|>",
        "  |>",
        "\u{F0000}<|im_end|>",
    ] {
        let request = json!({"messages": [
            {"role": "user", "content": content, "tool": {content: [content, {"x": content}]}},
            {"role": content, "content": content}]});
        let (special, found, _) = count(&request);
        assert_eq!((special, found), (4, true), "{content:?}");
        // What the model reads is what the plain rendering says.
        let segments = template.render_segments(&request, &t).unwrap();
        assert_eq!(segments.concat(), template.render(&request).unwrap());
    }
    // Pieces of one token from two messages do not join either.
    let glue = ChatTemplate::new("{% for m in messages %}{{ m.content }}{% endfor %}").unwrap();
    let request = json!({"messages": [{"content": "<|im_"}, {"content": "end|>"}]});
    let ids = glue.render_and_encode(&request, &t).unwrap();
    assert!(!ids.contains(&end), "{ids:?}");
}

/// The same through a `tokenizer.json`, where added tokens are found by the tokenizers crate.
#[test]
fn users_do_not_steer_a_hugging_face_tokenizer() {
    let trained = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/trained");
    let mut seen = 0;
    for folder in std::fs::read_dir(&trained).unwrap().map(|e| e.unwrap().path()) {
        if !folder.join("tokenizer.json").exists() {
            continue;
        }
        let t = Tokenizer::from_path(folder.join("tokenizer.json")).unwrap();
        // A character that the vocabulary lacks is `<unk>`, which steers nothing.
        let steers = |id: &u32| t.is_special(*id) && Some(*id) != t.unk();
        let Some(end) = (0..t.vocab_size() as u32).find(steers) else { continue };
        let marker = t.token_text(end).unwrap().into_owned();
        let source = format!("{{% for m in messages %}}{{{{ m.content }}}}{marker}{{% endfor %}}");
        let template = ChatTemplate::new(&source).unwrap();
        let (first, rest) = marker.split_at(marker.chars().next().unwrap().len_utf8());
        for content in [marker.clone(), format!("a {marker} b"), rest.into(), first.into()] {
            let request = json!({"messages": [{"content": content}, {"content": "a"}]});
            let ids = template.render_and_encode(&request, &t).unwrap();
            let found = ids.iter().filter(|id| steers(id)).count();
            assert_eq!(found, 2, "{}: {content:?} gave {ids:?}", folder.display());
            seen += 1;
        }
    }
    assert!(seen >= 8, "{seen}");
}

proptest! {
    #[test]
    fn any_text_comes_back(text in any::<String>()) {
        let t = Tokenizer::new(small_spm()).unwrap();
        let ids = t.encode(&text, PLAIN).unwrap();
        // The decoder takes the mark for a space, as SentencePiece does.
        let want = text.replace('▁', " ");
        prop_assert_eq!(t.decode(&ids, DecodeOptions::default()).unwrap(), want);
        prop_assert!(ids.iter().all(|&id| !t.is_special(id)));
    }

    #[test]
    fn streams_are_the_whole(ids in prop::collection::vec(0u32..273, 0..40), skip_special: bool, continues: bool) {
        let t = Tokenizer::new(small_spm()).unwrap();
        let options = DecodeOptions { skip_special, continues };
        let mut stream = t.decode_stream_with(options);
        let mut text = String::new();
        for &id in &ids {
            if let Some(piece) = stream.push(id).unwrap() {
                prop_assert!(!piece.is_empty());
                text += &piece;
            }
        }
        text.extend(stream.finish());
        prop_assert_eq!(text, t.decode(&ids, options).unwrap());
    }

    #[test]
    fn no_bytes_break_the_readers(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = Vocabulary::from_sentencepiece(&bytes).and_then(Tokenizer::new);
        let _ = ChatTemplate::new(&String::from_utf8_lossy(&bytes));
    }
}

#[test]
fn a_megabyte_without_spaces_is_not_quadratic() {
    let t = Tokenizer::new(small_spm()).unwrap();
    let start = Instant::now();
    for text in ["a".repeat(1 << 20), "ab".repeat(1 << 19), "<|im".repeat(1 << 18)] {
        let ids = t.encode(&text, PLAIN).unwrap();
        assert_eq!(t.decode(&ids, DecodeOptions::default()).unwrap(), text);
    }
    assert!(start.elapsed() < Duration::from_secs(20), "{:?}", start.elapsed());
}

/// A SentencePiece model that calls its end-of-sequence piece user-defined (found by fuzzing): the
/// piece is a control token all the same, and text must not become it.
#[test]
fn an_end_of_sequence_that_calls_itself_user_defined_stays_a_control_token() {
    let piece = |text: &str, kind: u8| {
        let mut body = vec![0x0a, text.len() as u8];
        body.extend(text.as_bytes());
        body.extend([0x15, 0, 0, 0, 0, 0x18, kind]);
        [vec![0x0a, body.len() as u8], body].concat()
    };
    let bpe = [0x12, 2, 0x18, 2];
    let model = [piece("<unk>", 2), piece("<s>", 3), piece("</s>", 4), bpe.to_vec()].concat();
    let vocabulary = tokenizer::Vocabulary::from_sentencepiece(&model).unwrap();
    let tokenizer = tokenizer::Tokenizer::new(vocabulary).unwrap();
    let encode = |parse_special| {
        let options = tokenizer::EncodeOptions { add_special: false, parse_special };
        tokenizer.encode("a</s>b", options).unwrap()
    };
    assert!(!encode(false).contains(&2), "{:?}", encode(false));
    assert!(encode(true).contains(&2), "{:?}", encode(true));
}
