//! `gguf-peek FILE`: what is in a GGUF file, without reading more of it than is shown.
#![forbid(unsafe_code)]

mod check;
mod json;
mod show;
mod stats;
mod summary;
mod text;

use std::io::{self, BufWriter, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use gguf::Gguf;

use crate::check::Faults;
use crate::stats::Stats;

/// Look into a GGUF file: header, metadata, tensors.
///
/// Without --stats or --check only the head of the file is read, whatever its size.
#[derive(Parser)]
#[command(
    name = "gguf-peek",
    version,
    after_help = "\
Examples:
  gguf-peek model.gguf
  gguf-peek model.gguf --tensors | grep attn_q
  gguf-peek model.gguf --stats
  gguf-peek model.gguf --check && echo sound
  gguf-peek model.gguf --json | jq '.metadata[\"general.architecture\"]'

Exit codes: 0 success, 1 failure or a fault that --check found, 2 wrong usage."
)]
struct Args {
    /// The file; of a split model, its first part (NAME-00001-of-00003.gguf)
    file: PathBuf,
    /// Only the table of tensors, with bytes and offsets
    #[arg(long)]
    tensors: bool,
    /// Add bytes by type and tensor family, bits a weight, value ranges and histograms
    /// (reads every value)
    #[arg(long)]
    stats: bool,
    /// Only verify: offsets, sizes, duplicates, and that no value is NaN or infinite
    #[arg(long, conflicts_with = "tensors")]
    check: bool,
    /// Print JSON, with nothing abbreviated
    #[arg(long)]
    json: bool,
    /// Do not abbreviate long strings and arrays
    #[arg(long)]
    full: bool,
}

fn main() -> ExitCode {
    let args = Args::parse();
    let mut out = BufWriter::new(io::stdout().lock());
    let result = run(&args, &mut out).and_then(|sound| {
        out.flush()?;
        Ok(sound)
    });
    match result {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        // The reader of a pipe has seen enough.
        Err(e) if is_broken_pipe(&e) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("gguf-peek: {}", text::escape(format!("{e:#}").as_bytes()));
            ExitCode::FAILURE
        }
    }
}

fn is_broken_pipe(error: &anyhow::Error) -> bool {
    let kind =
        |e: &(dyn std::error::Error + 'static)| e.downcast_ref::<io::Error>().map(io::Error::kind);
    error.chain().any(|e| kind(e) == Some(io::ErrorKind::BrokenPipe))
}

/// Prints what is asked for; false if `--check` found a fault.
fn run(args: &Args, out: &mut impl Write) -> anyhow::Result<bool> {
    let file = match Gguf::open(&args.file) {
        Ok(file) => file,
        // What keeps a file from being opened is a fault for machines too.
        Err(e) if args.check && args.json => {
            json::print(&serde_json::json!({ "check": Faults::of_opening(&e).json() }), out)?;
            return Err(e.into());
        }
        Err(e) => return Err(e.into()),
    };
    let summaries = if args.stats || args.check { summary::of_all(&file)? } else { Vec::new() };
    let stats = args.stats.then(|| Stats::new(&file, &summaries));
    let faults = args.check.then(|| Faults::of_values(&file, &summaries));
    let sound = faults.as_ref().is_none_or(Faults::is_empty);

    if args.json {
        let mut all = serde_json::Map::new();
        if !args.check {
            all = json::file(&file, args.tensors);
        }
        all.extend(stats.map(|s| ("stats".to_owned(), s.json())));
        all.extend(faults.map(|f| ("check".to_owned(), f.json())));
        json::print(&all.into(), out)?;
        return Ok(sound);
    }
    match faults {
        Some(faults) => faults.print(&file, out)?,
        None if args.tensors => show::table(&file, out)?,
        None => show::all(&file, args.full, out)?,
    }
    if let Some(stats) = stats {
        stats.print(out)?;
    }
    Ok(sound)
}
