//! `POST /v1/chat/completions`.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Extension, Request, State};
use axum::response::{IntoResponse, Response};
use openai_api::{
    AnswerMessage, ApiError, ChatChoice, ChatChunk, ChatCompletion, ChatRequest, ChunkChoice,
    Delta, FinishReason, FunctionDelta, Role, ToolCall, ToolCallDelta, Usage, sse,
};

use super::answering::{Head, Meter, blocking, submit};
use super::app::App;
use super::body;
use super::chat_plan::ChatPlan;
use super::chat_text::{ChatText, Piece};
use super::collect::{Answer, Collected, collect_all, finish};
use super::edge::{Caller, RequestId};
use super::failure::Failure;
use super::logprobs;
use super::stream::{Frames, respond};
use super::trace::Trace;
use crate::engine::Event;

/// Answers a conversation.
pub(crate) async fn chat_completions(
    State(app): State<Arc<App>>,
    Extension(id): Extension<RequestId>,
    Extension(caller): Extension<Caller>,
    request: Request,
) -> Result<Response, Failure> {
    let trace = Trace::of(&app, &request);
    let body = body::read(request, &app.config).await?;
    let request = ChatRequest::parse(&body, app.config.json)?;
    drop(body);
    let served = app.served(Some(&request.model)).await?;
    let id = request.options.request_id.clone().unwrap_or(id.0);
    let head = Head::new("chatcmpl", &id, &served);
    let tenant = caller.tenant(request.options.user.as_deref());
    let (streams, engine) = (request.options.streams(), served.engine.clone());
    let plan = blocking(move || ChatPlan::new(request, &served, tenant)).await?;
    let request = trace.begin("chat", &head, plan.request.clone());
    let generations = submit(&engine, std::iter::once(request), "messages")?;
    drop(engine);
    if streams {
        let frames = ChatFrames::new(head, plan);
        return Ok(respond(generations, frames, app.config.keep_alive).await?);
    }
    let collected = collect_all(generations).await?;
    Ok(Json(whole(head, &plan, collected)?).into_response())
}

fn whole(
    head: Head,
    plan: &ChatPlan,
    collected: Vec<Collected>,
) -> Result<ChatCompletion, ApiError> {
    let [collected] = <[Collected; 1]>::try_from(collected)
        .map_err(|_| ApiError::Internal { reason: "a chat has one prompt".to_owned() })?;
    let mut meter = Meter::default();
    meter.prompt(collected.usage.prompt_tokens, collected.usage.cached_tokens);
    meter.generated(collected.usage.completion_tokens);
    let prompt_logprobs = plan.prompt_logprobs.zip(collected.prompt.as_deref());
    let answers = collected.answers.into_iter().enumerate();
    Ok(ChatCompletion {
        id: head.id,
        object: ChatCompletion::OBJECT.to_owned(),
        created: head.created,
        model: head.model,
        choices: answers.map(|(index, answer)| choice(plan, index, answer)).collect(),
        system_fingerprint: Some(head.fingerprint),
        usage: Some(meter.usage()),
        prompt_logprobs: prompt_logprobs
            .map(|(k, found)| logprobs::of_prompt(&plan.tokenizer, found, k)),
        prompt_token_ids: plan.token_ids.then(|| plan.request.prompt.clone()),
    })
}

fn choice(plan: &ChatPlan, index: usize, answer: Answer) -> ChatChoice {
    let message = read(plan.reader(index), &answer.text);
    let (reason, stop_reason) = answer.finish.unwrap_or((FinishReason::Length, None));
    ChatChoice {
        index,
        finish_reason: with_calls(reason, !message.tool_calls.is_empty()),
        message,
        logprobs: plan.logprobs.then(|| logprobs::chat(&plan.tokenizer, &answer.tokens)),
        stop_reason,
        token_ids: plan.token_ids.then(|| answer.tokens.iter().map(|t| t.token).collect()),
    }
}

/// The message that a whole text is.
pub(crate) fn read(mut reader: ChatText, text: &str) -> AnswerMessage {
    let (mut content, mut thoughts) = (String::new(), String::new());
    let mut tool_calls: Vec<ToolCall> = Vec::new();
    let pieces = reader.push(text).into_iter();
    for piece in pieces.chain(reader.finish()) {
        match piece {
            Piece::Reasoning(text) => thoughts.push_str(&text),
            Piece::Content(text) => content.push_str(&text),
            Piece::Call(delta) => {
                if delta.index >= tool_calls.len() {
                    let (id, name) = (delta.id.unwrap_or_default(), delta.name.unwrap_or_default());
                    tool_calls.push(ToolCall::new(id, name, String::new()));
                }
                if let Some(call) = tool_calls.get_mut(delta.index) {
                    call.function.arguments.push_str(&delta.arguments);
                }
            }
        }
    }
    AnswerMessage {
        role: Role::Assistant,
        content: (tool_calls.is_empty() || !content.is_empty()).then_some(content),
        refusal: None,
        reasoning_content: (!thoughts.is_empty()).then_some(thoughts),
        tool_calls,
    }
}

/// Why an answer ended, if it calls tools.
fn with_calls(reason: FinishReason, calls: bool) -> FinishReason {
    if calls && reason == FinishReason::Stop { FinishReason::ToolCalls } else { reason }
}

/// A stream of chunks.
struct ChatFrames {
    head: Head,
    plan: ChatPlan,
    meter: Meter,
    readers: Vec<ChatText>,
}

impl ChatFrames {
    fn new(head: Head, plan: ChatPlan) -> Self {
        let mut meter = Meter::default();
        meter.prompt(plan.request.prompt.len(), 0);
        let readers = (0..plan.n).map(|index| plan.reader(index)).collect();
        Self { head, plan, meter, readers }
    }

    fn chunk(&self, choice: ChunkChoice, out: &mut Vec<u8>) {
        let usage = self.plan.stream.continuous_usage_stats.then(|| self.meter.usage());
        out.extend(sse::frame(&self.head.chat_chunk(vec![choice], usage)));
    }
}

impl Frames for ChatFrames {
    fn event(&mut self, _: usize, event: Event, out: &mut Vec<u8>) {
        match event {
            Event::Started { cached_tokens } => {
                self.meter.cached(cached_tokens);
                for index in 0..self.plan.n {
                    let content = Some(String::new());
                    let delta = Delta { role: Some(Role::Assistant), content, ..Delta::default() };
                    let choice = ChunkChoice { index, delta, ..ChunkChoice::default() };
                    let mut chunk = self.head.chat_chunk(vec![choice], None);
                    if index == 0 && self.plan.token_ids {
                        chunk.prompt_token_ids = Some(self.plan.request.prompt.clone());
                    }
                    out.extend(sse::frame(&chunk));
                }
            }
            Event::Delta { index, text, tokens } => {
                self.meter.generated(tokens.len());
                let mut deltas = deltas(self.readers[index].push(&text));
                let logprobs = self.plan.logprobs && !tokens.is_empty();
                let logprobs = logprobs.then(|| logprobs::chat(&self.plan.tokenizer, &tokens));
                let ids = || tokens.iter().map(|t| t.token).collect();
                let token_ids = self.plan.token_ids.then(ids);
                if deltas.is_empty() && (logprobs.is_some() || token_ids.is_some()) {
                    deltas.push(Delta::default());
                }
                let (mut logprobs, mut token_ids) = (logprobs, token_ids);
                for delta in deltas {
                    let (logprobs, token_ids) = (logprobs.take(), token_ids.take());
                    let choice =
                        ChunkChoice { index, delta, logprobs, token_ids, ..ChunkChoice::default() };
                    self.chunk(choice, out);
                }
            }
            Event::Finished { index, reason, stopped_by } => {
                for delta in deltas(self.readers[index].finish()) {
                    self.chunk(ChunkChoice { index, delta, ..ChunkChoice::default() }, out);
                }
                let (reason, stop_reason) = finish(reason, stopped_by);
                let finish_reason = Some(with_calls(reason, self.readers[index].has_calls()));
                let choice =
                    ChunkChoice { index, finish_reason, stop_reason, ..ChunkChoice::default() };
                self.chunk(choice, out);
            }
            Event::Prompt(_) | Event::Done(_) | Event::Failed(_) => {}
        }
    }

    fn end(&mut self, out: &mut Vec<u8>) {
        if self.plan.stream.include_usage {
            out.extend(sse::frame(&self.head.chat_chunk(Vec::new(), Some(self.meter.usage()))));
        }
        out.extend(sse::done());
    }
}

fn deltas(pieces: Vec<Piece>) -> Vec<Delta> {
    let of = |piece| match piece {
        Piece::Reasoning(text) => Delta { reasoning_content: Some(text), ..Delta::default() },
        Piece::Content(text) => Delta { content: Some(text), ..Delta::default() },
        Piece::Call(call) => {
            let begins = call.id.is_some();
            let function = FunctionDelta { name: call.name, arguments: Some(call.arguments) };
            let kind = begins.then(|| ToolCall::KIND.to_owned());
            let call = ToolCallDelta { index: call.index, id: call.id, kind, function };
            Delta { tool_calls: vec![call], ..Delta::default() }
        }
    };
    pieces.into_iter().map(of).collect()
}

impl Head {
    fn chat_chunk(&self, choices: Vec<ChunkChoice>, usage: Option<Usage>) -> ChatChunk {
        ChatChunk {
            id: self.id.clone(),
            object: ChatChunk::OBJECT.to_owned(),
            created: self.created,
            model: self.model.clone(),
            choices,
            system_fingerprint: Some(self.fingerprint.clone()),
            usage,
            prompt_token_ids: None,
        }
    }
}
