//! What each request is, and sending one.

use std::cell::Cell;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use http::Method;
use http::header::RETRY_AFTER;
use serde::Deserialize;
use serde_json::json;
use tokio::time::{Instant, sleep, timeout_at};

use super::options::{Endpoint, Options};
use super::prompt::{self, Calibration, Prefix, Seed};
use super::record::{Ending, Record};
use super::stream::{Broken, Received, Usage, error_message};
use super::target::{self, Target, Transport};

/// Seconds before a refused request is sent again, where the server does not say.
const DEFAULT_RETRY_AFTER: f64 = 1.0;

/// In which a client that goes away at once has connected and sent its request.
const TIME_TO_SEND: Duration = Duration::from_millis(50);

/// Sends requests of one kind to one server.
pub(super) struct Client<'a> {
    pub(super) target: &'a Target,
    pub(super) options: &'a Options,
    pub(super) model: String,
    pub(super) calibration: Calibration,
    pub(super) live: Live,
}

/// What a progress bar shows.
#[derive(Default)]
pub(super) struct Live {
    pub(super) running: Cell<usize>,
    pub(super) most_running: Cell<usize>,
    pub(super) ended: Cell<usize>,
    pub(super) unwanted: Cell<usize>,
}

impl Live {
    fn begin(&self) {
        self.running.update(|n| n + 1);
        self.most_running.set(self.most_running.get().max(self.running.get()));
    }

    fn end(&self, ending: &Ending) {
        self.running.update(|n| n - 1);
        self.ended.update(|n| n + 1);
        self.unwanted.update(|n| n + usize::from(!ending.is_wanted()));
    }
}

/// A request that is to be sent.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Planned {
    /// When, after the load began.
    pub(super) at: Duration,
    /// Tokens of the prompt, without the prefix.
    pub(super) prompt: usize,
    /// Tokens to ask for.
    pub(super) output: usize,
    /// Says which words the prompt has.
    pub(super) text: u64,
    /// Says which words the prefix has.
    pub(super) prefix: u64,
    /// Chunks with text after which the client goes away, if it does: 0 is as soon as it has sent
    /// the request.
    pub(super) cancel_after: Option<usize>,
}

impl Client<'_> {
    /// Sends a request, and again while it is refused and `--retries` are left. `due` is the
    /// instant that latencies count from, `began` that of the load.
    pub(super) async fn request(
        &self,
        number: usize,
        planned: Planned,
        due: Instant,
        began: Instant,
    ) -> Record {
        let body = self.body(&planned);
        let since = |instant: Instant| instant.duration_since(began).as_secs_f64();
        let mut received = Received::default();
        let (mut retries, cancel_after) = (0, planned.cancel_after);
        let sent = Instant::now();
        self.live.begin();
        let attempts = async {
            loop {
                let (ending, retry_after) = self.attempt(&body, cancel_after, &mut received).await;
                if !ending.is_refusal() || retries == self.options.retries {
                    return ending;
                }
                retries += 1;
                sleep(Duration::from_secs_f64(retry_after)).await;
            }
        };
        let (patience, impatient) = match cancel_after {
            Some(0) => (TIME_TO_SEND, Ending::Cancelled),
            _ => (Duration::from_secs_f64(self.options.timeout), Ending::TimedOut),
        };
        let ending = timeout_at(sent + patience, attempts).await.unwrap_or(impatient);
        let ended = Instant::now();
        self.live.end(&ending);
        let usage = received.usage;
        Record {
            request: number,
            wanted_prompt: planned.prompt + self.options.shared_prefix,
            wanted_output: planned.output,
            due: since(due),
            sent: since(sent),
            ended: since(ended),
            retries,
            ending,
            prompt_tokens: usage.map(|u| u.prompt_tokens),
            cached_tokens: usage.and_then(|u| u.cached_tokens()),
            output_tokens: usage.map(|u| u.completion_tokens),
            chunks: received.chunks.into_iter().map(since).collect(),
        }
    }

    /// Sends it once. The seconds are those after which a refused one may come again.
    async fn attempt(
        &self,
        body: &str,
        cancel_after: Option<usize>,
        received: &mut Received,
    ) -> (Ending, f64) {
        let path = path(self.options.endpoint);
        let no_answer = |e: Transport| (Ending::NoAnswer { message: e.to_string() }, 0.0);
        let response = match self.target.send(Method::POST, path, body.to_owned()).await {
            Ok(response) => response,
            Err(e) => return no_answer(e),
        };
        let status = response.status().as_u16();
        if status == 200 {
            let broken = |e: Broken| Ending::Broken { message: e.to_string() };
            let read = received.read(response.into_body(), cancel_after).await;
            return (read.unwrap_or_else(broken), 0.0);
        }
        let header = response.headers().get(RETRY_AFTER);
        let seconds = header.and_then(|value| value.to_str().ok()?.trim().parse::<u32>().ok());
        let ending = Ending::Status {
            status,
            retry_after: header.is_some(),
            message: match target::whole(response.into_body()).await {
                Ok(body) => error_message(&body),
                Err(e) => e.to_string(),
            },
        };
        (ending, seconds.map_or(DEFAULT_RETRY_AFTER, f64::from))
    }

    fn body(&self, planned: &Planned) -> String {
        let run = self.options.seed;
        let seed = |text| Seed { run, text };
        let prefix = Prefix { tokens: self.options.shared_prefix, seed: seed(planned.prefix) };
        let text = self.calibration.prompt(prefix, planned.prompt, seed(planned.text));
        let mut body = request_body(self.options.endpoint, &self.model, &text, planned.output);
        body["stream"] = true.into();
        body["stream_options"] = json!({ "include_usage": true });
        body["temperature"] = self.options.temperature.into();
        if !self.options.no_ignore_eos {
            body["ignore_eos"] = true.into();
        }
        body.to_string()
    }
}

fn path(endpoint: Endpoint) -> &'static str {
    match endpoint {
        Endpoint::Completions => "/v1/completions",
        Endpoint::Chat => "/v1/chat/completions",
    }
}

fn request_body(
    endpoint: Endpoint,
    model: &str,
    text: &str,
    max_tokens: usize,
) -> serde_json::Value {
    match endpoint {
        Endpoint::Completions => {
            json!({ "model": model, "prompt": text, "max_tokens": max_tokens })
        }
        Endpoint::Chat => json!({
            "model": model,
            "messages": [{ "role": "user", "content": text }],
            "max_tokens": max_tokens,
        }),
    }
}

/// A model, as `/v1/models` lists it.
#[derive(Deserialize)]
pub(super) struct Model {
    pub(super) id: String,
    pub(super) max_model_len: Option<usize>,
}

/// The model of `name`, or the first one that the server lists.
///
/// # Errors
/// If there is no list and no name.
pub(super) async fn model(target: &Target, name: Option<&str>) -> Result<Model> {
    #[derive(Deserialize)]
    struct Models {
        data: Vec<Model>,
    }
    let listed = target.json::<Models>(Method::GET, "/v1/models", String::new()).await;
    let Some(name) = name else {
        let first = listed.context("--model NAME is needed")?.data.into_iter().next();
        return first.context("/v1/models lists nothing: --model NAME is needed");
    };
    // A server need not have the list.
    let found = listed.ok().and_then(|list| list.data.into_iter().find(|m| m.id == name));
    Ok(found.unwrap_or(Model { id: name.to_owned(), max_model_len: None }))
}

/// Asks the server how many tokens two prompts have.
///
/// # Errors
/// If it refuses them, or reports no usage.
pub(super) async fn calibrate(
    target: &Target,
    endpoint: Endpoint,
    model: &str,
    seed: u64,
) -> Result<Calibration> {
    #[derive(Deserialize)]
    struct Answer {
        usage: Option<Usage>,
    }
    let mut counts = [0; 2];
    for (copies, count) in (1..).zip(&mut counts) {
        let text = prompt::calibration_text(copies, seed);
        let body = request_body(endpoint, model, &text, 1).to_string();
        let answer: Answer = target
            .json(Method::POST, path(endpoint), body)
            .await
            .with_context(|| format!("a prompt of {} words", prompt::CALIBRATION[copies - 1]))?;
        *count = answer.usage.unwrap_or_default().prompt_tokens;
    }
    match Calibration::from_counts(counts) {
        Some(line) => Ok(line),
        None => bail!(
            "the server counts {} and {} tokens in {} and {} words: --tokens-per-word X is needed",
            counts[0],
            counts[1],
            prompt::CALIBRATION[0],
            prompt::CALIBRATION[1]
        ),
    }
}
