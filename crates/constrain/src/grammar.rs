//! What a text can be asked to follow, and how that is said to the compiler.

use std::fmt::Write;

use llguidance::api::TopLevelGrammar;
use serde_json::{Map, Value, json};
use tokenizer::Tokenizer;

use crate::survey::{check_lark, check_schema};
use crate::tool_calls::{ToolFormat, ToolSyntax};
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
}

impl Source {
    /// The source of `grammar`, within `limits`.
    pub(crate) fn new(
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
            Grammar::Tools { format, tools, parallel } => {
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
                Ok(Self::Lark(calls(&format.syntax(), &schemas, *parallel, tokenizer)))
            }
        }
    }

    pub(crate) fn len(&self) -> usize {
        match self {
            Self::Schema(text) | Self::Lark(text) => text.len(),
        }
    }

    /// What the compiler takes.
    pub(crate) fn grammar(&self) -> TopLevelGrammar {
        match self {
            Self::Schema(text) => {
                let schema = serde_json::from_str(text).expect("it was written as JSON");
                TopLevelGrammar::from_json_schema(schema)
            }
            Self::Lark(text) => TopLevelGrammar::from_lark(text.clone()),
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

/// A text as Lark writes it.
fn quoted(text: &str) -> String {
    Value::from(text).to_string().replace('\u{7f}', "\\u007f")
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

/// The grammar of calls of tools: `(name, schema)` each.
fn calls(
    syntax: &ToolSyntax,
    tools: &[(&str, String)],
    parallel: bool,
    tokenizer: &Tokenizer,
) -> String {
    // A marker that is a special token can be written only as that token.
    let marker = |text: &str| match tokenizer.id_of(text) {
        Some(id) if tokenizer.is_special(id) => format!("<[{id}]>"),
        _ => quoted(text),
    };
    let more = match parallel {
        true => format!(" ({} call)*", quoted(syntax.separator)),
        false => String::new(),
    };
    let open = syntax.open.filter(|_| syntax.writes_open).map(marker);
    let mut grammar = match (syntax.list, open) {
        (true, Some(open)) => format!("start: {open} \" \"? \"[\" call{more} \"]\"\ncall: object"),
        (true, None) => format!("start: \"[\" call{more} \"]\"\ncall: object"),
        (false, Some(open)) => format!("start: call{more}\ncall: {open} \"\\n\" object"),
        (false, None) => format!("start: call{more}\ncall: object"),
    };
    if let Some(close) = syntax.close {
        let _ = write!(grammar, " \"\\n\" {}", marker(close));
    }
    grammar.push_str("\nobject: ");
    for (i, (name, schema)) in tools.iter().enumerate() {
        let head = format!("{{\"name\": {}, \"{}\": ", Value::from(*name), syntax.arguments);
        let or = if i == 0 { "" } else { "\n  | " };
        let _ = write!(grammar, "{or}{} %json {schema} \"}}\"", quoted(&head));
    }
    grammar.push('\n');
    grammar
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
