//! `paged-attn`: logical to physical blocks, sharing, copy-on-write and reclamation, live.
#![forbid(unsafe_code)]

mod args;
mod live;

use std::io::{self, Write};
use std::process::ExitCode;

use anyhow::{Result, ensure};
use args::{Args, Shown};
use clap::Parser;
use paged_attn::bard::Bard;
use paged_attn::engine::Engine;
use paged_attn::plain::{self, Plain};

fn main() -> ExitCode {
    let args = Args::parse();
    if let Err(error) = args.check() {
        eprintln!("paged-attn: {error:#}");
        return ExitCode::from(2);
    }
    match run(&args) {
        Ok(()) => ExitCode::SUCCESS,
        // The reader of a pipe has seen enough.
        Err(e) if is_broken_pipe(&e) => ExitCode::SUCCESS,
        Err(error) => {
            let line = format!("{error:#}").replace('\n', " ");
            eprintln!("paged-attn: {line}");
            ExitCode::FAILURE
        }
    }
}

fn is_broken_pipe(error: &anyhow::Error) -> bool {
    let mut io = error.chain().filter_map(|e| e.downcast_ref::<io::Error>());
    io.any(|e| e.kind() == io::ErrorKind::BrokenPipe)
}

fn run(args: &Args) -> Result<()> {
    let bard = Bard::load()?;
    let requests = args.workload().requests(&bard.tokenizer)?;
    let mut engine = Engine::new(&bard.model, &bard.tokenizer, requests, args.engine())?;
    let mut out = io::stdout();
    let (shown, delay) = (args.shown(), args.delay());
    let last = match shown {
        Shown::Live => live::run(&mut engine, delay)?,
        Shown::Plain | Shown::Json => {
            let (mut plain, mut last) = (Plain::default(), None);
            while let Some(frame) = engine.step()? {
                match shown {
                    Shown::Json => writeln!(out, "{}", serde_json::to_string(&frame)?)?,
                    _ => out.write_all(plain.frame(&frame).as_bytes())?,
                }
                last = Some(frame);
                std::thread::sleep(delay);
            }
            last
        }
    };
    // Whoever left early has seen what was wanted.
    let Some(last) = last else { return Ok(()) };
    let (totals, differences) = (engine.totals(), engine.check()?);
    match shown {
        Shown::Json => {
            let end = serde_json::json!({ "totals": totals, "differences": differences });
            writeln!(out, "{end}")?;
        }
        _ => out.write_all(plain::end(&last, &totals, &differences).as_bytes())?,
    }
    ensure!(
        differences.is_empty(),
        "{} answers differ from what they are alone",
        differences.len()
    );
    Ok(())
}
