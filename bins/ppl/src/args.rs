//! The command line, and what it resolves to.

use std::path::PathBuf;

use anyhow::{Result, bail};
use clap::{Parser, ValueEnum};
use eval::Protocol;
use tensor::{Activations, Device};

/// Measure what quantization costs a model: perplexity with its error, KL divergence from the f16
/// model, bytes, load time, peak memory and tokens a second, in one table.
#[derive(Debug, Parser)]
#[command(
    name = "ppl",
    version,
    after_help = "Example:\n  ppl --model assets/bard-f16.gguf --quants f16,q8_0,q4_k_m \\\n      --text assets/shakespeare-heldout.txt --context 256 --report report.html"
)]
pub(crate) struct Args {
    /// A GGUF file or a Hugging Face folder
    #[arg(long, value_name = "MODEL", required_unless_present = "measure")]
    model: Option<PathBuf>,

    /// Formats to quantize to, in llama.cpp's names (fp16 is f16)
    #[arg(long, value_name = "LIST", value_delimiter = ',', default_value = "f16,q8_0,q4_k_m")]
    pub(crate) quants: Vec<String>,

    /// The text to predict (UTF-8)
    #[arg(long, value_name = "FILE", required_unless_present = "measure")]
    text: Option<PathBuf>,

    /// How the text is cut into windows and what is predicted in them
    #[arg(long, value_enum, default_value = "llama.cpp")]
    pub(crate) protocol: ProtocolName,

    /// Tokens a window; several give a line each [default: 512 for llama.cpp, 2048 for window, 1024
    /// for stride, but no more than the model was made for]
    #[arg(long, value_name = "LIST", value_delimiter = ',')]
    context: Vec<usize>,

    /// Tokens from one window to the next, for the stride protocol [default: half the context]
    #[arg(long, value_name = "N")]
    stride: Option<usize>,

    /// Quantize a model that is quantized already, which loses more than beginning with f16
    #[arg(long)]
    pub(crate) allow_requantize: bool,

    /// Where models run: cpu or cuda:N
    #[arg(long, default_value = "cpu")]
    pub(crate) device: Device,

    /// What activations are rounded to when they meet weights: int8 (as llama.cpp: int8 where weights
    /// are quantized, bf16 where they are bf16), bf16 (the same, and f16 weights become bf16 too), or
    /// f32 (nothing is rounded; slower)
    #[arg(long, default_value = "int8", value_name = "TYPE")]
    activations: Activations,

    /// The same as --activations f32
    #[arg(long, conflicts_with = "activations")]
    exact: bool,

    /// Threads [default: all cores]
    #[arg(long, short, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    pub(crate) threads: Option<u16>,

    /// Write a report: .html, .md or .json
    #[arg(long, value_name = "FILE")]
    pub(crate) report: Option<PathBuf>,

    /// Print JSON instead of the table
    #[arg(long)]
    pub(crate) json: bool,

    /// Text to calibrate on (for formats that a later version brings)
    #[arg(long, value_name = "FILE", hide = true)]
    calibrate: Option<PathBuf>,

    /// Tasks to score (a later version brings them)
    #[arg(long, value_name = "FILE", hide = true)]
    tasks: Option<PathBuf>,

    /// Measure one file as this job says, and print JSON: how the program calls itself, so that peak
    /// memory is that of one format alone
    #[arg(long, value_name = "JOB", hide = true)]
    pub(crate) measure: Option<PathBuf>,
}

/// The protocols' names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum ProtocolName {
    /// llama-perplexity: disjoint windows, their second half predicted
    #[value(name = "llama.cpp")]
    LlamaCpp,
    /// The GPTQ papers: disjoint windows, everything predicted
    Window,
    /// The Hugging Face documentation: overlapping windows
    Stride,
}

/// How a report is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ReportKind {
    Html,
    Markdown,
    Json,
}

impl Args {
    pub(crate) fn model(&self) -> &PathBuf {
        self.model.as_ref().expect("clap requires it")
    }

    pub(crate) fn text(&self) -> &PathBuf {
        self.text.as_ref().expect("clap requires it")
    }

    /// What activations are rounded to.
    pub(crate) fn activations(&self) -> Activations {
        if self.exact { Activations::F32 } else { self.activations }
    }

    /// What clap cannot check: an error here is wrong usage.
    pub(crate) fn check(&self) -> Result<()> {
        if self.tasks.is_some() {
            bail!("--tasks is not available yet: task scores come with a later version");
        }
        if self.calibrate.is_some() {
            bail!(
                "--calibrate is not available yet: it comes with the formats that need it (gptq, awq)"
            );
        }
        if self.stride.is_some() && self.protocol != ProtocolName::Stride {
            bail!("--stride belongs to --protocol stride");
        }
        if self.quants.iter().all(|q| q.trim().is_empty()) {
            bail!("--quants names no format; give some, such as f16,q8_0,q4_k_m");
        }
        if let Some(q) = self.quants.iter().find(|q| {
            let q = q.to_ascii_lowercase();
            q.starts_with("gptq") || q.starts_with("awq")
        }) {
            bail!("{q} is not available yet: calibrated formats come with a later version");
        }
        crate::variants::parse(&self.quants)?;
        // The model is not known yet, and any context is within some model's.
        self.protocols(usize::MAX)?;
        self.report_kind().map(drop)
    }

    /// The protocol at each context, for a model made for windows of `trained`.
    pub(crate) fn protocols(&self, trained: usize) -> Result<Vec<Protocol>> {
        let default = match self.protocol {
            ProtocolName::LlamaCpp => 512,
            ProtocolName::Window => 2048,
            ProtocolName::Stride => 1024,
        };
        let contexts = match &self.context[..] {
            [] => &[default.min(trained)],
            given => given,
        };
        let mut protocols: Vec<Protocol> = Vec::new();
        for &context in contexts {
            let protocol = match self.protocol {
                ProtocolName::LlamaCpp => Protocol::LlamaCpp { context },
                ProtocolName::Window => Protocol::Window { context },
                ProtocolName::Stride => {
                    let stride = self.stride.unwrap_or((context / 2).max(1));
                    Protocol::Stride { context, stride }
                }
            };
            protocol.validate()?;
            if protocols.contains(&protocol) {
                bail!("--context names {context} twice");
            }
            protocols.push(protocol);
        }
        Ok(protocols)
    }

    /// What the report's name asks for.
    pub(crate) fn report_kind(&self) -> Result<Option<ReportKind>> {
        let Some(path) = &self.report else { return Ok(None) };
        let extension = path.extension().and_then(|e| e.to_str()).unwrap_or_default();
        match extension.to_ascii_lowercase().as_str() {
            "html" | "htm" => Ok(Some(ReportKind::Html)),
            "md" | "markdown" => Ok(Some(ReportKind::Markdown)),
            "json" => Ok(Some(ReportKind::Json)),
            _ => bail!("--report {}: the name must end in .html, .md or .json", path.display()),
        }
    }
}
