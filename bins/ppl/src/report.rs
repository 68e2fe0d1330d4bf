//! What was measured, as data; and as a table for terminals and Markdown.

use eval::{Comparison, Divergence, Estimate, Perplexity};
use serde::{Deserialize, Serialize};

/// Everything that one run measured.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Report {
    /// The model as it was named on the command line.
    pub(crate) model: String,
    /// The text likewise.
    pub(crate) text: String,
    /// What ratios and divergences are against.
    pub(crate) base: String,
    /// Tokens of the text.
    pub(crate) tokens: usize,
    /// Processor and threads, or the GPU.
    pub(crate) machine: String,
    /// One entry a format.
    pub(crate) formats: Vec<Format>,
}

/// One format.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Format {
    /// Its name.
    pub(crate) format: String,
    /// Bits of tensor data for each element.
    pub(crate) bits_per_weight: f64,
    /// The whole file.
    pub(crate) bytes: u64,
    /// How it ran.
    #[serde(flatten)]
    pub(crate) outcome: Outcome,
}

/// What the measuring process says of one file.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Outcome {
    /// From opening the file to the first token that could be computed.
    pub(crate) load_seconds: f64,
    /// The largest resident set of a process with this model alone, evaluating it; absent where the
    /// system does not tell.
    pub(crate) peak_bytes: Option<u64>,
    /// Tokens through the forward, over its time.
    pub(crate) tokens_per_second: f64,
    /// One entry a context.
    pub(crate) figures: Vec<Figure>,
}

/// One context.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Figure {
    /// Perplexity, loss and stamp.
    #[serde(flatten)]
    pub(crate) perplexity: Perplexity,
    /// Against the base; absent for the base itself.
    pub(crate) against_base: Option<AgainstBase>,
}

/// How a format differs from the base.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct AgainstBase {
    /// Perplexity over the base's.
    pub(crate) ratio: Estimate,
    /// KL(base || format), in nats.
    pub(crate) kl: Divergence,
}

impl From<Perplexity> for Figure {
    fn from(perplexity: Perplexity) -> Self {
        Self { perplexity, against_base: None }
    }
}

impl From<Comparison> for Figure {
    fn from(c: Comparison) -> Self {
        Self {
            perplexity: c.model,
            against_base: Some(AgainstBase { ratio: c.ratio, kl: c.divergence }),
        }
    }
}

/// The table's columns.
pub(crate) const COLUMNS: [&str; 12] = [
    "format",
    "bits/weight",
    "size",
    "load",
    "context",
    "perplexity",
    "ratio",
    "KL mean",
    "KL 99 %",
    "same top",
    "peak memory",
    "tokens/s",
];

impl Report {
    /// One row of cells for each format and context; what a format has once stands in its first row.
    pub(crate) fn rows(&self) -> Vec<[String; COLUMNS.len()]> {
        let mut rows = Vec::new();
        for format in &self.formats {
            let o = &format.outcome;
            for (i, figure) in o.figures.iter().enumerate() {
                let once = |text: String| if i == 0 { text } else { String::new() };
                let p = &figure.perplexity;
                let against = |f: &dyn Fn(&AgainstBase) -> String| match &figure.against_base {
                    Some(a) => f(a),
                    None => "-".to_owned(),
                };
                rows.push([
                    once(format.format.clone()),
                    once(format!("{:.2}", format.bits_per_weight)),
                    once(bytes(format.bytes)),
                    once(seconds(o.load_seconds)),
                    p.stamp.protocol.context().to_string(),
                    format!("{:.4}", p.perplexity),
                    against(&|a| format!("{:.4}", a.ratio)),
                    against(&|a| format!("{:.5}", a.kl.mean.value)),
                    against(&|a| format!("{:.5}", a.kl.p99)),
                    against(&|a| format!("{:.2} %", 100.0 * a.kl.same_top.value)),
                    once(o.peak_bytes.map_or("n/a".to_owned(), bytes)),
                    once(format!("{:.0}", o.tokens_per_second)),
                ]);
            }
        }
        rows
    }

    /// How the figures were measured: a line for each context.
    pub(crate) fn notes(&self) -> Vec<String> {
        let mut notes = Vec::new();
        for figure in self.formats.first().into_iter().flat_map(|f| &f.outcome.figures) {
            let stamp = &figure.perplexity.stamp;
            let bos = if stamp.bos { ", BOS first in each window" } else { "" };
            notes.push(format!("{stamp}{bos}"));
        }
        notes.push(format!("ratio and KL divergence (in nats) against {}", self.base));
        notes.push(format!("{} tokens of {}; {}", self.tokens, self.text, self.machine));
        notes
    }

    /// The table with aligned columns, for a terminal.
    pub(crate) fn to_text(&self) -> String {
        let rows = self.rows();
        let width = |i: usize| {
            let cells = rows.iter().map(|r| r[i].chars().count());
            cells.chain([COLUMNS[i].len()]).max().unwrap_or(0)
        };
        let widths: Vec<usize> = (0..COLUMNS.len()).map(width).collect();
        let mut out = format!("{}\n\n", self.model);
        let mut line = |cells: &[String]| {
            let mut text = String::new();
            for (i, (cell, &w)) in cells.iter().zip(&widths).enumerate() {
                let pad = " ".repeat(w - cell.chars().count());
                let (left, right) = if i == 0 { ("", &pad[..]) } else { (&pad[..], "") };
                text += &format!("{}{left}{cell}{right}", if i == 0 { "" } else { "  " });
            }
            out += text.trim_end();
            out.push('\n');
        };
        line(&COLUMNS.map(str::to_owned));
        line(&widths.iter().map(|&w| "-".repeat(w)).collect::<Vec<_>>());
        rows.iter().for_each(|row| line(row));
        out.push('\n');
        self.notes().iter().for_each(|note| out += &format!("{note}\n"));
        out
    }

    /// The table in Markdown.
    pub(crate) fn to_markdown(&self) -> String {
        let cell = |text: &str| {
            let text = text.replace('\\', "\\\\").replace('|', "\\|").replace('<', "&lt;");
            text.replace(['\n', '\r'], " ")
        };
        let mut out = format!("# {}\n\n", cell(&self.model));
        let mut line = |cells: Vec<String>| out += &format!("| {} |\n", cells.join(" | "));
        line(COLUMNS.map(str::to_owned).to_vec());
        line((0..COLUMNS.len()).map(|i| if i == 0 { "---" } else { "---:" }.to_owned()).collect());
        self.rows().iter().for_each(|row| line(row.iter().map(|c| cell(c)).collect()));
        out.push('\n');
        self.notes().iter().for_each(|note| out += &format!("- {}\n", cell(note)));
        out
    }
}

/// Bytes in units of 1024.
pub(crate) fn bytes(n: u64) -> String {
    let units = ["B", "KiB", "MiB", "GiB", "TiB"];
    let mut value = n as f64;
    let mut unit = 0;
    while value >= 1024.0 && unit + 1 < units.len() {
        value /= 1024.0;
        unit += 1;
    }
    if unit == 0 { format!("{n} B") } else { format!("{value:.1} {}", units[unit]) }
}

/// Seconds, or milliseconds where it is less than one.
pub(crate) fn seconds(s: f64) -> String {
    match s {
        s if s < 0.01 => format!("{:.1} ms", 1000.0 * s),
        s if s < 1.0 => format!("{:.0} ms", 1000.0 * s),
        s => format!("{s:.1} s"),
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use eval::{Protocol, Stamp};

    /// A run with made-up figures: two formats, two contexts, a name that needs escaping.
    pub(crate) fn sample() -> Report {
        let perplexity = |context, value: f64| Perplexity {
            stamp: Stamp {
                protocol: Protocol::LlamaCpp { context },
                tokenizer: "0123456789ab".to_owned(),
                bos: true,
                windows: 90,
                targets: 11430,
            },
            perplexity: Estimate { value, error: 0.9 },
            loss: Estimate { value: value.ln(), error: 0.02 },
        };
        let against = AgainstBase {
            ratio: Estimate { value: 1.0031, error: 0.0008 },
            kl: Divergence {
                mean: Estimate { value: 0.003354, error: 0.000044 },
                median: 0.002,
                p99: 0.02126,
                max: 0.145,
                same_top: Estimate { value: 0.9434, error: 0.002 },
            },
        };
        let format = |name: &str, bits, bytes, against_base: Option<AgainstBase>| Format {
            format: name.to_owned(),
            bits_per_weight: bits,
            bytes,
            outcome: Outcome {
                load_seconds: 0.0123,
                peak_bytes: Some(40 << 20),
                tokens_per_second: 4321.4,
                figures: [(256, 36.7666), (512, 50.4419)]
                    .into_iter()
                    .map(|(context, value)| Figure {
                        perplexity: perplexity(context, value),
                        against_base: against_base.clone(),
                    })
                    .collect(),
            },
        };
        Report {
            model: "a|<b>&\"model\"".to_owned(),
            text: "text.txt".to_owned(),
            base: "F16".to_owned(),
            tokens: 23_500,
            machine: "a processor, 2 threads".to_owned(),
            formats: vec![
                format("F16", 16.0, 11_595_680, None),
                format("Q4_K_M", 4.914, 3_558_816, Some(against)),
            ],
        }
    }

    #[test]
    fn the_table_is_aligned_and_says_everything() {
        let text = sample().to_text();
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines[0], "a|<b>&\"model\"");
        let table = &lines[2..8];
        let width = table[1].chars().count();
        assert!(table.iter().all(|l| l.chars().count() <= width), "{text}");
        assert!(table[0].starts_with("format  bits/weight"));
        assert!(table[2].starts_with("F16"));
        for cell in ["16.00", "11.1 MiB", "12 ms", "36.7666 ± 0.9000", "40.0 MiB", "4321"] {
            assert!(table[2].contains(cell), "{cell}: {text}");
        }
        assert!(table[3].trim_start().starts_with("512"), "{text}");
        for cell in ["1.0031 ± 0.0008", "0.00335", "0.02126", "94.34 %"] {
            assert!(table[4].contains(cell), "{cell}: {text}");
        }
        assert!(text.contains("protocol llama.cpp, context 256, 11430 targets"), "{text}");
        assert!(text.contains("tokenizer 0123456789ab, BOS first"), "{text}");
    }

    #[test]
    fn markdown_escapes_what_would_break_it() {
        let text = sample().to_markdown();
        assert!(text.starts_with("# a\\|&lt;b>&\"model\"\n"), "{text}");
        let bars = |l: &str| l.matches('|').count();
        assert!(text.lines().filter(|l| l.starts_with('|')).all(|l| bars(l) == 13), "{text}");
    }

    #[test]
    fn json_goes_there_and_back() {
        let json = serde_json::to_value(sample()).unwrap();
        let q4 = &json["formats"][1];
        assert_eq!(q4["format"], "Q4_K_M");
        assert_eq!(q4["figures"][0]["context"], 256);
        assert_eq!(q4["figures"][0]["perplexity"]["value"], 36.7666);
        assert_eq!(q4["figures"][1]["against_base"]["kl"]["p99"], 0.02126);
        let back: Report = serde_json::from_value(json).unwrap();
        assert_eq!(back.to_text(), sample().to_text());
    }

    #[test]
    fn units() {
        assert_eq!(bytes(1023), "1023 B");
        assert_eq!(bytes(1024), "1.0 KiB");
        assert_eq!(bytes(u64::MAX), "16777216.0 TiB");
        assert_eq!(seconds(0.0004), "0.4 ms");
        assert_eq!(seconds(0.25), "250 ms");
        assert_eq!(seconds(2.0), "2.0 s");
    }
}
