//! The events of a streamed response.

use serde::Serialize;

use super::{OutputItem, OutputLogprob, OutputText, Response};

/// Something that happened to a response. Its name is also the name of the event in the stream.
///
/// A message is announced by `OutputItemAdded`, `ContentPartAdded`, grows by `OutputTextDelta` and is
/// completed by `OutputTextDone`, `ContentPartDone`, `OutputItemDone`.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(tag = "type")]
#[allow(missing_docs)]
pub enum ResponseEvent {
    /// It was taken.
    #[serde(rename = "response.created")]
    Created { response: Box<Response> },
    /// It is being made.
    #[serde(rename = "response.in_progress")]
    InProgress { response: Box<Response> },
    /// It is whole.
    #[serde(rename = "response.completed")]
    Completed { response: Box<Response> },
    /// It is as long as it may be.
    #[serde(rename = "response.incomplete")]
    Incomplete { response: Box<Response> },
    /// It failed.
    #[serde(rename = "response.failed")]
    Failed { response: Box<Response> },
    /// A message or a call begins.
    #[serde(rename = "response.output_item.added")]
    OutputItemAdded { output_index: usize, item: OutputItem },
    /// It ends.
    #[serde(rename = "response.output_item.done")]
    OutputItemDone { output_index: usize, item: OutputItem },
    /// A text begins.
    #[serde(rename = "response.content_part.added")]
    ContentPartAdded {
        item_id: String,
        output_index: usize,
        content_index: usize,
        part: OutputText,
    },
    /// It ends.
    #[serde(rename = "response.content_part.done")]
    ContentPartDone { item_id: String, output_index: usize, content_index: usize, part: OutputText },
    /// It grows.
    #[serde(rename = "response.output_text.delta")]
    OutputTextDelta {
        item_id: String,
        output_index: usize,
        content_index: usize,
        delta: String,
        logprobs: Vec<OutputLogprob>,
    },
    /// All of it.
    #[serde(rename = "response.output_text.done")]
    OutputTextDone {
        item_id: String,
        output_index: usize,
        content_index: usize,
        text: String,
        logprobs: Vec<OutputLogprob>,
    },
    /// A call's arguments grow.
    #[serde(rename = "response.function_call_arguments.delta")]
    FunctionCallArgumentsDelta { item_id: String, output_index: usize, delta: String },
    /// All of them.
    #[serde(rename = "response.function_call_arguments.done")]
    FunctionCallArgumentsDone {
        item_id: String,
        output_index: usize,
        name: String,
        arguments: String,
    },
}

impl ResponseEvent {
    /// The event's name.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Created { .. } => "response.created",
            Self::InProgress { .. } => "response.in_progress",
            Self::Completed { .. } => "response.completed",
            Self::Incomplete { .. } => "response.incomplete",
            Self::Failed { .. } => "response.failed",
            Self::OutputItemAdded { .. } => "response.output_item.added",
            Self::OutputItemDone { .. } => "response.output_item.done",
            Self::ContentPartAdded { .. } => "response.content_part.added",
            Self::ContentPartDone { .. } => "response.content_part.done",
            Self::OutputTextDelta { .. } => "response.output_text.delta",
            Self::OutputTextDone { .. } => "response.output_text.done",
            Self::FunctionCallArgumentsDelta { .. } => "response.function_call_arguments.delta",
            Self::FunctionCallArgumentsDone { .. } => "response.function_call_arguments.done",
        }
    }

    /// The event with its place in the stream, as it is sent.
    pub fn numbered(&self, sequence_number: u64) -> impl Serialize + '_ {
        #[derive(Serialize)]
        struct Numbered<'a> {
            #[serde(flatten)]
            event: &'a ResponseEvent,
            sequence_number: u64,
        }
        Numbered { event: self, sequence_number }
    }
}
