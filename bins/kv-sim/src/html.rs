//! An interactive page that needs nothing else: memory maps at any time, usage, and what happened.

use serde_json::json;

use crate::experiment::{Experiment, Run};
use crate::svg::caption;

/// Steps that the page knows; more could not be told apart on a screen.
const STEPS: usize = 800;

/// The page; `title` is one line of text without markup.
pub fn page(experiment: &Experiment, runs: &[Run], title: &str) -> String {
    let last = experiment.trace.last().map_or(0, |r| r.arrival);
    let until = last + experiment.rules.patience;
    let data = json!({
        "slots": experiment.pages.slots,
        "blockSize": experiment.pages.block_size,
        "bytesPerToken": experiment.rules.bytes_per_token,
        "requests": experiment.trace.iter()
            .map(|r| [r.arrival, r.prompt as u64, r.output as u64]).collect::<Vec<_>>(),
        "runs": runs.iter().map(run).collect::<Vec<_>>(),
    });
    include_str!("page.html")
        .replace("{{title}}", title)
        .replace("{{table}}", &caption(runs, until))
        .replace("{{data}}", &data.to_string())
}

fn run(run: &Run) -> serde_json::Value {
    let history = &run.history;
    let every = history.samples.len().div_ceil(STEPS).max(1);
    let samples: Vec<_> = history
        .samples
        .iter()
        .step_by(every)
        .map(|s| {
            let u = s.usage;
            let counts = [s.running as u64, s.waiting as u64, s.generated];
            ([s.from, u.held, u.later, u.never, u.scattered], counts)
        })
        .map(|(a, b)| [&a[..], &b[..]].concat())
        .collect();
    let tenures: Vec<_> = history
        .memory
        .tenures
        .iter()
        .map(|t| [u64::from(t.request), t.start, t.len, t.from, t.to])
        .collect();
    json!({
        "name": run.allocator.name(),
        "end": history.end,
        "samples": samples,
        "tenures": tenures,
        "events": history.events,
    })
}
