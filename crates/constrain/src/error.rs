//! Why a text cannot be constrained.

use std::fmt;

/// What kind of constraint was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum GrammarKind {
    /// A JSON schema, or any JSON object.
    JsonSchema,
    /// A regular expression.
    Regex,
    /// A grammar in llguidance's dialect of Lark.
    Lark,
    /// A list of texts.
    Choice,
    /// Calls of tools.
    Tools,
}

impl GrammarKind {
    /// Whether white space before such a text means nothing to who reads it.
    pub fn ignores_space(self) -> bool {
        matches!(self, Self::JsonSchema | Self::Tools)
    }
}

impl fmt::Display for GrammarKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::JsonSchema => "JSON schema",
            Self::Regex => "regular expression",
            Self::Lark => "grammar",
            Self::Choice => "list of choices",
            Self::Tools => "list of tools",
        })
    }
}

/// Why a constraint cannot be compiled or followed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ConstrainError {
    /// It is longer than allowed.
    #[error("the {kind} takes {size} bytes; the limit is {limit}")]
    TooLarge {
        /// What was asked for.
        kind: GrammarKind,
        /// Its length in bytes.
        size: usize,
        /// [`Limits`](crate::Limits).
        limit: usize,
    },
    /// JSON in it is nested too deep.
    #[error("the {kind} is nested deeper than {limit} levels")]
    TooDeep {
        /// What was asked for.
        kind: GrammarKind,
        /// [`Limits::depth`](crate::Limits::depth).
        limit: usize,
    },
    /// It is malformed, says what is not supported, allows no text at all, or would become too large.
    #[error("the {kind} cannot be compiled: {reason}")]
    Uncompilable {
        /// What was asked for.
        kind: GrammarKind,
        /// The compiler's words.
        reason: String,
    },
    /// No choice or no tool is given.
    #[error("the {kind} is empty")]
    Empty {
        /// What was asked for.
        kind: GrammarKind,
    },
    /// A grammar in llama.cpp's GBNF.
    #[error("the grammar is GBNF ('::='), which is not supported; write it in llguidance's Lark")]
    Gbnf,
    /// A grammar of the user names special tokens (`<|im_end|>`, `<[123]>`).
    #[error("a grammar may not name special tokens: they are never part of constrained text")]
    SpecialTokens,
    /// A schema holds `x-guidance`, which would change how it is compiled.
    #[error("the keyword 'x-guidance' of a JSON schema is not supported")]
    CompilerOptions,
    /// The vocabulary does not fit into a trie.
    #[error("a trie cannot hold the vocabulary: {tokens} tokens of {bytes} bytes")]
    Vocabulary {
        /// Tokens in it.
        tokens: usize,
        /// Bytes of all tokens.
        bytes: usize,
    },
    /// A token that may not come here.
    #[error("token {token} may not follow")]
    NotAllowed {
        /// The token.
        token: u32,
    },
    /// The text has ended.
    #[error("the text is complete: nothing may follow")]
    Finished,
    /// The grammar wants bytes that no token begins with.
    #[error("no token of the vocabulary can go on with the text")]
    DeadEnd,
    /// The next token would take more work than allowed.
    #[error("the next token takes more work than allowed: {reason}")]
    TooComplex {
        /// The parser's words.
        reason: String,
    },
    /// The parser failed.
    #[error("the parser failed: {reason}")]
    Internal {
        /// The parser's words.
        reason: String,
    },
}
