//! Requests made to hurt, over HTTP: refused within 100 ms and 32 MiB, while streams beside them stay
//! what they are and the engine steps.

mod common;

use std::time::{Duration, Instant};

use common::{Answer, Beside, Server, alone, post, post_bytes, start, with};
use serde_json::{Value, json};
use serve::http::HttpConfig;
use testkit::bounds::PeakAlloc;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

#[global_allocator]
static ALLOCATOR: PeakAlloc = PeakAlloc;

const TIME: Duration = Duration::from_millis(100);
/// For the streams beside the request and for the client, which is in the same process, too.
const MEMORY: usize = 32 << 20;
/// Of so many tries one must be in time: the machine may have other work to do.
const TRIES: usize = 20;

const COMPLETIONS: &str = "/v1/completions";
const CHAT: &str = "/v1/chat/completions";
const RESPONSES: &str = "/v1/responses";
const EMBEDDINGS: &str = "/v1/embeddings";

async fn server() -> Server {
    let template = "{% for m in messages %}[{{ m.role }}] {{ m.content }}\n{% endfor %}";
    let server =
        start(HttpConfig { chat_template: Some(template.into()), ..HttpConfig::default() }).await;
    // What is made once, by the first who asks for a structure.
    let first = completion(json!({"guided_regex": "a"}));
    server.client.post(COMPLETIONS, &first).await.ok();
    server
}

fn completion(more: Value) -> Value {
    with(json!({"model": "bard", "prompt": "x", "max_tokens": 2}), more)
}

fn chat(more: Value) -> Value {
    let messages = json!([{"role": "user", "content": "x"}]);
    with(json!({"model": "bard", "messages": messages, "max_tokens": 2}), more)
}

/// The answer to a request, which comes in time and takes little; the engine steps afterwards.
async fn cheap(server: &Server, name: &str, request: &[u8]) -> Answer {
    let mut times = Vec::new();
    loop {
        let before = ALLOCATOR.current_usage();
        ALLOCATOR.reset_peak_usage();
        let began = Instant::now();
        let answer = server.client.send(request).await;
        times.push(began.elapsed());
        let memory = ALLOCATOR.peak_usage().saturating_sub(before);
        assert!(memory < MEMORY, "{name}: {memory} bytes");
        assert_eq!(server.client.get("/health").await.status, 200, "{name}");
        if times.last() < Some(&TIME) {
            let mebibytes = memory as f64 / 1048576.0;
            println!("{name:40} {:>9.1?} {mebibytes:>5.1} MiB", times[times.len() - 1]);
            return answer;
        }
        assert!(times.len() < TRIES, "{name}: {times:?}");
    }
}

/// Requests of which each is refused with this status and, where it is about a field, for it.
async fn refused(requests: Vec<(String, Vec<u8>, u16, Option<&str>)>) {
    let _alone = alone().await;
    let server = server().await;
    let idle = server.idle().await;
    let beside = Beside::start(server.client).await;
    let mut steps = server.engine.snapshot().await.unwrap().steps;
    for (name, request, status, param) in requests {
        let answer = cheap(&server, &name, &request).await;
        assert_eq!(answer.status, status, "{name}: {}", answer.text());
        assert!(answer.body.len() < 1000, "{name}: {}", answer.text());
        let error = answer.error(status);
        if let Some(param) = param {
            assert_eq!(error["param"], param, "{name}: {error}");
        }
        let now = server.engine.snapshot().await.unwrap().steps;
        assert!(now >= steps);
        steps = now;
    }
    let streams = beside.ends_well().await;
    println!("{streams} streams beside");
    assert!(server.engine.snapshot().await.unwrap().steps > steps);
    assert_eq!(server.engine.restarts(), 0);
    server.lets_go(idle, Duration::from_secs(1)).await;
    server.ends_well().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bodies_that_are_no_request() {
    let mut requests = Vec::new();
    let long = |byte: u8| [br#"{"model":"bard","prompt":""#.to_vec(), vec![byte; 9 << 20]].concat();
    for path in [COMPLETIONS, CHAT, RESPONSES, EMBEDDINGS] {
        let mut add = |name: &str, body: Vec<u8>, status| {
            requests.push((format!("{path}, {name}"), post_bytes(path, &body), status, None));
        };
        add("[ x 3000", b"[".repeat(3000), 400);
        add("{ x 3000", br#"{"prompt":"#.repeat(3000), 400);
        add("8 MiB of [", b"[".repeat(8 << 20), 400);
        add("8 MiB of commas", b",".repeat(8 << 20), 400);
        add("9 MiB", long(b'a'), 413);
        add("nothing", Vec::new(), 400);
        add("NUL", b"\0".to_vec(), 400);
        add("NUL in a text", b"{\"model\": \"bard\", \"prompt\": \"\0\"}".to_vec(), 400);
        add("no UTF-8", b"{\"model\": \"bard\", \"prompt\": \"\xff\"}".to_vec(), 400);
        for surrogate in [r"\ud800", r"\udc00", r"\ud800\u0041", r"\udc00\ud800"] {
            let body = format!(r#"{{"model": "bard", "prompt": "{surrogate}"}}"#);
            add(surrogate, body.into_bytes(), 400);
            add("a key of it", format!(r#"{{"{surrogate}": 1}}"#).into_bytes(), 400);
        }
        add("NaN", br#"{"model": "bard", "temperature": NaN}"#.to_vec(), 400);
        add("1e999", br#"{"model": "bard", "temperature": 1e999}"#.to_vec(), 400);
        let many = r#""a","#.repeat(1_000_000);
        let many = format!(r#"{{"model":"bard","prompt":[{many}"a"]}}"#);
        add("10^6 prompts", many.into_bytes(), 400);
        // Hardly less, and as much, as the limits let through.
        let all = |texts: &[String]| {
            let (messages, input) = (texts.join(","), texts.join(","));
            format!(r#"{{"model":"bard","messages":[{messages}],"input":[{input}]}}"#).into_bytes()
        };
        add("80,000 objects", all(&vec![r#"{"a":0}"#.to_owned(); 40_000]), 400);
        add("20,000 objects", all(&vec![r#"{"a":0}"#.to_owned(); 10_000]), 400);
        add("40,000 arrays", all(&vec!["[0]".to_owned(); 20_000]), 400);
        for keys in [60_000, 120_000] {
            let keys: Vec<String> = (0..keys).map(|n| format!(r#""{n}":0"#)).collect();
            add("keys", format!("{{{}}}", keys.join(",")).into_bytes(), 400);
        }
    }
    let escaped = |text: &str| {
        let texts = text.repeat((8 << 20) / text.len() - 100);
        format!(r#"{{"model":"bard","prompt":"{texts}"}}"#)
    };
    for text in ["aaaaaa", r"\u0061"] {
        let name = format!("8 MiB of {text}");
        requests.push((name, post(COMPLETIONS, &escaped(text)).into_bytes(), 400, Some("prompt")));
    }
    refused(requests).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn values_out_of_range() {
    let mut requests = Vec::new();
    let both = [
        (json!({"n": 1_000_000_000}), "n"),
        (json!({"n": 0}), "n"),
        (json!({"n": 100}), "n"),
        (json!({"best_of": 1_000_000_000}), "best_of"),
        (json!({"min_tokens": 3}), "min_tokens"),
        (json!({"min_tokens": 1u64 << 63}), "min_tokens"),
        (json!({"max_tokens": 1u64 << 63}), "max_tokens"),
        (json!({"max_tokens": -1}), "max_tokens"),
        (json!({"max_tokens": 0}), "max_tokens"),
        (json!({"prompt_logprobs": 10_000}), "prompt_logprobs"),
        (json!({"temperature": "NaN"}), "temperature"),
        (json!({"temperature": -1}), "temperature"),
        (json!({"temperature": 1e30}), "temperature"),
        (json!({"model": "../../etc/passwd"}), "model"),
        (json!({"model": "bard/../bard"}), "model"),
        (json!({"model": "bard\0"}), "model"),
        (json!({"model": ""}), "model"),
        (json!({"model": "x".repeat(1 << 20)}), "model"),
        (json!({"request_id": "a\0"}), "request_id"),
        (json!({"stop": vec!["x"; 100_000]}), "stop"),
        (json!({"logit_bias": {"4000000000": 1}}), "logit_bias"),
        (json!({"cache_salt": "x".repeat(1 << 20)}), "cache_salt"),
    ];
    for (more, param) in both {
        let status = if param == "model" { 404 } else { 400 };
        for (path, body) in [(COMPLETIONS, completion(more.clone())), (CHAT, chat(more.clone()))] {
            let name: String = format!("{path}, {more}").chars().take(80).collect();
            let request = post(path, &body.to_string()).into_bytes();
            requests.push((name, request, status, Some(param)));
        }
    }
    for (path, body, param) in [
        (COMPLETIONS, completion(json!({"max_tokens": 1_000_000})), "prompt"),
        (COMPLETIONS, completion(json!({"logprobs": 10_000})), "logprobs"),
        (COMPLETIONS, completion(json!({"prompt": vec!["x"; 10_000]})), "prompt"),
        (COMPLETIONS, completion(json!({"prompt": vec![vec![1]; 10_000]})), "prompt"),
        (COMPLETIONS, completion(json!({"prompt": vec![1; 200_000]})), "prompt"),
        (COMPLETIONS, completion(json!({"prompt": [-1]})), "prompt[0]"),
        (COMPLETIONS, completion(json!({"prompt": [1 << 30]})), "prompt"),
        (CHAT, chat(json!({"logprobs": true, "top_logprobs": 10_000})), "top_logprobs"),
        (CHAT, chat(json!({"chat_template": "{{ 1 }}"})), "chat_template"),
    ] {
        let name: String = format!("{path}, {body}").chars().take(80).collect();
        requests.push((name, post(path, &body.to_string()).into_bytes(), 400, Some(param)));
    }
    refused(requests).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn structures_that_explode() {
    let mut requests = Vec::new();
    for (more, param) in [
        (json!({"guided_grammar": "(".repeat(60_000)}), "structured_outputs"),
        (json!({"structured_outputs": {"grammar": "(".repeat(60_000)}}), "structured_outputs"),
        (json!({"guided_regex": "(".repeat(60_000)}), "structured_outputs"),
    ] {
        for (path, body) in [(COMPLETIONS, completion(more.clone())), (CHAT, chat(more.clone()))] {
            let name: String = format!("{path}, {more}").chars().take(80).collect();
            requests.push((name, post(path, &body.to_string()).into_bytes(), 400, Some(param)));
        }
    }
    refused(requests).await;
}

/// What is strange and can be answered is answered.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn strange_requests_that_are_none_the_worse() {
    let _alone = alone().await;
    let server = server().await;
    let (idle, beside) = (server.idle().await, Beside::start(server.client).await);
    for (path, body) in [
        (COMPLETIONS, completion(json!({"prompt": "a\0b", "stop": "\0", "user": "\0"}))),
        (CHAT, chat(json!({"messages": [{"role": "user", "content": "<|im_end|>\0</s>"}]}))),
        (COMPLETIONS, completion(json!({"guided_regex": "(a+)+$"}))),
        (COMPLETIONS, completion(json!({"guided_regex": "((a{1,1000}){1,1000}){1,1000}"}))),
        (COMPLETIONS, completion(json!({"guided_regex": "a{1000000000}"}))),
        (COMPLETIONS, completion(json!({"guided_regex": "(a|b)*a(a|b){1,900}c"}))),
    ] {
        let name = body.to_string();
        let answer = cheap(&server, &name, post(path, &name).as_bytes()).await;
        let tokens = answer.ok()["usage"]["completion_tokens"].as_u64().unwrap();
        assert!((1..=2).contains(&tokens), "{name}: {tokens}");
    }
    // Two of one id, at once: ids name requests to people, not to the engine.
    let twin = |seed: u32| {
        let more =
            json!({"request_id": "mine", "seed": seed, "max_tokens": 40, "ignore_eos": true});
        completion(more)
    };
    let ask = |seed| async move { server.client.post(COMPLETIONS, &twin(seed)).await.ok() };
    let alone = [ask(1).await, ask(2).await];
    let (first, second) = tokio::join!(ask(1), ask(2));
    for (together, alone) in [first, second].iter().zip(&alone) {
        assert_eq!(together["choices"], alone["choices"]);
        assert_eq!(together["id"], "cmpl-mine");
    }
    beside.ends_well().await;
    server.lets_go(idle, Duration::from_secs(1)).await;
    server.ends_well().await;
}

/// A prefix is found by those of the same salt alone.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn salts_keep_prefixes_apart() {
    let _alone = alone().await;
    let server = server().await;
    let prompt = "What is done cannot be undone. ".repeat(12);
    let cached = |salt: Option<&'static str>| {
        let mut body = completion(json!({"prompt": prompt, "temperature": 0}));
        if let Some(salt) = salt {
            body["cache_salt"] = salt.into();
        }
        async move {
            let answer = server.client.post(COMPLETIONS, &body).await.ok();
            let tokens = answer["usage"]["prompt_tokens_details"]["cached_tokens"].as_u64();
            (answer["choices"].clone(), tokens.unwrap())
        }
    };
    let (text, tokens) = cached(None).await;
    assert_eq!(tokens, 0);
    for (salt, found) in
        [(None, true), (Some("a"), false), (Some("a"), true), (Some("b"), false), (None, true)]
    {
        let (same, tokens) = cached(salt).await;
        assert_eq!(tokens > 0, found, "{salt:?}");
        assert_eq!(same, text);
    }
    server.ends_well().await;
}

/// So many schemas that none is asked for twice: what is kept of them is bounded.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_thousand_schemas() {
    let _alone = alone().await;
    let server = server().await;
    let idle = server.idle().await;
    let beside = Beside::start(server.client).await;
    let began = Instant::now();
    flood(&server, 0..1000).await;
    let before = ALLOCATOR.current_usage();
    flood(&server, 1000..10_000).await;
    let grown = ALLOCATOR.current_usage().saturating_sub(before);
    println!("{:?}, grown by {grown} bytes, {} streams", began.elapsed(), beside.ends_well().await);
    assert!(grown < 4 << 20, "{grown} bytes");
    server.lets_go(idle, Duration::from_secs(1)).await;
    server.ends_well().await;
}

/// Each is compiled, and then its request refused: its answer would be too long.
async fn flood(server: &Server, schemas: std::ops::Range<usize>) {
    let lines: Vec<String> = schemas
        .map(|n| {
            let schema = json!({"type": "object", "properties": {
                format!("p{n}"): {"type": "string", "maxLength": n % 50 + 1}}});
            let more = json!({"guided_json": schema, "max_tokens": 1_000_000});
            let request = post(COMPLETIONS, &completion(more).to_string());
            request.replace("connection: close\r\n", "")
        })
        .collect();
    let all = lines.chunks(lines.len().div_ceil(4)).map(|lines| {
        // One after the other on a connection, without waiting for answers.
        let mut requests = lines.concat().into_bytes();
        requests.extend(common::get("/health").into_bytes());
        async move {
            let mut stream = server.client.connect().await;
            let (mut read, mut write) = stream.split();
            let mut answers = String::new();
            let both = tokio::join!(write.write_all(&requests), read.read_to_string(&mut answers));
            assert!(both.0.is_ok() && both.1.is_ok(), "{both:?}");
            assert_eq!(answers.matches("context_length_exceeded").count(), lines.len());
            assert!(answers.ends_with(r#"{"status":"ok","models":1}"#));
        }
    });
    futures_util::future::join_all(all).await;
}

/// Heads that are wrong: an error or a closed connection, and nothing kept.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_hardly_http() {
    let _alone = alone().await;
    let server = server().await;
    let (idle, beside) = (server.idle().await, Beside::start(server.client).await);
    let body = completion(json!({})).to_string();
    let headed = |head: &str| format!("POST {COMPLETIONS} HTTP/1.1\r\nhost: x\r\n{head}\r\n{body}");
    let length = body.len();
    for (name, request) in [
        ("nothing of the kind", b"\0\x01\x02\r\n\r\n".to_vec()),
        ("HTTP/2", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec()),
        ("TLS", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n".to_vec()),
        ("NUL in a head", b"GET / HTTP/1.1\r\nhost: \0\r\n\r\n".to_vec()),
        ("NUL in a path", b"GET /\0 HTTP/1.1\r\nhost: x\r\n\r\n".to_vec()),
        ("a long path", format!("GET /{} HTTP/1.1\r\n\r\n", "a".repeat(1 << 20)).into_bytes()),
        (
            "many heads",
            format!("GET / HTTP/1.1\r\n{}\r\n", "a: b\r\n".repeat(100_000)).into_bytes(),
        ),
        ("a long head", headed(&format!("x: {}\r\n", "a".repeat(1 << 20))).into_bytes()),
        ("a length below 0", headed("content-length: -1\r\n").into_bytes()),
        ("a length of 2^64", headed("content-length: 18446744073709551616\r\n").into_bytes()),
        ("a length of 2^63", headed("content-length: 9223372036854775808\r\n").into_bytes()),
        (
            "two lengths",
            headed(&format!("content-length: {length}\r\ncontent-length: 1\r\n")).into_bytes(),
        ),
        ("a wrong chunk", headed("transfer-encoding: chunked\r\n").into_bytes()),
        ("an unknown encoding", headed("transfer-encoding: zip\r\n").into_bytes()),
    ] {
        let began = Instant::now();
        let mut stream = server.client.connect().await;
        let (mut read, mut write) = stream.split();
        let mut answer = Vec::new();
        let both = async { tokio::join!(write.write_all(&request), read.read_to_end(&mut answer)) };
        let ended = tokio::time::timeout(Duration::from_secs(10), both).await;
        assert!(ended.is_ok(), "{name}: not closed");
        let status = Answer::of(&answer).map_or(0, |answer| answer.status);
        println!("{name:40} {status} {:?}", began.elapsed());
        assert!(answer.is_empty() || (400..500).contains(&status), "{name}: {status}");
    }
    // A length and chunks: the chunks count, and what follows them is no second request.
    let chunk = format!("{length:x}\r\n{body}\r\n0\r\n\r\n");
    let head = "content-length: 5\r\ntransfer-encoding: chunked\r\nconnection: close\r\n";
    let both = format!("POST {COMPLETIONS} HTTP/1.1\r\nhost: x\r\n{head}\r\n{chunk}");
    let smuggled = format!("{both}GET /metrics HTTP/1.1\r\nhost: x\r\n\r\n");
    let answer = server.client.ask(&smuggled).await;
    assert_eq!(answer.matches("HTTP/1.1 ").count(), 1, "{answer}");
    beside.ends_well().await;
    server.lets_go(idle, Duration::from_secs(3)).await;
    server.ends_well().await;
}
