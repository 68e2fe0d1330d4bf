//! Against a server in this process whose delays are known, and on records whose figures are.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use clap::Parser;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::sleep;

use super::options::{Load, Options, Slo};
use super::record::{Ending, Record};
use super::report::{Figures, Incomplete, Report, Spread};

/// Seconds to the first chunk, and between chunks.
const FIRST: f64 = 0.06;
const GAP: f64 = 0.02;
/// Chunks of an answer; the usage says twice as many tokens.
const CHUNKS: usize = 5;

#[derive(Clone, Copy, PartialEq)]
enum Act {
    Answer,
    Refuse,
    /// Two chunks, then the connection is closed.
    Break,
    ErrorEvent,
    Hang,
    BadRequest,
    /// Bytes that are not HTTP.
    Garbage,
}

/// What the server does with a request, given how many asked for a stream before.
type Script = fn(usize) -> Act;
type Bodies = Arc<Mutex<Vec<Value>>>;

/// Its address, and the bodies of the requests that asked for a stream.
async fn server(script: Script) -> (String, Bodies) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let bodies = Bodies::default();
    let seen = bodies.clone();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let seen = seen.clone();
            // A client that has gone is no fault of the server's.
            tokio::spawn(async move { connection(stream, &seen, script).await.ok() });
        }
    });
    (url, bodies)
}

async fn connection(stream: TcpStream, seen: &Bodies, script: Script) -> std::io::Result<()> {
    let mut stream = BufReader::new(stream);
    let (mut first, mut length) = (String::new(), 0);
    stream.read_line(&mut first).await?;
    loop {
        let mut line = String::new();
        stream.read_line(&mut line).await?;
        let line = line.trim().to_ascii_lowercase();
        if line.is_empty() {
            break;
        }
        if let Some(n) = line.strip_prefix("content-length: ") {
            length = n.parse().unwrap();
        }
    }
    let mut body = vec![0; length];
    stream.read_exact(&mut body).await?;
    if first.starts_with("GET /v1/models ") {
        let list = json!({ "data": [{ "id": "tiny", "max_model_len": 4096 }, { "id": "other" }] });
        return answer(&mut stream, "200 OK", &list).await;
    }
    let body: Value = serde_json::from_slice(&body).unwrap();
    let text = body["prompt"].as_str().or_else(|| body["messages"][0]["content"].as_str()).unwrap();
    // Two tokens a word and seven around.
    let prompt_tokens = 2 * text.split(' ').count() + 7;
    let usage = json!({
        "prompt_tokens": prompt_tokens,
        "completion_tokens": 2 * CHUNKS,
        "prompt_tokens_details": { "cached_tokens": prompt_tokens / 2 },
    });
    if body["stream"] != true {
        return answer(&mut stream, "200 OK", &json!({ "choices": [], "usage": usage })).await;
    }
    let number = {
        let mut seen = seen.lock().unwrap();
        seen.push(body.clone());
        seen.len() - 1
    };
    let act = script(number);
    match act {
        Act::Refuse => {
            let head =
                "HTTP/1.1 429 Too Many Requests\r\nRetry-After: 0\r\nContent-Length: 0\r\n\r\n";
            return stream.write_all(head.as_bytes()).await;
        }
        Act::BadRequest => {
            let error = json!({ "error": { "message": "no\nsuch thing" } });
            return answer(&mut stream, "400 Bad Request", &error).await;
        }
        Act::Garbage => return stream.write_all(b"\0\0\0\0 what?\r\n\r\n").await,
        _ => {}
    }
    let chat = body.get("messages").is_some();
    stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n").await?;
    if chat {
        // A chunk without text is not the first token.
        event(&mut stream, &json!({ "choices": [{ "delta": { "role": "assistant" } }] })).await?;
    }
    sleep(Duration::from_secs_f64(FIRST)).await;
    for chunk in 0..CHUNKS {
        if chunk > 0 {
            sleep(Duration::from_secs_f64(GAP)).await;
        }
        match (act, chunk) {
            (Act::Break, 2) => return Ok(()),
            (Act::Hang, 1) => sleep(Duration::from_secs(600)).await,
            (Act::ErrorEvent, 1) => {
                return event(&mut stream, &json!({ "error": { "message": "out of luck" } })).await;
            }
            _ => {}
        }
        let choice = if chat {
            json!({ "delta": { "content": "a" }, "finish_reason": null })
        } else {
            json!({ "text": "a", "finish_reason": null })
        };
        event(&mut stream, &json!({ "choices": [choice] })).await?;
    }
    let last = json!({ "text": "", "delta": {}, "finish_reason": "length" });
    event(&mut stream, &json!({ "choices": [last], "usage": null })).await?;
    event(&mut stream, &json!({ "choices": [], "usage": usage })).await?;
    stream.write_all(b"data: [DONE]\n\n").await
}

async fn answer(to: &mut BufReader<TcpStream>, status: &str, body: &Value) -> std::io::Result<()> {
    let body = body.to_string();
    let head = format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\n\r\n", body.len());
    to.write_all((head + &body).as_bytes()).await
}

async fn event(to: &mut BufReader<TcpStream>, data: &Value) -> std::io::Result<()> {
    to.write_all(format!("data: {data}\n\n").as_bytes()).await
}

#[derive(Parser)]
struct Cli {
    #[command(flatten)]
    options: Options,
}

fn options(url: &str, more: &str) -> Options {
    let args = ["bench", "--serve", url, "--warm-up-requests", "0"];
    let all = args.into_iter().chain(more.split_whitespace());
    Cli::try_parse_from(all).unwrap_or_else(|e| panic!("{e}")).options
}

async fn measure(url: &str, more: &str) -> (Report, Vec<Vec<Record>>) {
    let options = options(url, more);
    options.check().unwrap();
    super::measure(&options).await.unwrap()
}

/// Not below, since the server waits so long; above by what a busy machine may take.
fn about(got: f64, expected: f64) {
    assert!((expected * 0.99..expected + 1.5).contains(&got), "{got} s, expected {expected} s");
}

#[tokio::test]
async fn known_delays_are_measured() {
    let (url, bodies) = server(|_| Act::Answer).await;
    for endpoint in ["completions", "chat"] {
        let more = format!(
            "--clients 1,3 --requests 6 --prompt-tokens 107 --output-tokens 10 --endpoint {endpoint}"
        );
        let (report, records) = measure(&url, &more).await;
        assert_eq!((report.model.as_str(), report.loads.len()), ("tiny", 2));
        assert_eq!(report.calibration.tokens_per_word, 2.0);
        for (figures, records) in report.loads.iter().zip(&records) {
            assert_eq!((figures.requests, figures.complete, records.len()), (6, 6, 6));
            // 50 words.
            assert_eq!(figures.mean_prompt_tokens, [107.0, 107.0]);
            assert_eq!(figures.mean_output_tokens, [10.0, 10.0]);
            assert_eq!((figures.tokens_per_chunk, figures.counted_by_server), (2.0, true));
            assert!((figures.cached_share.unwrap() - 53.0 / 107.0).abs() < 1e-9);
            let p50 = |spread: Option<Spread>| spread.unwrap().p50;
            about(p50(figures.ttft), FIRST);
            about(p50(figures.itl), GAP);
            let stream = GAP * (CHUNKS - 1) as f64;
            about(p50(figures.tpot), stream / (2 * CHUNKS - 1) as f64);
            about(p50(figures.e2e), FIRST + stream);
            assert_eq!(figures.goodput.share, 1.0);
            assert!(records.iter().all(|r| r.chunks.len() == CHUNKS));
        }
        assert_eq!(report.loads.iter().map(|l| l.most_running).collect::<Vec<_>>(), [1, 3]);
        // Three clients take a third of the time.
        let [one, three] = [report.loads[0].seconds, report.loads[1].seconds];
        about(one, 6.0 * (FIRST + GAP * 4.0));
        about(three, 2.0 * (FIRST + GAP * 4.0));
        let table = report.to_string();
        assert!(table.contains("1 client") && table.contains("3 clients"), "{table}");
        assert!(table.contains("tokens are counted by the server"), "{table}");
    }
    let bodies = bodies.lock().unwrap();
    assert_eq!(bodies.len(), 24);
    for body in bodies.iter() {
        assert_eq!(
            (&body["max_tokens"], &body["ignore_eos"], &body["model"], &body["temperature"]),
            (&json!(10), &json!(true), &json!("tiny"), &json!(0.0))
        );
        assert_eq!(body["stream_options"]["include_usage"], true);
    }
    // No prompt comes twice within an endpoint, so no cache can answer for the model.
    let mut prompts: Vec<_> = bodies[..12].iter().map(|b| b["prompt"].to_string()).collect();
    prompts.sort_unstable();
    prompts.dedup();
    assert_eq!(prompts.len(), 12);
}

#[tokio::test]
async fn each_way_to_fail_is_counted() {
    let script: Script = |number| match number {
        1 => Act::Refuse,
        2 => Act::Break,
        3 => Act::ErrorEvent,
        4 => Act::Hang,
        5 => Act::BadRequest,
        6 => Act::Garbage,
        7 => Act::Refuse,
        _ => Act::Answer,
    };
    let (url, _) = server(script).await;
    let (report, records) =
        measure(&url, "--requests 10 --timeout 5 --no-ignore-eos --model other").await;
    let figures = &report.loads[0];
    assert_eq!((figures.requests, figures.complete), (10, 3));
    assert_eq!((figures.refused, figures.refused_with_retry_after), (2, 2));
    let kinds: Vec<(&str, usize, &str)> = figures
        .incomplete
        .iter()
        .map(|(kind, Incomplete { requests, example })| {
            (kind.as_str(), *requests, example.as_deref().unwrap_or(""))
        })
        .collect();
    assert_eq!(kinds[0], ("broken stream", 2, "the stream ended early"));
    assert_eq!((kinds[1].0, kinds[1].1), ("no answer", 1));
    assert_eq!(
        kinds[2..],
        [("status 400", 1, "no such thing"), ("status 429", 2, ""), ("timed out", 1, "")]
    );
    let broken = |message: &str| Ending::Broken { message: message.to_owned() };
    assert_eq!(records[0][3].ending, broken("out of luck"));
    // What had come before the end is there.
    assert_eq!(records[0].iter().map(|r| r.chunks.len()).collect::<Vec<_>>()[..5], [5, 0, 2, 1, 1]);
    about(records[0][4].e2e(), 5.0);
    // Only what is complete counts.
    assert_eq!(figures.goodput.requests, 3);
    assert!((figures.output_tokens_per_second * figures.seconds - 30.0).abs() < 1e-6);
    assert!(report.to_string().contains("1 client: 1 x status 400: no such thing"));
}

#[tokio::test]
async fn clients_that_go_away_are_counted_apart() {
    let (url, bodies) = server(|_| Act::Answer).await;
    let more = "--clients 4 --requests 40 --output-tokens 5 --cancel-fraction 0.5";
    let (report, records) = measure(&url, more).await;
    let figures = &report.loads[0];
    let left: Vec<&Record> = records[0].iter().filter(|r| r.ending == Ending::Cancelled).collect();
    assert_eq!((figures.cancelled, figures.complete), (left.len(), 40 - left.len()));
    // Of 40 with probability a half: five standard deviations are 16.
    assert!((4..=36).contains(&left.len()), "{}", left.len());
    assert!(figures.incomplete.is_empty(), "{:?}", figures.incomplete);
    assert_eq!((figures.goodput.share, figures.tokens_per_chunk), (1.0, 2.0));
    // Some at once, some amid the answer, none at its end.
    assert!(left.iter().all(|r| r.chunks.len() < CHUNKS && r.output_tokens.is_none()));
    assert!(left.iter().any(|r| r.chunks.is_empty()) && left.iter().any(|r| r.chunks.len() > 1));
    assert!(report.to_string().contains("; 50 % of the clients go away; end of text ignored"));
    // The same ones next time, and what is asked does not depend on who goes away.
    let again = measure(&url, more).await.1;
    let ended = |records: &[Record]| records.iter().map(|r| r.ending.clone()).collect::<Vec<_>>();
    assert_eq!(ended(&records[0]), ended(&again[0]));
    measure(&url, "--clients 4 --requests 40 --output-tokens 5").await;
    let bodies = bodies.lock().unwrap();
    let mut prompts: Vec<String> = bodies.iter().map(|b| b["prompt"].to_string()).collect();
    assert_eq!(prompts.len(), 120, "a client that goes away at once has sent its request");
    prompts.sort_unstable();
    prompts.dedup();
    assert_eq!(prompts.len(), 40);
}

#[tokio::test]
async fn a_refused_request_comes_again_if_asked_to() {
    let (url, bodies) = server(|number| if number < 2 { Act::Refuse } else { Act::Answer }).await;
    let (report, records) = measure(&url, "--requests 1 --retries 3").await;
    assert_eq!((report.loads[0].complete, report.loads[0].retries), (1, 2));
    assert_eq!(records[0][0].retries, 2);
    let bodies = bodies.lock().unwrap();
    assert!(bodies.len() == 3 && bodies[0] == bodies[2]);
}

#[tokio::test]
async fn arrivals_do_not_wait_for_answers() {
    // The first one hangs until its time is over; those after it are sent all the same.
    let (url, _) = server(|number| if number == 0 { Act::Hang } else { Act::Answer }).await;
    let (report, records) = measure(&url, "--rate 40 --requests 20 --timeout 6").await;
    let (figures, records) = (&report.loads[0], &records[0]);
    assert_eq!((figures.complete, figures.incomplete["timed out"].requests), (19, 1));
    assert!(figures.lateness.unwrap().p99 < 1.5, "{:?}", figures.lateness);
    let last_due = records.last().unwrap().due;
    assert!(last_due < records[0].ended, "all were due while the first one hung");
    assert!(records.iter().all(|r| r.sent >= r.due && r.e2e() >= 0.0));
    // The arrivals are those of the seed.
    let (_, again) = measure(&url, "--rate 40 --requests 20 --timeout 6").await;
    let due = |records: &[Record]| records.iter().map(|r| r.due).collect::<Vec<_>>();
    assert_eq!(due(records), due(&again[0]));
}

#[tokio::test]
async fn time_ends_the_sending() {
    let (url, _) = server(|_| Act::Answer).await;
    for load in ["--clients 2", "--rate 30"] {
        let (report, records) = measure(&url, &format!("{load} --duration 0.4")).await;
        let figures = &report.loads[0];
        assert!(records[0].iter().all(|r| r.due < 0.4), "{load}");
        assert!((2..40).contains(&figures.requests), "{load}: {}", figures.requests);
        assert_eq!(figures.complete, figures.requests, "those that were sent are waited for");
    }
}

#[tokio::test]
async fn prefixes_are_shared_within_a_load_only() {
    let (url, bodies) = server(|_| Act::Answer).await;
    let more = "--clients 8,8 --requests 40 --shared-prefix 100 --shared-fraction 0.5 \
                --prompt-tokens 47";
    let (report, _) = measure(&url, more).await;
    assert!(report.to_string().contains("behind 100 that 50 % share"));
    // 50 words of prefix and 20 of its own.
    let prefixes: Vec<String> = {
        let bodies = bodies.lock().unwrap();
        let words = |b: &Value| -> Vec<String> {
            b["prompt"].as_str().unwrap().split(' ').map(str::to_owned).collect()
        };
        assert!(bodies.iter().all(|b| words(b).len() == 70));
        bodies.iter().map(|b| words(b)[..50].join(" ")).collect()
    };
    let most_common = |of: &[String]| {
        let count = |x: &String| of.iter().filter(|y| *y == x).count();
        of.iter().max_by_key(|x| count(x)).map(|x| (x.clone(), count(x))).unwrap()
    };
    let [first, second] = [most_common(&prefixes[..40]), most_common(&prefixes[40..])];
    assert_ne!(first.0, second.0);
    // Of 40 with probability a half: five standard deviations are 16.
    assert!((4..=36).contains(&first.1) && (4..=36).contains(&second.1));
}

#[tokio::test]
async fn a_trace_says_lengths_and_times() {
    let (url, bodies) = server(|_| Act::Answer).await;
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("t.jsonl");
    let text = "{\"arrival\":0.3,\"prompt\":47,\"output\":3}\n{\"arrival\":0,\"prompt\":27,\"output\":9}\n";
    std::fs::write(&path, text).unwrap();
    let (report, records) = measure(&url, &format!("--trace {}", path.display())).await;
    assert_eq!(report.loads[0].load, Load::Trace);
    assert_eq!(records[0].iter().map(|r| r.due).collect::<Vec<_>>(), [0.0, 0.3]);
    let asked: Vec<Value> =
        bodies.lock().unwrap().iter().map(|b| b["max_tokens"].clone()).collect();
    assert_eq!(asked, [json!(9), json!(3)]);
    let out = dir.path().join("records.jsonl");
    super::record::write(&out, &records).unwrap();
    let lines: Vec<Value> = std::fs::read_to_string(out)
        .unwrap()
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert_eq!(
        (lines.len(), &lines[1]["load"], &lines[1]["ending"]),
        (2, &json!(0), &json!("complete"))
    );
    assert_eq!(lines[1]["chunks"].as_array().unwrap().len(), CHUNKS);
}

#[tokio::test]
async fn a_server_that_is_not_there_is_an_error() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    drop(listener);
    let error = |more: &'static str| {
        let options = options(&url, more);
        async move { format!("{:#}", super::measure(&options).await.err().unwrap()) }
    };
    assert!(error("").await.contains("--model NAME is needed: /v1/models: connect"));
    assert!(error("--model x").await.contains("/v1/completions: connect"));
}

#[test]
fn wrong_options_are_named() {
    for (more, says) in [
        ("--rate 0", "--rate 0"),
        ("--rate NaN", "--rate NaN"),
        ("--clients 0", "--clients 0"),
        ("--clients none", "need a value"),
        ("--requests 0", "--requests 0"),
        ("--requests 1000000000", "from 1 to 100000"),
        ("--duration inf", "--duration inf"),
        ("--timeout 0", "--timeout 0"),
        ("--shared-fraction 1.5", "--shared-fraction 1.5"),
        ("--cancel-fraction 1.5", "--cancel-fraction 1.5"),
        ("--temperature NaN", "--temperature NaN"),
        ("--tokens-per-word 0", "--tokens-per-word 0"),
        ("--max-model-len 1", "--max-model-len 1"),
        ("--ttft NaN", "--ttft NaN"),
    ] {
        let error = options("http://x", more).check().unwrap_err().to_string();
        assert!(error.contains(says), "{more}: {error}");
    }
}

/// A complete request that was due at 0 and whose chunks came at these times.
fn record(chunks: &[f64], output_tokens: u64) -> Record {
    Record {
        request: 0,
        wanted_prompt: 8,
        wanted_output: 4,
        due: 0.0,
        sent: 0.0,
        ended: chunks.last().copied().unwrap_or(0.0),
        retries: 0,
        ending: Ending::Complete,
        prompt_tokens: Some(10),
        cached_tokens: None,
        output_tokens: Some(output_tokens),
        chunks: chunks.to_vec(),
    }
}

#[test]
fn goodput_counts_what_met_every_part_of_the_objective() {
    let slo = Slo { ttft: 1.0, itl: 0.5, tpot: None };
    let records = [
        // Both limits met exactly.
        record(&[1.0, 1.5, 2.0], 4),
        // One gap too long.
        record(&[0.5, 0.6, 1.2], 3),
        // The first token too late.
        record(&[1.25, 1.5], 2),
        Record { ending: Ending::TimedOut, ..record(&[0.5], 1) },
        // One chunk has no gap.
        record(&[4.0], 9),
    ];
    let load = Load::Open { rate: 1.0 };
    let figures = Figures::new(load, &records, 1, &slo);
    assert_eq!((figures.complete, figures.seconds), (4, 4.0));
    assert_eq!(figures.goodput.requests, 1);
    assert_eq!((figures.goodput.share, figures.goodput.tokens_per_second), (0.2, 1.0));
    assert_eq!(figures.output_tokens_per_second, 18.0 / 4.0);
    assert_eq!(figures.prompt_tokens_per_second, 40.0 / 4.0);
    let strict = Slo { tpot: Some(0.33), ..slo };
    // (2.0 - 1.0) / 3 tokens after the first.
    assert_eq!(Figures::new(load, &records, 1, &strict).goodput.requests, 0);
    let slow = Slo { ttft: 9.0, itl: 9.0, tpot: None };
    assert_eq!(Figures::new(load, &records, 1, &slow).goodput.requests, 4);
    assert_eq!(Figures::new(load, &[], 0, &slo).goodput.share, 0.0);
}

#[test]
fn percentiles_are_interpolated_as_numpy_does() {
    let spread = Spread::of((0..=100).rev().map(f64::from)).unwrap();
    let expected = Spread { mean: 50.0, p50: 50.0, p95: 95.0, p99: 99.0, max: 100.0 };
    assert_eq!(spread, expected);
    // numpy.percentile([1, 2, 4], [50, 95]) gives 2 and 3.8.
    let spread = Spread::of([4.0, 1.0, 2.0].into_iter()).unwrap();
    assert!(spread.p50 == 2.0 && (spread.p95 - 3.8).abs() < 1e-12);
    assert_eq!(Spread::of(std::iter::empty()), None);
}
