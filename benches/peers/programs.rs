//! The programs, the flags each is run with, and the reading of what they print.

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::Instant;

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::cases::{Case, Mode, file_name};

/// Lengths of the runs.
#[derive(clap::Args, Clone, Debug)]
pub(crate) struct Sizes {
    /// Tokens of a prompt
    #[arg(long, default_value_t = 512)]
    prefill: usize,
    /// Tokens that a sequence decodes
    #[arg(long, default_value_t = 32)]
    decode: usize,
    /// Positions before decoding at depth
    #[arg(long, default_value_t = 4096)]
    depth: usize,
    /// Sequences of a batch
    #[arg(long, default_value_t = 16)]
    sequences: usize,
    /// Positions of each sequence of a batch before it decodes
    #[arg(long, default_value_t = 16)]
    batch_depth: usize,
    /// What --modes quantize makes
    #[arg(long, default_value = "Q4_K_M")]
    quantize_to: String,
    /// A prompt of about eight tokens
    #[arg(long, default_value = "The quick brown fox jumps over")]
    start_prompt: String,
}

/// A figure of one run.
#[derive(Clone, Debug)]
pub(crate) struct Measured {
    pub(crate) figure: String,
    pub(crate) value: f64,
    /// What the value is in.
    pub(crate) unit: Unit,
    /// Our own program's figures alone: the floor's time over the measured one.
    pub(crate) of_floor: Option<f64>,
}

/// What a figure is in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unit {
    /// More is better.
    TokensPerSecond,
    /// Less is better.
    Seconds,
    /// Less is better.
    Megabytes,
}

impl Unit {
    /// Decimal places worth showing.
    pub(crate) fn digits(self) -> usize {
        match self {
            Self::TokensPerSecond => 1,
            Self::Seconds => 3,
            Self::Megabytes => 0,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Infinity,
    LlamaCpp,
    IkLlamaCpp,
}

/// A program to compare.
#[derive(Clone, Debug)]
pub(crate) struct Program {
    pub(crate) kind: Kind,
    /// Our program, or the folder of a peer's.
    pub(crate) place: PathBuf,
    pub(crate) flags: Vec<String>,
}

impl Program {
    pub(crate) fn infinity(path: Option<PathBuf>, flags: &str) -> Result<Self> {
        let place = match path {
            Some(path) => path,
            None => std::env::current_exe()?.with_file_name("infinity"),
        };
        if !place.is_file() {
            bail!("there is no program {}: build it, or say --infinity FILE", place.display());
        }
        let flags = flags.split_whitespace().map(str::to_owned).collect();
        Ok(Self { kind: Kind::Infinity, place, flags })
    }

    pub(crate) fn llama_cpp(place: PathBuf) -> Self {
        Self { kind: Kind::LlamaCpp, place, flags: Vec::new() }
    }

    pub(crate) fn ik_llama_cpp(place: PathBuf) -> Self {
        Self { kind: Kind::IkLlamaCpp, place, flags: Vec::new() }
    }

    pub(crate) fn name(&self) -> &'static str {
        match self.kind {
            Kind::Infinity => "infinity",
            Kind::LlamaCpp => "llama.cpp",
            Kind::IkLlamaCpp => "ik_llama.cpp",
        }
    }

    /// The path of a peer's program, where this is a peer that has it.
    pub(crate) fn peer_program(&self, name: &str) -> Option<PathBuf> {
        let path = self.place.join(name);
        (self.kind != Kind::Infinity && path.is_file()).then_some(path)
    }

    /// The command line, with names in place of paths.
    pub(crate) fn commands(&self, case: &Case, threads: usize, sizes: &Sizes) -> String {
        let (program, args) = self.command(case, threads, sizes, Path::new("OUT.gguf"));
        shown(case, &program, &args)
    }

    /// Runs once.
    pub(crate) fn run(&self, case: &Case, threads: usize, sizes: &Sizes) -> Result<Vec<Measured>> {
        let scratch = std::env::temp_dir().join(format!("peers-{}.gguf", std::process::id()));
        let (program, args) = self.command(case, threads, sizes, &scratch);
        let start = Instant::now();
        let out = Command::new(&program)
            .args(&args)
            // Some peers write logs where they run.
            .current_dir(std::env::temp_dir())
            .stdin(Stdio::null())
            .output()
            .with_context(|| file_name(&program));
        let seconds = start.elapsed().as_secs_f64();
        // Quantizing leaves a file, whether it ended well or not.
        let _ = std::fs::remove_file(&scratch);
        let out = out?;
        succeeded(&out)?;
        let wall = |figure: String| {
            vec![Measured { figure, value: seconds, unit: Unit::Seconds, of_floor: None }]
        };
        match case.modes[0] {
            Mode::Quantize => Ok(wall(format!("quantize to {}", sizes.quantize_to))),
            Mode::Start => Ok(wall("start to first token".to_owned())),
            _ => match self.kind {
                Kind::Infinity => ours(&out, case, sizes),
                _ => theirs(&out, case, sizes),
            },
        }
    }

    /// The program's path and arguments.
    fn command(
        &self,
        case: &Case,
        threads: usize,
        sizes: &Sizes,
        scratch: &Path,
    ) -> (PathBuf, Vec<String>) {
        let (program, args) = match self.kind {
            Kind::Infinity => (self.place.clone(), self.infinity_args(case, sizes)),
            _ => {
                let (name, args) = self.peer_args(case, sizes);
                (self.place.join(name), args)
            }
        };
        let own = [
            ("MODEL", case.model.display().to_string()),
            ("OUT", scratch.display().to_string()),
            ("THREADS", threads.to_string()),
        ];
        let fill = |arg: String| {
            own.iter().find(|(name, _)| *name == arg).map_or(arg, |(_, value)| value.clone())
        };
        (program, args.into_iter().map(fill).collect())
    }

    fn infinity_args(&self, case: &Case, sizes: &Sizes) -> Vec<String> {
        if case.has(Mode::Quantize) {
            return words(&format!("quantize MODEL OUT {} --threads THREADS", sizes.quantize_to));
        }
        if case.has(Mode::Start) {
            let mut args = words("generate MODEL --threads THREADS -n 1 --temperature 0 --prompt");
            args.push(sizes.start_prompt.clone());
            args.extend(self.flags.iter().cloned());
            return args;
        }
        let or_none = |mode, n: usize| match case.has(mode) {
            true => n.to_string(),
            false => "none".to_owned(),
        };
        let depth = match case.modes[..] {
            [Mode::Depth | Mode::DepthQ8] => sizes.depth.to_string(),
            _ => or_none(Mode::Decode, 0),
        };
        let mut args = words("bench MODEL --threads THREADS -r 1 --json");
        args.extend(["--prefill".into(), or_none(Mode::Prefill, sizes.prefill)]);
        args.extend(["--depth".into(), depth]);
        args.extend(["--batch".into(), or_none(Mode::Batch, sizes.sequences)]);
        args.extend(words(&format!("--batch-depth {} -n {}", sizes.batch_depth, sizes.decode)));
        if case.has(Mode::DepthQ8) {
            args.extend(words("--kv-type q8_0"));
        }
        args.extend(self.flags.iter().cloned());
        args
    }

    /// A peer's program and arguments: flash attention, batches of 512, and weights repacked when
    /// they are loaded (ik_llama.cpp must be asked to), except where the start itself is timed.
    fn peer_args(&self, case: &Case, sizes: &Sizes) -> (&'static str, Vec<String>) {
        let ik = self.kind == Kind::IkLlamaCpp;
        if case.has(Mode::Quantize) {
            let args = words(&format!("MODEL OUT {} THREADS", sizes.quantize_to));
            return ("llama-quantize", args);
        }
        if case.has(Mode::Batch) {
            let Sizes { sequences, batch_depth, decode, .. } = sizes;
            // Caches are made in steps of 256 positions a sequence.
            let context = sequences * (batch_depth + decode).next_multiple_of(256);
            let mut args = words("-m MODEL -t THREADS -fa on -b 512 -ub 512");
            args.extend(words(&format!(
                "-c {context} -npp {batch_depth} -ntg {decode} -npl {sequences}"
            )));
            args.extend(words(if ik { "-rtr" } else { "--output-format jsonl" }));
            return ("llama-batched-bench", args);
        }
        let mut args = words("-m MODEL -t THREADS -fa 1 -b 512 -ub 512 -r 1 -o json");
        let start = case.has(Mode::Start);
        args.extend(words(match ik {
            // What warms up is what a start includes, and repacking takes longer than it saves here.
            true if start => "-w 0",
            false if start => "--no-warmup --repack 0",
            true => "-rtr 1",
            false => "",
        }));
        let decode = sizes.decode;
        let prompt = if case.has(Mode::Prefill) { sizes.prefill } else { 0 };
        args.extend(words(&match case.modes[..] {
            [Mode::Start] => "-p 8 -n 0".to_owned(),
            [Mode::Depth | Mode::DepthQ8] if ik => {
                format!("-p 0 -n 0 -gp {},{decode}", sizes.depth)
            }
            [Mode::Depth | Mode::DepthQ8] => format!("-p 0 -n {decode} -d {}", sizes.depth),
            _ if case.has(Mode::Decode) => format!("-p {prompt} -n {decode}"),
            _ => format!("-p {prompt} -n 0"),
        }));
        if case.has(Mode::DepthQ8) {
            args.extend(words("-ctk q8_0 -ctv q8_0"));
        }
        ("llama-bench", args)
    }
}

/// A command line, with names in place of paths.
pub(crate) fn shown(case: &Case, program: &Path, args: &[String]) -> String {
    let model = case.model.display().to_string();
    let shown = args.iter().map(|a| match *a == model {
        true => case.file(),
        false if a.contains(' ') => format!("'{a}'"),
        false => a.clone(),
    });
    [file_name(program)].into_iter().chain(shown).collect::<Vec<_>>().join(" ")
}

/// Fails with the last line that a program said, if it failed.
pub(crate) fn succeeded(out: &Output) -> Result<()> {
    if out.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&out.stderr);
    let last = said.lines().rev().find(|l| !l.trim().is_empty()).unwrap_or("no message");
    bail!("{}: {last}", out.status);
}

pub(crate) fn words(text: &str) -> Vec<String> {
    text.split_whitespace().map(str::to_owned).collect()
}

/// How a mode's figure is called.
fn figure(mode: Mode, sizes: &Sizes) -> String {
    match mode {
        Mode::Prefill => format!("prefill {}", sizes.prefill),
        Mode::Decode => format!("decode {}", sizes.decode),
        Mode::Depth => format!("decode at depth {}, f16 cache", sizes.depth),
        Mode::DepthQ8 => format!("decode at depth {}, Q8_0 cache", sizes.depth),
        Mode::Batch => format!("decode {} together", sizes.sequences),
        Mode::Quantize | Mode::Start | Mode::Serve | Mode::Accuracy => {
            unreachable!("measured from outside")
        }
    }
}

/// Reads the report of `infinity bench`.
fn ours(out: &Output, case: &Case, sizes: &Sizes) -> Result<Vec<Measured>> {
    let report: Value = serde_json::from_slice(&out.stdout).context("infinity's report")?;
    let figures = report["figures"].as_array().map(Vec::as_slice).unwrap_or_default();
    let find = |&mode: &Mode| {
        let kind = if mode == Mode::Prefill { "prefill" } else { "decode" };
        let found = figures.iter().find(|f| f["kind"] == kind);
        let found = found.with_context(|| format!("no figure: {}", report["skipped"]))?;
        Ok(Measured {
            figure: figure(mode, sizes),
            value: found["median"].as_f64().context("no median")?,
            unit: Unit::TokensPerSecond,
            of_floor: found["fraction_of_floor"].as_f64(),
        })
    };
    case.modes.iter().map(find).collect()
}

/// Reads what `llama-bench` or `llama-batched-bench` printed.
fn theirs(out: &Output, case: &Case, sizes: &Sizes) -> Result<Vec<Measured>> {
    let text = String::from_utf8_lossy(&out.stdout);
    let found = |mode, value: Option<f64>| {
        let figure = figure(mode, sizes);
        let value = value.with_context(|| format!("no figure for {figure}"))?;
        Ok(Measured { figure, value, unit: Unit::TokensPerSecond, of_floor: None })
    };
    if case.has(Mode::Batch) {
        let rows = text.lines().filter_map(|l| serde_json::from_str::<Value>(l).ok());
        let rate = rows.filter_map(|row| row["speed_tg"].as_f64()).next_back();
        let table = String::from_utf8_lossy(&out.stderr);
        return Ok(vec![found(Mode::Batch, rate.or_else(|| batched_table(&table)))?]);
    }
    // The list may follow other lines.
    let list = text.find('[').map_or("", |at| &text[at..]);
    let rows: Vec<Value> = serde_json::from_str(list).context("llama-bench's list")?;
    let rate = |mode: Mode| {
        let row = rows.iter().find(|row| match mode {
            Mode::Prefill => row["n_prompt"] == sizes.prefill && row["n_gen"] == 0,
            _ => row["n_gen"] == sizes.decode,
        });
        row.and_then(|row| row["avg_ts"].as_f64())
    };
    case.modes.iter().map(|&mode| found(mode, rate(mode))).collect()
}

/// `S_TG t/s` of the last row of the table that ik_llama.cpp's `llama-batched-bench` prints, whose
/// columns are PP, TG, B, N_KV, T_PP, S_PP, T_TG, S_TG, T and S.
fn batched_table(text: &str) -> Option<f64> {
    let number = |line: &str| line.split('|').nth(8)?.trim().parse().ok();
    text.lines().filter(|line| line.starts_with('|')).filter_map(number).next_back()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rate_of_decoding_is_read_from_a_table() {
        let text = "main: n_kv_max = 4096\n\n\
            |    PP |     TG |    B |   N_KV |   T_PP s | S_PP t/s |   T_TG s | S_TG t/s |\n\
            |-------|--------|------|--------|----------|----------|----------|----------|\n\
            |    16 |      8 |    4 |     96 |    0.435 |   146.97 |    1.112 |    28.77 |\n";
        assert_eq!(batched_table(text), Some(28.77));
        assert_eq!(batched_table("no table"), None);
    }
}
