//! `ppl`: what a quantization costs.
//!
//! The program quantizes a model to each format asked for, in a temporary folder, and measures each
//! file in a process of its own (it calls itself), so that peak memory is that of one format alone.
//! The process evaluates the format and the f16 base side by side, window by window, which gives
//! perplexity, ratio and KL divergence in one pass.
#![forbid(unsafe_code)]

mod args;
mod chart;
mod html;
mod measure;
mod report;
mod run;
mod variants;
mod workspace;

use std::process::ExitCode;

use args::{Args, ReportKind};
use clap::Parser;

fn main() -> ExitCode {
    let args = Args::parse();
    let result = match &args.measure {
        Some(job) => measure::run(job),
        None => {
            if let Err(error) = args.check() {
                eprintln!("ppl: {error:#}");
                return ExitCode::from(2);
            }
            measure_and_report(&args)
        }
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("ppl: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn measure_and_report(args: &Args) -> anyhow::Result<()> {
    let report = run::run(args)?;
    let json = || serde_json::to_string_pretty(&report).map(|text| text + "\n");
    if let (Some(path), Some(kind)) = (&args.report, args.report_kind()?) {
        let text = match kind {
            ReportKind::Html => html::page(&report)?,
            ReportKind::Markdown => report.to_markdown(),
            ReportKind::Json => json()?,
        };
        files::write_atomically(path, text.as_bytes())
            .map_err(|e| anyhow::anyhow!("{} cannot be written: {e}", path.display()))?;
    }
    match args.json {
        true => print!("{}", json()?),
        false => print!("{}", report.to_text()),
    }
    Ok(())
}
