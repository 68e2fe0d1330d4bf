//! A token from a row of 128,256 logits, with each part of the chain.

use std::hint::black_box;
use std::time::Duration;

use criterion::{Criterion, criterion_group, criterion_main};
use sampling::{Sampler, SamplingParams};

fn sampler(c: &mut Criterion) {
    let logits: Vec<f32> = benches::weights(128_256).iter().map(|w| w * 150.0).collect();
    let plain = SamplingParams { temperature: 0.8, seed: Some(1), ..Default::default() };
    let chains = [
        ("greedy", SamplingParams { temperature: 0.0, ..plain.clone() }),
        ("temperature", plain.clone()),
        ("top-k 40", SamplingParams { top_k: 40, ..plain.clone() }),
        ("top-p 0.95", SamplingParams { top_p: 0.95, ..plain.clone() }),
        ("min-p 0.05", SamplingParams { min_p: 0.05, ..plain.clone() }),
        ("top-k 40, top-p 0.95", SamplingParams { top_k: 40, top_p: 0.95, ..plain }),
    ];
    let mut group = c.benchmark_group("sample");
    group.measurement_time(Duration::from_secs(2));
    for (name, params) in chains {
        let mut sampler = Sampler::new(params).expect("valid");
        group.bench_function(name, |b| {
            b.iter(|| {
                let distribution = sampler.distribution(black_box(&logits)).expect("finite");
                sampler.sample(&distribution)
            });
        });
    }
    group.finish();
}

criterion_group!(benches, sampler);
criterion_main!(benches);
