//! What is measured, under vLLM's names with this project's prefix, so that its dashboards need one
//! replacement.
//!
//! Names, descriptions and buckets are here and nowhere else. An engine is watched by
//! [`EngineMetrics`], the HTTP layer through [`http_request`]; [`render`] is the text of `/metrics`.
//! Without [`install`] all of it is recorded nowhere and costs next to nothing.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use engine::{Observer, RequestTimes};
use metrics::{Counter, Gauge, Histogram, counter, gauge, histogram};
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};

/// What every name begins with.
pub const PREFIX: &str = "infinity:";

macro_rules! name {
    ($name:literal) => {
        concat!("infinity:", $name)
    };
}

const RUNNING: &str = name!("num_requests_running");
const WAITING: &str = name!("num_requests_waiting");
const CACHE_USAGE: &str = name!("kv_cache_usage_perc");
const PROMPT_TOKENS: &str = name!("prompt_tokens_total");
const GENERATION_TOKENS: &str = name!("generation_tokens_total");
const PREFIX_QUERIES: &str = name!("prefix_cache_queries_total");
const PREFIX_HITS: &str = name!("prefix_cache_hits_total");
const PREEMPTIONS: &str = name!("num_preemptions_total");
const SUCCESS: &str = name!("request_success_total");
const DRAFTS: &str = name!("spec_decode_num_drafts_total");
const DRAFT_TOKENS: &str = name!("spec_decode_num_draft_tokens_total");
const ACCEPTED_TOKENS: &str = name!("spec_decode_num_accepted_tokens_total");
const ACCEPTED_PER_POS: &str = name!("spec_decode_num_accepted_tokens_per_pos_total");
const FIRST_TOKEN: &str = name!("time_to_first_token_seconds");
const INTER_TOKEN: &str = name!("inter_token_latency_seconds");
const E2E: &str = name!("e2e_request_latency_seconds");
const QUEUE_TIME: &str = name!("request_queue_time_seconds");
const INFERENCE_TIME: &str = name!("request_inference_time_seconds");
const PREFILL_TIME: &str = name!("request_prefill_time_seconds");
const DECODE_TIME: &str = name!("request_decode_time_seconds");
const REQUEST_PROMPT: &str = name!("request_prompt_tokens");
const REQUEST_GENERATION: &str = name!("request_generation_tokens");
const ITERATION_TOKENS: &str = name!("iteration_tokens_total");
const TENANT_PROMPT: &str = name!("tenant_prompt_tokens_total");
const TENANT_GENERATION: &str = name!("tenant_generation_tokens_total");
const HTTP_REQUESTS: &str = name!("http_requests_total");

const SECONDS: &[f64] = &[
    0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0,
    20.0, 40.0, 80.0, 160.0, 640.0, 2560.0,
];
const LONG_SECONDS: &[f64] = &[
    0.3, 0.5, 0.8, 1.0, 1.5, 2.0, 2.5, 5.0, 10.0, 15.0, 20.0, 30.0, 40.0, 50.0, 60.0, 120.0, 240.0,
    480.0, 960.0, 1920.0, 7680.0,
];
const SHORT_SECONDS: &[f64] = &[
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5,
    5.0, 7.5, 10.0, 20.0, 40.0, 80.0,
];
const TOKENS: &[f64] =
    &[1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0, 500.0, 1e3, 2e3, 5e3, 1e4, 2e4, 5e4, 1e5, 2e5];
const BATCH: &[f64] =
    &[1.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0, 1024.0, 2048.0, 4096.0, 8192.0, 16384.0];

const GAUGES: &[(&str, &str)] = &[
    (RUNNING, "Requests that run."),
    (WAITING, "Requests that wait."),
    (CACHE_USAGE, "The share of the key-value cache's blocks that is used, 0 to 1."),
];

const COUNTERS: &[(&str, &str)] = &[
    (PROMPT_TOKENS, "Tokens of prompts that were computed."),
    (GENERATION_TOKENS, "Tokens generated."),
    (PREFIX_QUERIES, "Tokens looked up in the prefix cache."),
    (PREFIX_HITS, "Tokens found there."),
    (PREEMPTIONS, "Times that a sequence lost its blocks."),
    (SUCCESS, "Requests that came to their end, by finished_reason."),
    (DRAFTS, "Drafts made."),
    (DRAFT_TOKENS, "Tokens drafted."),
    (ACCEPTED_TOKENS, "Drafted tokens accepted."),
    (ACCEPTED_PER_POS, "Drafted tokens accepted, by their position in the draft."),
    (TENANT_PROMPT, "Tokens of prompts, by tenant."),
    (TENANT_GENERATION, "Tokens generated, by tenant."),
    (HTTP_REQUESTS, "Answers to HTTP requests, by endpoint, method and status."),
];

const HISTOGRAMS: &[(&str, &[f64], &str)] = &[
    (FIRST_TOKEN, SECONDS, "From a request's arrival to its first token."),
    (INTER_TOKEN, SHORT_SECONDS, "From one token of an answer to the next."),
    (E2E, LONG_SECONDS, "From a request's arrival to its end."),
    (QUEUE_TIME, LONG_SECONDS, "From a request's arrival to its beginning."),
    (INFERENCE_TIME, LONG_SECONDS, "From a request's beginning to its end."),
    (PREFILL_TIME, LONG_SECONDS, "From a request's beginning to its first token."),
    (DECODE_TIME, LONG_SECONDS, "From a request's first token to its end."),
    (REQUEST_PROMPT, TOKENS, "Tokens of a request's prompt."),
    (REQUEST_GENERATION, TOKENS, "Tokens generated for a request."),
    (ITERATION_TOKENS, BATCH, "Rows of a step."),
];

static HANDLE: OnceLock<Option<PrometheusHandle>> = OnceLock::new();

/// Records from now on. Whether this process can: not where another recorder is installed already.
pub fn install() -> bool {
    HANDLE.get_or_init(start).is_some()
}

fn start() -> Option<PrometheusHandle> {
    let mut builder = PrometheusBuilder::new();
    for (name, buckets, _) in HISTOGRAMS {
        let name = Matcher::Full((*name).to_owned());
        builder = builder.set_buckets_for_metric(name, buckets).ok()?;
    }
    let recorder = builder.build_recorder();
    let handle = recorder.handle();
    metrics::set_global_recorder(recorder).ok()?;
    for (name, text) in GAUGES {
        metrics::describe_gauge!(*name, *text);
    }
    for (name, text) in COUNTERS {
        metrics::describe_counter!(*name, *text);
    }
    for (name, _, text) in HISTOGRAMS {
        metrics::describe_histogram!(*name, *text);
    }
    Some(handle)
}

/// Everything that was recorded, in Prometheus' text format; nothing before [`install`].
pub fn render() -> String {
    let handle = HANDLE.get().and_then(Option::as_ref);
    handle.map_or_else(String::new, PrometheusHandle::render)
}

/// Moves recorded times into their histograms, so that memory stays flat where nobody asks for
/// `/metrics`. For once every few seconds.
pub fn upkeep() {
    if let Some(handle) = HANDLE.get().and_then(Option::as_ref) {
        handle.run_upkeep();
    }
}

/// An HTTP request was answered.
pub fn http_request(endpoint: &str, method: &str, status: u16) {
    let status = status.to_string();
    counter!(HTTP_REQUESTS, "endpoint" => endpoint.to_owned(), "method" => method.to_owned(), "status" => status)
        .increment(1);
}

/// What one engine records. Made once, when [`install`] has been called.
#[derive(Clone)]
pub struct EngineMetrics {
    model: Arc<str>,
    running: Gauge,
    waiting: Gauge,
    cache_usage: Gauge,
    prompt_tokens: Counter,
    generation_tokens: Counter,
    prefix_queries: Counter,
    prefix_hits: Counter,
    preemptions: Counter,
    first_token: Histogram,
    inter_token: Histogram,
    e2e: Histogram,
    queue_time: Histogram,
    inference_time: Histogram,
    prefill_time: Histogram,
    decode_time: Histogram,
    request_prompt: Histogram,
    request_generation: Histogram,
    iteration_tokens: Histogram,
}

impl std::fmt::Debug for EngineMetrics {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("EngineMetrics").field("model", &self.model).finish_non_exhaustive()
    }
}

impl EngineMetrics {
    /// The metrics of the engine of this model.
    pub fn new(model: &str) -> Self {
        let model: Arc<str> = model.into();
        macro_rules! of {
            ($kind:ident, $name:expr) => {
                $kind!($name, "model_name" => model.to_string(), "engine" => "0")
            };
        }
        Self {
            running: of!(gauge, RUNNING),
            waiting: of!(gauge, WAITING),
            cache_usage: of!(gauge, CACHE_USAGE),
            prompt_tokens: of!(counter, PROMPT_TOKENS),
            generation_tokens: of!(counter, GENERATION_TOKENS),
            prefix_queries: of!(counter, PREFIX_QUERIES),
            prefix_hits: of!(counter, PREFIX_HITS),
            preemptions: of!(counter, PREEMPTIONS),
            first_token: of!(histogram, FIRST_TOKEN),
            inter_token: of!(histogram, INTER_TOKEN),
            e2e: of!(histogram, E2E),
            queue_time: of!(histogram, QUEUE_TIME),
            inference_time: of!(histogram, INFERENCE_TIME),
            prefill_time: of!(histogram, PREFILL_TIME),
            decode_time: of!(histogram, DECODE_TIME),
            request_prompt: of!(histogram, REQUEST_PROMPT),
            request_generation: of!(histogram, REQUEST_GENERATION),
            iteration_tokens: of!(histogram, ITERATION_TOKENS),
            model,
        }
    }

    /// A draft of so many tokens, of which the first `accepted` were accepted.
    pub fn draft(&self, drafted: usize, accepted: usize) {
        let model = || self.model.to_string();
        counter!(DRAFTS, "model_name" => model(), "engine" => "0").increment(1);
        counter!(DRAFT_TOKENS, "model_name" => model(), "engine" => "0").increment(drafted as u64);
        counter!(ACCEPTED_TOKENS, "model_name" => model(), "engine" => "0")
            .increment(accepted as u64);
        for position in 0..accepted {
            let position = position.to_string();
            counter!(
                ACCEPTED_PER_POS, "model_name" => model(), "engine" => "0", "position" => position
            )
            .increment(1);
        }
    }
}

impl Observer for EngineMetrics {
    fn requests(&self, running: usize, waiting: usize) {
        self.running.set(running as f64);
        self.waiting.set(waiting as f64);
    }

    fn cache_usage(&self, share: f64) {
        self.cache_usage.set(share);
    }

    fn step(&self, rows: usize, prompt_rows: usize, generated: usize) {
        self.iteration_tokens.record(rows as f64);
        self.prompt_tokens.increment(prompt_rows as u64);
        self.generation_tokens.increment(generated as u64);
    }

    fn prefix(&self, queries: usize, hits: usize) {
        self.prefix_queries.increment(queries as u64);
        self.prefix_hits.increment(hits as u64);
    }

    fn preempted(&self, sequences: usize) {
        self.preemptions.increment(sequences as u64);
    }

    fn first_token(&self, after: Duration) {
        self.first_token.record(after);
    }

    fn inter_token(&self, gap: Duration) {
        self.inter_token.record(gap);
    }

    fn finished(&self, reason: &'static str, times: RequestTimes, prompt: usize, generated: usize) {
        let model = self.model.to_string();
        counter!(SUCCESS, "model_name" => model, "engine" => "0", "finished_reason" => reason)
            .increment(1);
        self.queue_time.record(times.queue);
        self.prefill_time.record(times.prefill);
        self.decode_time.record(times.decode);
        self.inference_time.record(times.prefill + times.decode);
        self.e2e.record(times.queue + times.prefill + times.decode);
        self.request_prompt.record(prompt as f64);
        self.request_generation.record(generated as f64);
    }

    fn tenant(&self, tenant: &str, prompt: usize, generated: usize) {
        let tenant = known_tenant(tenant);
        let model = || self.model.to_string();
        counter!(TENANT_PROMPT, "model_name" => model(), "tenant" => tenant.clone())
            .increment(prompt as u64);
        counter!(TENANT_GENERATION, "model_name" => model(), "tenant" => tenant)
            .increment(generated as u64);
    }
}

/// Tenants that have counters of their own; the others share one, since clients may invent names.
const MAX_TENANTS: usize = 1000;

fn known_tenant(tenant: &str) -> String {
    static KNOWN: Mutex<Option<HashSet<String>>> = Mutex::new(None);
    let mut known = KNOWN.lock().unwrap_or_else(PoisonError::into_inner);
    let known = known.get_or_insert_default();
    if !known.contains(tenant) {
        if known.len() >= MAX_TENANTS {
            return "other".to_owned();
        }
        known.insert(tenant.to_owned());
    }
    tenant.to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_is_rendered_with_its_labels() {
        assert!(install());
        let metrics = EngineMetrics::new("of-the-test");
        metrics.requests(2, 3);
        metrics.cache_usage(0.25);
        metrics.step(10, 8, 2);
        metrics.prefix(32, 16);
        metrics.preempted(1);
        metrics.first_token(Duration::from_millis(30));
        metrics.inter_token(Duration::from_millis(3));
        let second = Duration::from_secs(1);
        let times = RequestTimes { queue: second, prefill: second, decode: second };
        metrics.finished("stop", times, 8, 2);
        metrics.tenant("ann", 8, 2);
        metrics.draft(4, 2);
        http_request("/v1/models", "GET", 200);
        let text = render();
        let names = GAUGES.iter().chain(COUNTERS).map(|m| m.0);
        for name in names.chain(HISTOGRAMS.iter().map(|m| m.0)) {
            assert!(name.starts_with(PREFIX));
            assert!(text.contains(&format!("# TYPE {name} ")), "{name} in {text}");
            assert!(text.contains(&format!("# HELP {name} ")), "{name}");
        }
        let labels = r#"{model_name="of-the-test",engine="0"}"#;
        for (name, value) in [
            ("num_requests_running", "2"),
            ("num_requests_waiting", "3"),
            ("kv_cache_usage_perc", "0.25"),
            ("prompt_tokens_total", "8"),
            ("generation_tokens_total", "2"),
            ("prefix_cache_hits_total", "16"),
            ("e2e_request_latency_seconds_sum", "3"),
            ("spec_decode_num_accepted_tokens_total", "2"),
        ] {
            let line = format!("\n{PREFIX}{name}{labels} {value}\n");
            assert!(text.contains(&line), "{line} in {text}");
        }
        assert!(text.contains(
            r#"tenant_generation_tokens_total{model_name="of-the-test",tenant="ann"} 2"#
        ));
        assert!(text.contains(r#"finished_reason="stop""#) && text.contains(r#"le="0.04"} 1"#));
    }

    #[test]
    fn invented_tenants_do_not_grow_without_bound() {
        let names: HashSet<String> =
            (0..5 * MAX_TENANTS).map(|i| known_tenant(&format!("invented-{i}"))).collect();
        assert!(names.len() <= MAX_TENANTS + 1);
        assert!(names.contains("other"));
    }
}
