//! The record of a comparison: Markdown for people, JSON with every sample.

use std::fmt::Write;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result};
use serde_json::{Value, json};

use crate::accuracy::{self, Accuracy};
use crate::cases::Case;
use crate::programs::{Measured, Program, Unit};
use crate::stats::{median, ratio};

/// One figure of one program over the rounds.
pub(crate) struct Series {
    figure: String,
    unit: Unit,
    values: Vec<f64>,
    of_floor: Vec<f64>,
}

impl Series {
    /// Adds a run's figures.
    pub(crate) fn extend(series: &mut Vec<Series>, run: Vec<Measured>) {
        for m in run {
            let at = series.iter().position(|s| s.figure == m.figure).unwrap_or_else(|| {
                let figure = m.figure.clone();
                let (values, of_floor) = (Vec::new(), Vec::new());
                series.push(Series { figure, unit: m.unit, values, of_floor });
                series.len() - 1
            });
            series[at].values.push(m.value);
            series[at].of_floor.extend(m.of_floor);
        }
    }

    /// Median, least and most.
    fn shown(&self) -> String {
        let (low, high) = self
            .values
            .iter()
            .fold((f64::INFINITY, f64::NEG_INFINITY), |(l, h), v| (l.min(*v), h.max(*v)));
        let (mid, digits) = (median(&self.values), self.unit.digits());
        format!("{mid:.digits$} ({low:.digits$}..{high:.digits$})")
    }
}

/// What a program did in a case.
pub(crate) struct Outcome {
    program: &'static str,
    command: String,
    pub(crate) series: Vec<Series>,
    pub(crate) failure: Option<String>,
}

impl Outcome {
    pub(crate) fn new(program: &Program, command: String) -> Self {
        Self { program: program.name(), command, series: Vec::new(), failure: None }
    }
}

/// Everything measured so far.
pub(crate) struct Record {
    date: String,
    processor: String,
    threads: usize,
    seed: u64,
    load: String,
    rows: Vec<Row>,
    accuracy: Vec<(String, accuracy::Row)>,
    commands: Vec<String>,
    failures: Vec<String>,
    raw: Vec<Value>,
}

#[derive(Clone)]
struct Row {
    model: String,
    figure: String,
    ours: String,
    peer: String,
    theirs: String,
    ratio: String,
    of_floor: String,
    pairs: usize,
}

impl Record {
    pub(crate) fn new(threads: usize, seed: u64) -> Self {
        let load = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
        let load = load.split_whitespace().next().unwrap_or("unknown").to_owned();
        Self {
            date: today(),
            processor: processor(),
            threads,
            seed,
            load,
            rows: Vec::new(),
            accuracy: Vec::new(),
            commands: Vec::new(),
            failures: Vec::new(),
            raw: Vec::new(),
        }
    }

    /// `YYYY-MM-DD-PROCESSOR-LABEL`.
    pub(crate) fn file_name(&self, label: &str) -> String {
        let words: Vec<String> = self
            .processor
            .split(|c: char| !c.is_ascii_alphanumeric())
            .filter(|w| !w.is_empty() && *w != "R" && *w != "TM")
            .map(str::to_lowercase)
            .collect();
        format!("{}-{}-{label}", self.date, words.join("-"))
    }

    /// Adds what rounding costs in a file.
    pub(crate) fn add_accuracy(&mut self, accuracy: Accuracy) {
        let Accuracy { model, commands, failures, rows } = accuracy;
        for command in &commands {
            if !self.commands.contains(command) {
                self.commands.push(command.clone());
            }
        }
        self.failures.extend(failures);
        for row in rows {
            self.raw.push(json!({
                "model": model,
                "program": row.program,
                "activations": row.activations,
                "targets": row.targets,
                "divergence": row.divergence,
            }));
            self.accuracy.push((model.clone(), row));
        }
    }

    /// Adds a case: our program's outcome first, then the peers'.
    pub(crate) fn add(&mut self, case: &Case, outcomes: Vec<Outcome>) {
        for o in &outcomes {
            if !self.commands.contains(&o.command) {
                self.commands.push(o.command.clone());
            }
            if let Some(failure) = &o.failure {
                self.failures.push(format!("{case}: {}: {failure}", o.program));
            }
            let series = o
                .series
                .iter()
                .map(|s| json!({ "figure": s.figure, "values": s.values, "of_floor": s.of_floor }));
            self.raw.push(json!({
                "model": case.file(),
                "program": o.program,
                "command": o.command,
                "series": series.collect::<Vec<_>>(),
                "failure": o.failure,
            }));
        }
        let Some((ours, peers)) = outcomes.split_first() else { return };
        for s in &ours.series {
            let rivals: Vec<(&str, &Series)> = peers
                .iter()
                .filter_map(|p| Some((p.program, p.series.iter().find(|o| o.figure == s.figure)?)))
                .collect();
            let mut row = Row {
                model: case.file(),
                figure: s.figure.clone(),
                ours: s.shown(),
                peer: "-".into(),
                theirs: "-".into(),
                ratio: "-".into(),
                of_floor: match s.of_floor.is_empty() {
                    true => "-".into(),
                    false => format!("{:.0} %", 100.0 * median(&s.of_floor)),
                },
                pairs: s.values.len(),
            };
            if rivals.is_empty() {
                self.rows.push(row);
                continue;
            }
            for (peer, other) in rivals {
                // How many times better we are, whether more or less is better.
                let r = match s.unit {
                    Unit::TokensPerSecond => ratio(&s.values, &other.values, self.seed),
                    Unit::Seconds | Unit::Megabytes => ratio(&other.values, &s.values, self.seed),
                };
                row.peer = peer.into();
                row.theirs = other.shown();
                row.ratio = format!("{:.2} [{:.2}, {:.2}]", r.value, r.low, r.high);
                row.pairs = s.values.len().min(other.values.len());
                self.rows.push(row.clone());
            }
        }
    }

    /// Writes `NAME.md` and `NAME.json`.
    pub(crate) fn save(&self, folder: &Path, name: &str) -> Result<()> {
        let write = |extension: &str, text: String| {
            let path = folder.join(format!("{name}.{extension}"));
            std::fs::write(&path, text).with_context(|| path.display().to_string())
        };
        write("md", self.markdown())?;
        let all = json!({
            "date": self.date,
            "processor": self.processor,
            "threads": self.threads,
            "load_at_start": self.load,
            "bootstrap_seed": self.seed,
            "runs": self.raw,
        });
        write("json", serde_json::to_string_pretty(&all)? + "\n")
    }

    pub(crate) fn markdown(&self) -> String {
        let mut text = format!("# {}, {}, {} threads\n", self.date, self.processor, self.threads);
        if !self.rows.is_empty() {
            self.speed_table(&mut text);
        }
        if !self.accuracy.is_empty() {
            self.accuracy_table(&mut text);
        }
        text += "\n```\n";
        for command in &self.commands {
            let _ = writeln!(text, "{command}");
        }
        text += "```\n";
        if !self.failures.is_empty() {
            text += "\nDid not run:\n\n";
        }
        for failure in &self.failures {
            let _ = writeln!(text, "- {failure}");
        }
        text
    }
}

impl Record {
    fn speed_table(&self, text: &mut String) {
        let _ = write!(
            text,
            "\nTokens a second, or the unit that a figure names: median (least..most) of \
             alternating runs, a process each. The ratio says how many times better Infinity is: of \
             medians, with a 95 % bootstrap interval over rounds. The fraction of the floor is the \
             median over Infinity's runs, each against ceilings measured in its own process. Load \
             average when it began: {}.\n\n\
             | model | figure | Infinity | peer | its figure | ratio | of floor | rounds |\n\
             |---|---|---|---|---|---|---|---|\n",
            self.load
        );
        for r in &self.rows {
            let Row { model, figure, ours, peer, theirs, ratio, of_floor, pairs } = r;
            let _ = writeln!(
                text,
                "| {model} | {figure} | {ours} | {peer} | {theirs} | {ratio} | {of_floor} | {pairs} |"
            );
        }
    }

    fn accuracy_table(&self, text: &mut String) {
        *text += "\nKL divergence, in nats, of predictions from those of the same file with activations \
                  in f32, and how often the most probable token is the same. All predictions are \
                  saved in 16 bits, as llama-perplexity does; the floor is what that does to the \
                  reference itself.\n\n\
                  | model | program | activations | KL mean | median | 99 % | same top | tokens |\n\
                  |---|---|---|---|---|---|---|---|\n";
        for (model, row) in &self.accuracy {
            let accuracy::Row { program, activations, divergence: d, targets } = row;
            let _ = writeln!(
                text,
                "| {model} | {program} | {activations} | {:.3e} ± {:.1e} | {:.2e} | {:.2e} | {:.2} % \
                 | {targets} |",
                d.mean.value,
                d.mean.error,
                d.median,
                d.p99,
                100.0 * d.same_top.value
            );
        }
    }
}

fn processor() -> String {
    let info = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let name = info.lines().find(|l| l.starts_with("model name"));
    let name = name.and_then(|l| l.split_once(':')).map(|(_, name)| name.trim().to_owned());
    name.unwrap_or_else(|| std::env::consts::ARCH.to_owned())
}

/// The date in UTC, `YYYY-MM-DD`.
fn today() -> String {
    let seconds = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs());
    let (year, month, day) = civil(seconds / 86_400);
    format!("{year:04}-{month:02}-{day:02}")
}

/// Year, month and day of a number of days since 1970-01-01.
fn civil(mut days: u64) -> (u64, u64, u64) {
    let leap = |y: u64| y.is_multiple_of(4) && (!y.is_multiple_of(100) || y.is_multiple_of(400));
    let mut year = 1970;
    while days >= 365 + u64::from(leap(year)) {
        days -= 365 + u64::from(leap(year));
        year += 1;
    }
    let february = 28 + u64::from(leap(year));
    let months = [31, february, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];
    let mut month = 0;
    while days >= months[month] {
        days -= months[month];
        month += 1;
    }
    (year, month as u64 + 1, days + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn days_are_dates() {
        for (days, date) in [(0, (1970, 1, 1)), (11_016, (2000, 2, 29)), (20_000, (2024, 10, 4))] {
            assert_eq!(civil(days), date);
        }
    }
}
