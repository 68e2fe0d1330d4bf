//! `POST /v1/responses`: a chat in the API's newer form.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Extension, Request, State};
use axum::response::{IntoResponse, Response as HttpResponse};
use openai_api::{
    ApiError, FinishReason, IncompleteDetails, ItemStatus, OutputItem, OutputLogprob, OutputText,
    Response, ResponseError, ResponseEvent, ResponseStatus, ResponsesRequest, sse,
};

use super::answering::{Head, Meter, blocking, submit};
use super::app::{App, now};
use super::body;
use super::chat_plan::ChatPlan;
use super::chat_text::{ChatText, Piece};
use super::collect::{collect_all, finish};
use super::edge::{Caller, RequestId, new_id};
use super::failure::Failure;
use super::logprobs;
use super::stream::{Frames, respond};
use super::trace::Trace;
use crate::engine::{Event, TokenInfo};

/// Answers a conversation.
pub(crate) async fn responses(
    State(app): State<Arc<App>>,
    Extension(id): Extension<RequestId>,
    Extension(caller): Extension<Caller>,
    request: Request,
) -> Result<HttpResponse, Failure> {
    let trace = Trace::of(&app, &request);
    let body = body::read(request, &app.config).await?;
    let request = ResponsesRequest::parse(&body, app.config.json)?;
    drop(body);
    let served = app.served(Some(&request.chat.model)).await?;
    let head = Head::new("resp", &id.0, &served);
    let response = Response::begin(&request, head.id.clone(), head.created);
    let (streams, engine) = (request.chat.options.streams(), served.engine.clone());
    let tenant = caller.tenant(request.chat.options.user.as_deref());
    let plan = blocking(move || ChatPlan::new(request.chat, &served, tenant)).await?;
    let request = trace.begin("chat", &head, plan.request.clone());
    let generations = submit(&engine, std::iter::once(request), "input")?;
    drop(engine);
    let mut writer = Writer::new(response, plan);
    if streams {
        return Ok(respond(generations, writer, app.config.keep_alive).await?);
    }
    // The whole is what the stream's last event holds.
    for collected in collect_all(generations).await? {
        writer.meter.prompt(0, collected.usage.cached_tokens);
        for answer in collected.answers {
            writer.delta(&answer.text, &answer.tokens);
            if let Some((reason, _)) = answer.finish {
                writer.finished(reason);
            }
        }
    }
    writer.close_all();
    Ok(Json(writer.response).into_response())
}

/// Turns an answer into items, and tells each step as an event.
struct Writer {
    response: Response,
    plan: ChatPlan,
    reader: ChatText,
    meter: Meter,
    /// The item that grows.
    open: Option<Open>,
    /// Log-probabilities of tokens whose text has not come yet.
    logprobs: Vec<OutputLogprob>,
    finish: Option<FinishReason>,
    events: Vec<ResponseEvent>,
    sequence: u64,
}

enum Open {
    Message { id: String, text: OutputText },
    Call { id: String, call_id: String, name: String, arguments: String },
}

impl Writer {
    fn new(response: Response, plan: ChatPlan) -> Self {
        let mut meter = Meter::default();
        meter.prompt(plan.request.prompt.len(), 0);
        Self {
            reader: plan.reader(0),
            response,
            plan,
            meter,
            open: None,
            logprobs: Vec::new(),
            finish: None,
            events: Vec::new(),
            sequence: 0,
        }
    }

    fn begun(&mut self) {
        let response = || Box::new(self.response.clone());
        let created = ResponseEvent::Created { response: response() };
        let in_progress = ResponseEvent::InProgress { response: response() };
        self.events.extend([created, in_progress]);
    }

    fn delta(&mut self, text: &str, tokens: &[TokenInfo]) {
        self.meter.generated(tokens.len());
        if self.plan.logprobs {
            self.logprobs.extend(logprobs::output(&self.plan.tokenizer, tokens));
        }
        let pieces = self.reader.push(text);
        pieces.into_iter().for_each(|piece| self.piece(piece));
    }

    fn finished(&mut self, reason: FinishReason) {
        let pieces = self.reader.finish();
        pieces.into_iter().for_each(|piece| self.piece(piece));
        self.finish = Some(reason);
    }

    fn piece(&mut self, piece: Piece) {
        match piece {
            // As OpenAI does, thoughts are kept to the model.
            Piece::Reasoning(_) => {}
            Piece::Content(delta) => self.content(delta),
            Piece::Call(call) => {
                if let (Some(call_id), Some(name)) = (call.id, call.name) {
                    self.close(ItemStatus::Completed);
                    let id = format!("fc_{}", new_id());
                    let item = OutputItem::FunctionCall {
                        id: id.clone(),
                        status: ItemStatus::InProgress,
                        call_id: call_id.clone(),
                        name: name.clone(),
                        arguments: String::new(),
                    };
                    let output_index = self.response.output.len();
                    self.events.push(ResponseEvent::OutputItemAdded { output_index, item });
                    self.open = Some(Open::Call { id, call_id, name, arguments: String::new() });
                }
                let output_index = self.response.output.len();
                if let Some(Open::Call { id, arguments, .. }) = &mut self.open
                    && !call.arguments.is_empty()
                {
                    arguments.push_str(&call.arguments);
                    let (item_id, delta) = (id.clone(), call.arguments);
                    self.events.push(ResponseEvent::FunctionCallArgumentsDelta {
                        item_id,
                        output_index,
                        delta,
                    });
                }
            }
        }
    }

    fn content(&mut self, delta: String) {
        if !matches!(self.open, Some(Open::Message { .. })) {
            self.close(ItemStatus::Completed);
            self.open_message();
        }
        let output_index = self.response.output.len();
        let Some(Open::Message { id, text }) = &mut self.open else { return };
        let logprobs = std::mem::take(&mut self.logprobs);
        text.text.push_str(&delta);
        text.logprobs.extend(logprobs.iter().cloned());
        let (item_id, content_index) = (id.clone(), 0);
        self.events.push(ResponseEvent::OutputTextDelta {
            item_id,
            output_index,
            content_index,
            delta,
            logprobs,
        });
    }

    fn open_message(&mut self) {
        let (id, output_index) = (format!("msg_{}", new_id()), self.response.output.len());
        let item = OutputItem::message(id.clone(), ItemStatus::InProgress, Vec::new());
        self.events.push(ResponseEvent::OutputItemAdded { output_index, item });
        self.events.push(ResponseEvent::ContentPartAdded {
            item_id: id.clone(),
            output_index,
            content_index: 0,
            part: OutputText::default(),
        });
        self.open = Some(Open::Message { id, text: OutputText::default() });
    }

    /// Completes the item that grows.
    fn close(&mut self, status: ItemStatus) {
        let output_index = self.response.output.len();
        let item = match self.open.take() {
            None => return,
            Some(Open::Message { id, mut text }) => {
                text.logprobs.append(&mut self.logprobs);
                let (item_id, content_index) = (id.clone(), 0);
                self.events.push(ResponseEvent::OutputTextDone {
                    item_id: item_id.clone(),
                    output_index,
                    content_index,
                    text: text.text.clone(),
                    logprobs: text.logprobs.clone(),
                });
                let part = text.clone();
                self.events.push(ResponseEvent::ContentPartDone {
                    item_id,
                    output_index,
                    content_index,
                    part,
                });
                OutputItem::message(id, status, vec![text])
            }
            Some(Open::Call { id, call_id, name, arguments }) => {
                self.events.push(ResponseEvent::FunctionCallArgumentsDone {
                    item_id: id.clone(),
                    output_index,
                    name: name.clone(),
                    arguments: arguments.clone(),
                });
                OutputItem::FunctionCall { id, status, call_id, name, arguments }
            }
        };
        self.events.push(ResponseEvent::OutputItemDone { output_index, item: item.clone() });
        self.response.output.push(item);
    }

    /// Completes the response.
    fn close_all(&mut self) {
        if self.open.is_none() && self.response.output.is_empty() {
            // An answer of nothing is a message all the same.
            self.open_message();
        }
        let cut = self.finish == Some(FinishReason::Length);
        self.close(if cut { ItemStatus::Incomplete } else { ItemStatus::Completed });
        let response = &mut self.response;
        response.usage = Some(self.meter.usage().into());
        if cut {
            response.status = ResponseStatus::Incomplete;
            let reason = "max_output_tokens".to_owned();
            response.incomplete_details = Some(IncompleteDetails { reason });
        } else {
            response.status = ResponseStatus::Completed;
            response.completed_at = Some(now());
        }
        let response = Box::new(response.clone());
        self.events.push(match cut {
            true => ResponseEvent::Incomplete { response },
            false => ResponseEvent::Completed { response },
        });
    }

    fn flush(&mut self, out: &mut Vec<u8>) {
        for event in std::mem::take(&mut self.events) {
            out.extend(sse::event(event.name(), &event.numbered(self.sequence)));
            self.sequence += 1;
        }
    }
}

impl Frames for Writer {
    fn event(&mut self, _: usize, event: Event, out: &mut Vec<u8>) {
        match event {
            Event::Started { cached_tokens } => {
                self.meter.cached(cached_tokens);
                self.begun();
            }
            Event::Delta { text, tokens, .. } => self.delta(&text, &tokens),
            Event::Finished { reason, stopped_by, .. } => {
                self.finished(finish(reason, stopped_by).0)
            }
            Event::Prompt(_) | Event::Done(_) | Event::Failed(_) => {}
        }
        self.flush(out);
    }

    fn end(&mut self, out: &mut Vec<u8>) {
        self.close_all();
        self.flush(out);
    }

    fn failed(&mut self, error: &ApiError, out: &mut Vec<u8>) {
        self.response.status = ResponseStatus::Failed;
        let (code, message) = ("server_error".to_owned(), error.to_string());
        self.response.error = Some(ResponseError { code, message });
        let response = Box::new(self.response.clone());
        self.events.push(ResponseEvent::Failed { response });
        self.flush(out);
    }
}
