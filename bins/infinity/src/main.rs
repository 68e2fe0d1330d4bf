//! `infinity`: compress, measure and run language models.
#![forbid(unsafe_code)]

mod bench;
mod cache;
mod ceilings;
mod chat;
mod convert;
mod devices;
mod flame;
mod generate;
mod load;
mod logits;
mod options;
mod pull;
mod quantize;
mod serve;
mod session;
mod story;
mod template;
mod tokenize;

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use tracing_subscriber::filter::LevelFilter;

/// Compress, measure and run language models.
///
/// Without a command: the whole story on a small embedded model, in under a minute.
#[derive(Parser)]
#[command(
    name = "infinity",
    version,
    after_help = "MODEL is a GGUF file, a Hugging Face folder, or ORG/NAME after `infinity pull ORG/NAME`.\n\n\
        Examples:\n  infinity\n  infinity pull HuggingFaceTB/SmolLM2-135M-Instruct\n  \
        infinity convert FOLDER model-f16.gguf\n  infinity quantize model-f16.gguf model-q4.gguf Q4_K_M\n  \
        infinity generate model-q4.gguf --prompt \"Once upon a time\""
)]
struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Subcommand)]
enum Command {
    Generate(generate::Args),
    Chat(chat::Args),
    Convert(convert::Args),
    Quantize(quantize::Args),
    Pull(pull::Args),
    Cache(cache::Args),
    Serve(Box<serve::Args>),
    Bench(Box<bench::Args>),
    Ceilings(ceilings::Args),
    Logits(logits::Args),
    Tokenize(tokenize::Tokenize),
    Detokenize(tokenize::Detokenize),
    Template(template::Args),
    Devices(devices::Args),
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let level = std::env::var("INFINITY_LOG")
        .ok()
        .and_then(|l| l.parse().ok())
        .unwrap_or(LevelFilter::WARN);
    tracing_subscriber::fmt()
        .with_max_level(level)
        .with_writer(std::io::stderr)
        .without_time()
        .init();
    let done = match cli.command {
        None => story::run(),
        Some(Command::Generate(a)) => generate::run(&a),
        Some(Command::Chat(a)) => chat::run(&a),
        Some(Command::Template(a)) => template::run(&a),
        Some(Command::Convert(a)) => convert::run(&a),
        Some(Command::Quantize(a)) => quantize::run(&a),
        Some(Command::Pull(a)) => pull::run(&a),
        Some(Command::Cache(a)) => cache::run(&a),
        Some(Command::Serve(a)) => serve::run(&a),
        Some(Command::Bench(a)) => bench::run(&a),
        Some(Command::Ceilings(a)) => ceilings::run(&a),
        Some(Command::Logits(a)) => logits::run(&a),
        Some(Command::Tokenize(a)) => tokenize::tokenize(&a),
        Some(Command::Detokenize(a)) => tokenize::detokenize(&a),
        Some(Command::Devices(a)) => devices::run(&a),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) if is_closed_pipe(&e) => ExitCode::SUCCESS,
        Err(e) => {
            // One line: what failed, then why, outermost first.
            let line = format!("{e:#}").replace('\n', " ");
            eprintln!("infinity: {line}");
            ExitCode::FAILURE
        }
    }
}

/// Whether the reader of our output has gone (`infinity ... | head`).
fn is_closed_pipe(e: &anyhow::Error) -> bool {
    e.chain()
        .filter_map(|c| c.downcast_ref::<std::io::Error>())
        .any(|e| e.kind() == std::io::ErrorKind::BrokenPipe)
}
