//! What several tests need: vocabularies, random walks under a constraint, a validator of schemas.
#![allow(dead_code)] // each test uses a part of it

pub(crate) mod schema;

use std::sync::Arc;

use constrain::{Compiler, ConstrainError, Constraint, Grammar, Limits, Tool};
use rand::{RngExt, SeedableRng, rngs::StdRng};
use serde_json::json;
use tokenizer::{TokenType, Tokenizer};

/// The special tokens at the end of a vocabulary that may be markers.
const MARKERS: usize = 8;

/// Two tools.
pub(crate) fn tools() -> Vec<Tool> {
    let add = json!({"type": "object", "properties": {
        "a": {"type": "integer", "minimum": 0, "maximum": 99}, "b": {"type": "boolean"}},
        "required": ["a", "b"], "additionalProperties": false});
    let tell = json!({"type": "object", "properties": {
        "who": {"$ref": "#/$defs/who"}}, "$defs": {"who": {"enum": ["me", "you"]}},
        "required": ["who"], "additionalProperties": false});
    [("add", add), ("tell", tell)]
        .map(|(name, parameters)| Tool { name: name.into(), parameters })
        .into()
}

/// A vocabulary under its name.
pub(crate) struct Model {
    pub(crate) name: &'static str,
    pub(crate) tokenizer: Arc<Tokenizer>,
    pub(crate) compiler: Compiler,
}

impl Model {
    pub(crate) fn open(name: &'static str, path: std::path::PathBuf) -> Self {
        Self::of(name, Tokenizer::from_path(path).expect("a sound vocabulary"))
    }

    fn of(name: &'static str, tokenizer: Tokenizer) -> Self {
        let tokenizer = Arc::new(tokenizer);
        let compiler = Compiler::new(&tokenizer, Limits::default()).expect("it fits into a trie");
        Self { name, tokenizer, compiler }
    }

    /// The model that is in the repository: 1,024 tokens or so.
    pub(crate) fn bard() -> Self {
        Self::open("bard", testkit::workspace().join("assets/bard-f16.gguf"))
    }

    /// Llama's SentencePiece (32,000), byte-level GPT-2 (50,257) and StarCoder (49,152), where the
    /// reference data is.
    pub(crate) fn shared() -> Vec<Self> {
        ["llama-spm", "gpt-2", "starcoder"]
            .into_iter()
            .filter_map(|name| {
                let path = testkit::shared(&format!("data/vocab/ggml-vocab-{name}.gguf"))?;
                Some(Self::open(name, path))
            })
            .collect()
    }

    /// The same vocabulary with these texts as special tokens behind it.
    pub(crate) fn with_special(&self, name: &'static str, texts: &[&str]) -> Self {
        let mut vocabulary = self.tokenizer.vocabulary().clone();
        for text in texts {
            vocabulary.tokens.push(text.as_bytes().to_vec());
            vocabulary.types.push(TokenType::Control);
            if !vocabulary.scores.is_empty() {
                vocabulary.scores.push(0.0);
            }
        }
        Self::of(name, Tokenizer::new(vocabulary).expect("a sound vocabulary"))
    }

    pub(crate) fn all() -> Vec<Self> {
        let mut all = vec![Self::bard()];
        all.extend(Self::shared());
        all
    }

    /// A text drawn under `grammar`: at random at first, then as short as may be.
    ///
    /// `None` where it does not end within 600 tokens.
    pub(crate) fn walk(&self, grammar: &Grammar, seed: u64) -> Option<String> {
        let mut constraint = self.compiler.compile(grammar).unwrap_or_else(|e| {
            panic!("{}: {grammar:?}: {e}", self.name);
        });
        let bytes = self.finish(&mut constraint, seed)?;
        Some(String::from_utf8(bytes).unwrap_or_else(|e| panic!("{grammar:?}: {e}")))
    }

    /// The bytes of a text drawn under `constraint` from here on.
    pub(crate) fn finish(&self, constraint: &mut Constraint, seed: u64) -> Option<Vec<u8>> {
        let mut rng = StdRng::seed_from_u64(seed);
        let patience = rng.random_range(0..60);
        let mut bytes = Vec::new();
        let padding = 13;
        for step in 0..600 {
            let mut logits: Vec<f32> =
                (0..self.tokenizer.vocab_size() + padding).map(|_| rng.random()).collect();
            match constraint.mask(&mut logits) {
                // Without an end of sequence the text just ends.
                Err(ConstrainError::Finished) => return Some(bytes),
                result => result.unwrap_or_else(|e| panic!("{constraint:?}: {e}")),
            }
            let closing = step >= patience;
            let token = self.choose(&logits, closing);
            if self.tokenizer.is_eog(token) {
                constraint.accept(token).expect("the mask allows it");
                assert!(constraint.is_complete());
                return Some(bytes);
            }
            let marker = token + MARKERS as u32 >= self.tokenizer.vocab_size() as u32;
            assert!(marker || !self.tokenizer.is_special(token), "special token {token}");
            assert!((token as usize) < self.tokenizer.vocab_size(), "padding {token}");
            constraint.accept(token).expect("the mask allows it");
            bytes.extend(self.tokenizer.token_bytes(token).expect("a token"));
        }
        None
    }

    /// The allowed token of the highest logit; if `closing`, one that ends something before others.
    fn choose(&self, logits: &[f32], closing: bool) -> u32 {
        let score = |id: usize| {
            let id = id as u32;
            if !closing {
                return 0;
            }
            if self.tokenizer.is_eog(id) {
                return 9;
            }
            let bytes = self.tokenizer.token_bytes(id).unwrap_or_default();
            match bytes.as_slice() {
                b"\"" | b"}" | b"]" | b"/" => 5,
                [b'"' | b'}' | b']', ..] => 4,
                [b'0'..=b'9' | b' ' | b'\n', ..] => 0,
                [_] => 2,
                _ => 1,
            }
        };
        let allowed = (0..logits.len()).filter(|&i| logits[i] != f32::NEG_INFINITY);
        let best =
            allowed.max_by(|&a, &b| score(a).cmp(&score(b)).then(logits[a].total_cmp(&logits[b])));
        best.expect("something is allowed") as u32
    }

    /// Whether the text can be written token by token and end.
    pub(crate) fn accepts(&self, grammar: &Grammar, text: &str) -> bool {
        let mut constraint = self.compiler.compile(grammar).expect("it compiles");
        let ids: Vec<u32> = self.spell(text);
        let written = ids.iter().all(|&id| constraint.accept(id).is_ok());
        written && constraint.may_end().expect("it goes on")
    }

    /// The same, with the special tokens that the text names.
    pub(crate) fn spell_special(&self, text: &str) -> Vec<u32> {
        let size = self.tokenizer.vocab_size() as u32;
        for id in size - MARKERS as u32..size {
            let bytes = self.tokenizer.token_bytes(id).expect("a token");
            let marker = String::from_utf8(bytes).unwrap_or_default();
            if self.tokenizer.is_special(id)
                && let Some((before, behind)) = text.split_once(&marker)
            {
                return [self.spell_special(before), vec![id], self.spell_special(behind)].concat();
            }
        }
        self.spell(text)
    }

    /// Tokens whose bytes are `text`, the longest first.
    pub(crate) fn spell(&self, text: &str) -> Vec<u32> {
        let mut rest = text.as_bytes();
        let mut ids = Vec::new();
        while !rest.is_empty() {
            let of = |id: &u32| {
                let bytes = self.tokenizer.token_bytes(*id).expect("a token");
                let part = !self.tokenizer.is_special(*id) && rest.starts_with(&bytes);
                if part { bytes.len() } else { 0 }
            };
            let id = (0..self.tokenizer.vocab_size() as u32).max_by_key(of).expect("tokens");
            assert!(of(&id) > 0, "{} cannot spell {text:?}", self.name);
            ids.push(id);
            rest = &rest[of(&id)..];
        }
        ids
    }
}
