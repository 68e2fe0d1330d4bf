//! `infinity quantize IN OUT TYPE`: a GGUF file of fewer bits.

use std::io::Write;
use std::ops::ControlFlow;
use std::path::PathBuf;
use std::sync::atomic::Ordering;
use std::time::Instant;

use anyhow::{Context, Result, bail};
use compress::{Quantization, QuantizeOptions};
use gguf::Gguf;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use quant_core::{FileType, Override, RecipeOptions};
use tensor::Device;

use crate::generate::interrupt;
use crate::load;

/// Quantize a model to a GGUF file.
#[derive(clap::Args)]
#[command(after_help = "Examples:\n  infinity quantize model-f16.gguf model-q4.gguf Q4_K_M\n  \
  infinity quantize model-f16.gguf out.gguf Q4_K_M --tensor-type 'ffn_down=q6_k' --dry-run")]
pub(crate) struct Args {
    /// The GGUF file to read
    #[arg(value_name = "IN")]
    input: String,
    /// The GGUF file to write
    #[arg(value_name = "OUT")]
    output: PathBuf,
    /// llama.cpp's name: Q4_K_M, Q8_0, Q6_K, IQ4_XS, F16, ...
    #[arg(value_name = "TYPE")]
    file_type: String,
    /// Another type for tensors whose names match a regular expression (repeatable)
    #[arg(long, value_name = "REGEX=TYPE")]
    tensor_type: Vec<String>,
    /// The same type for every tensor, no mixtures
    #[arg(long)]
    pure: bool,
    /// Leave the output matrix as it is
    #[arg(long)]
    leave_output_tensor: bool,
    /// Quantize what is quantized already (loses more than from f16)
    #[arg(long)]
    allow_requantize: bool,
    /// Threads (default: as many as the machine allows)
    #[arg(short, long, value_name = "N")]
    threads: Option<usize>,
    /// cpu or cuda:N, which makes the same bytes; what a GPU does not make (IQ4_XS, MXFP4, ternary) the processor does
    #[arg(long, default_value = "cpu")]
    device: Device,
    /// Show a GPU's time by kernel
    #[arg(long)]
    profile: bool,
    /// Write nothing, show each tensor's type and size
    #[arg(long)]
    dry_run: bool,
    /// Print the report as JSON
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(args: &Args) -> Result<()> {
    let file_type: FileType = args.file_type.parse().map_err(|_| unknown_type(&args.file_type))?;
    let options = QuantizeOptions {
        recipe: RecipeOptions {
            pure: args.pure,
            keep_output: args.leave_output_tensor,
            overrides: args.tensor_type.iter().map(|o| tensor_type(o)).collect::<Result<_>>()?,
            ..RecipeOptions::default()
        },
        allow_requantize: args.allow_requantize,
        threads: args.threads.unwrap_or(0),
        device: args.device.available()?,
    };
    let input = Gguf::open(load::resolve(&args.input)?)
        .context("IN must be a GGUF file; `infinity convert` makes one of a Hugging Face folder")?;
    let start = Instant::now();
    let done = if args.dry_run {
        compress::plan(&input, file_type, &options)?
    } else {
        let bar = ProgressBar::with_draw_target(Some(1000), ProgressDrawTarget::stderr());
        bar.set_style(ProgressStyle::with_template("{wide_bar} {percent} % {msg:32!} {eta}")?);
        let stop = interrupt()?;
        if args.profile {
            args.device.start_profile()?;
        }
        let done =
            compress::quantize(&input, &args.output, file_type, &options, &mut |t, share| {
                bar.set_position((share * 1000.0) as u64);
                bar.set_message(t.name.clone());
                match stop.load(Ordering::Relaxed) {
                    true => ControlFlow::Break(()),
                    false => ControlFlow::Continue(()),
                }
            });
        bar.finish_and_clear();
        if let Some(profile) = args.device.stop_profile()? {
            eprintln!("{}, by kernel:\n{profile}", args.device);
        }
        done?
    };
    if args.json {
        println!("{}", serde_json::to_string_pretty(&report(&done))?);
        return Ok(());
    }
    let mut out = std::io::stdout().lock();
    if args.dry_run {
        for t in &done.tensors {
            let shape = format!("{:?}", t.shape);
            let change = format!("{} -> {}", t.from, t.to);
            let note = t.fallback_from.map_or(String::new(), |f| format!(" (in place of {f})"));
            let mb = t.bytes_after as f64 / 1e6;
            writeln!(out, "{:40} {shape:>16} {change:>16} {mb:9.2} MB{note}", t.name)?;
        }
    }
    let (before, after) = (done.bytes_before() as f64 / 1e6, done.bytes_after() as f64 / 1e6);
    let bits = done.bits_per_weight();
    let verb = if args.dry_run { "would be" } else { "are" };
    writeln!(
        out,
        "{file_type}: {before:.1} MB of tensors {verb} {after:.1} MB, {bits:.2} bits a weight ({:.1} s)",
        start.elapsed().as_secs_f64()
    )?;
    Ok(())
}

fn unknown_type(name: &str) -> anyhow::Error {
    let known: Vec<&str> = FileType::ALL.iter().map(|t| t.name()).collect();
    anyhow::anyhow!("unknown type '{name}'; known are {}", known.join(", "))
}

fn tensor_type(text: &str) -> Result<Override> {
    let Some((pattern, dtype)) = text.rsplit_once('=') else {
        bail!("--tensor-type '{text}': expected REGEX=TYPE, for example ffn_down=q6_k");
    };
    Ok(Override {
        pattern: regex::Regex::new(pattern).map_err(|_| {
            anyhow::anyhow!("--tensor-type '{text}': '{pattern}' is no regular expression")
        })?,
        dtype: dtype.parse().with_context(|| format!("--tensor-type '{text}'"))?,
    })
}

fn report(done: &Quantization) -> serde_json::Value {
    let tensors: Vec<_> = done
        .tensors
        .iter()
        .map(|t| {
            serde_json::json!({
                "name": t.name,
                "shape": t.shape,
                "from": t.from.name(),
                "to": t.to.name(),
                "fallback_from": t.fallback_from.map(|d| d.name()),
                "bytes_before": t.bytes_before,
                "bytes_after": t.bytes_after,
            })
        })
        .collect();
    serde_json::json!({
        "file_type": done.file_type.name(),
        "bytes_before": done.bytes_before(),
        "bytes_after": done.bytes_after(),
        "bits_per_weight": done.bits_per_weight(),
        "tensors": tensors,
    })
}
