//! A trace: drawn, or read from a file.

use std::io::BufRead;

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::{Lengths, Side};

/// One request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Request {
    /// Its number in the order of arrival, from 1.
    pub id: u32,
    /// When it arrives, in microseconds.
    pub arrival: u64,
    /// Tokens of the prompt.
    pub prompt: usize,
    /// Tokens that the model will generate; nobody knows it beforehand.
    pub output: usize,
    /// The most that the request declares it may generate.
    pub max_tokens: usize,
}

impl Request {
    /// Positions in the cache at the end.
    pub fn total(&self) -> usize {
        self.prompt + self.output
    }

    /// Positions that it declares.
    pub fn declared(&self) -> usize {
        self.prompt + self.max_tokens
    }
}

/// What a synthetic trace is drawn from.
#[derive(Clone, Debug)]
pub struct Workload {
    /// Requests.
    pub requests: usize,
    /// Requests a second on average; they arrive independently (Poisson).
    pub rate: f64,
    /// Tokens of the prompts.
    pub prompt: Lengths,
    /// Tokens that the model generates.
    pub output: Lengths,
    /// Positions that the model has.
    pub max_model_len: usize,
    /// Tokens before each prompt which are the same for all.
    pub system_prompt: usize,
    /// Of the generator.
    pub seed: u64,
}

impl Workload {
    /// The trace of this seed. A request declares the power of two that its output fits in ("Orca
    /// (Pow2)" in Kwon et al. 2023), or what the model has room for.
    pub fn trace(&self) -> Vec<Request> {
        let mut rng = ChaCha8Rng::seed_from_u64(self.seed);
        let mut arrival = 0.0;
        let room = self.max_model_len.saturating_sub(self.system_prompt).max(2);
        let mut draw = |i| {
            // Gaps of a Poisson process are exponential.
            arrival += -(1.0 - rng.random::<f64>()).ln() / self.rate;
            let prompt = self.prompt.sample(Side::Prompt, &mut rng).clamp(1, room - 1);
            let output = self.output.sample(Side::Output, &mut rng).clamp(1, room - prompt);
            Request {
                id: i as u32 + 1,
                arrival: (arrival * 1e6) as u64,
                prompt: prompt + self.system_prompt,
                output,
                max_tokens: output.next_power_of_two().min(room - prompt),
            }
        };
        (0..self.requests).map(&mut draw).collect()
    }
}

impl Default for Workload {
    /// Fifty requests, one a second, lengths as in ShareGPT, for a model of 2,048 positions.
    fn default() -> Self {
        Self {
            requests: 50,
            rate: 1.0,
            prompt: Lengths::ShareGpt,
            output: Lengths::ShareGpt,
            max_model_len: 2048,
            system_prompt: 0,
            seed: 42,
        }
    }
}

/// Requests that a trace may have.
pub const MAX_REQUESTS: usize = 100_000;
/// Bytes that a line of a trace may have.
pub const MAX_LINE: usize = 4096;

/// What is wrong with a trace.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TraceError {
    /// The file cannot be read.
    #[error("cannot be read: {0}")]
    Read(#[from] std::io::Error),
    /// A line is not a request.
    #[error("line {line}: {source}")]
    Parse {
        /// From 1.
        line: usize,
        /// What is wrong with it.
        source: serde_json::Error,
    },
    /// A line does not end.
    #[error("line {line} is longer than {MAX_LINE} bytes")]
    LongLine {
        /// From 1.
        line: usize,
    },
    /// A number is out of range.
    #[error("line {line}: {field} must be {expected}, got {got}")]
    Range {
        /// From 1.
        line: usize,
        /// The field.
        field: &'static str,
        /// The range in words.
        expected: String,
        /// What was given.
        got: f64,
    },
    /// There are more than [`MAX_REQUESTS`].
    #[error("more than {MAX_REQUESTS} requests")]
    TooMany,
    /// There is none.
    #[error("no requests")]
    Empty,
}

/// A line of a trace.
#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct Line {
    arrival: f64,
    prompt: u64,
    output: u64,
    max_tokens: Option<u64>,
}

/// Reads a trace, one JSON object a line; empty lines are skipped:
///
/// `{"arrival": 0.25, "prompt": 161, "output": 338, "max_tokens": 512}`
///
/// with the arrival in seconds, lengths in tokens and `max_tokens` optional (the power of two that
/// the output fits in). Lines may be in any order.
///
/// # Errors
/// [`TraceError`] names the line.
pub fn read(mut from: impl BufRead, max_model_len: usize) -> Result<Vec<Request>, TraceError> {
    let mut requests = Vec::new();
    let mut text = Vec::new();
    for line in 1.. {
        text.clear();
        let limit = (MAX_LINE + 1) as u64;
        if std::io::Read::take(&mut from, limit).read_until(b'\n', &mut text)? == 0 {
            break;
        }
        if text.len() > MAX_LINE {
            return Err(TraceError::LongLine { line });
        }
        if text.trim_ascii().is_empty() {
            continue;
        }
        if requests.len() == MAX_REQUESTS {
            return Err(TraceError::TooMany);
        }
        let parsed = serde_json::from_slice(&text);
        let parsed = parsed.map_err(|source| TraceError::Parse { line, source })?;
        requests.push(check(parsed, line, max_model_len)?);
    }
    if requests.is_empty() {
        return Err(TraceError::Empty);
    }
    requests.sort_by_key(|r| r.arrival);
    for (i, request) in requests.iter_mut().enumerate() {
        request.id = i as u32 + 1;
    }
    Ok(requests)
}

fn check(parsed: Line, line: usize, max_model_len: usize) -> Result<Request, TraceError> {
    let range = |field, most: u64, got: u64| match (1..=most).contains(&got) {
        true => Ok(got as usize),
        false => {
            let expected = format!("from 1 to {most}");
            Err(TraceError::Range { line, field, expected, got: got as f64 })
        }
    };
    let arrival = parsed.arrival;
    if !(0.0..=1e6).contains(&arrival) {
        let expected = "from 0 to 1000000 seconds".to_owned();
        return Err(TraceError::Range { line, field: "arrival", expected, got: arrival });
    }
    let len = max_model_len as u64;
    let prompt = range("prompt", len.saturating_sub(1), parsed.prompt)?;
    let room = len - prompt as u64;
    let output = range("output", room, parsed.output)?;
    let max_tokens = match parsed.max_tokens {
        Some(n) if n < output as u64 => {
            let expected = format!("at least the output, {output}");
            return Err(TraceError::Range { line, field: "max_tokens", expected, got: n as f64 });
        }
        Some(n) => range("max_tokens", room, n)?,
        None => output.next_power_of_two().min(room as usize),
    };
    Ok(Request { id: 0, arrival: (arrival * 1e6) as u64, prompt, output, max_tokens })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn workload() -> Workload {
        Workload { requests: 20_000, rate: 5.0, seed: 1, ..Workload::default() }
    }

    #[test]
    fn lengths_and_arrivals_are_those_of_the_distribution() {
        let trace = workload().trace();
        let n = trace.len() as f64;
        let mean = |f: fn(&Request) -> usize| trace.iter().map(f).sum::<usize>() as f64 / n;
        // The sample's means; interpolating between quantiles adds a few per cent.
        assert!((mean(|r| r.prompt) / 107.0 - 1.0).abs() < 0.08, "{}", mean(|r| r.prompt));
        assert!((mean(|r| r.output) / 315.0 - 1.0).abs() < 0.08, "{}", mean(|r| r.output));
        let below = |len| trace.iter().filter(|r| r.output <= len).count() as f64 / n;
        assert!((below(269) - 0.5).abs() < 0.015 && (below(800) - 0.95).abs() < 0.01);
        // Mean gap 0.2 s, its standard deviation the same.
        let seconds = trace.last().unwrap().arrival as f64 / 1e6;
        assert!((seconds / n - 0.2).abs() < 5.0 * 0.2 / n.sqrt());
        assert!(trace.iter().all(|r| r.declared() <= 2048 && r.max_tokens >= r.output));
    }

    #[test]
    fn a_seed_is_a_trace() {
        let small = Workload { requests: 50, ..workload() };
        assert_eq!(small.trace(), small.trace());
        assert_ne!(small.trace(), Workload { seed: 2, ..small }.trace());
    }

    #[test]
    fn a_file_is_read_in_any_order() {
        let text = "{\"arrival\": 2, \"prompt\": 10, \"output\": 5}\n\n\
                    {\"arrival\":0.5,\"prompt\":1,\"output\":1,\"max_tokens\":7}";
        let read = read(text.as_bytes(), 100).unwrap();
        let first = Request { id: 1, arrival: 500_000, prompt: 1, output: 1, max_tokens: 7 };
        let second = Request { id: 2, arrival: 2_000_000, prompt: 10, output: 5, max_tokens: 8 };
        assert_eq!(read, [first, second]);
    }

    #[test]
    fn hostile_lines_are_named() {
        let error = |text: &str| read(text.as_bytes(), 2048).unwrap_err().to_string();
        let long = format!("{{\"arrival\":0{}", " ".repeat(MAX_LINE));
        let deep = "[".repeat(3000);
        let good = r#"{"arrival":0,"prompt":1,"output":1}"#;
        for (text, says) in [
            ("", "no requests"),
            ("\n \n", "no requests"),
            ("{", "line 1: EOF"),
            ("\0\u{1}", "line 1: expected value"),
            (&long, "line 1 is longer than 4096 bytes"),
            (&deep, "line 1: invalid type"),
            (&format!("{good}\n{good} x"), "line 2: trailing characters"),
            (r#"{"arrival":0,"prompt":1}"#, "line 1: missing field `output`"),
            (r#"{"arrival":0,"prompt":1,"output":1,"n":1}"#, "line 1: unknown field `n`"),
            (r#"{"arrival":0,"arrival":0,"prompt":1,"output":1}"#, "line 1: duplicate field"),
            (r#"{"arrival":-1,"prompt":1,"output":1}"#, "line 1: arrival must be from 0"),
            (r#"{"arrival":1e300,"prompt":1,"output":1}"#, "line 1: arrival must be from 0"),
            (r#"{"arrival":1e999,"prompt":1,"output":1}"#, "line 1: number out of range"),
            (r#"{"arrival":0,"prompt":0,"output":1}"#, "line 1: prompt must be from 1 to 2047"),
            (r#"{"arrival":0,"prompt":-1,"output":1}"#, "line 1: invalid value"),
            (r#"{"arrival":0,"prompt":2047,"output":2}"#, "line 1: output must be from 1 to 1"),
            (
                r#"{"arrival":0,"prompt":18446744073709551615,"output":18446744073709551615}"#,
                "line 1: prompt must be from 1",
            ),
            (
                r#"{"arrival":0,"prompt":1,"output":9,"max_tokens":8}"#,
                "line 1: max_tokens must be at least the output, 9, got 8",
            ),
        ] {
            assert!(error(text).starts_with(says), "{text:.60}: {}", error(text));
        }
    }

    #[test]
    fn requests_are_counted_while_reading() {
        let line = "{\"arrival\":0,\"prompt\":1,\"output\":1}\n";
        assert_eq!(read(line.repeat(MAX_REQUESTS).as_bytes(), 9).unwrap().len(), MAX_REQUESTS);
        let error = read(line.repeat(MAX_REQUESTS + 1).as_bytes(), 9).unwrap_err();
        assert!(matches!(error, TraceError::TooMany));
    }
}
