//! `infinity bench --serve URL`: a server under load, as its users see it.
//!
//! Any server with the OpenAI API will do, so that peers are measured by the same tool. [`load`]
//! argues the two loops, [`prompt`] how prompts get their lengths, [`report`] what is told.

mod client;
mod load;
mod options;
mod prompt;
mod record;
mod report;
mod stream;
mod target;
#[cfg(test)]
mod tests;

use std::fs::File;
use std::io::BufReader;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use client::{Client, Live};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use options::Load;
pub(crate) use options::Options;
use prompt::Calibration;
use record::Record;
use report::{Figures, Report};
use target::Target;
use tokio::time::interval;
use workload::{Request, Workload};

/// Measures, and prints a table or JSON.
pub(crate) fn run(options: &Options, json: bool) -> Result<()> {
    options.check()?;
    // One thread: the server is often on the same machine and needs the rest.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let (report, records) = runtime.block_on(measure(options))?;
    if let Some(path) = &options.records {
        record::write(path, &records)?;
    }
    if json {
        println!("{}", serde_json::to_string_pretty(&report)?);
    } else {
        print!("{report}");
    }
    ensure!(report.loads.iter().any(|l| l.complete > 0), "no request was answered in full");
    Ok(())
}

async fn measure(options: &Options) -> Result<(Report, Vec<Vec<Record>>)> {
    raise_file_limit();
    let url = options.serve.as_deref().unwrap_or_default();
    let key = options.api_key.clone().or_else(|| std::env::var("OPENAI_API_KEY").ok());
    let target = Target::new(url, key.as_deref().filter(|k| !k.is_empty()))?;
    let model = client::model(&target, options.served_model.as_deref()).await?;
    let max_len = max_len(options, model.max_model_len)?;
    let from_file = options.trace.as_ref().map(|path| {
        let name = || path.display().to_string();
        let file = File::open(path).with_context(name)?;
        workload::read(BufReader::new(file), max_len).with_context(name)
    });
    let from_file = from_file.transpose()?;
    let calibration = match options.tokens_per_word {
        Some(tokens_per_word) => Calibration { tokens_per_word, tokens_around: 0.0 },
        None => client::calibrate(&target, options.endpoint, &model.id, options.seed).await?,
    };
    let (mut figures, mut all) = (Vec::new(), Vec::new());
    let client =
        |live| Client { target: &target, options, model: model.id.clone(), calibration, live };
    warm_up(&client(Live::default()), max_len).await;
    for (number, load) in options.loads().into_iter().enumerate() {
        let trace = trace(options, load, from_file.as_deref(), max_len);
        let plan = load::plan(options, load, number, &trace);
        let client = client(Live::default());
        let bar = progress(options, plan.len())?;
        let records = tokio::select! {
            records = load::run(&client, load, &plan) => records,
            never = show(&bar, load, &client.live) => match never {},
        };
        bar.finish_and_clear();
        let most_running = client.live.most_running.get();
        figures.push(Figures::new(load, &records, most_running, &options.slo()));
        all.push(records);
    }
    let lengths = |drawn: workload::Lengths| match options.trace {
        Some(_) => "as in the trace".to_owned(),
        None => drawn.to_string(),
    };
    let report = Report {
        server: url.to_owned(),
        model: model.id.clone(),
        endpoint: options.endpoint,
        prompt_tokens: lengths(options.prompt_tokens),
        output_tokens: lengths(options.output_tokens),
        shared_prefix: options.shared_prefix,
        shared_fraction: options.shared_fraction,
        ignore_eos: !options.no_ignore_eos,
        cancel_fraction: options.cancel_fraction,
        seed: options.seed,
        calibration,
        slo: options.slo(),
        loads: figures,
    };
    Ok((report, all))
}

/// Tokens that a prompt (without the prefix) and its answer may have together.
fn max_len(options: &Options, served: Option<usize>) -> Result<usize> {
    // Prompts come out a little longer or shorter than aimed at.
    let served = served.map(|n| n.min(workload::MAX_LENGTH) * 31 / 32);
    let most = options.max_model_len.or(served).unwrap_or(workload::MAX_LENGTH);
    let shared = options.shared_prefix;
    ensure!(
        most >= shared.saturating_add(2),
        "--shared-prefix {shared}: a prompt and an answer must fit behind it in {most} tokens"
    );
    Ok(most - shared)
}

/// What is asked under `load`, and when.
fn trace(
    options: &Options,
    load: Load,
    from_file: Option<&[Request]>,
    max_model_len: usize,
) -> Vec<Request> {
    let rate = if let Load::Open { rate } = load { rate } else { 1.0 };
    let drawn = |requests| {
        let (prompt, output) = (options.prompt_tokens, options.output_tokens);
        let seed = options.seed;
        Workload { requests, rate, prompt, output, max_model_len, system_prompt: 0, seed }.trace()
    };
    let Some(from_file) = from_file else {
        return drawn(options.requests());
    };
    let most = options.requests.unwrap_or(from_file.len());
    let mut trace: Vec<Request> = from_file.iter().take(most).copied().collect();
    if let Load::Open { .. } = load {
        for (request, drawn) in trace.iter_mut().zip(drawn(most)) {
            request.arrival = drawn.arrival;
        }
    }
    trace
}

/// Requests that do not count, one after another. What is wrong with them, those that follow tell.
async fn warm_up(client: &Client<'_>, max_model_len: usize) {
    let requests = client.options.warm_up_requests;
    let (prompt, output) = (client.options.prompt_tokens, client.options.output_tokens);
    let seed = client.options.seed.wrapping_add(1);
    let workload =
        Workload { requests, prompt, output, max_model_len, seed, ..Workload::default() };
    // Beyond the number of any load, so that no text comes again.
    let load = Load::Closed { clients: 1 };
    let plan = load::plan(client.options, load, u32::MAX as usize - 1, &workload.trace());
    load::run(client, load, &plan).await;
}

/// A bar on standard error, shown only on a terminal. Where time is the limit there is no length.
fn progress(options: &Options, requests: usize) -> Result<ProgressBar> {
    let known = options.duration.is_none().then_some(requests as u64);
    let bar = ProgressBar::with_draw_target(known, ProgressDrawTarget::stderr());
    let place = if known.is_some() { "{wide_bar} {pos}/{len}" } else { "{spinner} {pos}" };
    bar.set_style(ProgressStyle::with_template(&format!("{place} {{msg}} {{elapsed}}"))?);
    Ok(bar)
}

/// Moves the bar, for ever.
async fn show(bar: &ProgressBar, load: Load, live: &Live) -> std::convert::Infallible {
    let mut tick = interval(Duration::from_millis(200));
    loop {
        tick.tick().await;
        bar.set_position(live.ended.get() as u64);
        let (running, unwanted) = (live.running.get(), live.unwanted.get());
        bar.set_message(format!("{load}: {running} running, {unwanted} failed or refused"));
    }
}

/// A connection is an open file, and an overloaded server that refuses nobody has many.
#[cfg(unix)]
fn raise_file_limit() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    // Where it is not allowed the connections fail, and are counted as such.
    let _ = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum });
}

#[cfg(not(unix))]
fn raise_file_limit() {}
