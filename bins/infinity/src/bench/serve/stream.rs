//! A streamed answer, and when its pieces came.
//!
//! What servers send differs in detail (where the error is, whether the first chunk has a role and
//! no text, where the usage stands), so a chunk is read leniently: what is not known is skipped.

use hyper::body::Incoming;
use openai_api::sse::{SseError, SseReader};
use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::Value;
use tokio::time::Instant;

use super::record::Ending;
use super::target::{self, Transport};

/// Bytes that an event may have.
const MAX_EVENT: usize = 4 << 20;

/// Chunks that an answer may have.
const MAX_CHUNKS: usize = 1 << 20;

/// What has come of an answer. It grows while the answer is read, so that it is there when a
/// time-out ends the reading.
#[derive(Debug, Default)]
pub(super) struct Received {
    /// When each chunk with text came.
    pub(super) chunks: Vec<Instant>,
    /// The last usage that was reported.
    pub(super) usage: Option<Usage>,
    finished: bool,
}

/// Counts of tokens, by the server.
#[derive(Clone, Copy, Debug, Default, Deserialize)]
pub(super) struct Usage {
    #[serde(default)]
    pub(super) prompt_tokens: u64,
    #[serde(default)]
    pub(super) completion_tokens: u64,
    prompt_tokens_details: Option<Details>,
}

#[derive(Clone, Copy, Debug, Default, Deserialize)]
struct Details {
    cached_tokens: Option<u64>,
}

impl Usage {
    /// Tokens of the prompt that were found in a cache, if the server says so.
    pub(super) fn cached_tokens(&self) -> Option<u64> {
        self.prompt_tokens_details?.cached_tokens
    }
}

/// Why a stream that began is not complete.
#[derive(Debug, thiserror::Error)]
pub(super) enum Broken {
    /// The connection.
    #[error(transparent)]
    Transport(#[from] Transport),
    /// The server reported an error inside the stream.
    #[error("{0}")]
    Event(String),
    /// An event that is no chunk.
    #[error("not a chunk: {0}")]
    Chunk(#[from] serde_json::Error),
    /// What comes is no stream of events.
    #[error(transparent)]
    Sse(#[from] SseError),
    /// Chunks without end.
    #[error("more than {MAX_CHUNKS} chunks")]
    Endless,
    /// It ended before a reason to finish was given.
    #[error("the stream ended early")]
    CutOff,
}

#[derive(Deserialize)]
struct Chunk {
    #[serde(default)]
    choices: Vec<Choice>,
    usage: Option<Usage>,
    error: Option<Value>,
}

#[derive(Deserialize)]
struct Choice {
    text: Option<String>,
    delta: Option<Delta>,
    finish_reason: Option<IgnoredAny>,
}

#[derive(Deserialize)]
struct Delta {
    content: Option<String>,
    reasoning_content: Option<String>,
    reasoning: Option<String>,
    tool_calls: Option<Vec<IgnoredAny>>,
}

impl Choice {
    /// Whether a user would see something new.
    fn has_text(&self) -> bool {
        let filled = |text: &Option<String>| text.as_ref().is_some_and(|t| !t.is_empty());
        filled(&self.text)
            || self.delta.as_ref().is_some_and(|d| {
                filled(&d.content)
                    || filled(&d.reasoning_content)
                    || filled(&d.reasoning)
                    || d.tool_calls.as_ref().is_some_and(|calls| !calls.is_empty())
            })
    }
}

impl Received {
    /// Reads a stream of server-sent events to its end, or until so many chunks with text have come:
    /// then the connection is closed.
    ///
    /// # Errors
    /// [`Broken`]; what came before stays in `self`.
    pub(super) async fn read(
        &mut self,
        mut body: Incoming,
        cancel_after: Option<usize>,
    ) -> Result<Ending, Broken> {
        let mut events = SseReader::with_limit(MAX_EVENT);
        loop {
            if !self.finished && cancel_after.is_some_and(|n| self.chunks.len() >= n) {
                return Ok(Ending::Cancelled);
            }
            let Some(bytes) = target::next_bytes(&mut body).await? else { break };
            let now = Instant::now();
            for event in events.push(&bytes)? {
                if event.is_done() {
                    self.finished = true;
                } else {
                    self.chunk(serde_json::from_str(&event.data)?, now)?;
                }
            }
        }
        if self.finished { Ok(Ending::Complete) } else { Err(Broken::CutOff) }
    }

    fn chunk(&mut self, chunk: Chunk, now: Instant) -> Result<(), Broken> {
        if let Some(error) = chunk.error {
            return Err(Broken::Event(words(&error)));
        }
        if chunk.choices.iter().any(Choice::has_text) {
            if self.chunks.len() == MAX_CHUNKS {
                return Err(Broken::Endless);
            }
            self.chunks.push(now);
        }
        self.finished |= chunk.choices.iter().any(|c| c.finish_reason.is_some());
        // Some servers send it with each chunk; the last one has the whole.
        self.usage = chunk.usage.or(self.usage);
        Ok(())
    }
}

/// What an error says: a string, or the `message` of an object.
fn words(error: &Value) -> String {
    let text = error.as_str().or_else(|| error["message"].as_str());
    let text = text.map_or_else(|| error.to_string(), str::to_owned);
    one_line(&text)
}

/// What the body of an error says, in a line.
pub(super) fn error_message(body: &[u8]) -> String {
    match serde_json::from_slice::<Value>(body) {
        Ok(Value::Object(object)) if object.contains_key("error") => words(&object["error"]),
        Ok(value) => words(&value),
        Err(_) => one_line(&String::from_utf8_lossy(&body[..body.len().min(400)])),
    }
}

fn one_line(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(200).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Chunks with text, whether it finished, and tokens of prompt and answer.
    type Read = (usize, bool, Option<(u64, u64)>);

    fn read(events: &[&str]) -> Result<Read, String> {
        let mut received = Received::default();
        for event in events {
            let chunk = serde_json::from_str(event).map_err(|e| e.to_string())?;
            received.chunk(chunk, Instant::now()).map_err(|e| e.to_string())?;
        }
        let usage = received.usage.map(|u| (u.prompt_tokens, u.completion_tokens));
        Ok((received.chunks.len(), received.finished, usage))
    }

    #[test]
    fn what_servers_send_is_understood() {
        // llama-server: a role with null; the usage in a chunk without choices.
        let llama = [
            r#"{"choices":[{"finish_reason":null,"index":0,"delta":{"role":"assistant","content":null}}]}"#,
            r#"{"choices":[{"finish_reason":null,"index":0,"delta":{"content":"To"}}],"timings":{}}"#,
            r#"{"choices":[{"finish_reason":"length","index":0,"delta":{}}]}"#,
            r#"{"choices":[],"usage":{"completion_tokens":1,"prompt_tokens":9,"total_tokens":10}}"#,
        ];
        assert_eq!(read(&llama), Ok((1, true, Some((9, 1)))));
        // vLLM with continuous_usage_stats; text of a reasoning model.
        let vllm = [
            r#"{"choices":[{"delta":{"reasoning_content":"Hm"}}],"usage":{"prompt_tokens":9,"completion_tokens":1}}"#,
            r#"{"choices":[{"delta":{"reasoning":"m"}}],"usage":{"prompt_tokens":9,"completion_tokens":2}}"#,
            r#"{"choices":[{"delta":{"tool_calls":[{"index":0}]}}],"usage":null}"#,
        ];
        assert_eq!(read(&vllm), Ok((3, false, Some((9, 2)))));
        // TGI: the usage beside the last text.
        let tgi = r#"{"object":"text_completion","choices":[{"index":0,"text":"a","logprobs":null,
            "finish_reason":"length"}],"usage":{"prompt_tokens":2,"completion_tokens":3}}"#;
        assert_eq!(read(&[tgi]), Ok((1, true, Some((2, 3)))));
        // Text that is held back, and a server that tells only half.
        assert_eq!(
            read(&[r#"{"choices":[{"text":""}],"usage":{}}"#]),
            Ok((0, false, Some((0, 0))))
        );
    }

    #[test]
    fn errors_inside_a_stream_are_errors() {
        for (event, says) in [
            (r#"{"error":{"message":"no\u0000 more","code":500}}"#, "no  more"),
            (r#"{"error":"overloaded","error_type":"overloaded"}"#, "overloaded"),
            (r#"{"error":{"reason":1}}"#, r#"{"reason":1}"#),
            (r#"{"choices":[{"text":3}]}"#, "invalid type"),
            (r#"{"choices":{}}"#, "invalid type"),
            ("[", "EOF"),
        ] {
            let error = read(&[event]).unwrap_err();
            assert!(error.contains(says), "{event}: {error}");
        }
        let deep = "[".repeat(3000);
        assert!(read(&[&format!("{{\"error\":{deep}")]).unwrap_err().contains("recursion limit"));
        assert_eq!(error_message(&[0xff; 9000]).chars().count(), 200);
    }
}
