//! What happens in the process that measures one file: load, evaluate, print JSON lines.
//!
//! The model is alone in the process until its peak memory has been read; only then comes the base
//! model beside it, for the divergence.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use eval::{EvalError, Limits, LogitsSource, ModelLogits, Piece, Protocol, Task};
use model::{Model, ModelConfig, Repack};
use serde::{Deserialize, Serialize};
use tensor::Compute;

use crate::report::{Figure, Outcome};

/// What to measure.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Job {
    /// The model.
    pub(crate) model: PathBuf,
    /// What it is compared with.
    pub(crate) base: Option<PathBuf>,
    /// A file of token ids, 4 bytes each, little-endian.
    pub(crate) tokens: PathBuf,
    /// BOS, where the vocabulary adds it.
    pub(crate) bos: Option<u32>,
    /// Fingerprint of the tokenizer.
    pub(crate) tokenizer: String,
    /// What to measure.
    pub(crate) protocols: Vec<Protocol>,
    /// Threads; `None` for as many as there are.
    pub(crate) threads: Option<u16>,
    /// Where models run, by its name.
    pub(crate) device: String,
    /// What activations are rounded to, by its name.
    pub(crate) activations: String,
}

/// What the measuring process says, a JSON line each.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Message {
    /// Windows done, of so many in all.
    Progress(u64, u64),
    /// The end.
    Outcome(Outcome),
}

/// Opens a GGUF file or a Hugging Face folder.
fn open(path: &Path, job: &Job) -> Result<Model> {
    let here = || format!("{} cannot be loaded", path.display());
    let (config, weights) = model::weights::open(path).with_context(here)?;
    let compute = Compute::on(job.device.parse()?)?;
    let mut compute = compute.with_activations(job.activations.parse()?);
    if let Some(n) = job.threads {
        compute = compute.with_threads(usize::from(n));
    }
    Model::load(config, &*weights, compute, Repack::Auto).with_context(here)
}

/// Does a job and prints what comes of it.
pub(crate) fn run(job: &Path) -> Result<()> {
    let job: Job = serde_json::from_slice(&std::fs::read(job)?)?;
    let tokens: Vec<u32> = std::fs::read(&job.tokens)?
        .chunks_exact(4)
        .map(|b| u32::from_le_bytes([b[0], b[1], b[2], b[3]]))
        .collect();

    let start = Instant::now();
    let model = open(&job.model, &job)?;
    let load_seconds = start.elapsed().as_secs_f64();

    let task = |protocol: Protocol, tokens| Task {
        tokens,
        protocol,
        bos: job.bos,
        tokenizer: &job.tokenizer,
        limits: Limits::default(),
    };
    let mut source = Timed::new(ModelLogits::new(&model)?);
    for &protocol in &job.protocols {
        // The memory of one group of windows is that of all: they follow each other.
        let few = tokens.len().min((2 * protocol.context()).max(Limits::default().rows));
        eval::perplexity(&mut source, &task(protocol, &tokens[..few]), &mut |_| {})?;
    }
    let peak_bytes = peak_memory();

    let base = job.base.as_ref().map(|path| open(path, &job)).transpose()?;
    let mut base = base.as_ref().map(ModelLogits::new).transpose()?;
    let windows = job.protocols.iter().map(|p| Ok(p.windows(tokens.len())?.len() as u64));
    let windows: Vec<u64> = windows.collect::<Result<_>>()?;
    source.reset();
    let mut figures: Vec<Figure> = Vec::new();
    for (i, &protocol) in job.protocols.iter().enumerate() {
        let before: u64 = windows[..i].iter().sum();
        let mut progress = |p: eval::Progress| {
            say(&Message::Progress(before + p.done as u64, windows.iter().sum()));
        };
        let task = task(protocol, &tokens);
        figures.push(match &mut base {
            Some(base) => eval::compare(base, &mut source, &task, &mut progress)?.into(),
            None => eval::perplexity(&mut source, &task, &mut progress)?.into(),
        });
    }
    let tokens_per_second = source.tokens as f64 / source.time.as_secs_f64();
    say(&Message::Outcome(Outcome { load_seconds, peak_bytes, tokens_per_second, figures }));
    Ok(())
}

/// Prints a message. Where nobody listens any more there is nothing left to do.
fn say(message: &Message) {
    let line = serde_json::to_string(message).expect("numbers and names");
    let mut out = std::io::stdout().lock();
    if writeln!(out, "{line}").and_then(|()| out.flush()).is_err() {
        std::process::exit(1);
    }
}

/// The largest resident set of this process so far.
fn peak_memory() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|l| l.strip_prefix("VmHWM:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib * 1024)
}

/// The positions that a decoder was made for.
pub(crate) fn context_length(config: &ModelConfig) -> Option<usize> {
    match config {
        ModelConfig::Decoder(c) => Some(c.context_length),
        _ => None,
    }
}

/// A source with a clock.
struct Timed<S> {
    inner: S,
    tokens: u64,
    time: Duration,
}

impl<S> Timed<S> {
    fn new(inner: S) -> Self {
        Self { inner, tokens: 0, time: Duration::ZERO }
    }

    fn reset(&mut self) {
        (self.tokens, self.time) = (0, Duration::ZERO);
    }
}

impl<S: LogitsSource> LogitsSource for Timed<S> {
    fn vocabulary(&self) -> usize {
        self.inner.vocabulary()
    }

    fn positions(&self) -> Option<usize> {
        self.inner.positions()
    }

    fn begin(&mut self, windows: usize) -> Result<(), EvalError> {
        self.inner.begin(windows)
    }

    fn extend(&mut self, pieces: &[Piece<'_>], logits: &mut Vec<f32>) -> Result<(), EvalError> {
        let start = Instant::now();
        let result = self.inner.extend(pieces, logits);
        self.time += start.elapsed();
        self.tokens += pieces.iter().map(|p| p.tokens.len() as u64).sum::<u64>();
        result
    }
}
