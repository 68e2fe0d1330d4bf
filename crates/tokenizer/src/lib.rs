//! Text to token ids and back, and chat templates.
//!
//! A [`Tokenizer`] is read from a Hugging Face folder, a `tokenizer.json`, a SentencePiece
//! `tokenizer.model`, or the vocabulary inside a GGUF file; which of these it was makes no
//! difference to its use:
//!
//! ```no_run
//! use tokenizer::{DecodeOptions, EncodeOptions, Tokenizer};
//! let tokenizer = Tokenizer::from_path("model.gguf")?;
//! let ids = tokenizer.encode("Hello", EncodeOptions { add_special: true, ..Default::default() })?;
//! let text = tokenizer.decode(&ids, DecodeOptions { skip_special: true, ..Default::default() })?;
//! # Ok::<(), tokenizer::Error>(())
//! ```
//!
//! Text never becomes a control token unless `parse_special` asks for it; a chat's prompt, in
//! which the template's markers steer and the users' words must not, is what
//! [`template::ChatTemplate::render_segments`] and [`Tokenizer::encode_parts`] are for.
//!
//! The crate knows no model: it holds no list of models' names but those that vocabulary files use
//! for their pre-tokenizers.
#![forbid(unsafe_code)]

mod bpe;
mod bytelevel;
mod error;
mod export;
mod folder;
mod gguf_metadata;
mod hf;
mod index;
mod matcher;
mod merge;
mod normalize;
mod pretokenize;
mod roles;
mod segments;
mod sentencepiece;
mod spm;
mod stream;
pub mod template;
mod tokenizer;
mod unigram;
mod vocabulary;
mod wordpiece;

pub use error::Error;
pub use stream::DecodeStream;
pub use tokenizer::{DecodeOptions, EncodeOptions, Tokenizer};
pub use vocabulary::{FimIds, NamedTemplate, SpecialIds, TokenType, Vocabulary, VocabularyModel};
