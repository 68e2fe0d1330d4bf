//! Output that follows a JSON schema, a regular expression or a grammar; tool calls in a model's text.
//!
//! A language model gives a score to each token of its vocabulary, and any token may follow. Where a
//! program reads what the model writes, only some may: those with which the text can still become
//! what was asked for. A [`Constraint`] is the state of a parser over the bytes written so far, and
//! [`Constraint::mask`] sets the logits of all other tokens to minus infinity. What is sampled then
//! follows the grammar by construction, whatever the model is, and the end of the text is allowed
//! exactly where the grammar allows it.
//!
//! - [`Compiler`]: one a model. It holds the vocabulary as a trie of bytes and compiles a
//!   [`Grammar`] within [`Limits`], since grammars come from strangers.
//! - [`tool_calls`]: the formats in which models call tools, found in text as it is generated.
//! - [`reasoning`]: what a model thinks before it answers, split off.
//!
//! The parser is `llguidance` (Earley over lexemes, lexemes by derivatives of regular expressions);
//! what this crate adds is the vocabulary, the limits, a bounded cache, and errors with types.
//!
//! # What is never allowed
//! Special tokens (of control, unknown), places of a vocabulary that are not taken, and rows of
//! padding behind it never appear inside constrained text. The one exception is a marker that the
//! format of a tool call asks for, where the vocabulary has it as a special token. Bytes that are no
//! UTF-8 are allowed only where they go on to be.
//!
//! ```
//! use std::sync::Arc;
//! use constrain::{Compiler, Grammar, Limits};
//! use tokenizer::{TokenType, Tokenizer, Vocabulary, VocabularyModel};
//!
//! let mut vocabulary = Vocabulary::new(VocabularyModel::Spm);
//! for (text, kind) in [
//!     ("<unk>", TokenType::Unknown),
//!     ("<s>", TokenType::Control),
//!     ("</s>", TokenType::Control),
//!     ("yes", TokenType::Normal),
//!     ("no", TokenType::Normal),
//!     ("ye", TokenType::Normal),
//! ] {
//!     vocabulary.tokens.push(text.into());
//!     vocabulary.types.push(kind);
//! }
//! let compiler = Compiler::new(&Arc::new(Tokenizer::new(vocabulary)?), Limits::default())?;
//!
//! let answers = Grammar::Choice(vec!["yes".into(), "no".into()]);
//! let mut constraint = compiler.compile(&answers)?;
//! let mut logits = [0.0; 8]; // six tokens and two of padding
//! constraint.mask(&mut logits)?;
//! // "yes" and "no" may be written, and "ye", which "s" would complete.
//! assert_eq!(logits.map(|l| l == 0.0), [false, false, false, true, true, true, false, false]);
//!
//! constraint.accept(3)?;
//! assert!(constraint.is_complete());
//! let mut logits = [0.0; 8];
//! constraint.mask(&mut logits)?; // only the end may follow
//! assert_eq!(logits.map(|l| l == 0.0), [false, false, true, false, false, false, false, false]);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
#![forbid(unsafe_code)]

mod cache;
mod compiler;
mod constraint;
mod error;
mod grammar;
mod lark;
mod limits;
mod marker;
pub mod reasoning;
mod survey;
pub mod tool_calls;
mod vocabulary;

pub use compiler::Compiler;
pub use constraint::Constraint;
pub use error::{ConstrainError, GrammarKind};
pub use grammar::{Grammar, Tool};
pub use limits::Limits;
