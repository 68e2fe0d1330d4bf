//! `infinity bench --kv-cache on,off --attention naive,tiled`: what each is for, measured.
//!
//! With the cache a token takes one row through the model; without, the whole prefix again. Each
//! variant runs in a process of its own at each length, so that its peak memory is its own.

use std::fmt;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::str::FromStr;

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};
use tensor::AttentionAlgorithm;

use super::chart::{self, Panel, Series};
use super::report::Spread;
use super::workload::{Decoding, recompute};
use super::{Args, List, progress};
use crate::ceilings::processor;
use crate::load;

/// Variants of the cache and of attention, and at which lengths.
#[derive(clap::Args)]
#[group(id = "comparison")]
#[command(next_help_heading = "Cache and attention compared")]
pub(crate) struct Options {
    /// Decode with the cache, or recompute the prefix for each token: on, off
    #[arg(long, value_name = "on,off")]
    kv_cache: Option<List<Cache>>,
    /// All scores of a row at once, or tiles of them with an online softmax: naive, tiled
    #[arg(long, value_name = "naive,tiled")]
    attention: Option<List<AttentionAlgorithm>>,
    /// Positions before the token that is timed
    #[arg(long, default_value = "64,128,256,512,1024", value_name = "N,N")]
    lengths: List<usize>,
    /// Draw the comparison
    #[arg(long, value_name = "OUT.svg")]
    plot: Option<PathBuf>,
    /// Measure this one length in this process (how the comparison calls itself)
    #[arg(long, hide = true)]
    one_length: Option<usize>,
}

#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Cache {
    On,
    Off,
}

impl FromStr for Cache {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "on" => Ok(Cache::On),
            "off" => Ok(Cache::Off),
            _ => Err("expected on or off"),
        }
    }
}

impl fmt::Display for Cache {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if *self == Cache::On { "on" } else { "off" })
    }
}

/// One variant at one length.
#[derive(Serialize, Deserialize)]
struct Measured {
    kv_cache: Cache,
    attention: String,
    length: usize,
    /// The median over the tokens.
    seconds_per_token: f64,
    /// Peak resident memory of the process, where the system tells it.
    peak_bytes: Option<usize>,
    /// Of it, pages of mapped files: the weights and the program.
    file_bytes: Option<usize>,
}

impl Measured {
    fn name(&self) -> String {
        format!("cache {}, {} attention", self.kv_cache, self.attention)
    }

    /// Peak memory beyond the mapped files.
    fn own_bytes(&self) -> Option<usize> {
        Some(self.peak_bytes?.saturating_sub(self.file_bytes?))
    }
}

#[derive(Serialize)]
struct Report {
    model: String,
    processor: String,
    measured: Vec<Measured>,
    left_out: Vec<usize>,
}

impl Options {
    /// Whether a comparison is asked for, in place of the ordinary figures.
    pub(super) fn wanted(&self) -> bool {
        self.kv_cache.is_some() || self.attention.is_some()
    }

    fn variants(&self) -> Vec<(Cache, AttentionAlgorithm)> {
        let caches = self.kv_cache.as_ref().map_or(vec![Cache::On], |l| l.0.clone());
        let attentions =
            self.attention.as_ref().map_or(vec![AttentionAlgorithm::Tiled], |l| l.0.clone());
        caches.iter().flat_map(|&c| attentions.iter().map(move |&a| (c, a))).collect()
    }
}

pub(super) fn run(args: &Args) -> Result<()> {
    let options = &args.comparison;
    let variants = options.variants();
    if let (Some(length), &[(cache, attention)]) = (options.one_length, &variants[..]) {
        let one = measure(args, cache, attention, length)?;
        println!("{}", serde_json::to_string(&one)?);
        return Ok(());
    }
    if variants.is_empty() || options.lengths.0.is_empty() || options.lengths.0.contains(&0) {
        bail!("--kv-cache, --attention and --lengths need a value each, lengths at least 1");
    }
    let path = load::resolve(args.model())?;
    let context = {
        // Mapped, nothing of the weights is read.
        let model = load::model(args.model(), &args.runtime.hardware.mapped())?.model;
        model.decoder()?.config.context_length
    };
    let fits = |length: &usize| length + args.decode <= context;
    let (lengths, left_out): (Vec<usize>, Vec<usize>) =
        options.lengths.0.iter().partition(|l| fits(l));
    let bar = progress(lengths.len() * variants.len())?;
    let mut measured = Vec::new();
    for &length in &lengths {
        for &(cache, attention) in &variants {
            bar.set_message(format!("{length}: cache {cache}, {attention}"));
            measured.push(in_own_process(cache, attention, length)?);
            bar.inc(1);
        }
    }
    bar.finish_and_clear();
    let report =
        Report { model: path.display().to_string(), processor: processor(), measured, left_out };
    if let Some(path) = &options.plot {
        files::write_atomically(path, picture(&report.measured)?.as_bytes())?;
    }
    if args.json {
        println!("{}", serde_json::to_string_pretty(&report)?);
    } else {
        print!("{report}");
    }
    Ok(())
}

/// Calls this program again with the same arguments, for one variant and length.
fn in_own_process(cache: Cache, attention: AttentionAlgorithm, length: usize) -> Result<Measured> {
    let program = std::env::current_exe().context("this program's own path")?;
    let out = Command::new(program)
        .args(std::env::args_os().skip(1))
        .args(["--kv-cache", &cache.to_string(), "--attention", &attention.to_string()])
        .args(["--one-length", &length.to_string()])
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .output()?;
    if !out.status.success() {
        bail!("the process for length {length}, cache {cache}, {attention} attention failed");
    }
    Ok(serde_json::from_slice(&out.stdout)?)
}

/// Measures in this process. Weights stay in the mapped file, so that memory beyond mapped files is
/// what the cache and attention take.
fn measure(
    args: &Args,
    cache: Cache,
    attention: AttentionAlgorithm,
    length: usize,
) -> Result<Measured> {
    let loaded = load::model(args.model(), &args.runtime.hardware.mapped())?;
    let compute = loaded.model.compute().clone().with_attention(attention);
    let (model, kv) = (&loaded.model.with_compute(compute), args.runtime.kv_type);
    let seconds: Vec<f64> = match cache {
        Cache::On => {
            let mut run = Decoding::new(model, kv, 1, length, args.decode)?;
            run.warm_up()?;
            let each = |_| Ok(run.time()?.as_secs_f64() / args.decode as f64);
            (0..args.repetitions).map(each).collect::<Result<_>>()?
        }
        Cache::Off => {
            recompute(model, kv, length.min(32))?;
            let each = |_| Ok(recompute(model, kv, length + 1)?.as_secs_f64());
            (0..args.repetitions).map(each).collect::<Result<_>>()?
        }
    };
    Ok(Measured {
        kv_cache: cache,
        attention: attention.to_string(),
        length,
        seconds_per_token: Spread::of(seconds).median,
        peak_bytes: status("VmHWM:"),
        file_bytes: status("RssFile:"),
    })
}

/// A size from Linux' account of this process.
fn status(key: &str) -> Option<usize> {
    let text = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = text.lines().find_map(|l| l.strip_prefix(key))?;
    Some(line.trim().strip_suffix("kB")?.trim().parse::<usize>().ok()? * 1024)
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}, {}", self.model, self.processor)?;
        let heads = ["ms/token", "tokens/s", "peak MB", "beyond files"];
        let [ms, rate, peak, own] = heads;
        let (length, what) = ("positions", "variant");
        writeln!(f, "{length:>9}  {what:26} {ms:>10} {rate:>10} {peak:>10} {own:>14}")?;
        let mb =
            |bytes: Option<usize>| bytes.map_or("-".into(), |b| format!("{:.1}", b as f64 / 1e6));
        for m in &self.measured {
            let (ms, rate) = (m.seconds_per_token * 1e3, 1.0 / m.seconds_per_token);
            let (peak, own) = (mb(m.peak_bytes), mb(m.own_bytes()));
            let (length, name) = (m.length, m.name());
            writeln!(f, "{length:>9}  {name:26} {ms:>10.2} {rate:>10.1} {peak:>10} {own:>14}")?;
        }
        for length in &self.left_out {
            writeln!(f, "{length:>9}  left out: the model's context is shorter")?;
        }
        Ok(())
    }
}

fn picture(measured: &[Measured]) -> Result<String> {
    let series = |value: &dyn Fn(&Measured) -> Option<f64>| {
        let mut all: Vec<Series> = Vec::new();
        for m in measured {
            let Some(y) = value(m) else { continue };
            let (name, point) = (m.name(), (m.length, y));
            match all.iter_mut().find(|s| s.name == name) {
                Some(s) => s.points.push(point),
                None => all.push(Series { name, points: vec![point] }),
            }
        }
        all
    };
    chart::svg(&[
        Panel { axis: "ms a token", series: series(&|m| Some(m.seconds_per_token * 1e3)) },
        Panel {
            axis: "peak memory beyond mapped files, MB",
            series: series(&|m| Some(m.own_bytes()? as f64 / 1e6)),
        },
    ])
}
