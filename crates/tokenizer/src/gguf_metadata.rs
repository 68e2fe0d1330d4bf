//! The vocabulary of a GGUF file: the keys `tokenizer.ggml.*` and `tokenizer.chat_template`.
//!
//! Source: llama.cpp's `llama_vocab::impl::load` for what the keys mean and what holds where they
//! are absent.

use gguf::{Array, Metadata, Value};

use crate::pretokenize::PreTokenizer;
use crate::{Error, NamedTemplate, TokenType, Vocabulary, VocabularyModel};

const MODEL: &str = "tokenizer.ggml.model";
const PRE: &str = "tokenizer.ggml.pre";
const TOKENS: &str = "tokenizer.ggml.tokens";
const SCORES: &str = "tokenizer.ggml.scores";
const TYPES: &str = "tokenizer.ggml.token_type";
const MERGES: &str = "tokenizer.ggml.merges";
const CHARSMAP: &str = "tokenizer.ggml.precompiled_charsmap";
const TEMPLATE: &str = "tokenizer.chat_template";
const TEMPLATES: &str = "tokenizer.chat_templates";

impl Vocabulary {
    /// Reads the vocabulary from the metadata of a GGUF file.
    ///
    /// # Errors
    /// A key that is missing or of another type, an unknown model or pre-tokenizer.
    pub fn from_gguf(metadata: &Metadata) -> Result<Self, Error> {
        let name = metadata.str(MODEL)?;
        let model = VocabularyModel::from_name(name)
            .ok_or_else(|| Error::UnknownModel { model: name.to_owned() })?;
        let mut v = Vocabulary::new(model);
        v.tokens = metadata
            .strings(TOKENS)?
            .enumerate()
            .map(|(i, t)| if t.is_empty() { format!("[EMPTY_{i}]").into() } else { t.to_vec() })
            .collect();
        let tokens = v.tokens.len();
        if metadata.contains(TYPES) {
            let types = metadata.i32s(TYPES)?;
            v.types = types.into_iter().map(|t| TokenType::from_number(t.into())).collect();
        } else {
            v.types = vec![TokenType::Normal; tokens];
        }
        if let Some(value) = metadata.get(SCORES) {
            let integers = value.as_array().is_some_and(|a| a.kind() == gguf::ValueType::I32);
            v.scores = if integers {
                metadata.i32s(SCORES)?.into_iter().map(|s| s as f32).collect()
            } else {
                metadata.f32s(SCORES)?
            };
        }
        if let Some(pre) = metadata.optional::<&str>(PRE)?.filter(|p| !p.is_empty()) {
            v.pre = Some(pre.to_owned());
        }
        match model {
            VocabularyModel::Bpe => {
                v.merges = metadata.strs(MERGES)?.into_iter().map(str::to_owned).collect();
                if let Some(pre) = &v.pre {
                    let traits = PreTokenizer::named(pre)?.1;
                    v.add_bos = traits.add_bos;
                    v.add_sep = traits.add_sep;
                    if traits.no_bos {
                        v.special.bos = None;
                    }
                }
            }
            VocabularyModel::CharBpe => {
                v.merges = metadata.strs(MERGES)?.into_iter().map(str::to_owned).collect();
            }
            VocabularyModel::Unigram => {
                if let Some(Value::Array(map)) = metadata.get(CHARSMAP) {
                    v.charsmap = map.bytes().to_vec();
                }
            }
            _ => {}
        }
        for (key, id) in [
            ("bos_token_id", &mut v.special.bos),
            ("eos_token_id", &mut v.special.eos),
            ("eot_token_id", &mut v.special.eot),
            ("eom_token_id", &mut v.special.eom),
            ("unknown_token_id", &mut v.special.unk),
            ("seperator_token_id", &mut v.special.sep), // spelled so
            ("padding_token_id", &mut v.special.pad),
            ("mask_token_id", &mut v.special.mask),
            ("prefix_token_id|fim_pre_token_id", &mut v.special.fim.prefix),
            ("suffix_token_id|fim_suf_token_id", &mut v.special.fim.suffix),
            ("middle_token_id|fim_mid_token_id", &mut v.special.fim.middle),
            ("fim_pad_token_id", &mut v.special.fim.pad),
            ("fim_rep_token_id", &mut v.special.fim.repository),
            ("fim_sep_token_id", &mut v.special.fim.separator),
        ] {
            // The second name is the newer one.
            for key in key.split('|') {
                let key = format!("tokenizer.ggml.{key}");
                let Some(stored) = metadata.optional::<i64>(&key)? else { continue };
                match u32::try_from(stored) {
                    Ok(new) if (new as usize) < tokens => *id = Some(new),
                    _ => tracing::warn!(key, stored, "the id is beyond the vocabulary: ignored"),
                }
            }
        }
        for (key, flag) in [
            ("add_bos_token", &mut v.add_bos),
            ("add_eos_token", &mut v.add_eos),
            ("add_sep_token", &mut v.add_sep),
            ("add_space_prefix", &mut v.add_space_prefix),
            ("remove_extra_whitespaces", &mut v.remove_extra_whitespaces),
            ("normalizer.lowercase", &mut v.lowercase),
        ] {
            if let Some(value) = metadata.optional(&format!("tokenizer.ggml.{key}"))? {
                *flag = value;
            }
        }
        v.strip_accents =
            metadata.optional("tokenizer.ggml.normalizer.strip_accents")?.unwrap_or(v.lowercase);
        v.add_bos |= model == VocabularyModel::CharBpe;
        v.templates = templates(metadata)?;
        strip_rules(&mut v, metadata)?;
        Ok(v)
    }

    /// Writes the vocabulary as the metadata of a GGUF file.
    pub fn write_gguf(&self, metadata: &mut Metadata) {
        metadata.set(MODEL, self.model.name());
        let default = matches!(self.model, VocabularyModel::Spm | VocabularyModel::Unigram);
        if let Some(pre) = self.pre.as_deref().or(default.then_some("default")) {
            metadata.set(PRE, pre);
        }
        metadata.set(TOKENS, Array::from_strings(&self.tokens));
        if !self.scores.is_empty() {
            metadata.set(SCORES, self.scores.clone());
        }
        let types: Vec<i32> = self.types.iter().map(|&t| t as i32).collect();
        metadata.set(TYPES, types);
        if !self.merges.is_empty() {
            metadata.set(MERGES, Array::from_strings(&self.merges));
        }
        if !self.charsmap.is_empty() {
            metadata.set(CHARSMAP, self.charsmap.clone());
        }
        let s = &self.special;
        for (key, id) in [
            ("bos_token_id", s.bos),
            ("eos_token_id", s.eos),
            ("eot_token_id", s.eot),
            ("eom_token_id", s.eom),
            ("unknown_token_id", s.unk),
            ("seperator_token_id", s.sep),
            ("padding_token_id", s.pad),
            ("mask_token_id", s.mask),
        ] {
            if let Some(id) = id {
                metadata.set(format!("tokenizer.ggml.{key}"), id);
            }
        }
        metadata.set("tokenizer.ggml.add_bos_token", self.add_bos);
        metadata.set("tokenizer.ggml.add_eos_token", self.add_eos);
        match self.model {
            VocabularyModel::Spm | VocabularyModel::Unigram => {
                metadata.set("tokenizer.ggml.add_space_prefix", self.add_space_prefix);
                metadata
                    .set("tokenizer.ggml.remove_extra_whitespaces", self.remove_extra_whitespaces);
            }
            VocabularyModel::WordPiece => {
                metadata.set("tokenizer.ggml.normalizer.lowercase", self.lowercase);
                metadata.set("tokenizer.ggml.normalizer.strip_accents", self.strip_accents);
            }
            _ => {}
        }
        let (main, named): (Vec<_>, Vec<_>) =
            self.templates.iter().partition(|t| t.name == "default");
        for template in &named {
            metadata.set(format!("{TEMPLATE}.{}", template.name), template.source.as_str());
        }
        if !named.is_empty() {
            metadata.set(TEMPLATES, Array::from_strings(named.iter().map(|t| &t.name)));
        }
        if let Some(template) = main.first() {
            metadata.set(TEMPLATE, template.source.as_str());
        }
    }
}

fn templates(metadata: &Metadata) -> Result<Vec<NamedTemplate>, Error> {
    let mut found = Vec::new();
    if let Some(source) = metadata.optional::<&str>(TEMPLATE)? {
        found.push(NamedTemplate { name: "default".to_owned(), source: source.to_owned() });
    }
    if metadata.contains(TEMPLATES) {
        for name in metadata.strs(TEMPLATES)? {
            if let Some(source) = metadata.optional::<&str>(&format!("{TEMPLATE}.{name}"))? {
                found.push(NamedTemplate { name: name.to_owned(), source: source.to_owned() });
            }
        }
    }
    Ok(found)
}

/// White space beside special tokens, which files do not record: llama.cpp knows it by name.
fn strip_rules(v: &mut Vocabulary, metadata: &Metadata) -> Result<(), Error> {
    let text = |key| Ok::<_, Error>(metadata.optional::<&str>(key)?.unwrap_or("").to_lowercase());
    let name = text("general.name")?;
    let arch = text("general.architecture")?;
    let pre = v.pre.as_deref().unwrap_or("");
    let ids = |texts: &[&str]| -> Vec<u32> {
        let known = |id: &u32| texts.iter().any(|t| v.tokens[*id as usize] == t.as_bytes());
        (0..v.tokens.len() as u32).filter(known).collect()
    };
    if ["jina-v2-de", "jina-v2-es", "jina-v2-code"].iter().any(|p| pre.contains(p))
        || ["nomic-bert-moe", "jina-bert-v3"].iter().any(|a| arch.contains(a))
    {
        v.lstrip = ids(&["<mask>"]);
    } else if name.contains("phi-3") || name.contains("phi3") {
        let not = ids(&["<unk>", "<s>", "<|endoftext|>"]);
        let end = ids(&["</s>"]);
        v.rstrip = (0..v.tokens.len() as u32)
            .filter(|id| {
                let kind = v.kind(*id);
                kind.is_special() || kind == TokenType::UserDefined || end.contains(id)
            })
            .filter(|id| !not.contains(id))
            .collect();
    } else if name.contains("modern-bert") {
        v.lstrip = ids(&["[MASK]"]);
    }
    Ok(())
}
