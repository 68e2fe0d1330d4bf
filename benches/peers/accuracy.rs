//! What rounding activations costs: KL divergence of each program's predictions from those of the
//! same file with activations in f32.
//!
//! A peer's predictions come from `llama-perplexity`, which saves them in 16 bits; ours are rounded
//! likewise, and what that rounding does to the reference itself is the floor under all figures.

use std::fs::File;
use std::io::BufReader;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};
use eval::{
    Divergence, Limits, LogitsSource, ModelLogits, Protocol, SavedLogits, SavedPrecision, Task,
};
use gguf::Gguf;
use model::{Model, Repack};
use tensor::{Activations, Compute, DType};
use tokenizer::Tokenizer;

use crate::cases::Case;
use crate::programs::{Program, succeeded};

/// What is predicted in mode accuracy.
#[derive(clap::Args, Clone, Debug)]
pub(crate) struct Options {
    /// Text to predict, for mode accuracy
    #[arg(long, value_name = "FILE")]
    text: Option<PathBuf>,
    /// Tokens of a window of the text, whose second half is predicted
    #[arg(long, default_value_t = 256)]
    context: usize,
    /// Windows of the text
    #[arg(long, default_value_t = 16)]
    windows: usize,
}

/// Figures of one file.
pub(crate) struct Accuracy {
    pub(crate) model: String,
    /// How the peers were run.
    pub(crate) commands: Vec<String>,
    pub(crate) failures: Vec<String>,
    pub(crate) rows: Vec<Row>,
}

/// How far one program's predictions are from the reference.
pub(crate) struct Row {
    pub(crate) program: &'static str,
    pub(crate) activations: &'static str,
    pub(crate) divergence: Divergence,
    /// Tokens predicted.
    pub(crate) targets: u64,
}

/// Runs every peer that has `llama-perplexity`, and ourselves on the tokens that it saved.
///
/// # Errors
/// If there is no such peer or text, or the model cannot be run here.
pub(crate) fn measure(
    case: &Case,
    programs: &[Program],
    threads: usize,
    options: &Options,
) -> Result<Accuracy> {
    let text = options.text.as_ref().context("mode accuracy needs --text FILE")?;
    let text = std::fs::canonicalize(text).with_context(|| text.display().to_string())?;
    let scratch = tempfile::tempdir()?;
    let mut result = Accuracy {
        model: case.file(),
        commands: Vec::new(),
        failures: Vec::new(),
        rows: Vec::new(),
    };
    let mut saved = Vec::new();
    for program in programs {
        let Some(path) = program.peer_program(PROGRAM) else { continue };
        let to = scratch.path().join(format!("logits-{}", saved.len()));
        let (args, shown) = arguments(case, &text, threads, options, &to);
        result.commands.push(shown);
        match run(&path, &args, scratch.path()).and_then(|()| open(&to)) {
            Ok(logits) => saved.push((program.name(), logits)),
            Err(e) => result.failures.push(format!("{case}: {}: {e:#}", program.name())),
        }
    }
    let Some((_, first)) = saved.first() else {
        bail!("mode accuracy needs a peer's {PROGRAM}: {}", result.failures.join("; "));
    };
    let (tokens, context) = (first.tokens().to_vec(), first.context());

    let tokenizer = Tokenizer::from_path(&case.model)?;
    let task = Task {
        tokens: &tokens,
        protocol: Protocol::LlamaCpp { context },
        bos: tokenizer.bos().filter(|_| tokenizer.add_bos()),
        tokenizer: &eval::tokenizer_fingerprint(&tokenizer),
        limits: Limits::default(),
    };
    let compute = |activations| Compute::cpu().with_threads(threads).with_activations(activations);
    let reference = Model::open_with(&case.model, compute(Activations::F32), Repack::Auto)?;
    let mut add = |program, activations, source: &mut dyn LogitsSource| -> Result<()> {
        let mut base = ModelLogits::new(&reference)?;
        let compared = eval::compare(&mut base, source, &task, &mut |_| {})
            .with_context(|| format!("{case}: {program}"))?;
        let (divergence, targets) = (compared.divergence, compared.base.stamp.targets);
        eprintln!("{case}: {program}, {activations}: KL {:.3e}", divergence.mean.value);
        result.rows.push(Row { program, activations, divergence, targets });
        Ok(())
    };
    for activations in ours(&case.model)? {
        let model = reference.clone().with_compute(compute(activations));
        let name = if activations == Activations::F32 { "the floor" } else { "infinity" };
        add(name, activations.name(), &mut SavedPrecision(ModelLogits::new(&model)?))?;
    }
    for (program, logits) in &mut saved {
        add(program, "its own", logits)?;
    }
    Ok(result)
}

const PROGRAM: &str = "llama-perplexity";

/// What a file's weights can meet: bf16 where it differs from the default.
fn ours(file: &Path) -> Result<Vec<Activations>> {
    let file = Gguf::open(file)?;
    let f16 = file.tensors().iter().any(|t| t.dtype == DType::F16);
    let differs = |&a: &Activations| f16 || a != Activations::Bf16;
    Ok(Activations::ALL.iter().copied().filter(differs).collect())
}

/// Arguments of `llama-perplexity`, and how a record shows them: caches in f32 and plain attention,
/// so that nothing but products with weights is rounded.
fn arguments(
    case: &Case,
    text: &Path,
    threads: usize,
    options: &Options,
    to: &Path,
) -> (Vec<String>, String) {
    let Options { context, windows, .. } = options;
    let line = format!(
        "-m MODEL -f TEXT -t {threads} -c {context} -b {context} --chunks {windows} -fa off -ctk f32 \
         -ctv f32 --kl-divergence-base OUT"
    );
    let full = |word: &str| match word {
        "MODEL" => case.model.display().to_string(),
        "TEXT" => text.display().to_string(),
        "OUT" => to.display().to_string(),
        word => word.to_owned(),
    };
    let args = line.split_whitespace().map(full).collect();
    (args, format!("{PROGRAM} {line}"))
}

fn run(program: &Path, args: &[String], folder: &Path) -> Result<()> {
    let mut command = Command::new(program);
    succeeded(&command.args(args).current_dir(folder).stdin(Stdio::null()).output()?)
}

fn open(path: &Path) -> Result<SavedLogits<BufReader<File>>> {
    let file = File::open(path).context("it saved no logits")?;
    Ok(SavedLogits::new(BufReader::new(file))?)
}
