//! The command line, and what it means.

use std::fs::File;
use std::io::BufReader;
use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use files::units;
use kv_sim::cost::StepCost;
use kv_sim::experiment::Experiment;
use kv_sim::memory::{Allocator, Preemption};
use kv_sim::pages::PagesConfig;
use kv_sim::sim::Rules;
use paged_kv::EvictionPolicy;
use tensor::DType;
use tensor::kv::KvLayout;
use workload::Workload;

/// Slots of all memory together; more would take gigabytes of bookkeeping.
const MAX_SLOTS: u64 = 1 << 26;

/// Play one trace of requests through contiguous allocators and through pages.
///
/// Each request needs memory for the keys and values of its tokens. The allocators get the same
/// requests, the same queue, the same patience and the same memory, in simulated time.
#[derive(clap::Parser)]
#[command(
    name = "kv-sim",
    version,
    after_help = "\
A trace is a file of JSON lines, arrival in seconds, lengths in tokens, max_tokens optional:
  {\"arrival\": 0.25, \"prompt\": 161, \"output\": 338, \"max_tokens\": 512}

Examples:
  kv-sim --total-vram 16GB --requests 50
  kv-sim --total-vram 16GB --requests 50 --svg maps.svg --html maps.html
  kv-sim --layers 32 --kv-heads 8 --weights 16GB      # Llama 3 8B
  kv-sim --system-prompt 500 --sweep block-size
  kv-sim --trace requests.jsonl --json | jq '.runs[].summary'

Exit codes: 0 success, 1 failure, 2 wrong usage."
)]
pub(crate) struct Args {
    /// Memory for keys and values (GB is 10^9 bytes, GiB 2^30)
    #[arg(long, default_value = "16GB", value_name = "SIZE", value_parser = units::parse_bytes)]
    total_vram: u64,
    /// Requests of the synthetic trace
    #[arg(long, default_value_t = 50, value_name = "N", conflicts_with = "trace")]
    requests: usize,
    /// A trace of your own instead, as JSON lines (see below)
    #[arg(long, value_name = "FILE.jsonl")]
    trace: Option<PathBuf>,
    /// Of the synthetic trace; the same seed gives the same output
    #[arg(long, default_value_t = 42, value_name = "N")]
    seed: u64,
    /// Requests a second on average, in the synthetic trace
    #[arg(long, default_value_t = 25.0, value_name = "R")]
    rate: f64,
    /// Seconds that a request waits to be started before it gives up
    #[arg(long, default_value_t = 5.0, value_name = "S")]
    patience: f64,
    /// Tokens before each prompt which are the same for all, and shared between pages
    #[arg(long, default_value_t = 0, value_name = "N")]
    system_prompt: usize,

    /// Allocators to run
    #[arg(long, value_delimiter = ',', value_name = "NAMES", value_enum,
        default_values_t = [Allocator::FirstFit, Allocator::BestFit, Allocator::ReserveMaximum, Allocator::Pages])]
    pub(crate) allocators: Vec<Allocator>,
    /// Allocators whose requests are told one by one
    #[arg(long, value_delimiter = ',', num_args = 0.., value_name = "NAMES", value_enum,
        default_values_t = [Allocator::FirstFit, Allocator::Pages])]
    pub(crate) log: Vec<Allocator>,

    /// Positions a block
    #[arg(long, default_value_t = 16, value_name = "N", help_heading = "Pages")]
    block_size: usize,
    /// What happens to content that nobody holds: dropped, or kept until the block is needed (the
    /// least recently used goes first; slru: what was found before goes last)
    #[arg(long, default_value = "lru", value_enum, help_heading = "Pages")]
    eviction: Eviction,
    /// How a preempted request comes back
    #[arg(long, default_value = "recompute", value_enum, help_heading = "Pages")]
    preemption: Preemption,
    /// Memory of the host to swap to
    #[arg(long, default_value = "16GB", value_name = "SIZE", value_parser = units::parse_bytes,
        help_heading = "Pages")]
    host_memory: u64,

    /// Layers
    #[arg(
        long,
        default_value_t = 40,
        value_name = "N",
        help_heading = "Model (default: 13 B, multi-head)"
    )]
    layers: usize,
    /// Key-value heads a layer
    #[arg(
        long,
        default_value_t = 40,
        value_name = "N",
        help_heading = "Model (default: 13 B, multi-head)"
    )]
    kv_heads: usize,
    /// Elements a head
    #[arg(
        long,
        default_value_t = 128,
        value_name = "N",
        help_heading = "Model (default: 13 B, multi-head)"
    )]
    head_dim: usize,
    /// How keys and values are stored: f32, f16, bf16, q8_0 or q4_0
    #[arg(
        long,
        default_value = "f16",
        value_name = "TYPE",
        help_heading = "Model (default: 13 B, multi-head)"
    )]
    kv_type: DType,
    /// Positions that the model has
    #[arg(
        long,
        default_value_t = 2048,
        value_name = "N",
        help_heading = "Model (default: 13 B, multi-head)"
    )]
    max_model_len: usize,
    /// Bytes of its weights, two each
    #[arg(long, default_value = "26GB", value_name = "SIZE", value_parser = units::parse_bytes,
        help_heading = "Model (default: 13 B, multi-head)")]
    weights: u64,

    /// Bytes a second of the memory
    #[arg(long, default_value = "1555GB", value_name = "SIZE", value_parser = units::parse_bytes,
        help_heading = "Machine (default: NVIDIA A100 40 GB)")]
    bandwidth: u64,
    /// Operations a second, in 10^12
    #[arg(
        long,
        default_value_t = 312.0,
        value_name = "X",
        help_heading = "Machine (default: NVIDIA A100 40 GB)"
    )]
    tflops: f64,
    /// Bytes a second between host and device
    #[arg(long, default_value = "25GB", value_name = "SIZE", value_parser = units::parse_bytes,
        help_heading = "Machine (default: NVIDIA A100 40 GB)")]
    host_bandwidth: u64,
    /// Requests that run at a time
    #[arg(
        long,
        default_value_t = 256,
        value_name = "N",
        help_heading = "Machine (default: NVIDIA A100 40 GB)"
    )]
    max_num_seqs: usize,
    /// Tokens that a step computes
    #[arg(
        long,
        default_value_t = 2048,
        value_name = "N",
        help_heading = "Machine (default: NVIDIA A100 40 GB)"
    )]
    max_num_batched_tokens: usize,

    /// Pages of several block sizes instead, from 1 to 256
    #[arg(long, value_enum, value_name = "WHAT")]
    pub(crate) sweep: Option<SweepOver>,
    /// With --sweep: time attention over blocks of each size on this machine too
    #[arg(long, requires = "sweep")]
    pub(crate) measure: bool,
    /// Draw memory maps and usage over time
    #[arg(long, value_name = "FILE", conflicts_with = "sweep")]
    pub(crate) svg: Option<PathBuf>,
    /// Write an interactive page, which needs nothing else
    #[arg(long, value_name = "FILE", conflicts_with = "sweep")]
    pub(crate) html: Option<PathBuf>,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Clone, Copy, clap::ValueEnum)]
enum Eviction {
    None,
    Lru,
    Slru,
}

/// What a sweep varies.
#[derive(Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum SweepOver {
    /// Positions a block.
    BlockSize,
}

/// What to play, and its shape.
pub(crate) struct Plan {
    pub(crate) experiment: Experiment,
    pub(crate) layout: KvLayout,
    pub(crate) source: String,
}

impl Args {
    /// Checks what clap cannot. Its errors are those of wrong usage.
    pub(crate) fn check(&self) -> Result<()> {
        let positive = |name, x: f64| -> Result<()> {
            ensure!(x.is_finite() && x > 0.0, "{name} {x}: a number greater than 0 is needed");
            Ok(())
        };
        positive("--rate", self.rate)?;
        positive("--tflops", self.tflops)?;
        let patience = self.patience;
        ensure!((0.0..=1e9).contains(&patience), "--patience {patience}: from 0 to 10^9 seconds");
        for (name, n) in
            [("--bandwidth", self.bandwidth), ("--host-bandwidth", self.host_bandwidth)]
        {
            ensure!(n > 0, "{name} 0: at least 1 byte a second is needed");
        }
        let counts = [
            ("--requests", self.requests, workload::MAX_REQUESTS),
            ("--block-size", self.block_size, 1 << 16),
            ("--layers", self.layers, 1 << 16),
            ("--kv-heads", self.kv_heads, 1 << 16),
            ("--head-dim", self.head_dim, 1 << 16),
            ("--max-model-len", self.max_model_len, 1 << 24),
            ("--max-num-seqs", self.max_num_seqs, 1 << 20),
            ("--max-num-batched-tokens", self.max_num_batched_tokens, 1 << 30),
        ];
        for (name, n, most) in counts {
            ensure!((1..=most).contains(&n), "{name} {n}: from 1 to {most}");
        }
        ensure!(
            self.max_model_len >= self.system_prompt.saturating_add(2),
            "--system-prompt {}: a prompt and an answer must fit behind it in --max-model-len {}",
            self.system_prompt,
            self.max_model_len
        );
        self.layout().check()?;
        let slots = self.total_vram / self.layout().bytes_per_token() as u64;
        ensure!(
            (1..=MAX_SLOTS).contains(&slots),
            "--total-vram has room for {slots} tokens of {} bytes: from 1 to {MAX_SLOTS}",
            self.layout().bytes_per_token()
        );
        Ok(())
    }

    fn layout(&self) -> KvLayout {
        let &Self { layers, kv_heads, head_dim, kv_type, .. } = self;
        KvLayout { layers, n_kv_heads: kv_heads, head_dim, dtype: kv_type }
    }

    /// Reads or draws the trace.
    pub(crate) fn plan(&self) -> Result<Plan> {
        let layout = self.layout();
        let bytes_per_token = layout.bytes_per_token() as u64;
        let (trace, source) = match &self.trace {
            Some(path) => {
                let name = || path.display().to_string();
                let file = File::open(path).with_context(name)?;
                let trace = workload::read(BufReader::new(file), self.max_model_len);
                (trace.with_context(name)?, "from a file".to_owned())
            }
            None => {
                let &Self { requests, rate, max_model_len, system_prompt, seed, .. } = self;
                let lengths = Workload::default();
                let workload =
                    Workload { requests, rate, max_model_len, system_prompt, seed, ..lengths };
                (workload.trace(), format!("lengths as in ShareGPT, {rate} a second, seed {seed}"))
            }
        };
        let rules = Rules {
            patience: (self.patience * 1e6) as u64,
            max_num_seqs: self.max_num_seqs,
            max_num_batched_tokens: self.max_num_batched_tokens,
            bytes_per_token,
            cost: StepCost {
                weights: self.weights,
                bandwidth: self.bandwidth,
                flops: self.tflops * 1e12,
                host_bandwidth: self.host_bandwidth,
            },
        };
        let pages = PagesConfig {
            slots: self.total_vram / bytes_per_token,
            host_slots: (self.host_memory / bytes_per_token).min(MAX_SLOTS),
            block_size: self.block_size,
            eviction: match self.eviction {
                Eviction::None => EvictionPolicy::None,
                Eviction::Lru => EvictionPolicy::Lru,
                Eviction::Slru => EvictionPolicy::SegmentedLru,
            },
            preemption: self.preemption,
            system_prompt: self.system_prompt,
            bytes_per_token,
        };
        let experiment = Experiment { trace, max_model_len: self.max_model_len, rules, pages };
        Ok(Plan { experiment, layout, source })
    }
}
