//! Reads a small `tokenizer.json`, encodes, and decodes a token at a time.

use tokenizer::template::ChatTemplate;
use tokenizer::{DecodeOptions, EncodeOptions, Tokenizer};

/// Byte-pair encoding with byte fallback, in the manner of Llama 2: three control tokens, the 256
/// bytes, and a few pieces that merge up to `▁hello`.
fn tokenizer_json() -> String {
    let control = ["<unk>", "<s>", "</s>"].map(String::from);
    let bytes = (0..256).map(|b| format!("<0x{b:02X}>"));
    let pieces = ["▁", "h", "e", "l", "o", "he", "ll", "hell", "hello", "▁hello"].map(String::from);
    let vocabulary: Vec<String> = control
        .into_iter()
        .chain(bytes)
        .chain(pieces)
        .enumerate()
        .map(|(id, piece)| format!("\"{piece}\": {id}"))
        .collect();
    let added: Vec<String> = ["<unk>", "<s>", "</s>"]
        .iter()
        .enumerate()
        .map(|(id, content)| {
            format!(
                r#"{{"id": {id}, "content": "{content}", "special": true, "single_word": false,
                    "lstrip": false, "rstrip": false, "normalized": false}}"#
            )
        })
        .collect();
    format!(
        r#"{{
  "version": "1.0", "truncation": null, "padding": null,
  "added_tokens": [{}],
  "normalizer": {{"type": "Sequence", "normalizers": [
    {{"type": "Prepend", "prepend": "▁"}},
    {{"type": "Replace", "pattern": {{"String": " "}}, "content": "▁"}}]}},
  "pre_tokenizer": null, "post_processor": null,
  "decoder": {{"type": "Sequence", "decoders": [
    {{"type": "Replace", "pattern": {{"String": "▁"}}, "content": " "}},
    {{"type": "ByteFallback"}}, {{"type": "Fuse"}},
    {{"type": "Strip", "content": " ", "start": 1, "stop": 0}}]}},
  "model": {{"type": "BPE", "unk_token": "<unk>", "byte_fallback": true, "fuse_unk": true,
    "vocab": {{{}}},
    "merges": ["h e", "l l", "he ll", "hell o", "▁ hello"]}}
}}"#,
        added.join(", "),
        vocabulary.join(", ")
    )
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let folder = std::env::temp_dir().join(format!("outside-tokenizer-{}", std::process::id()));
    std::fs::create_dir_all(&folder)?;
    std::fs::write(folder.join("tokenizer.json"), tokenizer_json())?;
    let tokenizer = Tokenizer::from_path(&folder)?;
    std::fs::remove_dir_all(&folder)?;

    let ids = tokenizer.encode("hello hello é</s>", EncodeOptions::default())?;
    println!("{ids:?}");
    assert_eq!(ids[..2], [268, 268]);
    // What a user types is text: no id 2 (</s>) unless it is asked for.
    assert!(!ids.contains(&2));
    let special = EncodeOptions { parse_special: true, ..Default::default() };
    assert_eq!(tokenizer.encode("hello</s>", special)?, [268, 2]);

    // é is two bytes in two tokens: nothing is shown until both are there.
    let mut stream = tokenizer.decode_stream();
    let mut text = String::new();
    for &id in &ids {
        let piece = stream.push(id)?;
        println!("{id:4} {piece:?}");
        text.push_str(&piece.unwrap_or_default());
    }
    text.push_str(&stream.finish().unwrap_or_default());
    assert_eq!(text, tokenizer.decode(&ids, DecodeOptions::default())?);
    assert_eq!(text, "hello hello é</s>");

    // In a chat's prompt the template's </s> steers and the user's is text.
    let template = ChatTemplate::new("{% for m in messages %}{{ m.content }}</s>{% endfor %}")?;
    let request = serde_json::json!({"messages": [{"role": "user", "content": "hello</s>"}]});
    println!("{}", template.render(&request)?);
    let ids = template.render_and_encode(&request, &tokenizer)?;
    println!("{ids:?}");
    assert_eq!(template.render(&request)?, "hello</s></s>");
    assert_eq!((ids[0], ids.last(), ids.iter().filter(|&&id| id == 2).count()), (268, Some(&2), 1));
    Ok(())
}
