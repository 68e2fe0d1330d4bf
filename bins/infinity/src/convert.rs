//! `infinity convert SRC OUT`: a Hugging Face folder to GGUF, or a GGUF file to a folder.

use std::ops::ControlFlow;
use std::path::PathBuf;
use std::sync::atomic::Ordering;

use anyhow::{Context, Result, bail};
use compress::convert::{Options, gguf_to_hf, hf_to_gguf};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use tensor::DType;

use crate::generate::interrupt;
use crate::load;

/// Convert a Hugging Face folder to a GGUF file, or a GGUF file to a folder.
#[derive(clap::Args)]
#[command(after_help = "Examples:\n  infinity convert FOLDER model.gguf --dtype f16\n  \
    infinity convert model.gguf FOLDER\n\
    The GGUF file runs in llama.cpp, the folder in transformers. Whatever SRC is, OUT is the other.")]
pub(crate) struct Args {
    /// A Hugging Face folder, ORG/NAME, or a GGUF file
    #[arg(value_name = "SRC")]
    source: String,
    /// The GGUF file or the folder to write
    #[arg(value_name = "OUT")]
    output: PathBuf,
    /// f32, f16 or bf16 (default: as the source has it, f16 for a quantized one)
    #[arg(long, alias = "outtype", value_name = "TYPE")]
    dtype: Option<DType>,
    /// What the model calls itself in the GGUF file
    #[arg(long)]
    name: Option<String>,
    /// Threads (default: as many as the machine allows)
    #[arg(short, long, value_name = "N")]
    threads: Option<usize>,
}

pub(crate) fn run(args: &Args) -> Result<()> {
    let source = load::resolve(&args.source)?;
    let options =
        Options { dtype: args.dtype, name: args.name.clone(), threads: args.threads.unwrap_or(0) };
    let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
    bar.set_style(ProgressStyle::with_template("{wide_bar} {pos}/{len} {msg:36!} {eta}")?);
    let stop = interrupt()?;
    let mut progress = |step: compress::Step<'_>| {
        bar.set_length(step.of as u64);
        bar.set_position(step.done as u64);
        bar.set_message(step.tensor.to_owned());
        match stop.load(Ordering::Relaxed) {
            true => ControlFlow::Break(()),
            false => ControlFlow::Continue(()),
        }
    };
    let report = if source.is_dir() {
        if args.output.is_dir() {
            bail!("{}: is a folder; name the GGUF file to write", args.output.display());
        }
        hf_to_gguf(&source, &args.output, &options, &mut progress)
    } else {
        gguf_to_hf(&source, &args.output, &options, &mut progress)
    };
    bar.finish_and_clear();
    let report = report.with_context(|| source.display().to_string())?;
    for note in &report.notes {
        eprintln!("note: {note}");
    }
    println!(
        "{}: {} tensors, {:.1} MB",
        args.output.display(),
        report.tensors,
        report.bytes as f64 / 1e6
    );
    Ok(())
}
