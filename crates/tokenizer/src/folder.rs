//! The tokenizer of a Hugging Face folder: which files count, and what the configuration adds.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use serde_json::Value;

use crate::hf::HuggingFace;
use crate::{Error, NamedTemplate, TokenType, Tokenizer, Vocabulary, VocabularyModel};

/// No tokenizer file is near that size (the largest known `tokenizer.json` has 40 MB).
const LIMIT: u64 = 512 << 20;

pub(crate) fn read(path: &Path) -> Result<Vec<u8>, Error> {
    let io = |source| Error::Io { path: path.to_owned(), source };
    let mut file = File::open(path).map_err(io)?;
    let bytes = file.metadata().map_err(io)?.len();
    if bytes > LIMIT {
        return Err(Error::FileTooLarge { path: path.to_owned(), bytes, limit: LIMIT });
    }
    let mut content = Vec::with_capacity(bytes as usize);
    file.by_ref().take(LIMIT).read_to_end(&mut content).map_err(io)?;
    Ok(content)
}

fn json(folder: &Path, name: &str) -> Result<Option<Value>, Error> {
    let path = folder.join(name);
    if !path.is_file() {
        return Ok(None);
    }
    let value = serde_json::from_slice(&read(&path)?)
        .map_err(|source| Error::Json { file: name.to_owned(), source })?;
    Ok(Some(value))
}

pub(crate) fn from_file(path: &Path) -> Result<Tokenizer, Error> {
    let folder = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let config = Config::read(folder)?;
    match path.extension().and_then(|e| e.to_str()) {
        Some("model") => sentencepiece(path, &config),
        Some("txt") => wordpiece(path, &config),
        _ => hugging_face(path, &config),
    }
}

pub(crate) fn from_folder(folder: &Path) -> Result<Tokenizer, Error> {
    let config = Config::read(folder)?;
    let file = |name: &str| Some(folder.join(name)).filter(|p| p.is_file());
    if let Some(path) = file("tokenizer.json") {
        return hugging_face(&path, &config);
    }
    if let Some(path) =
        ["tokenizer.model", "spiece.model", "sentencepiece.bpe.model"].iter().find_map(|n| file(n))
    {
        return sentencepiece(&path, &config);
    }
    if let (Some(vocab), Some(merges)) = (file("vocab.json"), file("merges.txt")) {
        return byte_level(&vocab, &merges, &config);
    }
    if let Some(path) = file("vocab.txt") {
        return wordpiece(&path, &config);
    }
    Err(Error::NoTokenizer { folder: folder.to_owned() })
}

/// What the small files beside a vocabulary say.
pub(crate) struct Config {
    tokenizer: Value,
    map: Value,
    added: Vec<Added>,
    eos_ids: Vec<u32>,
    templates: Vec<NamedTemplate>,
}

/// A token beyond the vocabulary proper, or with a role in it.
struct Added {
    id: u32,
    text: String,
    special: bool,
    lstrip: bool,
    rstrip: bool,
}

impl Config {
    fn read(folder: &Path) -> Result<Self, Error> {
        let or_empty = |v: Option<Value>| v.unwrap_or(Value::Null);
        let tokenizer = or_empty(json(folder, "tokenizer_config.json")?);
        let map = or_empty(json(folder, "special_tokens_map.json")?);
        let id = |v: &Value| v.as_u64().and_then(|n| u32::try_from(n).ok());
        let flag = |v: &Value, key: &str| v[key].as_bool().unwrap_or(false);
        let mut added = Vec::new();
        if let Some(Value::Object(tokens)) = json(folder, "added_tokens.json")? {
            for (text, value) in tokens {
                let id = id(&value).ok_or_else(|| Error::JsonShape {
                    file: "added_tokens.json".to_owned(),
                    key: text.clone(),
                    expected: "a token id",
                })?;
                let special = looks_special(&text);
                added.push(Added { id, text, special, lstrip: false, rstrip: false });
            }
        }
        if let Some(tokens) = tokenizer["added_tokens_decoder"].as_object() {
            for (key, value) in tokens {
                let (Ok(id), Some(text)) = (key.parse(), value["content"].as_str()) else {
                    return Err(Error::JsonShape {
                        file: "tokenizer_config.json".to_owned(),
                        key: format!("added_tokens_decoder.{key}"),
                        expected: "a token with an id and a content",
                    });
                };
                added.retain(|a| a.id != id);
                added.push(Added {
                    id,
                    text: text.to_owned(),
                    special: flag(value, "special"),
                    lstrip: flag(value, "lstrip"),
                    rstrip: flag(value, "rstrip"),
                });
            }
        }
        added.sort_by_key(|a| a.id);
        let mut eos_ids = Vec::new();
        for file in ["generation_config.json", "config.json"] {
            let config = or_empty(json(folder, file)?);
            match &config["eos_token_id"] {
                Value::Array(ids) => eos_ids.extend(ids.iter().filter_map(id)),
                one => eos_ids.extend(id(one)),
            }
        }
        let templates = templates(folder, &tokenizer)?;
        Ok(Config { tokenizer, map, added, eos_ids, templates })
    }

    /// The text of `bos_token` and the like.
    fn token(&self, name: &str) -> Option<&str> {
        let text = |v: &'_ Value| match v {
            Value::String(_) => true,
            other => other["content"].is_string(),
        };
        let value = [&self.tokenizer[name], &self.map[name]].into_iter().find(|v| text(v))?;
        value.as_str().or(value["content"].as_str())
    }

    fn flag(&self, name: &str) -> Option<bool> {
        self.tokenizer[name].as_bool()
    }

    /// Gives the ids that the configuration names their roles, and hands the templates over.
    fn assign(&self, v: &mut Vocabulary) {
        let find = |name: &str| {
            let text = self.token(name)?.as_bytes();
            v.tokens.iter().position(|t| t == text).map(|i| i as u32)
        };
        let s = &v.special;
        let special = crate::SpecialIds {
            bos: find("bos_token").or(find("cls_token")).or(s.bos),
            eos: find("eos_token").or(s.eos),
            unk: find("unk_token").or(s.unk),
            sep: find("sep_token").or(s.sep),
            pad: find("pad_token").or(s.pad),
            mask: find("mask_token").or(s.mask),
            ..s.clone()
        };
        v.special = special;
        v.further_eog.extend(&self.eos_ids);
        v.templates.extend(self.templates.iter().cloned());
    }

    /// Puts the added tokens in their places; there are at most as many gaps as there are tokens.
    fn add_tokens(&self, v: &mut Vocabulary, file: &str) -> Result<(), Error> {
        let limit = 2 * (v.tokens.len() + self.added.len()) + 65_536;
        for a in &self.added {
            let id = a.id as usize;
            if id >= limit {
                return Err(Error::JsonShape {
                    file: file.to_owned(),
                    key: a.text.clone(),
                    expected: "an id near those of the vocabulary",
                });
            }
            while v.tokens.len() <= id {
                v.tokens.push(format!("[PAD{}]", v.tokens.len()).into_bytes());
                v.scores.push(-1000.0);
                v.types.push(TokenType::Unused);
            }
            let old = v.types[id];
            v.tokens[id] = a.text.clone().into_bytes();
            v.types[id] = match old {
                TokenType::Unknown | TokenType::Byte => old,
                _ if a.special => TokenType::Control,
                _ => TokenType::UserDefined,
            };
            if a.lstrip {
                v.lstrip.push(a.id);
            }
            if a.rstrip {
                v.rstrip.push(a.id);
            }
            v.matched_normalized.retain(|&n| n != a.id);
        }
        Ok(())
    }
}

/// Whether a token's text says that it steers (convert_hf_to_gguf.py's rule for files that do not).
fn looks_special(text: &str) -> bool {
    let framed = |open: &str, close: &str| text.starts_with(open) && text.ends_with(close);
    framed("<|", "|>")
        || framed("<｜", "｜>")
        || matches!(
            text,
            "<pad>" | "<mask>" | "<2mass>" | "[@BOS@]" | "<s>" | "</s>" | "<unk>" | "[PAD]"
        )
}

fn templates(folder: &Path, tokenizer: &Value) -> Result<Vec<NamedTemplate>, Error> {
    let mut found: Vec<NamedTemplate> = Vec::new();
    let mut add = |name: &str, source: String| {
        if !found.iter().any(|t| t.name == name) {
            found.push(NamedTemplate { name: name.to_owned(), source });
        }
    };
    let text = |path: &Path| {
        let bytes = read(path)?;
        String::from_utf8(bytes).map_err(|e| Error::Io {
            path: path.to_owned(),
            source: std::io::Error::new(std::io::ErrorKind::InvalidData, e),
        })
    };
    // A file of its own goes before the configuration's entry, as in transformers.
    let own = folder.join("chat_template.jinja");
    if own.is_file() {
        add("default", text(&own)?);
    }
    if let Ok(entries) = std::fs::read_dir(folder.join("additional_chat_templates")) {
        let mut paths: Vec<_> = entries.filter_map(|e| Some(e.ok()?.path())).collect();
        paths.sort();
        for path in paths.iter().filter(|p| p.extension().is_some_and(|e| e == "jinja")) {
            if let Some(name) = path.file_stem().and_then(|n| n.to_str()) {
                add(name, text(path)?);
            }
        }
    }
    let processor = json(folder, "chat_template.json")?.unwrap_or(Value::Null);
    for value in [&processor["chat_template"], &tokenizer["chat_template"]] {
        match value {
            Value::String(source) => add("default", source.clone()),
            Value::Array(list) => {
                for entry in list {
                    if let (Some(name), Some(source)) =
                        (entry["name"].as_str(), entry["template"].as_str())
                    {
                        add(name, source.to_owned());
                    }
                }
            }
            _ => {}
        }
    }
    Ok(found)
}

fn hugging_face(path: &Path, config: &Config) -> Result<Tokenizer, Error> {
    let (engine, mut v) = HuggingFace::read(path)?;
    config.assign(&mut v);
    engine.rules(&mut v);
    Tokenizer::from_hugging_face(v, engine)
}

fn sentencepiece(path: &Path, config: &Config) -> Result<Tokenizer, Error> {
    let mut v = Vocabulary::from_sentencepiece(&read(path)?)?;
    config.add_tokens(&mut v, "tokenizer_config.json")?;
    config.assign(&mut v);
    v.add_bos = config.flag("add_bos_token").unwrap_or(v.add_bos && v.special.bos.is_some());
    v.add_eos = config.flag("add_eos_token").unwrap_or(v.add_eos && v.special.eos.is_some());
    v.space_prefix_after_special = config.flag("legacy").unwrap_or(true);
    v.add_space_prefix = config.flag("add_prefix_space").unwrap_or(v.add_space_prefix);
    Tokenizer::new(v)
}

/// `vocab.txt`, one piece a line, continuations marked `##`.
fn wordpiece(path: &Path, config: &Config) -> Result<Tokenizer, Error> {
    let bytes = read(path)?;
    let mut v = Vocabulary::new(VocabularyModel::WordPiece);
    v.special = crate::SpecialIds::default();
    for line in bytes.strip_suffix(b"\n").unwrap_or(&bytes).split(|&b| b == b'\n') {
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        let (token, kind) = wordpiece_token(line);
        v.tokens.push(token);
        v.types.push(kind);
    }
    config.add_tokens(&mut v, "tokenizer_config.json")?;
    config.assign(&mut v);
    let find = |text: &str| v.tokens.iter().position(|t| t == text.as_bytes()).map(|i| i as u32);
    let s = &v.special;
    let special = crate::SpecialIds {
        bos: s.bos.or(find("[CLS]")),
        sep: s.sep.or(find("[SEP]")),
        unk: s.unk.or(find("[UNK]")),
        pad: s.pad.or(find("[PAD]")),
        mask: s.mask.or(find("[MASK]")),
        ..s.clone()
    };
    v.special = special;
    v.lowercase = config.flag("do_lower_case").unwrap_or(true);
    v.strip_accents = config.flag("strip_accents").unwrap_or(v.lowercase);
    Tokenizer::new(v)
}

/// A line of `vocab.txt` as GGUF spells it: `▁` before what begins a word, nothing otherwise.
pub(crate) fn wordpiece_token(line: &[u8]) -> (Vec<u8>, TokenType) {
    if let Some(rest) = line.strip_prefix(b"##").filter(|r| !r.is_empty()) {
        return (rest.to_vec(), TokenType::Normal);
    }
    let kind = match line {
        b"[UNK]" => TokenType::Unknown,
        [b'[', .., b']'] if line.len() > 2 => TokenType::Control,
        _ => return (["▁".as_bytes(), line].concat(), TokenType::Normal),
    };
    (line.to_vec(), kind)
}

/// `vocab.json` and `merges.txt`, GPT-2's form.
fn byte_level(vocab: &Path, merges: &Path, config: &Config) -> Result<Tokenizer, Error> {
    let name = "vocab.json";
    let shape = |key: &str| Error::JsonShape {
        file: name.to_owned(),
        key: key.to_owned(),
        expected: "a token id below twice the number of tokens",
    };
    let map: serde_json::Map<String, Value> = serde_json::from_slice(&read(vocab)?)
        .map_err(|source| Error::Json { file: name.to_owned(), source })?;
    let mut v = Vocabulary::new(VocabularyModel::Bpe);
    v.special = crate::SpecialIds::default();
    v.pre = Some("gpt-2".to_owned());
    let limit = 2 * map.len() as u64 + 65_536;
    for (text, id) in &map {
        let id = id.as_u64().filter(|&id| id < limit).ok_or_else(|| shape(text))? as usize;
        while v.tokens.len() <= id {
            v.tokens.push(format!("[PAD{}]", v.tokens.len()).into_bytes());
            v.types.push(TokenType::Unused);
        }
        v.tokens[id] = text.clone().into_bytes();
        v.types[id] = TokenType::Normal;
    }
    let text = String::from_utf8_lossy(&read(merges)?).into_owned();
    let lines = text.lines().filter(|l| !l.starts_with("#version") && !l.is_empty());
    v.merges = lines.map(str::to_owned).collect();
    v.scores.clear();
    config.add_tokens(&mut v, "tokenizer_config.json")?;
    v.scores.clear();
    config.assign(&mut v);
    for id in [v.special.bos, v.special.eos].into_iter().flatten() {
        v.types[id as usize] = TokenType::Control;
    }
    if let Some(id) = v.tokens.iter().position(|t| t == b"<|endoftext|>") {
        v.types[id] = TokenType::Control;
        v.special.bos = v.special.bos.or(Some(id as u32));
        v.special.eos = v.special.eos.or(Some(id as u32));
    }
    v.add_bos = config.flag("add_bos_token").unwrap_or(false);
    v.add_eos = config.flag("add_eos_token").unwrap_or(false);
    Tokenizer::new(v)
}
