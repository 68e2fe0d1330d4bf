//! Opening a GGUF file: header, a vocabulary of 128,256 tokens and 291 tensors.

use std::time::Duration;

use blocks::DType;
use criterion::{Criterion, criterion_group, criterion_main};
use gguf::{Builder, Gguf, Value};

fn open(c: &mut Criterion) {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("model.gguf");
    let tokens: Vec<String> = (0..128_256).map(|i| format!("token {i:x}")).collect();
    let mut builder = Builder::new();
    builder
        .set("general.architecture", "llama")
        .set("tokenizer.ggml.tokens", Value::from(tokens))
        .set("tokenizer.ggml.token_type", Value::from(vec![1i32; 128_256]));
    for i in 0..291 {
        builder
            .tensor(format!("blk.{i}.weight"), vec![32, 256], DType::Q4_K)
            .expect("whole blocks");
    }
    let mut writer = builder.create(&path).expect("a file");
    for i in 0..291 {
        writer.tensor(&format!("blk.{i}.weight"), &[0; 32 * 144]).expect("written");
    }
    writer.commit().expect("renamed");

    let mut group = c.benchmark_group("gguf");
    group.measurement_time(Duration::from_secs(3));
    group.bench_function("open, 128 k vocabulary", |b| {
        b.iter(|| Gguf::open(&path).expect("it was written"));
    });
    group.finish();
}

criterion_group!(benches, open);
criterion_main!(benches);
