//! What a server does around the model: a chat request read, a chunk of an answer written, the mask of a
//! grammar, and answers to 1 and 8 requests at once from the embedded model.

use std::hint::black_box;
use std::sync::Arc;
use std::time::Duration;

use constrain::{Compiler, Grammar, Limits};
use criterion::{BatchSize, BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use engine::{Engine, EngineConfig, GenerationRequest};
use futures_util::future::join_all;
use model::Model;
use openai_api::{ChatChunk, ChatRequest, ChunkChoice, Delta, JsonLimits, Message, Role, sse};
use serde_json::json;
use tokenizer::{EncodeOptions, Tokenizer};

fn asset(name: &str) -> std::path::PathBuf {
    std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../assets").join(name)
}

fn tokenizer() -> Arc<Tokenizer> {
    Arc::new(Tokenizer::from_path(asset("bard-f16.gguf")).expect("it has one"))
}

fn api(c: &mut Criterion) {
    let request = ChatRequest {
        model: "bard".to_owned(),
        messages: vec![Message::new(Role::User, "To be, or not to be? ".repeat(200)); 4],
        max_tokens: Some(128),
        ..Default::default()
    };
    let body = serde_json::to_vec(&request).expect("JSON");
    let delta = Delta { content: Some(" question".to_owned()), ..Default::default() };
    let chunk = ChatChunk {
        id: "chatcmpl-0123456789abcdef".to_owned(),
        object: ChatChunk::OBJECT.to_owned(),
        created: 1_700_000_000,
        model: "bard".to_owned(),
        choices: vec![ChunkChoice { delta, ..Default::default() }],
        system_fingerprint: None,
        usage: None,
        prompt_token_ids: None,
    };
    let mut group = c.benchmark_group("api");
    group.measurement_time(Duration::from_secs(1)).throughput(Throughput::Bytes(body.len() as u64));
    group.bench_function("chat request", |b| {
        b.iter(|| ChatRequest::parse(black_box(&body), JsonLimits::default()).expect("valid"));
    });
    group.throughput(Throughput::Elements(1));
    group.bench_function("chat chunk", |b| b.iter(|| sse::frame(black_box(&chunk))));
    group.finish();
}

fn grammar(c: &mut Criterion) {
    let tokenizer = tokenizer();
    let compiler = Compiler::new(&tokenizer, Limits::default()).expect("a compiler");
    let schema = Grammar::JsonSchema(json!({
        "type": "object",
        "properties": {"name": {"type": "string"}, "acts": {"type": "integer"}},
        "required": ["name", "acts"],
        "additionalProperties": false,
    }));
    // As within a string: most tokens may follow.
    let words = Grammar::Regex("[A-Za-z ,.!?]*".to_owned());
    let mut constraint = compiler.compile(&words).expect("a grammar");
    let logits = vec![0.0; tokenizer.vocab_size()];
    let mut group = c.benchmark_group("grammar");
    group.measurement_time(Duration::from_secs(1));
    group.bench_function("compile a schema", |b| {
        b.iter(|| compiler.compile(black_box(&schema)).expect("a grammar"));
    });
    group.bench_function("mask of words", |b| {
        b.iter_batched_ref(
            || logits.clone(),
            |logits| constraint.mask(logits).expect("a mask"),
            BatchSize::SmallInput,
        );
    });
    group.finish();
}

fn answers(c: &mut Criterion) {
    const TOKENS: usize = 32;
    let tokenizer = tokenizer();
    let prompt = tokenizer.encode("The king", EncodeOptions::default()).expect("ids");
    let model = Model::open(asset("bard-f16.gguf")).expect("it is embedded");
    let engine =
        Engine::start("bard", model, tokenizer, EngineConfig::default()).expect("an engine");
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    let mut group = c.benchmark_group("engine");
    group.measurement_time(Duration::from_secs(3)).sample_size(10);
    for together in [1, 8] {
        group.throughput(Throughput::Elements((together * TOKENS) as u64));
        group.bench_function(BenchmarkId::new("answers", together), |b| {
            b.iter(|| {
                let all = (0..together).map(|_| {
                    let mut request = GenerationRequest::new(prompt.clone());
                    request.stop.max_tokens = Some(TOKENS);
                    request.stop.ignore_eos = true;
                    let mut answer = engine.submit(request).expect("room");
                    async move { while answer.next().await.is_some() {} }
                });
                runtime.block_on(join_all(all));
            });
        });
    }
    group.finish();
}

criterion_group!(benches, api, grammar, answers);
criterion_main!(benches);
