//! A token from a row of 32,000 and of 128,256 logits, with each part of the chain.

use std::hint::black_box;
use std::time::Duration;

use criterion::{Criterion, criterion_group, criterion_main};
use sampling::{Sampler, SamplingParams};

fn sampler(c: &mut Criterion) {
    let plain = SamplingParams { temperature: 0.8, seed: Some(1), ..Default::default() };
    let chains = [
        ("greedy", SamplingParams { temperature: 0.0, ..plain.clone() }),
        ("temperature", plain.clone()),
        ("top-k 40", SamplingParams { top_k: 40, ..plain.clone() }),
        ("top-p 0.95", SamplingParams { top_p: 0.95, ..plain.clone() }),
        ("min-p 0.05", SamplingParams { min_p: 0.05, ..plain.clone() }),
        ("typical 0.9", SamplingParams { typical_p: 0.9, ..plain.clone() }),
        ("top-k 40, top-p 0.95", SamplingParams { top_k: 40, top_p: 0.95, ..plain }),
    ];
    for vocabulary in [32_000, 128_256] {
        let logits: Vec<f32> = benches::weights(vocabulary).iter().map(|w| w * 150.0).collect();
        let mut group = c.benchmark_group(format!("sample of {vocabulary}"));
        group.measurement_time(Duration::from_secs(2));
        for (name, params) in &chains {
            let mut sampler = Sampler::new(params.clone()).expect("valid");
            group.bench_function(*name, |b| {
                b.iter(|| sampler.next_token(black_box(&logits)).expect("finite"));
            });
        }
        group.finish();
    }
}

criterion_group!(benches, sampler);
criterion_main!(benches);
