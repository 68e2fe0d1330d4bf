//! `kv-sim`: contiguous allocators against pages.
#![forbid(unsafe_code)]

mod args;

use std::io::{self, Write};
use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context, Result};
use args::{Args, Plan};
use clap::Parser;
use files::units::{gigabytes, thousands};
use kv_sim::experiment::{Run, Summary};
use kv_sim::measure::AttentionOverBlocks;
use kv_sim::{html, svg, sweep, text};
use serde_json::json;
use workload::Request;

fn main() -> ExitCode {
    let args = Args::parse();
    if let Err(error) = args.check() {
        eprintln!("kv-sim: {error:#}");
        return ExitCode::from(2);
    }
    match run(&args) {
        Ok(()) => ExitCode::SUCCESS,
        // The reader of a pipe has seen enough.
        Err(e) if is_broken_pipe(&e) => ExitCode::SUCCESS,
        Err(error) => {
            let line = format!("{error:#}").replace('\n', " ");
            eprintln!("kv-sim: {line}");
            ExitCode::FAILURE
        }
    }
}

fn is_broken_pipe(error: &anyhow::Error) -> bool {
    let kind =
        |e: &(dyn std::error::Error + 'static)| e.downcast_ref::<io::Error>().map(io::Error::kind);
    error.chain().any(|e| kind(e) == Some(io::ErrorKind::BrokenPipe))
}

fn run(args: &Args) -> Result<()> {
    let plan = args.plan()?;
    let (mut text, json) = match args.sweep {
        Some(_) => sweep_sizes(args, &plan)?,
        None => compare(args, &plan)?,
    };
    if args.json {
        text = serde_json::to_string_pretty(&json)? + "\n";
    }
    io::stdout().write_all(text.as_bytes())?;
    Ok(())
}

/// While somebody may still start: until the last has arrived and its patience is at an end.
fn compared_until(plan: &Plan) -> u64 {
    let last = plan.experiment.trace.last().map_or(0, |r| r.arrival);
    last + plan.experiment.rules.patience
}

fn compare(args: &Args, plan: &Plan) -> Result<(String, serde_json::Value)> {
    let experiment = &plan.experiment;
    let until = compared_until(plan);
    let mut runs: Vec<Run> = Vec::new();
    for &allocator in &args.allocators {
        if runs.iter().all(|r| r.allocator != allocator) {
            runs.push(experiment.run(allocator)?);
        }
    }
    let summaries: Vec<Summary> = runs.iter().map(|r| r.summary(until)).collect();
    let title = title(plan);
    for (path, page) in [
        (&args.svg, svg::picture as fn(&_, &[Run], &str) -> String),
        (&args.html, html::page as fn(&_, &[Run], &str) -> String),
    ] {
        if let Some(path) = path {
            write(path, &page(experiment, &runs, &title[0]))?;
        }
    }
    let mut out = title.join("\n") + "\n";
    let bytes_per_token = experiment.rules.bytes_per_token;
    for run in runs.iter().filter(|r| args.log.contains(&r.allocator)) {
        out += &format!("\n--- {} ---\n", run.allocator.name());
        out += &text::log(run, &experiment.trace, bytes_per_token);
    }
    out += &format!("\n{}", text::table(&summaries, until));
    let runs: Vec<_> = runs
        .iter()
        .zip(&summaries)
        .map(|(run, summary)| json!({ "summary": summary, "events": run.history.events }))
        .collect();
    Ok((out, json!({ "plan": plan_json(plan), "runs": runs })))
}

fn sweep_sizes(args: &Args, plan: &Plan) -> Result<(String, serde_json::Value)> {
    let until = compared_until(plan);
    let bench = args.measure.then(AttentionOverBlocks::default);
    let slot = plan.layout.slot_bytes() / plan.layout.n_kv_heads;
    let points = sweep::sweep(&plan.experiment, until, slot, |block_size| {
        bench.as_ref().and_then(|b| b.ratio(block_size).ok())
    })?;
    let out = format!("{}\n\n{}", title(plan).join("\n"), sweep::table(&points, until));
    Ok((out, json!({ "plan": plan_json(plan), "sweep": points })))
}

fn write(path: &Path, text: &str) -> Result<()> {
    files::write_atomically(path, text.as_bytes())
        .with_context(|| format!("{} cannot be written", path.display()))
}

/// What is played, in a few lines.
fn title(plan: &Plan) -> [String; 3] {
    let Plan { experiment, layout, source } = plan;
    let (trace, rules) = (&experiment.trace, &experiment.rules);
    let lengths = |f: fn(&Request) -> usize| {
        let all = || trace.iter().map(f);
        let mean = all().sum::<usize>() as f64 / trace.len() as f64;
        format!("{}..{}, mean {mean:.0}", all().min().unwrap_or(0), all().max().unwrap_or(0))
    };
    let pages = &experiment.pages;
    [
        format!(
            "{} requests ({source}): prompts {}; outputs {}; patience {} s",
            thousands(trace.len() as u64),
            lengths(|r| r.prompt),
            lengths(|r| r.output),
            rules.patience as f64 / 1e6
        ),
        format!(
            "keys and values: 2 x {} layers x {} heads x {} elements in {} = {} bytes a token; memory \
             for {} tokens, {}; blocks of {}",
            layout.layers,
            layout.n_kv_heads,
            layout.head_dim,
            layout.dtype,
            thousands(rules.bytes_per_token),
            thousands(pages.slots),
            gigabytes(pages.slots * rules.bytes_per_token),
            pages.block_size
        ),
        format!(
            "a step takes the larger of its bytes ({} of weights and what is cached, at {}/s) and its \
             operations (at {:.0} T/s)",
            gigabytes(rules.cost.weights),
            gigabytes(rules.cost.bandwidth),
            rules.cost.flops / 1e12
        ),
    ]
}

fn plan_json(plan: &Plan) -> serde_json::Value {
    let Plan { experiment, layout, source } = plan;
    let (rules, pages) = (&experiment.rules, &experiment.pages);
    json!({
        "trace": source,
        "requests": experiment.trace.len(),
        "layers": layout.layers,
        "kv_heads": layout.n_kv_heads,
        "head_dim": layout.head_dim,
        "kv_type": layout.dtype.to_string(),
        "bytes_per_token": rules.bytes_per_token,
        "slots": pages.slots,
        "block_size": pages.block_size,
        "system_prompt": pages.system_prompt,
        "patience_seconds": rules.patience as f64 / 1e6,
        "compared_seconds": compared_until(plan) as f64 / 1e6,
    })
}
