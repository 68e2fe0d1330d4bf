//! `infinity quantize IN OUT TYPE`: a GGUF file of fewer bits.

use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use indicatif::{ProgressBar, ProgressStyle};
use quant_core::FileType;

use crate::load;

/// Quantize a model to a GGUF file.
#[derive(clap::Args)]
#[command(after_help = "Examples:\n  infinity quantize model-f16.gguf model-q4.gguf Q4_K_M\n  \
    infinity quantize FOLDER model-q8.gguf Q8_0\n  \
    infinity quantize model-f16.gguf out.gguf Q4_K_M --tensor-type 'ffn_down=q6_k' --dry-run")]
pub(crate) struct Args {
    /// A GGUF file, a Hugging Face folder, or ORG/NAME
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
    /// Threads (default: as many as the machine allows)
    #[arg(short, long, value_name = "N")]
    threads: Option<usize>,
    /// Write nothing, show each tensor's type and size
    #[arg(long)]
    dry_run: bool,
    /// Print the report as JSON
    #[arg(long)]
    json: bool,
}
