//! What a text must be: JSON, a schema's JSON, a regular expression, one of several texts, a grammar.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use crate::ApiError;
use crate::error::quoted;
use crate::fields::{Fields, array, boolean, object, string, text};

/// What a text must be, whichever field asks for it.
#[derive(Clone, Debug, PartialEq)]
pub enum Structure {
    /// Any JSON object.
    JsonObject,
    /// JSON that a schema describes (an object, or `true`).
    JsonSchema(Value),
    /// All of it matches a regular expression.
    Regex(String),
    /// One of these texts.
    Choice(Vec<String>),
    /// A context-free grammar, in Lark's form.
    Grammar(String),
}

impl Structure {
    /// A schema that is given as JSON, or as a string of JSON as vLLM's clients do.
    ///
    /// # Errors
    /// For a string that is no JSON, and for JSON that is no schema.
    pub fn json_schema(value: Value) -> Result<Self, ApiError> {
        let invalid = |got: String| ApiError::InvalidValue {
            param: "json".to_owned(),
            expected: "a JSON schema",
            got: quoted(&got),
        };
        let schema = match value {
            Value::String(s) => serde_json::from_str(&s).map_err(|_| invalid(s))?,
            other => other,
        };
        match schema {
            Value::Object(_) | Value::Bool(true) => Ok(Self::JsonSchema(schema)),
            other => Err(invalid(other.to_string())),
        }
    }
}

/// OpenAI's way to ask for a structure.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum ResponseFormat {
    /// Any text.
    Text,
    /// Any JSON object.
    JsonObject,
    /// JSON that a schema describes.
    JsonSchema {
        /// The schema and its name.
        json_schema: NamedSchema,
    },
}

/// A schema with a name.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct NamedSchema {
    /// For people.
    pub name: String,
    /// For people, and for the model where a template shows it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    /// The schema; any object if there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub schema: Option<Value>,
    /// Schemas are always followed strictly.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub strict: Option<bool>,
}

impl ResponseFormat {
    /// What the text must be; `None` for any.
    pub fn structure(&self) -> Option<Structure> {
        match self {
            Self::Text => None,
            Self::JsonObject => Some(Structure::JsonObject),
            Self::JsonSchema { json_schema } => Some(match &json_schema.schema {
                Some(schema) => Structure::JsonSchema(schema.clone()),
                None => Structure::JsonObject,
            }),
        }
    }
}

pub(crate) fn response_format(path: &str, value: Value) -> Result<ResponseFormat, ApiError> {
    format(path, value, |fields| {
        fields.require("json_schema", |path, value| {
            let mut fields = Fields::of(path, value)?;
            let schema = named_schema(&mut fields)?;
            fields.finish()?;
            Ok(schema)
        })
    })
}

/// A format whose schema is read by `schema`.
pub(crate) fn format(
    path: &str,
    value: Value,
    schema: impl FnOnce(&mut Fields) -> Result<NamedSchema, ApiError>,
) -> Result<ResponseFormat, ApiError> {
    let mut fields = Fields::of(path, value)?;
    let kind = fields.require("type", text)?;
    let format = match kind.as_str() {
        "text" => ResponseFormat::Text,
        "json_object" => ResponseFormat::JsonObject,
        "json_schema" => ResponseFormat::JsonSchema { json_schema: schema(&mut fields)? },
        other => {
            return Err(ApiError::InvalidValue {
                param: fields.path("type"),
                expected: "'text', 'json_object' or 'json_schema'",
                got: quoted(other),
            });
        }
    };
    fields.finish()?;
    Ok(format)
}

/// The fields of a named schema, which `/v1/responses` puts beside the type.
pub(crate) fn named_schema(fields: &mut Fields) -> Result<NamedSchema, ApiError> {
    Ok(NamedSchema {
        name: fields.require("name", string(1, 64))?,
        description: fields.read("description", text)?,
        schema: fields.read("schema", object)?.map(Value::Object),
        strict: fields.read("strict", boolean)?,
    })
}

/// vLLM's way to ask for a structure: an object with one key of `json`, `json_object`, `regex`,
/// `choice` and `grammar`.
#[derive(Clone, Debug, PartialEq)]
pub struct StructuredOutputs(pub Structure);

impl Serialize for StructuredOutputs {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let (key, value) = match &self.0 {
            Structure::JsonObject => ("json_object", json!(true)),
            Structure::JsonSchema(schema) => ("json", schema.clone()),
            Structure::Regex(regex) => ("regex", json!(regex)),
            Structure::Choice(texts) => ("choice", json!(texts)),
            Structure::Grammar(grammar) => ("grammar", json!(grammar)),
        };
        Map::from_iter([(key.to_owned(), value)]).serialize(serializer)
    }
}

pub(crate) fn structured_outputs(path: &str, value: Value) -> Result<StructuredOutputs, ApiError> {
    let mut fields = Fields::of(path, value)?;
    let json_object = fields.read("json_object", boolean)?.unwrap_or(false);
    let given = [
        json_object.then_some(Structure::JsonObject),
        fields.read("json", |_, value| Structure::json_schema(value))?,
        fields.read("regex", string(1, 1 << 16))?.map(Structure::Regex),
        fields.read("choice", array(1, 4096, text))?.map(Structure::Choice),
        fields.read("grammar", text)?.map(Structure::Grammar),
    ];
    let no = |v: &Value| v == &Value::Bool(false);
    fields.neutral("disable_fallback", |v| v.is_boolean(), "there is no fallback")?;
    fields.neutral("disable_any_whitespace", no, "write the white space into the grammar")?;
    fields.finish()?;
    let mut given = given.into_iter().flatten();
    match (given.next(), given.next()) {
        (Some(structure), None) => Ok(StructuredOutputs(structure)),
        (None, _) => Err(ApiError::InvalidValue {
            param: path.to_owned(),
            expected: "one of 'json', 'json_object', 'regex', 'choice' and 'grammar'",
            got: "none".to_owned(),
        }),
        (Some(_), Some(_)) => {
            Err(ApiError::Conflict { param: path.to_owned(), other: "a second structure" })
        }
    }
}
