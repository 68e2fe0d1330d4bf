//! `POST /v1/completions`.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Extension, Request, State};
use axum::response::{IntoResponse, Response};
use openai_api::{
    ApiError, Completion, CompletionChoice, CompletionLogprobs, CompletionRequest, FinishReason,
    PromptInput, StreamOptions, Usage, sse,
};
use tokenizer::Tokenizer;

use super::answering::{Head, Meter, blocking, submit};
use super::app::{App, Served};
use super::body;
use super::collect::{Answer, Collected, collect_all, finish};
use super::edge::{Caller, RequestId};
use super::failure::Failure;
use super::logprobs::{self, CompletionLists};
use super::options::generation;
use super::prompts::{Prompt, gap, prompts};
use super::stream::{Frames, respond};
use super::trace::Trace;
use crate::engine::{Event, GenerationRequest, Tenant, TokenInfo};

/// Continues prompts.
pub(crate) async fn completions(
    State(app): State<Arc<App>>,
    Extension(id): Extension<RequestId>,
    Extension(caller): Extension<Caller>,
    request: Request,
) -> Result<Response, Failure> {
    let trace = Trace::of(&app, &request);
    let body = body::read(request, &app.config).await?;
    let request = CompletionRequest::parse(&body, app.config.json)?;
    drop(body);
    let served = app.served(Some(&request.model)).await?;
    let id = request.options.request_id.clone().unwrap_or(id.0);
    let head = Head::new("cmpl", &id, &served);
    let tenant = caller.tenant(request.options.user.as_deref());
    let (streams, most) = (request.options.streams(), app.config.max_prompts);
    let engine = served.engine.clone();
    let plan = blocking(move || Plan::new(request, &served, tenant, most)).await?;
    let requests = plan.prompts.iter().map(|prompt| {
        let prompt = prompt.tokens.clone();
        trace.begin("text_completion", &head, GenerationRequest { prompt, ..plan.base.clone() })
    });
    let generations = submit(&engine, requests, "prompt")?;
    drop(engine);
    if streams {
        let frames = CompletionFrames::new(head, plan);
        return Ok(respond(generations, frames, app.config.keep_alive).await?);
    }
    let collected = collect_all(generations).await?;
    Ok(Json(plan.whole(head, collected)).into_response())
}

/// A request in the engine's terms, and what the answer needs of it.
struct Plan {
    prompts: Vec<Prompt>,
    /// The prompts' texts, where the answer begins with them.
    echo: Option<Vec<String>>,
    /// The request of each prompt, without the prompt.
    base: GenerationRequest,
    n: usize,
    logprobs: Option<usize>,
    prompt_logprobs: Option<usize>,
    token_ids: bool,
    stream: StreamOptions,
    tokenizer: Arc<Tokenizer>,
}

impl Plan {
    fn new(
        request: CompletionRequest,
        served: &Served,
        tenant: Tenant,
        most: usize,
    ) -> Result<Self, ApiError> {
        let tokenizer = &served.context.tokenizer;
        let limit = request.limit();
        let options = request.options;
        if options.truncate_prompt_tokens.is_none() {
            let texts = request.prompt.texts().chain(request.suffix.as_deref());
            served.check_lengths(texts, "prompt")?;
        }
        let mut base =
            generation(&options, &served.context, tenant, Some(limit), request.logprobs)?;
        let add_special = options.add_special_tokens.unwrap_or(true);
        let mut prompts = match (request.prompt, &request.suffix) {
            (PromptInput::Text(prefix), Some(suffix)) => {
                vec![gap(&prefix, suffix, tokenizer, &request.model)?]
            }
            (input, _) => prompts(input, tokenizer, add_special, most, "prompt")?,
        };
        prompts.iter_mut().for_each(|p| p.truncate(options.truncate_prompt_tokens));
        let echo = match request.echo {
            Some(true) => {
                Some(prompts.iter().map(|p| p.text(tokenizer)).collect::<Result<_, _>>()?)
            }
            _ => None,
        };
        if echo.is_some() {
            base.prompt_logprobs = base.prompt_logprobs.max(request.logprobs);
        }
        Ok(Self {
            prompts,
            echo,
            base,
            n: options.answers(),
            logprobs: request.logprobs,
            prompt_logprobs: options.prompt_logprobs,
            token_ids: options.return_token_ids.unwrap_or(false),
            stream: options.stream_options.unwrap_or_default(),
            tokenizer: Arc::clone(tokenizer),
        })
    }

    /// Lists of log-probabilities at the beginning of an answer to a prompt.
    fn lists(&self) -> CompletionLists {
        CompletionLists::new(self.base.skip_special_tokens)
    }

    /// What an answer begins with, where the prompt is part of it.
    fn echoed(
        &self,
        prompt: usize,
        found: Option<&[Option<TokenInfo>]>,
        lists: &mut CompletionLists,
    ) -> (String, Option<CompletionLogprobs>) {
        let Some(texts) = &self.echo else { return (String::new(), None) };
        let (text, tokens) = (texts[prompt].clone(), &self.prompts[prompt].tokens);
        let logprobs = match (self.logprobs, found) {
            (Some(k), Some(found)) => Some(lists.prompt(&self.tokenizer, tokens, found, k, &text)),
            _ => None,
        };
        (text, logprobs)
    }

    fn whole(&self, head: Head, collected: Vec<Collected>) -> Completion {
        let mut meter = Meter::default();
        let mut choices = Vec::with_capacity(collected.len() * self.n);
        for (prompt, mut found) in collected.into_iter().enumerate() {
            meter.prompt(found.usage.prompt_tokens, found.usage.cached_tokens);
            meter.generated(found.usage.completion_tokens);
            for (index, answer) in std::mem::take(&mut found.answers).into_iter().enumerate() {
                choices.push(self.choice(prompt, index, answer, found.prompt.as_deref()));
            }
        }
        head.completion(choices, Some(meter.usage()))
    }

    fn choice(
        &self,
        prompt: usize,
        index: usize,
        answer: Answer,
        found: Option<&[Option<TokenInfo>]>,
    ) -> CompletionChoice {
        let mut lists = self.lists();
        let (mut text, mut logprobs) = self.echoed(prompt, found, &mut lists);
        text.push_str(&answer.text);
        if self.logprobs.is_some() {
            let more = lists.answer(&self.tokenizer, &answer.tokens);
            logprobs = Some(logprobs::join(logprobs.unwrap_or_default(), more));
        }
        let (finish_reason, stop_reason) = answer.finish.unwrap_or((FinishReason::Length, None));
        let token_ids = || answer.tokens.iter().map(|t| t.token).collect();
        let first = index == 0;
        let of_prompt = self.prompt_logprobs.zip(found.filter(|_| first));
        CompletionChoice {
            index: prompt * self.n + index,
            text,
            logprobs,
            finish_reason: Some(finish_reason),
            stop_reason,
            token_ids: self.token_ids.then(token_ids),
            prompt_token_ids: self.token_ids.then(|| self.prompts[prompt].tokens.clone()),
            prompt_logprobs: of_prompt
                .map(|(k, found)| logprobs::of_prompt(&self.tokenizer, found, k)),
        }
    }
}

/// A stream of chunks.
struct CompletionFrames {
    head: Head,
    plan: Plan,
    meter: Meter,
    /// One an answer.
    lists: Vec<CompletionLists>,
}

impl CompletionFrames {
    fn new(head: Head, plan: Plan) -> Self {
        let answers = plan.prompts.len() * plan.n;
        let lists = (0..answers).map(|_| plan.lists()).collect();
        let mut meter = Meter::default();
        plan.prompts.iter().for_each(|p| meter.prompt(p.tokens.len(), 0));
        Self { head, plan, meter, lists }
    }

    fn chunk(&self, choice: CompletionChoice, out: &mut Vec<u8>) {
        let usage = self.plan.stream.continuous_usage_stats.then(|| self.meter.usage());
        out.extend(sse::frame(&self.head.completion(vec![choice], usage)));
    }

    /// The chunks that hold the prompt: with its log-probabilities as soon as they are known.
    fn begin(&mut self, prompt: usize, found: Option<&[Option<TokenInfo>]>, out: &mut Vec<u8>) {
        if self.plan.echo.is_none() && !self.plan.token_ids {
            return;
        }
        for index in prompt * self.plan.n..(prompt + 1) * self.plan.n {
            let (text, logprobs) = self.plan.echoed(prompt, found, &mut self.lists[index]);
            let ids = || self.plan.prompts[prompt].tokens.clone();
            let prompt_token_ids = self.plan.token_ids.then(ids);
            self.chunk(
                CompletionChoice { index, text, logprobs, prompt_token_ids, ..Default::default() },
                out,
            );
        }
    }
}

impl Frames for CompletionFrames {
    fn event(&mut self, prompt: usize, event: Event, out: &mut Vec<u8>) {
        let awaits_logprobs = self.plan.base.prompt_logprobs.is_some();
        let of = |index: usize, n: usize| prompt * n + index;
        match event {
            Event::Started { cached_tokens } => {
                self.meter.cached(cached_tokens);
                if !awaits_logprobs {
                    self.begin(prompt, None, out);
                }
            }
            Event::Prompt(found) => self.begin(prompt, Some(&found), out),
            Event::Delta { index, text, tokens } => {
                self.meter.generated(tokens.len());
                let index = of(index, self.plan.n);
                let logprobs = self
                    .plan
                    .logprobs
                    .map(|_| self.lists[index].answer(&self.plan.tokenizer, &tokens));
                let ids = || tokens.iter().map(|t| t.token).collect();
                let token_ids = self.plan.token_ids.then(ids);
                self.chunk(
                    CompletionChoice { index, text, logprobs, token_ids, ..Default::default() },
                    out,
                );
            }
            Event::Finished { index, reason, stopped_by } => {
                let (reason, stop_reason) = finish(reason, stopped_by);
                let index = of(index, self.plan.n);
                let finish_reason = Some(reason);
                self.chunk(
                    CompletionChoice { index, finish_reason, stop_reason, ..Default::default() },
                    out,
                );
            }
            Event::Done(_) | Event::Failed(_) => {}
        }
    }

    fn end(&mut self, out: &mut Vec<u8>) {
        if self.plan.stream.include_usage {
            out.extend(sse::frame(&self.head.completion(Vec::new(), Some(self.meter.usage()))));
        }
        out.extend(sse::done());
    }
}

impl Head {
    fn completion(&self, choices: Vec<CompletionChoice>, usage: Option<Usage>) -> Completion {
        Completion {
            id: self.id.clone(),
            object: Completion::OBJECT.to_owned(),
            created: self.created,
            model: self.model.clone(),
            choices,
            system_fingerprint: Some(self.fingerprint.clone()),
            usage,
        }
    }
}
