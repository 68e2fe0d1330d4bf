//! Reads bytes as a SentencePiece model or as the vocabulary of a GGUF file, and uses what came
//! out: text must not become control tokens, and a stream must say what decoding says.
#![cfg_attr(fuzzing, no_main)]

use tokenizer::{DecodeOptions, EncodeOptions, Tokenizer, Vocabulary};

fuzz::target!(run);

fn run(bytes: &[u8]) {
    let vocabulary = if bytes.starts_with(b"GGUF") {
        let Ok(parsed) = gguf::parse(bytes) else { return };
        Vocabulary::from_gguf(&parsed.metadata)
    } else {
        Vocabulary::from_sentencepiece(bytes)
    };
    let Ok(tokenizer) = vocabulary.and_then(Tokenizer::new) else { return };
    let text = String::from_utf8_lossy(&bytes[bytes.len().saturating_sub(200)..]).into_owned();
    for text in ["", "Hello  wörld <s></s>\n\n🙂 123", &text] {
        for parse_special in [false, true] {
            let options = EncodeOptions { add_special: false, parse_special };
            let Ok(ids) = tokenizer.encode(text, options) else { continue };
            let unknown = tokenizer.unk();
            assert!(
                parse_special
                    || ids.iter().all(|&id| Some(id) == unknown || !tokenizer.is_special(id))
            );
            let all = tokenizer.decode(&ids, DecodeOptions::default()).expect("ids are in range");
            let mut stream = tokenizer.decode_stream_with(DecodeOptions::default());
            let mut streamed = String::new();
            for &id in &ids {
                streamed.extend(stream.push(id).expect("ids are in range"));
            }
            streamed.extend(stream.finish());
            assert_eq!(all, streamed);
        }
    }
}
