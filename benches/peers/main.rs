//! Compares Infinity with llama.cpp and ik_llama.cpp on the same files and threads.
//!
//! Programs run in turn, a process each, in an order that rotates from round to round, so that a
//! machine whose speed drifts slows all of them. A figure is the ratio of medians with a bootstrap
//! interval. What rounding costs is compared once: nothing of it varies. See
//! `benches/peers/README.md`.
#![forbid(unsafe_code)]

mod accuracy;
mod cases;
mod programs;
mod record;
mod servers;
mod stats;

use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use clap::Parser;

use cases::{Case, Mode, ModelArg};
use programs::{Program, Sizes};
use record::{Outcome, Record, Series};

/// Compare with llama.cpp and ik_llama.cpp in alternating runs, and write a dated record.
#[derive(Parser)]
#[command(
    name = "peers",
    after_help = "Example:\n  cargo build --release\n  cargo run --release -p benches --bin peers -- \\\n    \
    --llama-cpp BUILD/bin --ik-llama-cpp IK_BUILD/bin \\\n    \
    --model model-Q4_K_M.gguf=prefill,decode,batch,depth,start --model model-Q6_K.gguf=decode"
)]
struct Args {
    /// Folder of llama.cpp's programs
    #[arg(long, value_name = "DIR")]
    llama_cpp: Option<PathBuf>,
    /// Folder of ik_llama.cpp's programs
    #[arg(long, value_name = "DIR")]
    ik_llama_cpp: Option<PathBuf>,
    /// Our program (default: beside this one)
    #[arg(long, value_name = "FILE")]
    infinity: Option<PathBuf>,
    /// Further flags for `infinity bench`, separated by spaces
    #[arg(long, default_value = "", allow_hyphen_values = true)]
    infinity_flags: String,
    /// A GGUF file, and what to measure with it if not --modes (repeatable)
    #[arg(long, value_name = "FILE[=MODE,MODE]", required = true)]
    model: Vec<ModelArg>,
    /// prefill, decode, depth, depth-q8, batch, quantize, start, serve, accuracy
    #[arg(long, value_delimiter = ',', default_value = "prefill,decode")]
    modes: Vec<Mode>,
    /// Threads of every program
    #[arg(short, long, default_value_t = 2)]
    threads: usize,
    /// Rounds, in each of which every program runs once
    #[arg(long, default_value_t = 10)]
    pairs: usize,
    /// Rounds of the modes that take long: quantize, serve
    #[arg(long, default_value_t = 3)]
    long_pairs: usize,
    #[command(flatten)]
    sizes: Sizes,
    #[command(flatten)]
    load: servers::Load,
    #[command(flatten)]
    accuracy: accuracy::Options,
    /// Where the record goes
    #[arg(long, default_value = "benches/records", value_name = "DIR")]
    records: PathBuf,
    /// Ends the record's name
    #[arg(long, default_value = "peers")]
    label: String,
    /// Of the bootstrap
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

fn main() -> Result<()> {
    let args = Args::parse();
    if args.pairs == 0 || args.long_pairs == 0 || args.threads == 0 {
        bail!("--pairs, --long-pairs and --threads must be at least 1");
    }
    // Programs run in a folder of their own, and so see absolute paths alone.
    let absolute =
        |path: &PathBuf| std::fs::canonicalize(path).with_context(|| path.display().to_string());
    let mut programs = vec![Program::infinity(
        args.infinity.as_ref().map(absolute).transpose()?,
        &args.infinity_flags,
    )?];
    programs.extend(args.llama_cpp.as_ref().map(absolute).transpose()?.map(Program::llama_cpp));
    programs
        .extend(args.ik_llama_cpp.as_ref().map(absolute).transpose()?.map(Program::ik_llama_cpp));
    let mut record = Record::new(args.threads, args.seed);
    let folder = &args.records;
    std::fs::create_dir_all(folder).with_context(|| folder.display().to_string())?;
    let name = record.file_name(&args.label);
    for case in cases::all(&args.model, &args.modes)? {
        if case.has(Mode::Accuracy) {
            record.add_accuracy(accuracy::measure(&case, &programs, args.threads, &args.accuracy)?);
            record.save(folder, &name)?;
            continue;
        }
        let pairs = if case.is_long() { args.long_pairs } else { args.pairs };
        record.add(&case, measure(&case, &programs, &args, pairs));
        // After each case, so that a run that is cut short leaves what it has.
        record.save(folder, &name)?;
    }
    print!("{}", record.markdown());
    eprintln!("written to {}", folder.join(format!("{name}.md")).display());
    Ok(())
}

/// Runs every program `pairs` times. One that fails is left out from then on.
fn measure(case: &Case, programs: &[Program], args: &Args, pairs: usize) -> Vec<Outcome> {
    let serve = case.has(Mode::Serve);
    let commands = |p: &Program| match serve {
        true => args.load.commands(p, case, args.threads),
        false => p.commands(case, args.threads, &args.sizes),
    };
    let mut outcomes: Vec<Outcome> =
        programs.iter().map(|p| Outcome::new(p, commands(p))).collect();
    for round in 0..pairs {
        for i in 0..programs.len() {
            let i = (i + round) % programs.len();
            let (program, outcome) = (&programs[i], &mut outcomes[i]);
            if outcome.failure.is_some() {
                continue;
            }
            let run = match serve {
                true => args.load.measure(program, &programs[0].place, case, args.threads),
                false => program.run(case, args.threads, &args.sizes),
            };
            match run {
                Ok(values) => {
                    let shown: Vec<String> =
                        values.iter().map(|v| format!("{} {:.2}", v.figure, v.value)).collect();
                    let name = program.name();
                    eprintln!("{case}, {}/{pairs}: {name}: {}", round + 1, shown.join(", "));
                    Series::extend(&mut outcome.series, values);
                }
                Err(e) => {
                    eprintln!("{case}: {} is left out: {e:#}", program.name());
                    outcome.failure = Some(format!("{e:#}"));
                }
            }
        }
    }
    outcomes
}
