//! `infinity bench MODEL`: tokens a second, and how near the floor they are. With `--serve URL`, a
//! server under load.

mod chart;
mod compare;
mod cost;
mod meter;
mod random;
mod report;
mod roofline;
mod serve;
mod unit;
mod workload;

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use anyhow::{Result, bail};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use tensor::DType;

use self::workload::{Decoding, Prefill};
use crate::load::{self, Loaded};
use crate::options::Runtime;
use cost::Cost;
use meter::Meter;
use report::{Figure, Kind, Report, Skipped};

/// Measure prefill and decode, with the fraction of the floor measured in the same run.
#[derive(clap::Args)]
#[command(
    args_override_self = true,
    after_help = "Examples:\n  infinity bench model.gguf --prefill 512 --depth 0 --batch none\n  \
    infinity bench model.gguf --json --roofline roofline.svg\n  \
    infinity bench model.gguf --kv-cache on,off --attention naive,tiled --plot compared.svg\n  \
    infinity bench --random llama-3-8b --weights Q4_K --device cuda:0 --batch 1,8,32,128\n  \
    infinity bench --serve http://127.0.0.1:8000 --clients 1,4,16,64\n  \
    infinity bench --serve http://127.0.0.1:8000 --rate 0.5,1,2 --duration 60 --json\n\n\
    The floor of a step is the larger of the bytes it must read over the read bandwidth and the\n\
    operations it must do over the rates of the units that do them, measured between the runs;\n\
    on a GPU a copy within its memory, and the fastest product of bf16.\n\
    A list can be 'none'."
)]
pub(crate) struct Args {
    /// A GGUF file, a Hugging Face folder, or ORG/NAME
    #[arg(required_unless_present_any = ["serve", "random"], conflicts_with = "serve")]
    model: Option<String>,
    /// A model of this shape with random weights, made where it runs: llama-3-8b, or llama-3-8b/16
    /// with widths and layers divided by 16 (2, 4, 8, 16)
    #[arg(long, value_name = "SHAPE", conflicts_with_all = ["model", "serve"])]
    random: Option<random::Shape>,
    /// Type of the random weights: F16, BF16 (default), Q4_0, Q8_0, Q4_K, Q5_K or Q6_K
    #[arg(long, value_name = "TYPE")]
    weights: Option<DType>,
    /// Prompt lengths
    #[arg(short, long, default_value = "128,512,2048", value_name = "N,N")]
    prefill: List<usize>,
    /// Tokens that each sequence decodes one after another
    #[arg(short = 'n', long, default_value_t = 32, value_name = "N")]
    decode: usize,
    /// Positions in the cache before one sequence decodes
    #[arg(short, long, default_value = "0,512,4096", value_name = "N,N")]
    depth: List<usize>,
    /// Sequences that decode together
    #[arg(short, long, default_value = "1,4,16,64", value_name = "N,N")]
    batch: List<usize>,
    /// Positions in the cache of each sequence before they decode together
    #[arg(long, default_value_t = 16, value_name = "N")]
    batch_depth: usize,
    /// How often each figure is measured, after a run that does not count
    #[arg(short, long, default_value_t = 5, value_name = "N")]
    repetitions: usize,
    /// Print JSON
    #[arg(long)]
    json: bool,
    /// Write the figures, a line each
    #[arg(long, value_name = "OUT.csv")]
    csv: Option<PathBuf>,
    /// Draw operations a byte against operations a second, with the ceilings
    #[arg(long, value_name = "OUT.svg")]
    roofline: Option<PathBuf>,
    #[command(flatten)]
    server: serve::Options,
    #[command(flatten)]
    comparison: compare::Options,
    #[command(flatten)]
    runtime: Runtime,
}

impl Args {
    /// The model, which is given unless a server is measured.
    fn model(&self) -> &str {
        self.model.as_deref().unwrap_or_default()
    }
}

/// Comma-separated values, or `none`.
#[derive(Clone, Debug)]
pub(crate) struct List<T>(Vec<T>);

impl<T: FromStr<Err: fmt::Display>> FromStr for List<T> {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "none" {
            return Ok(List(Vec::new()));
        }
        let value = |part: &str| part.trim().parse().map_err(|e| format!("'{part}': {e}"));
        Ok(List(text.split(',').map(value).collect::<Result<_, _>>()?))
    }
}

pub(crate) fn run(args: &Args) -> Result<()> {
    if args.server.wanted() {
        return serve::run(&args.server, args.json);
    }
    if args.repetitions == 0 || args.decode == 0 {
        bail!("--repetitions and --decode must be at least 1");
    }
    if args.prefill.0.contains(&0) || args.batch.0.contains(&0) {
        bail!("--prefill and --batch must be at least 1");
    }
    if args.comparison.wanted() && args.random.is_some() {
        bail!("--random has no file that configurations could be compared with; leave one out");
    }
    if args.comparison.wanted() {
        return compare::run(args);
    }
    let hardware = &args.runtime.hardware;
    let loaded = match args.random {
        Some(shape) => random::model(shape, args.weights.unwrap_or(DType::BF16), hardware)?,
        None if args.weights.is_some() => bail!("--weights is for --random: a file's are its own"),
        None => load::model(args.model(), hardware)?,
    };
    let report = measure(args, &loaded)?;
    if let Some(path) = &args.csv {
        files::write_atomically(path, report.csv().as_bytes())?;
    }
    if let Some(path) = &args.roofline {
        files::write_atomically(path, roofline::svg(&report)?.as_bytes())?;
    }
    if args.json {
        println!("{}", serde_json::to_string_pretty(&report)?);
    } else {
        print!("{report}");
    }
    args.runtime.hardware.tell(loaded.model.compute().profile())
}

/// Runs everything that `args` asks for and the context allows.
fn measure(args: &Args, loaded: &Loaded) -> Result<Report> {
    let model = &loaded.model;
    let kv = args.runtime.kv_type;
    let context = model.decoder()?.config.context_length;
    let cost = Cost::of(model, kv)?;
    let mut meter = Meter::new(model.compute(), &cost);
    let (mut figures, mut skipped) = (Vec::new(), Vec::new());
    let mut kinds: Vec<Kind> =
        args.prefill.0.iter().map(|&n| Kind::Prefill { tokens: n }).collect();
    kinds.extend(args.depth.0.iter().map(|&depth| Kind::Decode { depth, sequences: 1 }));
    let depth = args.batch_depth;
    kinds.extend(args.batch.0.iter().map(|&n| Kind::Decode { depth, sequences: n }));
    let bar = progress(kinds.len() * args.repetitions)?;
    for kind in kinds {
        let needed = kind.positions(args.decode);
        if needed > context {
            let reason = format!("{needed} positions, the model was made for {context}");
            bar.inc(args.repetitions as u64);
            skipped.push(Skipped { what: kind.to_string(), reason });
            continue;
        }
        bar.set_message(kind.to_string());
        let (tokens, work, samples) = match kind {
            Kind::Prefill { tokens } => {
                let run = Prefill { model, kv, tokens };
                run.warm_up()?;
                let samples = meter.interleave(args.repetitions, &bar, || run.time())?;
                (tokens, cost.work(&run.forwards()), samples)
            }
            Kind::Decode { depth, sequences } => {
                let mut run = Decoding::new(model, kv, sequences, depth, args.decode)?;
                run.warm_up()?;
                let samples = meter.interleave(args.repetitions, &bar, || run.time())?;
                (sequences * args.decode, cost.work(&run.forwards()), samples)
            }
        };
        figures.push(Figure::new(kind, tokens, &work, &samples));
    }
    bar.finish_and_clear();
    Report::new(args, loaded, &cost, &meter, figures, skipped)
}

/// A bar on standard error, shown only on a terminal.
fn progress(steps: usize) -> Result<ProgressBar> {
    let bar = ProgressBar::with_draw_target(Some(steps as u64), ProgressDrawTarget::stderr());
    bar.set_style(ProgressStyle::with_template("{wide_bar} {pos}/{len} {msg:32!} {eta}")?);
    Ok(bar)
}
