//! What goes wrong while a server works, made to go wrong: clients that vanish or do not read, too many
//! of them, a cache that is full, logits that are no numbers, a worker that panics.

mod common;

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use common::{Answer, Beside, Server, alone, bard, engine_of, post, start_over, start_with, with};
use engine::EngineConfig;
use engine::snapshot::{SequenceState, SequenceView};
use futures_util::future::join_all;
use serde_json::{Value, json};
use serve::http::HttpConfig;
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpSocket;

const COMPLETIONS: &str = "/v1/completions";
const SECOND: Duration = Duration::from_secs(1);

/// A stream of so many tokens.
fn stream(prompt: &str, tokens: usize) -> Value {
    json!({"model": "bard", "prompt": prompt, "max_tokens": tokens, "ignore_eos": true,
        "temperature": 0, "stream": true})
}

async fn server_of(engine: EngineConfig) -> Server {
    start_with(HttpConfig::default(), engine).await
}

fn blocks(blocks: u32, block_size: usize) -> EngineConfig {
    let mut config = EngineConfig::default();
    (config.kv.blocks, config.kv.block_size) = (blocks, block_size);
    config
}

/// Waits until the engine's first sequence is as wanted.
async fn first(server: &Server, wanted: impl Fn(&SequenceView) -> bool) -> SequenceView {
    let found = async {
        loop {
            let sequences = server.engine.snapshot().await.unwrap().sequences;
            if let Some(first) = sequences.into_iter().next().filter(&wanted) {
                return first;
            }
        }
    };
    tokio::time::timeout(20 * SECOND, found).await.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_vanishes_gives_everything_back() {
    let _alone = alone().await;
    let small_steps =
        EngineConfig { max_sequences: 3, max_batch_tokens: 16, ..EngineConfig::default() };
    let server = server_of(small_steps).await;
    let idle = server.idle().await;

    // In the middle of an answer, which is streamed, or gathered.
    for streamed in [true, false] {
        let body = with(stream("ROMEO:", 240), json!({"stream": streamed}));
        let client = server.client.begin(COMPLETIONS, &body).await;
        first(&server, |s| s.generated >= 5).await;
        drop(client);
        server.lets_go(idle, SECOND).await;
    }

    // In the queue.
    let mut running = Vec::new();
    for _ in 0..3 {
        running.push(server.client.begun(COMPLETIONS, &stream("ROMEO:", 240)).await);
    }
    let prompts = async || server.engine.snapshot().await.unwrap().tokens.prompt;
    let before = prompts().await;
    let mut queued = Vec::new();
    for streamed in [true, true, false] {
        let body = with(stream("Whom nobody hears,", 240), json!({"stream": streamed}));
        queued.push(server.client.begin(COMPLETIONS, &body).await);
    }
    server.has((3, 3)).await;
    drop(queued);
    tokio::time::timeout(SECOND, server.has((0, 3))).await.unwrap();
    for client in running {
        assert!(!Answer::on(client).await.streamed().is_empty());
    }
    assert_eq!(prompts().await, before, "those in the queue were scheduled");
    server.lets_go(idle, SECOND).await;

    // In the prompt, which takes more than a dozen steps.
    let mut met = false;
    for name in ["LEONTES", "HERMIONE", "PERDITA", "CAMILLO", "PAULINA", "FLORIZEL"] {
        let prompt = format!("{name}:\n{}", "O, my lord, the night is long. ".repeat(20));
        let client = server.client.begin(COMPLETIONS, &stream(&prompt, 10)).await;
        met |= first(&server, |s| s.computed > 0).await.state == SequenceState::Prefill;
        drop(client);
        server.lets_go(idle, SECOND).await;
    }
    assert!(met, "no prompt was met while it was computed");
    server.ends_well().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reader_that_stops_reading_is_let_go() {
    let _alone = alone().await;
    let server = server_of(EngineConfig { max_unread: 256, ..blocks(1024, 16) }).await;
    let idle = server.idle().await;
    let beside = Beside::start(server.client).await;
    // More than sockets hold: forty answers, each token with twenty others.
    let large = with(stream("ROMEO:", 240), json!({"n": 40, "logprobs": 20, "temperature": 1}));
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(4 << 10).unwrap();
    let mut client = socket.connect(server.client.0).await.unwrap();
    client.write_all(post(COMPLETIONS, &large.to_string()).as_bytes()).await.unwrap();
    let began = Instant::now();
    let mut most = 0;
    loop {
        let running = server.engine.snapshot().await.unwrap().running;
        most = most.max(running);
        if most >= 40 && running <= 1 {
            break;
        }
        assert!(began.elapsed() < Duration::from_secs(60), "{running} of {most} still run");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    println!("let go after {:?}", began.elapsed());
    // Who comes back to it reads what was kept, and why there is no more.
    let answer = Answer::on(client).await;
    let error = answer.failure();
    assert_eq!(error["type"], "server_error");
    assert!(answer.events().len() < 40 * 240, "everything was kept");
    println!("{} KiB were kept; {error}", answer.body.len() >> 10);
    beside.ends_well().await;
    server.lets_go(idle, SECOND).await;
    server.ends_well().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_cache_preempts_and_nobody_notices() {
    let _alone = alone().await;
    let server = server_of(blocks(40, 8)).await;
    let idle = server.idle().await;
    let names = ["ROMEO", "JULIET", "NURSE", "TYBALT", "MERCUTIO", "BENVOLIO", "PARIS", "SAMPSON"];
    let ask = |name: &str| {
        let body = stream(&format!("{name}:\nMy lord,"), 100);
        async move { server.client.post(COMPLETIONS, &body).await.streamed() }
    };
    let mut alone = Vec::new();
    for name in names {
        alone.push(ask(name).await);
    }
    assert_eq!(server.engine.snapshot().await.unwrap().preemptions, 0);
    assert_eq!(join_all(names.map(ask)).await, alone);
    let preemptions = server.engine.snapshot().await.unwrap().preemptions;
    println!("{preemptions} preemptions");
    assert!(preemptions > 0);
    server.lets_go(idle, SECOND).await;
    server.ends_well().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_never_fits_is_refused_up_front() {
    let _alone = alone().await;
    // 128 positions, half of what the model was made for.
    let server = server_of(blocks(8, 16)).await;
    let idle = server.idle().await;
    let steps = server.engine.snapshot().await.unwrap().steps;
    for (body, code) in [
        (stream(&"O, my lord. ".repeat(40), 1), "context_length_exceeded"),
        (stream("O", 127), "context_length_exceeded"),
        (with(stream("O", 60), json!({"n": 4})), "invalid_value"),
    ] {
        let error = server.client.post(COMPLETIONS, &body).await.error(400);
        assert_eq!(error["code"], code, "{error}");
    }
    assert_eq!(server.engine.snapshot().await.unwrap().steps, steps);
    server.client.post(COMPLETIONS, &stream("O", 100)).await.chunks();
    server.lets_go(idle, SECOND).await;
    server.ends_well().await;
}

/// What clients get who ask again and again.
#[derive(Debug, Default)]
struct Load {
    /// Tokens generated, and the engine's steps and the seconds that it took.
    tokens: u64,
    steps: u64,
    seconds: f64,
    refusals: Vec<Duration>,
    /// The longest queue.
    waiting: usize,
}

/// So many clients, for at least so many steps of the engine.
async fn load(server: &Server, clients: usize, steps: u64) -> Load {
    let (enough, began) = (&AtomicBool::new(false), Instant::now());
    let client = |number: usize| async move {
        let (mut refusals, mut waiting) = (Vec::new(), 0);
        while !enough.load(Ordering::Relaxed) {
            let asked = Instant::now();
            let body = stream(&format!("{number}"), 60);
            let answer = server.client.post(COMPLETIONS, &body).await;
            if answer.status == 200 {
                assert!(!answer.streamed().is_empty());
                continue;
            }
            assert_eq!(answer.error(429)["code"], "overloaded");
            let seconds: u64 = answer.header("retry-after").unwrap().parse().unwrap();
            assert!(seconds >= 1);
            refusals.push(asked.elapsed());
            waiting = waiting.max(server.engine.counts().0);
            // Sooner than it was told to.
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        (refusals, waiting)
    };
    let watch = async {
        let before = server.engine.snapshot().await.unwrap();
        loop {
            tokio::time::sleep(Duration::from_millis(5)).await;
            let now = server.engine.snapshot().await.unwrap();
            if now.steps - before.steps >= steps {
                enough.store(true, Ordering::Relaxed);
                let tokens = now.tokens.generated - before.tokens.generated;
                return (tokens, now.steps - before.steps, began.elapsed().as_secs_f64());
            }
        }
    };
    let (clients, watched) = tokio::join!(join_all((0..clients).map(client)), watch);
    let (tokens, steps, seconds) = watched;
    let waiting = clients.iter().map(|&(_, waiting)| waiting).max().unwrap_or(0);
    let refusals = clients.into_iter().flat_map(|(refusals, _)| refusals).collect();
    Load { tokens, steps, seconds, refusals, waiting }
}

/// What the machine does beside it changes how long a step takes, and not what it brings: so goodput is
/// counted in tokens a step.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_times_the_load() {
    let _alone = alone().await;
    let sequences = 8;
    let config =
        EngineConfig { max_sequences: sequences, max_waiting: sequences, ..blocks(256, 16) };
    let server = server_of(config).await;
    let idle = server.idle().await;
    let peak = load(&server, sequences, 250).await;
    assert!(peak.refusals.is_empty(), "{peak:?}");
    let mut over = load(&server, 10 * sequences, 250).await;
    for Load { tokens, steps, seconds, refusals, .. } in [&peak, &over] {
        let speed = *tokens as f64 / seconds;
        println!("{tokens} tokens, {steps} steps, {speed:.0} a second, {} refused", refusals.len());
    }
    assert!((1..=sequences).contains(&over.waiting), "{} wait", over.waiting);
    let a_step = |load: &Load| load.tokens as f64 / load.steps as f64;
    assert!(a_step(&over) >= 0.9 * a_step(&peak), "{} after {}", a_step(&over), a_step(&peak));
    over.refusals.sort();
    let quick = over.refusals[over.refusals.len() / 10];
    assert!(quick < Duration::from_millis(100), "{quick:?}");
    server.lets_go(idle, SECOND).await;
    server.ends_well().await;
}

/// A copy of the embedded model in which the embedding of one token is no number.
fn poisoned(token: usize) -> tempfile::TempPath {
    let model = gguf::Gguf::open(bard()).unwrap();
    let embeddings = model.tensor("token_embd.weight").unwrap();
    let (file, range) = model.mapped(embeddings);
    let mut bytes = file.bytes().to_vec();
    let rows = tokenizer::Tokenizer::from_path(bard()).unwrap().vocab_size();
    let row = range.len() / rows;
    for element in bytes[range][token * row..(token + 1) * row].chunks_exact_mut(2) {
        element.copy_from_slice(&[0x00, 0x7e]); // NaN in f16
    }
    let path = tempfile::Builder::new().suffix(".gguf").tempfile().unwrap().into_temp_path();
    std::fs::write(&path, bytes).unwrap();
    path
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn logits_that_are_no_numbers_fail_their_request_alone() {
    let _alone = alone().await;
    // The byte 0x07, which no play has.
    let poison = 10;
    let path = poisoned(poison);
    let engine = engine_of(&path, EngineConfig::default());
    let server = start_over(HttpConfig::default(), engine).await;
    let idle = server.idle().await;
    let beside = Beside::start(server.client).await;
    for streamed in [true, false] {
        let ask = |more: Value| {
            let body = with(stream("O", 5), with(more, json!({"stream": streamed})));
            async move { server.client.post(COMPLETIONS, &body).await }
        };
        let bad = json!({"prompt": [1, poison, 300, 301]});
        let (first, second) = tokio::join!(ask(bad.clone()), ask(bad));
        for answer in [first, second] {
            let error = answer.error(500);
            assert_eq!(error["type"], "server_error");
        }
        assert_eq!(ask(json!({"prompt": [1, 300, 301]})).await.status, 200);
    }
    beside.ends_well().await;
    assert_eq!(server.engine.restarts(), 0);
    server.lets_go(idle, SECOND).await;
    server.ends_well().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_that_panics_fails_its_requests_and_comes_back() {
    let _alone = alone().await;
    let server = server_of(EngineConfig { max_sequences: 3, ..EngineConfig::default() }).await;
    let idle = server.idle().await;
    let short = stream("JULIET:", 10);
    let want = server.client.post(COMPLETIONS, &short).await.streamed();
    for restarts in 1..=2 {
        let mut running = Vec::new();
        for _ in 0..3 {
            running.push(server.client.begun(COMPLETIONS, &stream("ROMEO:", 240)).await);
        }
        let mut queued = Vec::new();
        for streamed in [true, false] {
            let body = with(stream("ROMEO:", 240), json!({"stream": streamed}));
            queued.push(server.client.begin(COMPLETIONS, &body).await);
        }
        server.has((2, 3)).await;
        server.engine.panic_for_tests();
        for client in running {
            assert_eq!(Answer::on(client).await.failure()["type"], "server_error");
        }
        for client in queued {
            assert_eq!(Answer::on(client).await.error(500)["type"], "server_error");
        }
        assert_eq!(server.client.get("/health").await.status, 200);
        assert_eq!(server.client.post(COMPLETIONS, &short).await.streamed(), want);
        assert_eq!(server.engine.restarts(), restarts);
        server.lets_go(idle, SECOND).await;
    }
    server.ends_well().await;
}
