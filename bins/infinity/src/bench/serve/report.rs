//! What a load found, as numbers, as a table and as JSON.

use std::collections::BTreeMap;
use std::fmt;

use serde::Serialize;

use super::options::{Endpoint, Load, Slo};
use super::prompt::Calibration;
use super::record::{Ending, Record};

/// Everything, with what it was measured on.
#[derive(Serialize)]
pub(super) struct Report {
    pub(super) server: String,
    pub(super) model: String,
    pub(super) endpoint: Endpoint,
    pub(super) prompt_tokens: String,
    pub(super) output_tokens: String,
    pub(super) shared_prefix: usize,
    pub(super) shared_fraction: f64,
    pub(super) ignore_eos: bool,
    pub(super) cancel_fraction: f64,
    pub(super) seed: u64,
    pub(super) calibration: Calibration,
    pub(super) slo: Slo,
    pub(super) loads: Vec<Figures>,
}

/// What one load found.
#[derive(Debug, Serialize)]
pub(super) struct Figures {
    #[serde(flatten)]
    pub(super) load: Load,
    /// Requests that were sent.
    pub(super) requests: usize,
    /// Of them, those with a whole answer.
    pub(super) complete: usize,
    /// Those that the server refused with 429 or 503.
    pub(super) refused: usize,
    /// Refusals with a Retry-After.
    pub(super) refused_with_retry_after: usize,
    /// Those whose client went away. They are neither failures nor part of any figure below.
    pub(super) cancelled: usize,
    /// All others that are not complete, by how they ended.
    pub(super) incomplete: BTreeMap<String, Incomplete>,
    /// How often requests were sent again.
    pub(super) retries: usize,
    /// Most requests that ran at a time.
    pub(super) most_running: usize,
    /// Seconds from the beginning to the end of the last request.
    pub(super) seconds: f64,
    /// Complete requests a second.
    pub(super) requests_per_second: f64,
    /// Tokens a second of the prompts of complete requests.
    pub(super) prompt_tokens_per_second: f64,
    /// Tokens a second of complete answers.
    pub(super) output_tokens_per_second: f64,
    /// Tokens of a prompt, aimed at and as counted by the server, on average over complete requests.
    pub(super) mean_prompt_tokens: [f64; 2],
    /// Tokens of an answer, likewise.
    pub(super) mean_output_tokens: [f64; 2],
    /// The share of prompt tokens that the server found in a cache, if it says.
    pub(super) cached_share: Option<f64>,
    /// Whether all counts of tokens are the server's; otherwise chunks stand in.
    pub(super) counted_by_server: bool,
    /// Tokens in a chunk.
    pub(super) tokens_per_chunk: f64,
    /// Seconds to the first token.
    pub(super) ttft: Option<Spread>,
    /// Seconds between two chunks of one answer, over all answers.
    pub(super) itl: Option<Spread>,
    /// Seconds a token after the first, each answer's average.
    pub(super) tpot: Option<Spread>,
    /// Seconds to the end.
    pub(super) e2e: Option<Spread>,
    /// Seconds from refused requests' sending to the refusal.
    pub(super) refusal: Option<Spread>,
    /// Seconds by which the generator was late; they are part of the latencies.
    pub(super) lateness: Option<Spread>,
    pub(super) goodput: Goodput,
}

/// Requests that are not complete and ended alike.
#[derive(Debug, PartialEq, Serialize)]
pub(super) struct Incomplete {
    pub(super) requests: usize,
    /// What the first of them said.
    pub(super) example: Option<String>,
}

/// What was served within the objective.
#[derive(Debug, Serialize)]
pub(super) struct Goodput {
    pub(super) requests: usize,
    /// Of all whose client stayed.
    pub(super) share: f64,
    pub(super) requests_per_second: f64,
    /// Output tokens a second.
    pub(super) tokens_per_second: f64,
}

/// Mean, percentiles and the most.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub(super) struct Spread {
    pub(super) mean: f64,
    pub(super) p50: f64,
    pub(super) p95: f64,
    pub(super) p99: f64,
    pub(super) max: f64,
}

impl Spread {
    /// `None` of nothing. Between two samples percentiles are interpolated linearly (Hyndman and
    /// Fan's seventh definition, NumPy's default).
    pub(super) fn of(samples: impl Iterator<Item = f64>) -> Option<Self> {
        let mut sorted: Vec<f64> = samples.collect();
        sorted.sort_by(f64::total_cmp);
        let max = *sorted.last()?;
        let at = |p: f64| {
            let place = p * (sorted.len() - 1) as f64;
            let (low, part) = (place as usize, place.fract());
            let high = (low + 1).min(sorted.len() - 1);
            sorted[low] + (sorted[high] - sorted[low]) * part
        };
        let mean = sorted.iter().sum::<f64>() / sorted.len() as f64;
        Some(Self { mean, p50: at(0.5), p95: at(0.95), p99: at(0.99), max })
    }
}

impl Figures {
    pub(super) fn new(load: Load, records: &[Record], most_running: usize, slo: &Slo) -> Self {
        let complete: Vec<&Record> =
            records.iter().filter(|r| r.ending == Ending::Complete).collect();
        let refused = || records.iter().filter(|r| r.ending.is_refusal());
        let good: Vec<&Record> = records.iter().filter(|r| r.meets(slo)).collect();
        let mut incomplete = BTreeMap::new();
        for record in records.iter().filter(|r| !r.ending.is_wanted()) {
            let kind = incomplete.entry(record.ending.kind()).or_insert_with(|| Incomplete {
                requests: 0,
                example: record.ending.message().map(str::to_owned),
            });
            kind.requests += 1;
        }
        let cancelled = records.iter().filter(|r| r.ending == Ending::Cancelled).count();
        let stayed = records.len() - cancelled;
        let seconds = records.iter().map(|r| r.ended).fold(0.0, f64::max);
        let a_second = |n: u64| if seconds > 0.0 { n as f64 / seconds } else { 0.0 };
        let sum = |of: &[&Record], f: fn(&Record) -> u64| of.iter().map(|r| f(r)).sum::<u64>();
        let mean =
            |n: u64| if complete.is_empty() { 0.0 } else { n as f64 / complete.len() as f64 };
        let prompt = sum(&complete, |r| r.prompt_tokens.unwrap_or(r.wanted_prompt as u64));
        let output = sum(&complete, Record::tokens);
        let chunks = sum(&complete, |r| r.chunks.len() as u64);
        let says_cached = complete.iter().any(|r| r.cached_tokens.is_some());
        let cached = sum(&complete, |r| r.cached_tokens.unwrap_or(0));
        let spread =
            |f: &dyn Fn(&Record) -> Option<f64>| Spread::of(complete.iter().filter_map(|r| f(r)));
        Self {
            load,
            requests: records.len(),
            complete: complete.len(),
            refused: refused().count(),
            refused_with_retry_after: refused()
                .filter(|r| matches!(r.ending, Ending::Status { retry_after: true, .. }))
                .count(),
            cancelled,
            incomplete,
            retries: records.iter().map(|r| r.retries).sum(),
            most_running,
            seconds,
            requests_per_second: a_second(complete.len() as u64),
            prompt_tokens_per_second: a_second(prompt),
            output_tokens_per_second: a_second(output),
            mean_prompt_tokens: [mean(sum(&complete, |r| r.wanted_prompt as u64)), mean(prompt)],
            mean_output_tokens: [mean(sum(&complete, |r| r.wanted_output as u64)), mean(output)],
            cached_share: says_cached.then(|| cached as f64 / prompt.max(1) as f64),
            counted_by_server: complete.iter().all(|r| r.output_tokens.is_some()),
            tokens_per_chunk: output as f64 / chunks.max(1) as f64,
            ttft: spread(&Record::ttft),
            itl: Spread::of(complete.iter().flat_map(|r| r.gaps())),
            tpot: spread(&Record::tpot),
            e2e: spread(&|r| Some(r.e2e())),
            refusal: Spread::of(refused().map(|r| r.ended - r.sent)),
            lateness: Spread::of(records.iter().map(|r| r.sent - r.due)),
            goodput: Goodput {
                requests: good.len(),
                share: good.len() as f64 / stayed.max(1) as f64,
                requests_per_second: a_second(good.len() as u64),
                tokens_per_second: a_second(sum(&good, Record::tokens)),
            },
        }
    }
}

impl fmt::Display for Load {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Load::Closed { clients: 1 } => write!(f, "1 client"),
            Load::Closed { clients } => write!(f, "{clients} clients"),
            Load::Open { rate } => write!(f, "{rate} a second"),
            Load::Trace => write!(f, "trace"),
        }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Report { server, model, prompt_tokens, output_tokens, .. } = self;
        let endpoint = match self.endpoint {
            Endpoint::Completions => "completions",
            Endpoint::Chat => "chat",
        };
        writeln!(f, "{model} at {server} ({endpoint})")?;
        write!(f, "prompts {prompt_tokens} tokens, answers {output_tokens}")?;
        if self.shared_prefix > 0 {
            let Report { shared_prefix, shared_fraction, .. } = self;
            write!(f, ", behind {shared_prefix} that {:.0} % share", shared_fraction * 100.0)?;
        }
        if self.cancel_fraction > 0.0 {
            write!(f, "; {:.0} % of the clients go away", self.cancel_fraction * 100.0)?;
        }
        let eos = if self.ignore_eos { "ignored" } else { "obeyed" };
        writeln!(f, "; end of text {eos}; seed {}", self.seed)?;
        let from_server = self.loads.iter().all(|l| l.counted_by_server);
        let counts = if from_server { "the server" } else { "chunks where the server is silent" };
        writeln!(f, "tokens are counted by {counts}; times in milliseconds\n")?;
        self.table(f)?;
        for load in &self.loads {
            for (kind, Incomplete { requests, example }) in &load.incomplete {
                let example = example.as_deref().unwrap_or("");
                writeln!(f, "{}: {requests} x {kind}: {example}", load.load)?;
            }
        }
        Ok(())
    }
}

impl Report {
    /// A column a load.
    fn table(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let row = |f: &mut fmt::Formatter<'_>, name: &str, cell: &dyn Fn(&Figures) -> String| {
            write!(f, "{name:<30}")?;
            self.loads.iter().try_for_each(|load| write!(f, " {:>13}", cell(load)))?;
            writeln!(f)
        };
        row(f, "", &|l| l.load.to_string())?;
        row(f, "requests", &|l| l.requests.to_string())?;
        row(f, "  complete", &|l| l.complete.to_string())?;
        row(f, "  refused (429, 503)", &|l| l.refused.to_string())?;
        row(f, "    with Retry-After", &|l| l.refused_with_retry_after.to_string())?;
        if self.cancel_fraction > 0.0 {
            row(f, "  cancelled by the client", &|l| l.cancelled.to_string())?;
        }
        row(f, "  failed", &|l| (l.requests - l.complete - l.refused - l.cancelled).to_string())?;
        row(f, "most at a time", &|l| l.most_running.to_string())?;
        row(f, "seconds", &|l| format!("{:.1}", l.seconds))?;
        row(f, "requests/s", &|l| format!("{:.2}", l.requests_per_second))?;
        row(f, "prompt tokens/s", &|l| format!("{:.1}", l.prompt_tokens_per_second))?;
        row(f, "output tokens/s", &|l| format!("{:.1}", l.output_tokens_per_second))?;
        row(f, "mean prompt, aimed at", &|l| format!("{:.0}", l.mean_prompt_tokens[0]))?;
        row(f, "             counted", &|l| format!("{:.0}", l.mean_prompt_tokens[1]))?;
        row(f, "             found in a cache", &|l| {
            l.cached_share.map_or("-".to_owned(), |s| format!("{:.0} %", s * 100.0))
        })?;
        row(f, "mean answer, asked for", &|l| format!("{:.0}", l.mean_output_tokens[0]))?;
        row(f, "             counted", &|l| format!("{:.0}", l.mean_output_tokens[1]))?;
        row(f, "tokens in a chunk", &|l| format!("{:.2}", l.tokens_per_chunk))?;
        type Of = fn(&Figures) -> Option<Spread>;
        let spreads: [(&str, Of); 6] = [
            ("time to first token", |l| l.ttft),
            ("between chunks", |l| l.itl),
            ("per output token", |l| l.tpot),
            ("end to end", |l| l.e2e),
            ("until refused", |l| l.refusal),
            ("generator late by", |l| l.lateness),
        ];
        for (name, of) in spreads {
            if self.loads.iter().all(|l| of(l).is_none()) {
                continue;
            }
            type At = fn(&Spread) -> f64;
            let percentiles: [(&str, At); 3] =
                [("p50", |s| s.p50), ("p95", |s| s.p95), ("p99", |s| s.p99)];
            for (i, (percentile, value)) in percentiles.into_iter().enumerate() {
                let name = if i == 0 { name } else { "" };
                row(f, &format!("{name:<25}{percentile}"), &|l| {
                    of(l).map_or("-".to_owned(), |s| format!("{:.1}", value(&s) * 1e3))
                })?;
            }
        }
        let Slo { ttft, itl, tpot } = self.slo;
        let mean = tpot.map_or(String::new(), |t| format!(", mean {t} s"));
        writeln!(f, "goodput: first token within {ttft} s, no gap over {itl} s{mean}")?;
        row(f, "  requests", &|l| format!("{:.0} %", l.goodput.share * 100.0))?;
        row(f, "  requests/s", &|l| format!("{:.2}", l.goodput.requests_per_second))?;
        row(f, "  output tokens/s", &|l| format!("{:.1}", l.goodput.tokens_per_second))
    }
}
