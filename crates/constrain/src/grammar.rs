//! What a text can be asked to follow, and how that is said to the compiler.

use llguidance::api::{GrammarWithLexer, TopLevelGrammar};
use serde_json::{Map, Value, json};
use tokenizer::Tokenizer;

use crate::lark::quoted;
use crate::reasoning::{self, ReasoningFormat};
use crate::survey::{check_lark, check_schema};
use crate::tool_calls::{self, ToolFormat};
use crate::{ConstrainError, GrammarKind, Limits};

/// White space between the parts of JSON: a space, or a line break and the next line's indentation, so
/// that a model cannot go on with it for ever.
const WHITE_SPACE: &str = r"( |\n[ \t]{0,20})";

/// What a text is to follow, from its first byte to its last.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum Grammar {
    /// Any JSON object.
    JsonObject,
    /// JSON that a schema allows. Properties come in the schema's order. A keyword that is not
    /// supported is an error, never ignored; keywords that JSON Schema does not know are.
    JsonSchema(Value),
    /// A text that the whole of a regular expression matches, in the syntax of the crate `regex`;
    /// `^` and `$` at its ends are allowed and mean nothing, look-around is not supported.
    Regex(String),
    /// A grammar in llguidance's dialect of Lark, from its rule `start`.
    Lark(String),
    /// One of these texts.
    Choice(Vec<String>),
    /// Calls of tools, written as the model writes them.
    Tools {
        /// How the model writes calls.
        format: ToolFormat,
        /// What may be called.
        tools: Vec<Tool>,
        /// Whether several calls may follow each other.
        parallel: bool,
        /// Whether the text must be calls. If not, it is any text, and calls may end it:
        /// [`ToolCallParser::exact`](tool_calls::ToolCallParser::exact) finds no others in it.
        required: bool,
    },
    /// What one of these allows. A text that begins like several of them is taken for the one that
    /// has the longer first word in common with it.
    Either(Vec<Grammar>),
    /// What a model thinks, and what the grammar allows behind it.
    AfterReasoning {
        /// How thoughts are marked.
        format: ReasoningFormat,
        /// Whether the prompt opened the thoughts. If not, the model need not think.
        inside: bool,
        /// What the answer must follow.
        answer: Box<Grammar>,
    },
}

/// Something that a model may call.
#[derive(Clone, Debug, PartialEq)]
pub struct Tool {
    /// Its name.
    pub name: String,
    /// The schema of its arguments, a JSON object.
    pub parameters: Value,
}

impl Grammar {
    /// What kind of constraint this is, for messages.
    pub fn kind(&self) -> GrammarKind {
        match self {
            Self::JsonObject | Self::JsonSchema(_) => GrammarKind::JsonSchema,
            Self::Regex(_) => GrammarKind::Regex,
            Self::Lark(_) => GrammarKind::Lark,
            Self::Choice(_) => GrammarKind::Choice,
            Self::Tools { .. } => GrammarKind::Tools,
            Self::Either(grammars) => grammars.first().map_or(GrammarKind::Choice, Self::kind),
            Self::AfterReasoning { answer, .. } => answer.kind(),
        }
    }

    /// The grammars that this one is made of, if any.
    pub(crate) fn parts(&self) -> &[Self] {
        match self {
            Self::Either(grammars) => grammars,
            Self::AfterReasoning { answer, .. } => std::slice::from_ref(answer),
            _ => &[],
        }
    }
}

/// What the compiler compiles; grammars with equal sources are one grammar.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Source {
    /// A JSON schema, written out.
    Schema(String),
    /// A grammar in Lark.
    Lark(String),
    /// A grammar in Lark that refers to others, by their [`part`] names.
    Composed(String, Vec<Source>),
}

/// The name of a part of a composed grammar.
fn part(name: &str, index: usize) -> String {
    format!("{name}-{index}")
}

/// The name of a whole grammar.
const WHOLE: &str = "part";

impl Source {
    /// The source of `grammar`, within `limits`.
    pub(crate) fn new(
        grammar: &Grammar,
        tokenizer: &Tokenizer,
        limits: &Limits,
    ) -> Result<Self, ConstrainError> {
        Self::named(WHOLE, grammar, tokenizer, limits)
    }

    fn named(
        name: &str,
        grammar: &Grammar,
        tokenizer: &Tokenizer,
        limits: &Limits,
    ) -> Result<Self, ConstrainError> {
        let kind = grammar.kind();
        let within = |size: usize, limit: usize| match size <= limit {
            true => Ok(()),
            false => Err(ConstrainError::TooLarge { kind, size, limit }),
        };
        match grammar {
            Grammar::JsonObject => {
                Ok(Self::Schema(schema_text(&json!({"type": "object"}), kind, limits)?))
            }
            Grammar::JsonSchema(schema) => {
                let text = schema_text(schema, kind, limits)?;
                within(text.len(), limits.schema_bytes)?;
                Ok(Self::Schema(text))
            }
            Grammar::Regex(regex) => {
                within(regex.len(), limits.regex_bytes)?;
                if regex.bytes().rev().take_while(|&b| b == b'\\').count() % 2 == 1 {
                    let reason = "it ends in a backslash".to_owned();
                    return Err(ConstrainError::Uncompilable { kind, reason });
                }
                Ok(Self::Lark(match regex.as_str() {
                    "" => "start: \"\"\n".to_owned(),
                    regex => format!("start: /{}/\n", llguidance::regex_to_lark(regex, "")),
                }))
            }
            Grammar::Lark(text) => {
                within(text.len(), limits.grammar_bytes)?;
                if is_gbnf(text) {
                    return Err(ConstrainError::Gbnf);
                }
                check_lark(text, limits)?;
                Ok(Self::Lark(text.clone()))
            }
            Grammar::Choice(choices) => {
                if choices.is_empty() {
                    return Err(ConstrainError::Empty { kind });
                }
                within(choices.iter().map(String::len).sum(), limits.grammar_bytes)?;
                Ok(Self::Lark(choice(choices)))
            }
            Grammar::Tools { format, tools, parallel, required } => {
                if tools.is_empty() {
                    return Err(ConstrainError::Empty { kind });
                }
                let mut schemas = Vec::with_capacity(tools.len());
                for tool in tools {
                    schemas
                        .push((tool.name.as_str(), schema_text(&tool.parameters, kind, limits)?));
                }
                let size = schemas.iter().map(|(name, schema)| name.len() + schema.len()).sum();
                within(size, limits.schema_bytes)?;
                let syntax = format.syntax();
                let text = tool_calls::grammar(&syntax, &schemas, *parallel, *required, tokenizer);
                Ok(Self::Lark(text))
            }
            Grammar::Either(grammars) => {
                if grammars.is_empty() {
                    return Err(ConstrainError::Empty { kind });
                }
                let names = (0..grammars.len()).map(|i| format!("@{}", part(name, i)));
                let text = format!("start: {}\n", names.collect::<Vec<_>>().join(" | "));
                Self::composed(name, text, grammars, tokenizer, limits)
            }
            Grammar::AfterReasoning { format, inside, answer } => {
                // Models are used to an empty line there.
                let spaced = kind.ignores_space();
                let free = matches!(**answer, Grammar::Tools { required: false, .. });
                let at = part(name, 0);
                let text = reasoning::grammar(*format, *inside, spaced, free, &at, tokenizer);
                Self::composed(name, text, std::slice::from_ref(answer), tokenizer, limits)
            }
        }
    }

    fn composed(
        name: &str,
        text: String,
        parts: &[Grammar],
        tokenizer: &Tokenizer,
        limits: &Limits,
    ) -> Result<Self, ConstrainError> {
        let parts = parts.iter().enumerate();
        let parts = parts.map(|(i, g)| Self::named(&part(name, i), g, tokenizer, limits));
        Ok(Self::Composed(text, parts.collect::<Result<_, _>>()?))
    }

    pub(crate) fn len(&self) -> usize {
        match self {
            Self::Schema(text) | Self::Lark(text) => text.len(),
            Self::Composed(text, parts) => text.len() + parts.iter().map(Self::len).sum::<usize>(),
        }
    }

    /// What the compiler takes.
    pub(crate) fn grammar(&self) -> TopLevelGrammar {
        let mut grammars = Vec::new();
        self.collect(WHOLE, &mut grammars);
        TopLevelGrammar { grammars, max_tokens: None }
    }

    /// Adds the grammar of that name, and those that it refers to.
    fn collect(&self, name: &str, grammars: &mut Vec<GrammarWithLexer>) {
        let (json_schema, lark_grammar, parts) = match self {
            Self::Schema(text) => {
                (Some(serde_json::from_str(text).expect("it was written as JSON")), None, &[][..])
            }
            Self::Lark(text) => (None, Some(text.clone()), &[][..]),
            Self::Composed(text, parts) => (None, Some(text.clone()), parts.as_slice()),
        };
        grammars.push(GrammarWithLexer { name: Some(name.to_owned()), json_schema, lark_grammar });
        for (i, source) in parts.iter().enumerate() {
            source.collect(&part(name, i), grammars);
        }
    }
}

/// A schema as text, with our options for its compiler.
fn schema_text(
    schema: &Value,
    kind: GrammarKind,
    limits: &Limits,
) -> Result<String, ConstrainError> {
    const OPTIONS: &str = "x-guidance";
    check_schema(schema, kind, limits)?;
    let mut object = match schema {
        Value::Object(object) if object.contains_key(OPTIONS) => {
            return Err(ConstrainError::CompilerOptions);
        }
        Value::Object(object) => object.clone(),
        Value::Bool(true) => Map::new(),
        other => return Ok(other.to_string()),
    };
    object.insert(OPTIONS.to_owned(), json!({"whitespace_pattern": WHITE_SPACE}));
    Ok(Value::Object(object).to_string())
}

/// Whether a line defines a rule as GBNF does.
fn is_gbnf(text: &str) -> bool {
    let name = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
    text.lines().any(|line| {
        let rest = line.trim_start().trim_start_matches(name);
        rest.trim_start().starts_with("::=")
    })
}

fn choice(choices: &[String]) -> String {
    let texts: Vec<String> = choices.iter().filter(|c| !c.is_empty()).map(|c| quoted(c)).collect();
    match (texts.len(), choices.len()) {
        (0, _) => "start: \"\"\n".to_owned(),
        // The empty text is no alternative of a lexeme, but a rule may be left out.
        (some, all) if some < all => format!("start: TEXT?\nTEXT: {}\n", texts.join(" | ")),
        _ => format!("start: TEXT\nTEXT: {}\n", texts.join(" | ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gbnf_is_told_from_lark() {
        for text in ["root ::= \"a\"", "  my-rule_2::= x", "start: a\nb ::= c"] {
            assert!(is_gbnf(text), "{text}");
        }
        for text in ["start: \"::=\"", "start: /a ::= b/", "rule::_ : x", ""] {
            assert!(!is_gbnf(text), "{text}");
        }
    }

    #[test]
    fn choices_are_quoted() {
        let text = choice(&["a\"b\n".to_owned(), "\u{7f}é".to_owned()]);
        assert_eq!(text, "start: TEXT\nTEXT: \"a\\\"b\\n\" | \"\\u007fé\"\n");
        assert_eq!(choice(&[String::new()]), "start: \"\"\n");
    }
}
