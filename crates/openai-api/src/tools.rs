//! Tools that a model may call, and which of them it must.

use serde::Serialize;
use serde_json::{Map, Value, json};

use crate::ApiError;
use crate::error::quoted;
use crate::fields::{Fields, boolean, object, text};

/// A function that the model may call.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Tool {
    /// The function.
    pub name: String,
    /// What it is for.
    pub description: Option<String>,
    /// A JSON schema of its arguments, an object; no arguments if there is none.
    pub parameters: Option<Map<String, Value>>,
    /// Whether the arguments must follow the schema.
    pub strict: Option<bool>,
}

impl Serialize for Tool {
    /// As `/v1/chat/completions` and chat templates want it: `{"type": "function", "function": {...}}`.
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut function = Map::from_iter([("name".to_owned(), json!(self.name))]);
        if let Some(description) = &self.description {
            function.insert("description".to_owned(), json!(description));
        }
        if let Some(parameters) = &self.parameters {
            function.insert("parameters".to_owned(), Value::Object(parameters.clone()));
        }
        if let Some(strict) = self.strict {
            function.insert("strict".to_owned(), json!(strict));
        }
        json!({"type": "function", "function": function}).serialize(serializer)
    }
}

impl Tool {
    pub(crate) fn parse(path: &str, value: Value) -> Result<Self, ApiError> {
        let mut fields = Fields::of(path, value)?;
        function_type(&mut fields)?;
        let tool = fields.require("function", |path, value| {
            let mut fields = Fields::of(path, value)?;
            let tool = Self::read(&mut fields)?;
            fields.finish()?;
            Ok(tool)
        })?;
        fields.finish()?;
        Ok(tool)
    }

    /// The fields of a function, which `/v1/responses` puts beside the type.
    pub(crate) fn read(fields: &mut Fields) -> Result<Self, ApiError> {
        Ok(Self {
            name: fields.require("name", function_name)?,
            description: fields.read("description", text)?,
            parameters: fields.read("parameters", object)?,
            strict: fields.read("strict", boolean)?,
        })
    }
}

/// Which tools the model must call.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum ToolChoice {
    /// None.
    None,
    /// Whichever it likes, or none.
    #[default]
    Auto,
    /// At least one.
    Required,
    /// This one.
    Function(String),
}

impl Serialize for ToolChoice {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::None => "none".serialize(serializer),
            Self::Auto => "auto".serialize(serializer),
            Self::Required => "required".serialize(serializer),
            Self::Function(name) => {
                json!({"type": "function", "function": {"name": name}}).serialize(serializer)
            }
        }
    }
}

impl ToolChoice {
    /// Reads a choice whose function is named within `function`, or, for `/v1/responses`, beside the
    /// type.
    pub(crate) fn parse(path: &str, value: Value, flat: bool) -> Result<Self, ApiError> {
        if let Value::String(word) = &value {
            return match word.as_str() {
                "none" => Ok(Self::None),
                "auto" => Ok(Self::Auto),
                "required" => Ok(Self::Required),
                other => Err(ApiError::InvalidValue {
                    param: path.to_owned(),
                    expected: "'none', 'auto', 'required' or a function",
                    got: quoted(other),
                }),
            };
        }
        let mut fields = Fields::of(path, value)?;
        function_type(&mut fields)?;
        let name = if flat {
            fields.require("name", function_name)?
        } else {
            fields.require("function", |path, value| {
                let mut fields = Fields::of(path, value)?;
                let name = fields.require("name", function_name)?;
                fields.finish()?;
                Ok(name)
            })?
        };
        fields.finish()?;
        Ok(Self::Function(name))
    }

    /// Refuses a choice that the tools do not allow.
    pub(crate) fn validate(&self, tools: &[Tool]) -> Result<(), ApiError> {
        let param = || "tool_choice".to_owned();
        match self {
            Self::None | Self::Auto => Ok(()),
            _ if tools.is_empty() => Err(ApiError::Requires { param: param(), needs: "'tools'" }),
            Self::Function(name) if !tools.iter().any(|t| t.name == *name) => {
                let expected = "the name of one of the tools";
                Err(ApiError::InvalidValue { param: param(), expected, got: quoted(name) })
            }
            _ => Ok(()),
        }
    }
}

pub(crate) fn function_type(fields: &mut Fields) -> Result<(), ApiError> {
    let kind = fields.require("type", text)?;
    match kind.as_str() {
        "function" => Ok(()),
        _ => {
            let param = fields.path("type");
            Err(ApiError::Unsupported { param, reason: "tools are functions" })
        }
    }
}

fn function_name(path: &str, value: Value) -> Result<String, ApiError> {
    let name = text(path, value)?;
    let ok = |b: u8| b.is_ascii_alphanumeric() || b"_-".contains(&b);
    if (1..=64).contains(&name.len()) && name.bytes().all(ok) {
        return Ok(name);
    }
    Err(ApiError::InvalidValue {
        param: path.to_owned(),
        expected: "1 to 64 letters, digits, '_' and '-'",
        got: quoted(&name),
    })
}
