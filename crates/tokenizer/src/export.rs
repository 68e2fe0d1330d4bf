//! From one format of vocabulary to the other: Hugging Face to GGUF and back.
//!
//! Source: llama.cpp's `convert_hf_to_gguf.py` for what goes where. Its way of naming a
//! pre-tokenizer is a hash of what it does to a text; here the words of the text themselves are
//! compared, so that any `tokenizer.json` that cuts like a known one is recognised.

use base64::Engine as _;
use serde_json::{Value, json};
use tokenizers::{OffsetReferential, OffsetType, PreTokenizedString, PreTokenizer as _};

use crate::pretokenize::{NAMES, PreTokenizer};
use crate::{Error, TokenType, Tokenizer, Vocabulary, VocabularyModel, bytelevel, folder};

/// Text on which pre-tokenizers differ: numbers, cases, contractions, scripts, white space.
const PROBE: &str = "Hello World's I'LL don't we're HTTPServer camelCase 1 12 123 1234 12345 \
    1234567 a1b22c333 x=1+2;y<=3 $5.00 (a|b) [c] {d} foo_bar #tag @user --flag a/b//c ...!!!\n\
    \n  two\n \n   three\t\ttabs \t mix\r\n\r\nend.\n\n\n//comment\n/\n naïve café e\u{301}a\u{300}b \
    Straße ΑΒΓ где он Привет 日本語テキスト漢字かな混じり 한국어 텍스트 ไทยภาษา हिन्दी عربي، 中文。你好，世界！ \
    🦙🚀 ½ ² Ⅷ ١٢٣ ab12cd 'quoted' \"x\" =\u{a0}nbsp\u{3000}ideographic   trailing   ";

impl Tokenizer {
    /// The vocabulary as a GGUF file holds it, with as many tokens as the model has embeddings:
    /// what is missing up to `vocab_size` becomes unused tokens `[PADn]`.
    ///
    /// # Errors
    /// [`Error::NotConvertible`] where GGUF has no form for it; a file that cannot be read again.
    pub fn to_gguf_vocabulary(&self, vocab_size: Option<usize>) -> Result<Vocabulary, Error> {
        let mut v = self.vocabulary().clone();
        if let Some(engine) = self.hugging_face() {
            let file = engine.json()?;
            match v.model {
                VocabularyModel::Bpe => byte_level(&mut v, &file, engine.crate_tokenizer())?,
                VocabularyModel::Spm => char_bpe(&mut v, &file)?,
                VocabularyModel::Unigram => unigram(&mut v, &file)?,
                VocabularyModel::WordPiece => wordpiece(&mut v, &file)?,
                VocabularyModel::CharBpe | VocabularyModel::Rwkv => {}
            }
        }
        if v.escape_whitespaces {
            // GGUF matches user-defined tokens in raw text.
            for id in std::mem::take(&mut v.matched_normalized) {
                let text = &mut v.tokens[id as usize];
                *text = String::from_utf8_lossy(text).replace('▁', " ").into_bytes();
            }
        }
        if let Some(size) = vocab_size {
            if size < v.tokens.len() {
                tracing::warn!(
                    tokens = v.tokens.len(),
                    embeddings = size,
                    "the tokenizer has more tokens than the model has embeddings: cut off"
                );
                v.tokens.truncate(size);
                v.types.truncate(size);
            }
            for id in v.tokens.len()..size {
                v.tokens.push(format!("[PAD{id}]").into_bytes());
                v.types.push(TokenType::Unused);
            }
            if !v.scores.is_empty() {
                v.scores.resize(size, -10_000.0);
            }
        }
        Ok(v)
    }
}

fn not_convertible(from: &'static str, reason: impl Into<String>) -> Error {
    Error::NotConvertible { from, to: "a GGUF vocabulary", reason: reason.into() }
}

fn byte_level(
    v: &mut Vocabulary,
    file: &Value,
    tokenizer: &tokenizers::Tokenizer,
) -> Result<(), Error> {
    v.merges = merges(file);
    v.ignore_merges = file["model"]["ignore_merges"].as_bool().unwrap_or(false);
    v.pre = Some(pre_tokenizer_name(tokenizer, v.ignore_merges)?.to_owned());
    for kind in v.types.iter_mut().filter(|t| **t == TokenType::Unknown) {
        *kind = TokenType::Control;
    }
    Ok(())
}

/// Merges stand as `"a b"` or as `["a", "b"]`.
fn merges(file: &Value) -> Vec<String> {
    let merge = |m: &Value| match m {
        Value::String(line) => Some(line.clone()),
        Value::Array(pair) => {
            Some(format!("{} {}", pair.first()?.as_str()?, pair.get(1)?.as_str()?))
        }
        _ => None,
    };
    file["model"]["merges"].as_array().into_iter().flatten().filter_map(merge).collect()
}

/// The name in llama.cpp of a pre-tokenizer that cuts the probe alike.
fn pre_tokenizer_name(
    tokenizer: &tokenizers::Tokenizer,
    ignore_merges: bool,
) -> Result<&'static str, Error> {
    let Some(pre) = tokenizer.get_pre_tokenizer() else {
        return Err(not_convertible("tokenizer.json", "it has no pre-tokenizer"));
    };
    let mut text = PreTokenizedString::from(PROBE);
    pre.pre_tokenize(&mut text).map_err(Error::HuggingFace)?;
    let ends: Vec<usize> = text
        .get_splits(OffsetReferential::Original, OffsetType::Byte)
        .into_iter()
        .map(|(_, (_, end), _)| end)
        .collect();
    // The plainest names first, then all.
    const COMMON: [&str; 8] =
        ["gpt-2", "llama-bpe", "dbrx", "qwen2", "smollm", "gpt-4o", "tekken", "deepseek-v3"];
    let mut fallback = None;
    for &name in COMMON.iter().chain(NAMES) {
        let (candidate, traits) = PreTokenizer::named(name)?;
        if traits.characters {
            continue;
        }
        let (mut at, mut cuts) = (0, Vec::new());
        candidate.words(PROBE, &mut |word| {
            at += word.len();
            cuts.push(at);
        });
        if cuts == ends {
            if traits.ignore_merges == ignore_merges {
                return Ok(name);
            }
            fallback = fallback.or(Some(name));
        }
    }
    fallback.ok_or_else(|| {
        not_convertible("tokenizer.json", "no pre-tokenizer known to GGUF cuts text as its does")
    })
}

/// BPE over characters with byte fallback, as Llama 2 and Gemma have it: `llama` with scores in
/// the order of the merges, since SentencePiece's scores are that order.
fn char_bpe(v: &mut Vocabulary, file: &Value) -> Result<(), Error> {
    let index: std::collections::HashMap<&[u8], usize> =
        v.tokens.iter().enumerate().map(|(i, t)| (t.as_slice(), i)).collect();
    let mut scores = vec![0.0f32; v.tokens.len()];
    let mut scored = vec![false; v.tokens.len()];
    for (rank, merge) in merges(file).iter().enumerate() {
        let cut = merge.char_indices().skip(1).find(|&(_, c)| c == ' ').map(|(i, _)| i);
        let Some(cut) = cut else { continue };
        let joined = [&merge[..cut], &merge[cut + 1..]].concat();
        if let Some(&id) = index.get(joined.as_bytes()).filter(|&&id| !scored[id]) {
            scores[id] = -(rank as f32 + 1.0);
            scored[id] = true;
        }
    }
    // A token that no merge makes must not come out of one: it goes below all others.
    for (id, score) in scores.iter_mut().enumerate() {
        let one = String::from_utf8_lossy(&v.tokens[id]).chars().count() <= 1;
        if !scored[id] && !one && v.types[id] == TokenType::Normal {
            *score = -1e9;
        }
    }
    v.scores = scores;
    let steps = flat(&file["normalizer"], "normalizers");
    let prepends = steps.iter().any(|s| s["type"] == "Prepend" && s["prepend"] == "▁");
    let meta = flat(&file["pre_tokenizer"], "pretokenizers");
    let meta = meta.iter().find(|s| s["type"] == "Metaspace");
    let meta_prepends =
        meta.is_some_and(|m| m["prepend_scheme"] != "never" && m["add_prefix_space"] != false);
    v.add_space_prefix = prepends || meta_prepends;
    Ok(())
}

fn unigram(v: &mut Vocabulary, file: &Value) -> Result<(), Error> {
    let pieces = file["model"]["vocab"].as_array();
    let score = |id: usize| pieces?.get(id)?[1].as_f64();
    v.scores = (0..v.tokens.len()).map(|id| score(id).unwrap_or(-1000.0) as f32).collect();
    let steps = flat(&file["normalizer"], "normalizers");
    for step in &steps {
        if let Some(map) = step["precompiled_charsmap"].as_str() {
            v.charsmap = base64::engine::general_purpose::STANDARD
                .decode(map)
                .map_err(|_| Error::InvalidCharsmap { fault: "it is not base64" })?;
        }
    }
    v.remove_extra_whitespaces = steps.iter().any(|s| {
        s["type"] == "Replace" && s["pattern"]["Regex"].as_str().is_some_and(|r| r.contains("{2,}"))
    });
    let meta = flat(&file["pre_tokenizer"], "pretokenizers");
    let meta = meta.iter().find(|s| s["type"] == "Metaspace");
    v.add_space_prefix =
        meta.is_none_or(|m| m["prepend_scheme"] != "never" && m["add_prefix_space"] != false);
    v.escape_whitespaces = true;
    // Byte pieces are only that where the model falls back to them.
    Ok(())
}

fn wordpiece(v: &mut Vocabulary, file: &Value) -> Result<(), Error> {
    if file["model"]["type"] != "WordPiece" {
        return Err(not_convertible("tokenizer.json", "word-level models have no GGUF form"));
    }
    if file["model"]["continuing_subword_prefix"] != "##" {
        return Err(not_convertible("tokenizer.json", "its continuations are not marked ##"));
    }
    for (id, text) in v.tokens.iter_mut().enumerate() {
        if v.types[id] == TokenType::Normal {
            *text = folder::wordpiece_token(text).0;
        }
    }
    let normalizer = flat(&file["normalizer"], "normalizers");
    let bert = normalizer.iter().find(|s| s["type"] == "BertNormalizer");
    v.lowercase = bert.is_some_and(|n| n["lowercase"] == true);
    v.strip_accents = bert.and_then(|n| n["strip_accents"].as_bool()).unwrap_or(v.lowercase);
    Ok(())
}

/// The steps of a sequence, or the one step there is.
fn flat<'a>(value: &'a Value, list: &str) -> Vec<&'a Value> {
    match value["type"].as_str() {
        Some("Sequence") => {
            value[list].as_array().into_iter().flatten().flat_map(|s| flat(s, list)).collect()
        }
        Some(_) => vec![value],
        None => Vec::new(),
    }
}

impl Vocabulary {
    /// The files that hold the vocabulary in a Hugging Face folder, as names and contents:
    /// `tokenizer.model`, `tokenizer.json` or `vocab.txt`, each with `tokenizer_config.json`.
    ///
    /// # Errors
    /// [`Error::NotConvertible`] for RWKV; an unknown pre-tokenizer.
    pub fn to_hugging_face(&self) -> Result<Vec<(&'static str, Vec<u8>)>, Error> {
        let text = |id: Option<u32>| id.map(|id| self.text(id).into_owned());
        let s = &self.special;
        let mut config = json!({
            "add_bos_token": self.add_bos,
            "add_eos_token": self.add_eos,
            "clean_up_tokenization_spaces": false,
            "model_max_length": 1_000_000_000_000_000_000u64,
        });
        for (key, id) in [
            ("bos_token", s.bos),
            ("eos_token", s.eos),
            ("unk_token", s.unk),
            ("sep_token", s.sep),
            ("pad_token", s.pad),
            ("mask_token", s.mask),
        ] {
            if let Some(text) = text(id) {
                config[key] = text.into();
            }
        }
        if self.model == VocabularyModel::WordPiece {
            config["cls_token"] = text(s.bos).into();
        }
        match self.templates.as_slice() {
            [] => {}
            [one] => config["chat_template"] = one.source.clone().into(),
            many => {
                config["chat_template"] =
                    many.iter().map(|t| json!({"name": t.name, "template": t.source})).collect();
            }
        }
        let added = self.added_tokens();
        let (class, file) = match self.model {
            VocabularyModel::Spm | VocabularyModel::Unigram => {
                let t5 = self.model == VocabularyModel::Unigram;
                config["legacy"] = self.space_prefix_after_special.into();
                config["add_prefix_space"] = self.add_space_prefix.into();
                let decoder = added.iter().map(|a| {
                    let mut entry = a.clone();
                    let id = entry["id"].take().to_string();
                    entry.as_object_mut().map(|o| o.remove("id"));
                    (id, entry)
                });
                config["added_tokens_decoder"] = Value::Object(decoder.collect());
                let class = if t5 { "T5Tokenizer" } else { "LlamaTokenizer" };
                let name = if t5 { "spiece.model" } else { "tokenizer.model" };
                (class, (name, self.to_sentencepiece()?))
            }
            VocabularyModel::Bpe | VocabularyModel::CharBpe => {
                ("PreTrainedTokenizerFast", ("tokenizer.json", self.to_tokenizer_json(added)?))
            }
            VocabularyModel::WordPiece => {
                config["do_lower_case"] = self.lowercase.into();
                config["strip_accents"] = self.strip_accents.into();
                ("BertTokenizer", ("vocab.txt", self.to_vocab_txt()))
            }
            VocabularyModel::Rwkv => {
                return Err(Error::NotConvertible {
                    from: "rwkv",
                    to: "a Hugging Face folder",
                    reason: "transformers has no tokenizer for it".to_owned(),
                });
            }
        };
        config["tokenizer_class"] = class.into();
        let config = serde_json::to_vec_pretty(&config).unwrap_or_default();
        Ok(vec![file, ("tokenizer_config.json", config)])
    }

    /// Special and user-defined tokens as `tokenizer.json` lists them.
    fn added_tokens(&self) -> Vec<Value> {
        (0..self.tokens.len() as u32)
            .filter(|&id| self.kind(id).is_special() || self.kind(id) == TokenType::UserDefined)
            .map(|id| {
                json!({
                    "id": id,
                    "content": self.text(id),
                    "single_word": false,
                    "lstrip": self.lstrip.contains(&id),
                    "rstrip": self.rstrip.contains(&id),
                    "normalized": false,
                    "special": self.kind(id).is_special(),
                })
            })
            .collect()
    }

    fn to_tokenizer_json(&self, added: Vec<Value>) -> Result<Vec<u8>, Error> {
        let characters = self.model == VocabularyModel::CharBpe;
        let name = self.pre.as_deref().unwrap_or(if characters { "gemma4" } else { "default" });
        let (pre, traits) = PreTokenizer::named(name)?;
        let mut steps: Vec<Value> = pre
            .expressions()
            .into_iter()
            .map(|regex| {
                json!({"type": "Split", "pattern": {"Regex": regex}, "behavior": "Isolated",
                       "invert": false})
            })
            .collect();
        let byte_level = |add_prefix: bool| {
            json!({"type": "ByteLevel", "add_prefix_space": add_prefix, "trim_offsets": true,
                   "use_regex": false})
        };
        let decoder = if characters {
            json!({"type": "Sequence", "decoders": [
                {"type": "Replace", "pattern": {"String": "▁"}, "content": " "},
                {"type": "ByteFallback"}, {"type": "Fuse"}]})
        } else {
            steps.push(byte_level(false));
            byte_level(false)
        };
        let normalizer = characters
            .then(|| json!({"type": "Replace", "pattern": {"String": " "}, "content": "▁"}));
        let mut vocab = serde_json::Map::new();
        for id in 0..self.tokens.len() as u32 {
            if self.kind(id) != TokenType::Unused {
                vocab.insert(self.text(id).into_owned(), id.into());
            }
        }
        let known = |text: &[u8]| vocab.contains_key(&*String::from_utf8_lossy(text));
        if !characters && (0..=255u8).any(|b| !known(bytelevel::encode(&[b]).as_bytes())) {
            tracing::warn!("the vocabulary lacks some bytes: texts that hold them lose them");
        }
        let merges: Vec<Value> = self
            .merges
            .iter()
            .filter_map(|m| {
                let cut = m.bytes().skip(1).position(|b| b == b' ')? + 1;
                Some(json!([m[..cut], m[cut + 1..]]))
            })
            .collect();
        let mut around = vec![json!({"Sequence": {"id": "A", "type_id": 0}})];
        let mut names = serde_json::Map::new();
        for (add, id, at) in
            [(self.add_bos, self.special.bos, 0), (self.add_eos, self.special.eos, around.len())]
        {
            if let Some(id) = id.filter(|_| add) {
                let text = self.text(id).into_owned();
                let at = if at == 0 { 0 } else { around.len() };
                around.insert(at, json!({"SpecialToken": {"id": text, "type_id": 0}}));
                names.insert(text.clone(), json!({"id": text, "ids": [id], "tokens": [text]}));
            }
        }
        let single = around.clone();
        let post = (!names.is_empty()).then(|| {
            let pair: Vec<Value> = single
                .iter()
                .cloned()
                .chain([json!({"Sequence": {"id": "B", "type_id": 1}})])
                .collect();
            json!({"type": "TemplateProcessing", "single": single, "pair": pair,
                   "special_tokens": names})
        });
        let file = json!({
            "version": "1.0",
            "truncation": null,
            "padding": null,
            "added_tokens": added,
            "normalizer": normalizer,
            "pre_tokenizer": {"type": "Sequence", "pretokenizers": steps},
            "post_processor": post,
            "decoder": decoder,
            "model": {
                "type": "BPE", "dropout": null,
                "unk_token": characters.then(|| self.special.unk.map(|id| self.text(id))).flatten(),
                "continuing_subword_prefix": null, "end_of_word_suffix": null,
                "fuse_unk": characters, "byte_fallback": characters,
                "ignore_merges": self.ignore_merges || traits.ignore_merges,
                "vocab": vocab, "merges": merges,
            },
        });
        Ok(serde_json::to_vec(&file).unwrap_or_default())
    }

    fn to_vocab_txt(&self) -> Vec<u8> {
        let mut out = Vec::new();
        for id in 0..self.tokens.len() as u32 {
            let text = self.tokens[id as usize].as_slice();
            match text.strip_prefix("▁".as_bytes()) {
                Some(word) => out.extend_from_slice(word),
                None if self.kind(id) == TokenType::Normal => {
                    out.extend_from_slice(b"##");
                    out.extend_from_slice(text);
                }
                None => out.extend_from_slice(text),
            }
            out.push(b'\n');
        }
        out
    }
}
