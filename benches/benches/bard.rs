//! The small embedded model from end to end: its forward, its tokenizer, its perplexity.

use std::hint::black_box;
use std::time::Duration;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use eval::{Limits, ModelLogits, Protocol, Task};
use model::{Batch, Model, Outputs};
use tensor::DType;
use tensor::kv::{KvCache, SeqId};
use tokenizer::{DecodeOptions, EncodeOptions, Tokenizer};

fn asset(name: &str) -> std::path::PathBuf {
    std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../assets").join(name)
}

fn forward(c: &mut Criterion) {
    let model = Model::open(asset("bard-f16.gguf")).expect("it is embedded");
    let mut group = c.benchmark_group("bard forward");
    group.measurement_time(Duration::from_secs(2)).sample_size(20);
    for (name, sequences, rows) in
        [("prefill 128", 1, 128), ("decode", 1, 1), ("decode 16 together", 16, 1)]
    {
        let mut batch = Batch::new();
        for seq in 0..sequences {
            batch.extend(SeqId(seq), &vec![7; rows]);
        }
        let outputs = Outputs::last_logits(&batch);
        let mut cache = model.new_cache(DType::F16, batch.len()).expect("a cache");
        group.throughput(Throughput::Elements(batch.len() as u64));
        group.bench_function(name, |b| {
            b.iter(|| {
                (0..sequences).for_each(|seq| cache.remove(SeqId(seq)));
                model.forward(black_box(&batch), &mut cache, &outputs).expect("it fits")
            });
        });
    }
    group.finish();
}

fn text(c: &mut Criterion) {
    let tokenizer = Tokenizer::from_path(asset("bard-f16.gguf")).expect("it has one");
    let text = std::fs::read_to_string(asset("shakespeare-heldout.txt")).expect("it is there");
    let text = text.get(..16_384).unwrap_or(&text);
    let ids = tokenizer.encode(text, EncodeOptions::default()).expect("ids");
    let mut group = c.benchmark_group("bard tokenizer");
    group.measurement_time(Duration::from_secs(1)).throughput(Throughput::Bytes(text.len() as u64));
    group.bench_function("encode", |b| {
        b.iter(|| tokenizer.encode(black_box(text), EncodeOptions::default()).expect("ids"));
    });
    group.bench_function("decode", |b| {
        b.iter(|| tokenizer.decode(black_box(&ids), DecodeOptions::default()).expect("text"));
    });
    group.finish();

    let model = Model::open(asset("bard-f16.gguf")).expect("it is embedded");
    let task = Task {
        tokens: &ids[..1024.min(ids.len())],
        protocol: Protocol::Window { context: 128 },
        bos: None,
        tokenizer: "",
        limits: Limits::default(),
    };
    let mut group = c.benchmark_group("bard perplexity");
    group.measurement_time(Duration::from_secs(3)).sample_size(10);
    group.throughput(Throughput::Elements(task.tokens.len() as u64));
    group.bench_function("windows of 128", |b| {
        b.iter(|| {
            let mut source = ModelLogits::new(&model).expect("a decoder");
            eval::perplexity(&mut source, black_box(&task), &mut |_| {}).expect("a figure")
        });
    });
    group.finish();
}

criterion_group!(benches, forward, text);
criterion_main!(benches);
