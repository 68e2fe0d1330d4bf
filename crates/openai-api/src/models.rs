//! `GET /v1/models`: what is served.

use serde::{Deserialize, Serialize};

/// A list of models.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ModelList {
    /// `list`.
    pub object: String,
    /// The models.
    pub data: Vec<ModelCard>,
}

impl ModelList {
    /// A list of these.
    pub fn new(data: Vec<ModelCard>) -> Self {
        Self { object: "list".to_owned(), data }
    }
}

/// A model.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ModelCard {
    /// By which requests name it.
    pub id: String,
    /// `model`.
    pub object: String,
    /// When it was loaded, in seconds since 1970.
    pub created: u64,
    /// The program that serves it.
    pub owned_by: String,
    /// The model's own name.
    #[serde(default)]
    pub root: Option<String>,
    /// What it was derived from.
    #[serde(default)]
    pub parent: Option<String>,
    /// Tokens of its context.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_model_len: Option<usize>,
}
