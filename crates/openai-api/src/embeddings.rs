//! `POST /v1/embeddings`: texts as vectors.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};

use crate::fields::{Fields, at_least, boolean, check_length, string, text, word};
use crate::{ApiError, JsonLimits, PromptInput};

/// The most texts of one request.
pub const MAX_INPUTS: usize = 2048;

/// A request of `/v1/embeddings`.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct EmbeddingRequest {
    /// Which model.
    pub model: String,
    /// What to embed.
    pub input: PromptInput,
    /// How vectors are written.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub encoding_format: Option<EncodingFormat>,
    /// The vectors' length.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dimensions: Option<usize>,
    /// Who asks.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// Keep so many of each input's last tokens.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub truncate_prompt_tokens: Option<usize>,
    /// Whether the tokenizer adds its special tokens. True if not given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub add_special_tokens: Option<bool>,
}

/// How vectors are written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum EncodingFormat {
    /// A list of numbers.
    #[default]
    Float,
    /// Little-endian f32 as base64.
    Base64,
}

impl EmbeddingRequest {
    /// Reads a body.
    ///
    /// # Errors
    /// As [`crate::CompletionRequest::parse`].
    pub fn parse(body: &[u8], limits: JsonLimits) -> Result<Self, ApiError> {
        let mut fields = Fields::of_body(body, limits)?;
        let formats: &[(&str, EncodingFormat)] =
            &[("float", EncodingFormat::Float), ("base64", EncodingFormat::Base64)];
        let request = Self {
            model: fields.require("model", text)?,
            input: fields.require("input", PromptInput::parse)?,
            encoding_format: fields
                .read("encoding_format", word(formats, "'float' or 'base64'"))?,
            dimensions: fields.read("dimensions", at_least(1))?,
            user: fields.read("user", string(0, 512))?,
            truncate_prompt_tokens: fields.read("truncate_prompt_tokens", at_least(1))?,
            add_special_tokens: fields.read("add_special_tokens", boolean)?,
        };
        fields.finish()?;
        check_length("input", request.input.len(), 1, MAX_INPUTS, "elements")?;
        Ok(request)
    }
}

/// An answer of `/v1/embeddings`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct EmbeddingList {
    /// `list`.
    pub object: String,
    /// One an input, in order.
    pub data: Vec<Embedding>,
    /// Which model.
    pub model: String,
    /// Tokens of the inputs.
    pub usage: EmbeddingUsage,
}

/// Tokens of the inputs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EmbeddingUsage {
    /// All of them.
    pub prompt_tokens: usize,
    /// The same.
    pub total_tokens: usize,
}

/// A vector.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Embedding {
    /// `embedding`.
    pub object: String,
    /// Of which input.
    pub index: usize,
    /// The vector.
    pub embedding: Vector,
}

/// A vector as it is written.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Vector {
    /// Numbers.
    Float(Vec<f32>),
    /// Little-endian f32 as base64.
    Base64(String),
}

impl Vector {
    /// Writes a vector.
    ///
    /// ```
    /// use openai_api::{EncodingFormat, Vector};
    /// let vector = Vector::new(vec![1.0, -2.0], EncodingFormat::Base64);
    /// assert_eq!(vector, Vector::Base64("AACAPwAAAMA=".to_owned()));
    /// assert_eq!(vector.values(), Some(vec![1.0, -2.0]));
    /// ```
    pub fn new(values: Vec<f32>, format: EncodingFormat) -> Self {
        match format {
            EncodingFormat::Float => Self::Float(values),
            EncodingFormat::Base64 => {
                let bytes: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
                Self::Base64(STANDARD.encode(bytes))
            }
        }
    }

    /// The numbers; `None` for what is no base64 of whole numbers.
    pub fn values(&self) -> Option<Vec<f32>> {
        match self {
            Self::Float(values) => Some(values.clone()),
            Self::Base64(text) => {
                let bytes = STANDARD.decode(text).ok()?;
                let (numbers, rest) = bytes.as_chunks::<4>();
                rest.is_empty().then(|| numbers.iter().map(|b| f32::from_le_bytes(*b)).collect())
            }
        }
    }
}
