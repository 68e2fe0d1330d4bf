//! What a step does besides products and attention, for one row and for a prompt's 512, at the width
//! of a 1.1 B model. Throughput is in elements.

use std::hint::black_box;
use std::time::Duration;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use tensor::{Activation, Compute, DType, Rope, RopeLayout, Tensor};

const WIDTH: usize = 2048;
const FEED_FORWARD: usize = 5632;
const HEAD: usize = 64;
const VOCABULARY: usize = 32_000;

fn matrix(rows: usize, cols: usize) -> Tensor {
    Tensor::from_vec([rows, cols], benches::weights(rows * cols)).expect("as many as that")
}

fn step(c: &mut Criterion) {
    let compute = Compute::cpu();
    let weight = Tensor::from_vec([WIDTH], benches::weights(WIDTH)).expect("a row");
    let frequencies: Vec<f32> = (0..HEAD / 2).map(|i| 1e4f32.powf(-(i as f32) / 32.0)).collect();
    let table = matrix(VOCABULARY, WIDTH).to_dtype(DType::F16).expect("finite");
    for rows in [1, 512] {
        let mut group = c.benchmark_group(format!("step, {rows} rows"));
        group.measurement_time(Duration::from_secs(1)).sample_size(20);
        let wide = (rows * FEED_FORWARD) as u64;
        let narrow = (rows * WIDTH) as u64;

        let x = matrix(rows, WIDTH);
        group.throughput(Throughput::Elements(narrow));
        group.bench_function("RMS norm", |b| {
            b.iter(|| compute.rms_norm(black_box(&x), &weight, 1e-5, 0.0).expect("it fits"));
        });
        let positions: Vec<u32> = (0..rows as u32).collect();
        let rope = Rope::new(&positions, &frequencies, 1.0, RopeLayout::Interleaved);
        // Each operation takes its input and gives it back changed: turned, it is as good an input.
        let mut turned = Some(matrix(rows, WIDTH));
        group.bench_function("rotary embedding", |b| {
            b.iter(|| {
                let x = turned.take().expect("given back");
                turned = Some(compute.rope(x, HEAD, &rope).expect("it fits"));
            });
        });
        let ids: Vec<u32> = (0..rows as u32).map(|i| i * 61 % VOCABULARY as u32).collect();
        group.bench_function("embedding", |b| {
            b.iter(|| compute.embedding(&table, black_box(&ids)).expect("known tokens"));
        });

        group.throughput(Throughput::Elements(wide));
        let up = matrix(rows, FEED_FORWARD);
        let mut gate = Some(matrix(rows, FEED_FORWARD));
        group.bench_function("SwiGLU", |b| {
            b.iter(|| {
                let x = gate.take().expect("given back");
                gate = Some(compute.gated(x, &up, Activation::Silu).expect("it fits"));
            });
        });
        let mut scores = Some(matrix(rows, FEED_FORWARD));
        group.bench_function("softmax", |b| {
            b.iter(|| {
                let x = scores.take().expect("given back");
                scores = Some(compute.softmax(x).expect("it fits"));
            });
        });
        group.finish();
    }
}

criterion_group!(benches, step);
criterion_main!(benches);
