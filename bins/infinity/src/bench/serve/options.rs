//! The command line of `infinity bench --serve`.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Result, ensure};
use clap::ValueEnum;
use serde::Serialize;
use workload::{Lengths, MAX_LENGTH, MAX_REQUESTS};

use super::super::List;

/// Load on a server, in place of the ordinary figures.
#[derive(clap::Args)]
// Groups are named as their structs, and there is another of this name.
#[group(id = "server")]
#[command(next_help_heading = "A server under load")]
pub(crate) struct Options {
    /// Put an OpenAI-compatible server under load and measure what its users would see
    #[arg(long, value_name = "URL")]
    pub(super) serve: Option<String>,
    /// The model's name there (default: the first of /v1/models)
    #[arg(long = "model", value_name = "NAME", requires = "serve")]
    pub(super) served_model: Option<String>,
    /// Sent as a bearer token (default: the variable OPENAI_API_KEY)
    #[arg(long, value_name = "KEY", requires = "serve")]
    pub(super) api_key: Option<String>,
    /// Which endpoint is asked
    #[arg(long, value_enum, default_value = "completions", requires = "serve")]
    pub(super) endpoint: Endpoint,
    /// Closed loop: so many clients, each sends when its last request has ended [default: 1]
    #[arg(long, value_name = "N,N", requires = "serve", conflicts_with = "rate")]
    pub(super) clients: Option<List<usize>>,
    /// Open loop: so many requests a second on average (Poisson), however slow the answers are
    #[arg(long, value_name = "R,R", requires = "serve")]
    pub(super) rate: Option<List<f64>>,
    /// Requests at each rate or number of clients [default: 100, or what --duration has time for]
    #[arg(long, value_name = "N", requires = "serve")]
    pub(super) requests: Option<usize>,
    /// Seconds during which requests are sent, at each rate or number of clients
    #[arg(long, value_name = "S", requires = "serve")]
    pub(super) duration: Option<f64>,
    /// Tokens of a prompt: N, N..M, lognormal:MEDIAN:SIGMA or sharegpt
    #[arg(long, default_value = "lognormal:128:0.8", value_name = "LENGTHS", requires = "serve")]
    pub(super) prompt_tokens: Lengths,
    /// Tokens asked for, in the same forms
    #[arg(long, default_value = "lognormal:64:0.6", value_name = "LENGTHS", requires = "serve")]
    pub(super) output_tokens: Lengths,
    /// Lengths and arrivals from a file of JSON lines, as kv-sim reads them; with --rate or
    /// --clients the lengths alone
    #[arg(long, value_name = "FILE.jsonl", requires = "serve", conflicts_with_all = ["prompt_tokens", "output_tokens"])]
    pub(super) trace: Option<PathBuf>,
    /// Tokens in front of each prompt, besides its own
    #[arg(long, default_value_t = 0, value_name = "N", requires = "serve")]
    pub(super) shared_prefix: usize,
    /// The share of requests for which they are the same text
    #[arg(long, default_value_t = 1.0, value_name = "P", requires = "serve")]
    pub(super) shared_fraction: f64,
    /// Prompt and output together have at most so many tokens [default: what /v1/models says]
    #[arg(long, value_name = "N", requires = "serve")]
    pub(super) max_model_len: Option<usize>,
    /// Let the model end its answers, instead of asking for all tokens
    #[arg(long, requires = "serve")]
    pub(super) no_ignore_eos: bool,
    /// 0 takes the most probable token each time
    #[arg(long, default_value_t = 0.0, value_name = "T", requires = "serve")]
    pub(super) temperature: f64,
    /// The same seed sends the same requests
    #[arg(long, default_value_t = 42, value_name = "N", requires = "serve")]
    pub(super) seed: u64,
    /// Requests that come first and do not count
    #[arg(long, default_value_t = 2, value_name = "N", requires = "serve")]
    pub(super) warm_up_requests: usize,
    /// Seconds that a request may take
    #[arg(long, default_value_t = 600.0, value_name = "S", requires = "serve")]
    pub(super) timeout: f64,
    /// Times that a refused request (429, 503) is sent again, after its Retry-After
    #[arg(long, default_value_t = 0, value_name = "N", requires = "serve")]
    pub(super) retries: usize,
    /// Tokens of a word of the prompts, for a server that reports no usage [default: measured]
    #[arg(long, value_name = "X", requires = "serve")]
    pub(super) tokens_per_word: Option<f64>,
    /// Goodput: seconds to the first token
    #[arg(long, default_value_t = 2.0, value_name = "S", requires = "serve")]
    pub(super) ttft: f64,
    /// Goodput: seconds of the longest gap between tokens
    #[arg(long, default_value_t = 0.5, value_name = "S", requires = "serve")]
    pub(super) itl: f64,
    /// Goodput: seconds a token after the first, on average (default: any)
    #[arg(long, value_name = "S", requires = "serve")]
    pub(super) tpot: Option<f64>,
    /// The share of requests whose client goes away at a random point of the answer
    #[arg(long, default_value_t = 0.0, value_name = "P", requires = "serve")]
    pub(super) cancel_fraction: f64,
    /// Write what happened to each request, as JSON lines
    #[arg(long, value_name = "OUT.jsonl", requires = "serve")]
    pub(super) records: Option<PathBuf>,
}

/// What is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Endpoint {
    /// /v1/completions
    Completions,
    /// /v1/chat/completions, the prompt being one message of the user
    Chat,
}

/// The objective that a request must meet to count as goodput.
#[derive(Clone, Copy, Debug, Serialize)]
pub(super) struct Slo {
    /// Seconds to the first token, at most.
    pub(super) ttft: f64,
    /// Seconds between two chunks, each at most.
    pub(super) itl: f64,
    /// Seconds a token after the first, on average at most.
    pub(super) tpot: Option<f64>,
}

/// How requests come.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[serde(tag = "load", rename_all = "snake_case")]
pub(super) enum Load {
    /// Each client sends when its last request has ended.
    Closed {
        /// How many.
        clients: usize,
    },
    /// At the times of a Poisson process.
    Open {
        /// Requests a second on average.
        rate: f64,
    },
    /// At the times of the trace.
    Trace,
}

impl Options {
    /// Whether a server is to be measured.
    pub(crate) fn wanted(&self) -> bool {
        self.serve.is_some()
    }

    /// Checks what clap cannot.
    pub(super) fn check(&self) -> Result<()> {
        let seconds = |name, x: f64| -> Result<()> {
            ensure!(x > 0.0 && x <= 1e6, "{name} {x}: from 0 (excluded) to 1000000 seconds");
            Ok(())
        };
        seconds("--timeout", self.timeout)?;
        seconds("--ttft", self.ttft)?;
        seconds("--itl", self.itl)?;
        self.tpot.map_or(Ok(()), |x| seconds("--tpot", x))?;
        self.duration.map_or(Ok(()), |x| seconds("--duration", x))?;
        for rate in self.rate.iter().flat_map(|l| &l.0) {
            ensure!(*rate > 0.0 && *rate <= 1e5, "--rate {rate}: from 0 (excluded) to 100000");
        }
        for clients in self.clients.iter().flat_map(|l| &l.0) {
            ensure!((1..=10_000).contains(clients), "--clients {clients}: from 1 to 10000");
        }
        let requests = self.requests.unwrap_or(1);
        ensure!(
            (1..=MAX_REQUESTS).contains(&requests),
            "--requests {requests}: from 1 to {MAX_REQUESTS}"
        );
        for (name, fraction) in [
            ("--shared-fraction", self.shared_fraction),
            ("--cancel-fraction", self.cancel_fraction),
        ] {
            ensure!((0.0..=1.0).contains(&fraction), "{name} {fraction}: from 0 to 1");
        }
        let shared = self.shared_prefix;
        ensure!(shared <= MAX_LENGTH, "--shared-prefix {shared}: at most {MAX_LENGTH}");
        let t = self.temperature;
        ensure!((0.0..=2.0).contains(&t), "--temperature {t}: from 0 to 2");
        if let Some(x) = self.tokens_per_word {
            ensure!((0.1..=100.0).contains(&x), "--tokens-per-word {x}: from 0.1 to 100");
        }
        if let Some(n) = self.max_model_len {
            ensure!((2..=MAX_LENGTH).contains(&n), "--max-model-len {n}: from 2 to {MAX_LENGTH}");
        }
        ensure!(!self.loads().is_empty(), "--clients or --rate need a value");
        Ok(())
    }

    /// The loads, one after another.
    pub(super) fn loads(&self) -> Vec<Load> {
        match (&self.rate, &self.clients) {
            (Some(rates), _) => rates.0.iter().map(|&rate| Load::Open { rate }).collect(),
            (None, Some(all)) => all.0.iter().map(|&clients| Load::Closed { clients }).collect(),
            (None, None) if self.trace.is_some() => vec![Load::Trace],
            (None, None) => vec![Load::Closed { clients: 1 }],
        }
    }

    /// Requests of each load, if `--duration` does not end it before.
    pub(super) fn requests(&self) -> usize {
        let without = if self.duration.is_some() { MAX_REQUESTS } else { 100 };
        self.requests.unwrap_or(without)
    }

    /// How long requests are sent.
    pub(super) fn duration(&self) -> Duration {
        self.duration.map_or(Duration::MAX, Duration::from_secs_f64)
    }

    pub(super) fn slo(&self) -> Slo {
        Slo { ttft: self.ttft, itl: self.itl, tpot: self.tpot }
    }
}
