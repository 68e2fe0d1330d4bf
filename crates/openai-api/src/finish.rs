//! Why an answer ended.

use serde::{Deserialize, Serialize};

/// Why an answer ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FinishReason {
    /// The model ended it, or a stop string or token did.
    Stop,
    /// It is as long as it may be.
    Length,
    /// It calls tools.
    ToolCalls,
    /// Something was left out (other servers).
    ContentFilter,
    /// It calls a function, in the API's first form (other servers).
    FunctionCall,
}

/// Of one of the prompt's tokens, as vLLM writes it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PromptLogprob {
    /// ln p.
    pub logprob: f64,
    /// 1 for the most probable token.
    pub rank: usize,
    /// Its text.
    pub decoded_token: String,
}
