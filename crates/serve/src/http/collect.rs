//! A whole answer, gathered from its events.

use futures_util::future::try_join_all;
use openai_api::{ApiError, FinishReason, StopReason};

use super::failure::failed;
use crate::engine::{self, Event, Generation, StopCause, TokenInfo};

/// What a prompt led to.
#[derive(Clone, Debug, Default)]
pub(crate) struct Collected {
    /// The answers in order.
    pub(crate) answers: Vec<Answer>,
    /// Of the prompt's tokens, where asked for.
    pub(crate) prompt: Option<Vec<Option<TokenInfo>>>,
    pub(crate) usage: engine::Usage,
}

/// One answer.
#[derive(Clone, Debug, Default)]
pub(crate) struct Answer {
    pub(crate) text: String,
    pub(crate) tokens: Vec<TokenInfo>,
    pub(crate) finish: Option<(FinishReason, Option<StopReason>)>,
}

/// Waits for all generations at once: an engine does not wait for who reads one after the other.
pub(crate) async fn collect_all(generations: Vec<Generation>) -> Result<Vec<Collected>, ApiError> {
    try_join_all(generations.into_iter().map(collect)).await
}

async fn collect(mut generation: Generation) -> Result<Collected, ApiError> {
    let mut collected = Collected::default();
    while let Some(event) = generation.next().await {
        match event {
            Event::Started { .. } => {}
            Event::Prompt(tokens) => collected.prompt = Some(tokens),
            Event::Delta { index, text, tokens } => {
                let answer = collected.answer(index);
                answer.text.push_str(&text);
                answer.tokens.extend(tokens);
            }
            Event::Finished { index, reason, stopped_by } => {
                collected.answer(index).finish = Some(finish(reason, stopped_by));
            }
            Event::Done(usage) => collected.usage = usage,
            Event::Failed(error) => return Err(failed(&error)),
        }
    }
    Ok(collected)
}

impl Collected {
    fn answer(&mut self, index: usize) -> &mut Answer {
        if self.answers.len() <= index {
            self.answers.resize_with(index + 1, Answer::default);
        }
        &mut self.answers[index]
    }
}

/// Why an answer ended, in the API's words.
pub(crate) fn finish(
    reason: engine::FinishReason,
    stopped_by: Option<StopCause>,
) -> (FinishReason, Option<StopReason>) {
    let reason = match reason {
        engine::FinishReason::Stop => FinishReason::Stop,
        engine::FinishReason::Length => FinishReason::Length,
    };
    let cause = stopped_by.map(|cause| match cause {
        StopCause::Text(text) => StopReason::Text(text),
        StopCause::Token(token) => StopReason::Token(token),
    });
    (reason, cause)
}
