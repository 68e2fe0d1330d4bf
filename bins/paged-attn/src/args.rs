//! The command line.

use std::io::IsTerminal;
use std::time::Duration;

use anyhow::{Result, ensure};
use paged_attn::engine::EngineConfig;
use paged_attn::requests::Workload;
use scheduler::Budget;

/// Show how a paged key-value cache serves several requests at once, on a small embedded model.
///
/// Each step prints what the scheduler decided, which logical block of a sequence lies in which
/// physical one, which blocks are shared, copied before a write, found again and given back. At the
/// end every answer is generated again, alone and with a contiguous cache, and must be the same.
#[derive(clap::Parser)]
#[command(
    name = "paged-attn",
    version,
    after_help = "\
In the terminal: space stops and goes on, n makes one step, + and - change the pace, q leaves.

Examples:
  paged-attn --sim-requests 3
  paged-attn --sim-requests 3 --plain
  paged-attn --sim-requests 6 --blocks 24     # too few: requests wait and are preempted
  paged-attn --json | jq -c '.events[]?'

Exit codes: 0 success, 1 failure (an answer that differs too), 2 wrong usage."
)]
pub(crate) struct Args {
    /// Requests; their prompts begin with the same scene
    #[arg(long, default_value_t = 3, value_name = "N")]
    sim_requests: usize,
    /// Answers to each request, which share its prompt
    #[arg(long, default_value_t = 2, value_name = "N")]
    sequences_per_request: usize,
    /// Tokens of an answer at most
    #[arg(long, default_value_t = 24, value_name = "N")]
    max_tokens: usize,
    /// Positions a block
    #[arg(long, default_value_t = 8, value_name = "N")]
    block_size: usize,
    /// Blocks of the cache
    #[arg(long, default_value_t = 48, value_name = "N")]
    blocks: u32,
    /// Rows of a step at most
    #[arg(long, default_value_t = 64, value_name = "N")]
    max_num_batched_tokens: usize,
    /// Rows of prompts at most in a step in which something decodes
    #[arg(long, default_value_t = 24, value_name = "N")]
    prompt_rows: usize,
    /// Temperature that tokens are drawn at; 0 takes the most probable one
    #[arg(long, default_value_t = 0.8, value_name = "T")]
    temperature: f32,
    /// Arrivals, prompts and answers follow from it
    #[arg(long, default_value_t = 42, value_name = "N")]
    seed: u64,
    /// Milliseconds between two steps [default: 400 in the terminal, 0 otherwise]
    #[arg(long, value_name = "MS")]
    delay: Option<u64>,
    /// Print lines; so it is too where standard output is no terminal
    #[arg(long, conflicts_with = "json")]
    plain: bool,
    /// Print JSON, one line a step and one for the end
    #[arg(long)]
    json: bool,
}

/// How a run is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Shown {
    Live,
    Plain,
    Json,
}

impl Args {
    /// Checks what clap cannot. Its errors are those of wrong usage.
    pub(crate) fn check(&self) -> Result<()> {
        let counts = [
            ("--sim-requests", self.sim_requests, 64),
            ("--sequences-per-request", self.sequences_per_request, 16),
            ("--max-tokens", self.max_tokens, 256),
            ("--block-size", self.block_size, 256),
            ("--blocks", self.blocks as usize, 4096),
            ("--max-num-batched-tokens", self.max_num_batched_tokens, 1 << 16),
            ("--prompt-rows", self.prompt_rows, 1 << 16),
        ];
        for (name, n, most) in counts {
            ensure!((1..=most).contains(&n), "{name} {n}: from 1 to {most}");
        }
        let most = sampling::MAX_TEMPERATURE;
        let temperature = self.temperature;
        ensure!(
            (0.0..=most).contains(&temperature),
            "--temperature {temperature}: from 0 to {most}"
        );
        Ok(())
    }

    pub(crate) fn workload(&self) -> Workload {
        Workload {
            requests: self.sim_requests,
            sequences: self.sequences_per_request,
            max_tokens: self.max_tokens,
            temperature: self.temperature,
            seed: self.seed,
        }
    }

    pub(crate) fn engine(&self) -> EngineConfig {
        let budget = Budget { rows: self.max_num_batched_tokens, prompt_rows: self.prompt_rows };
        EngineConfig { block_size: self.block_size, blocks: self.blocks, budget }
    }

    pub(crate) fn shown(&self) -> Shown {
        match (self.json, self.plain || !std::io::stdout().is_terminal()) {
            (true, _) => Shown::Json,
            (false, true) => Shown::Plain,
            (false, false) => Shown::Live,
        }
    }

    pub(crate) fn delay(&self) -> Duration {
        let usual = if self.shown() == Shown::Live { 400 } else { 0 };
        Duration::from_millis(self.delay.unwrap_or(usual))
    }
}
