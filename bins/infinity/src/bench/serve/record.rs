//! What happened to a request.

use std::io::Write;
use std::path::Path;

use anyhow::{Context, Result};
use serde::Serialize;

use super::options::Slo;

/// How a request ended.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(tag = "ending", rename_all = "snake_case")]
pub(super) enum Ending {
    /// With a reason to finish.
    Complete,
    /// With a status other than 200.
    Status {
        /// The status.
        status: u16,
        /// Whether a Retry-After came with it.
        retry_after: bool,
        /// What the body says.
        message: String,
    },
    /// The connection could not be made, or broke before the head of the answer.
    NoAnswer {
        /// Why.
        message: String,
    },
    /// The stream began and is not complete.
    Broken {
        /// Why.
        message: String,
    },
    /// `--timeout` was over.
    TimedOut,
    /// The client went away, as `--cancel-fraction` has it.
    Cancelled,
}

impl Ending {
    /// What is counted together, and shown as one line.
    pub(super) fn kind(&self) -> String {
        match self {
            Ending::Complete => "complete".to_owned(),
            Ending::Status { status, .. } => format!("status {status}"),
            Ending::NoAnswer { .. } => "no answer".to_owned(),
            Ending::Broken { .. } => "broken stream".to_owned(),
            Ending::TimedOut => "timed out".to_owned(),
            Ending::Cancelled => "cancelled".to_owned(),
        }
    }

    /// Whether the server said that it has no room: 429 or 503.
    pub(super) fn is_refusal(&self) -> bool {
        matches!(self, Ending::Status { status: 429 | 503, .. })
    }

    /// Whether it is as the client wanted it: whole, or cut off by itself.
    pub(super) fn is_wanted(&self) -> bool {
        matches!(self, Ending::Complete | Ending::Cancelled)
    }

    /// An example of what went wrong.
    pub(super) fn message(&self) -> Option<&str> {
        match self {
            Ending::Status { message, .. }
            | Ending::NoAnswer { message }
            | Ending::Broken { message } => Some(message),
            Ending::Complete | Ending::TimedOut | Ending::Cancelled => None,
        }
    }
}

/// One request. Times are seconds since the load began.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Record {
    /// Its place in the order of sending.
    pub(super) request: usize,
    /// Tokens of the prompt that were aimed at.
    pub(super) wanted_prompt: usize,
    /// Tokens that were asked for.
    pub(super) wanted_output: usize,
    /// When it was due. All latencies count from here.
    pub(super) due: f64,
    /// When it was sent, the first time.
    pub(super) sent: f64,
    /// When it had ended.
    pub(super) ended: f64,
    /// How often it was sent again.
    pub(super) retries: usize,
    #[serde(flatten)]
    pub(super) ending: Ending,
    /// Tokens of the prompt, as the server counts.
    pub(super) prompt_tokens: Option<u64>,
    /// Of them, found in a cache.
    pub(super) cached_tokens: Option<u64>,
    /// Tokens of the answer, as the server counts.
    pub(super) output_tokens: Option<u64>,
    /// When each chunk with text came.
    pub(super) chunks: Vec<f64>,
}

impl Record {
    /// Seconds to the first chunk with text.
    pub(super) fn ttft(&self) -> Option<f64> {
        Some(self.chunks.first()? - self.due)
    }

    /// Seconds between chunks.
    pub(super) fn gaps(&self) -> impl Iterator<Item = f64> + '_ {
        self.chunks.windows(2).map(|pair| pair[1] - pair[0])
    }

    /// Tokens of the answer: the server's count, or else the chunks.
    pub(super) fn tokens(&self) -> u64 {
        self.output_tokens.unwrap_or(self.chunks.len() as u64)
    }

    /// Seconds a token after the first; `None` for fewer than two.
    pub(super) fn tpot(&self) -> Option<f64> {
        let (first, last) = (self.chunks.first()?, self.chunks.last()?);
        let more = self.tokens().checked_sub(1).filter(|&n| n > 0)?;
        Some((last - first) / more as f64)
    }

    /// Seconds until it had ended.
    pub(super) fn e2e(&self) -> f64 {
        self.ended - self.due
    }

    /// Whether it is complete and met the objective. An answer of one chunk has no gaps.
    pub(super) fn meets(&self, slo: &Slo) -> bool {
        self.ending == Ending::Complete
            && self.ttft().is_some_and(|t| t <= slo.ttft)
            && self.gaps().all(|gap| gap <= slo.itl)
            && slo.tpot.is_none_or(|most| self.tpot().is_none_or(|t| t <= most))
    }
}

/// Writes records of several loads as JSON lines, each with its load's place in the order.
pub(super) fn write(path: &Path, loads: &[Vec<Record>]) -> Result<()> {
    #[derive(Serialize)]
    struct Line<'a> {
        load: usize,
        #[serde(flatten)]
        record: &'a Record,
    }
    let mut text = Vec::new();
    for (load, records) in loads.iter().enumerate() {
        for record in records {
            serde_json::to_writer(&mut text, &Line { load, record })?;
            writeln!(text)?;
        }
    }
    files::write_atomically(path, &text)
        .with_context(|| format!("{} cannot be written", path.display()))
}
