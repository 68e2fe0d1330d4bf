//! The whole run: text to tokens, model to formats, each format through a process of its own.

use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, anyhow, bail};
use indicatif::{ProgressBar, ProgressStyle};
use tensor::{Device, ThreadPool};
use tokenizer::{EncodeOptions, Tokenizer};

use crate::args::{Args, ProtocolName};
use crate::measure::{Job, Message, context_length};
use crate::report::{Format, Outcome, Report};
use crate::variants::{self, Variant, Variants};
use crate::workspace::Workspace;

/// Measures every format that was asked for.
pub(crate) fn run(args: &Args) -> Result<Report> {
    args.device.available()?;
    let text = std::fs::read(args.text())
        .with_context(|| format!("{} cannot be read", args.text().display()))?;
    let text = String::from_utf8(text)
        .map_err(|_| anyhow!("{} is not UTF-8 text", args.text().display()))?;
    let model = args.model();
    let formats = variants::parse(&args.quants)?;

    let (config, _) = model::weights::open(model)
        .with_context(|| format!("{} cannot be loaded", model.display()))?;
    let trained = context_length(&config)
        .with_context(|| format!("{} is an encoder: it predicts no text", model.display()))?;
    let protocols = args.protocols(trained)?;

    let tokenizer = Tokenizer::from_path(model)
        .with_context(|| format!("the tokenizer of {} cannot be read", model.display()))?;
    // llama-perplexity puts BOS before the text and into every window; the other two do neither.
    let add_special = args.protocol == ProtocolName::LlamaCpp;
    // It also drops one newline at the end of a file.
    let text = if add_special { text.strip_suffix('\n').unwrap_or(&text) } else { &text };
    let tokens = tokenizer.encode(text, EncodeOptions { add_special, ..Default::default() })?;
    for protocol in &protocols {
        protocol.windows(tokens.len())?;
    }

    let workspace = Workspace::new()?;
    let bytes: Vec<u8> = tokens.iter().flat_map(|t| t.to_le_bytes()).collect();
    std::fs::write(workspace.file("tokens"), bytes)?;

    let variants = Variants::new(model, &workspace, args)?;
    for &format in &formats {
        variants.check(format)?;
    }
    let mut measured = Vec::new();
    for format in formats {
        let variant = variants.make(format)?;
        let job = Job {
            model: variant.path.clone(),
            base: (!variant.is_base).then(|| variants.base().path.clone()),
            tokens: workspace.file("tokens"),
            bos: tokenizer.bos().filter(|_| tokenizer.add_bos()),
            tokenizer: eval::tokenizer_fingerprint(&tokenizer),
            protocols: protocols.clone(),
            threads: args.threads,
            device: args.device.to_string(),
            activations: args.activations().to_string(),
        };
        let outcome = measure(&workspace, &job, &variant.name)
            .with_context(|| format!("{} cannot be measured", variant.name))?;
        measured.push(describe(&variant, outcome)?);
        variants.discard(&variant)?;
    }
    Ok(Report {
        model: model.display().to_string(),
        text: args.text().display().to_string(),
        base: variants.base().name.clone(),
        tokens: tokens.len(),
        machine: machine(args),
        formats: measured,
    })
}

/// A job in a process of its own.
fn measure(workspace: &Workspace, job: &Job, name: &str) -> Result<Outcome> {
    let path = workspace.file("job.json");
    std::fs::write(&path, serde_json::to_vec(job)?)?;
    let mut command = Command::new(std::env::current_exe()?);
    command.arg("--measure").arg(path).stdin(Stdio::null());
    if let Some(n) = job.threads {
        // The sums over the vocabulary run on rayon's own pool.
        command.env("RAYON_NUM_THREADS", n.to_string());
    }
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
    let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
    workspace.watch(child);

    let errors = std::thread::spawn(move || {
        let mut text = String::new();
        // Whatever can be read is better than nothing.
        let _ = stderr.map(|mut s| s.read_to_string(&mut text));
        text
    });
    let bar = progress_bar(name);
    let mut outcome = None;
    for line in BufReader::new(stdout.context("the process has no output")?).lines() {
        match serde_json::from_str(&line?)? {
            Message::Progress(done, windows) => {
                bar.set_length(windows);
                bar.set_position(done);
            }
            Message::Outcome(o) => outcome = Some(o),
        }
    }
    bar.finish_and_clear();
    let status = workspace.wait()?;
    let errors = errors.join().unwrap_or_default();
    match outcome {
        Some(outcome) if status.success() => Ok(outcome),
        _ => {
            match errors.lines().find_map(|l| l.strip_prefix("ppl: ")) {
                Some(said) => bail!("{said}"),
                // It was killed, most likely for memory, or it panicked.
                None => {
                    bail!("its process ended with {status} {}", errors.trim().replace('\n', " "))
                }
            }
        }
    }
}

/// A bar on standard error, where that is a terminal.
pub(crate) fn progress_bar(name: &str) -> ProgressBar {
    let style = ProgressStyle::with_template("{prefix:8} {bar:30} {pos}/{len} {msg} {eta}");
    let bar = ProgressBar::new(0).with_style(style.expect("a valid template"));
    bar.set_prefix(name.to_owned());
    bar
}

/// Sizes, from the file's own table of tensors.
fn describe(variant: &Variant, outcome: Outcome) -> Result<Format> {
    let file = gguf::Gguf::open(&variant.path)?;
    let (mut bytes, mut elements) = (0u64, 0u64);
    for tensor in file.tensors() {
        bytes += tensor.range().len() as u64;
        elements += tensor.elements() as u64;
    }
    Ok(Format {
        format: variant.name.clone(),
        bits_per_weight: 8.0 * bytes as f64 / elements.max(1) as f64,
        bytes: file.file_bytes(),
        outcome,
    })
}

/// The processor's name, where the system tells it, and the number of threads; or the GPU's name.
fn machine(args: &Args) -> String {
    let activations = args.activations();
    if args.device != Device::Cpu {
        let known = Device::list().into_iter().find(|info| info.device == args.device);
        let name = known.map_or_else(|| args.device.to_string(), |info| info.name);
        return format!("{name}, activations in {activations}");
    }
    let info = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let name = info.lines().find_map(|l| l.strip_prefix("model name")?.split_once(": "));
    let name = name.map_or(std::env::consts::ARCH, |(_, name)| name.trim());
    let available = || ThreadPool::global().threads();
    let n = args.threads.map_or_else(available, usize::from);
    format!("{name}, {n} thread{}, activations in {activations}", if n == 1 { "" } else { "s" })
}

/// Whether two paths name the same file.
pub(crate) fn same_file(a: &Path, b: &Path) -> bool {
    matches!((a.canonicalize(), b.canonicalize()), (Ok(a), Ok(b)) if a == b)
}
