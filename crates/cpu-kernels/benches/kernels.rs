//! Products per type for one activation row (weights from memory), for a batch of 16 and for a
//! prompt's 512 (weights in cache), and the rounding of activations. Throughput is in weights times
//! rows, or in activations, a second. `INFINITY_ISA` and `INFINITY_THREADS` choose the path.

use blocks::DType;
use cpu_kernels::matmul::{Activations, Layout, Weight, matmul};
use cpu_kernels::{Isa, ThreadPool};
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use std::hint::black_box;
use std::time::Duration;

const TYPES: &[DType] = &[
    DType::F32,
    DType::F16,
    DType::BF16,
    DType::Q8_0,
    DType::Q4_0,
    DType::Q5_0,
    DType::Q2_K,
    DType::Q3_K,
    DType::Q4_K,
    DType::Q5_K,
    DType::Q6_K,
    DType::IQ4_XS,
    DType::IQ2_XXS,
];

fn noise(n: usize) -> Vec<f32> {
    let mut state = 1u32;
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 8) as f32 / (1 << 23) as f32 - 1.0
    };
    (0..n).map(|_| next()).collect()
}

/// Ordinary numbers in plain types (subnormal ones would be slow); in blocks, bytes below 64, so
/// that no scale is infinite.
fn weights(dtype: DType, rows: usize, cols: usize) -> Vec<u8> {
    let n = dtype.bytes_for(rows * cols).expect("whole blocks");
    if dtype.is_float() {
        let mut bytes = vec![0; n];
        blocks::encode(dtype, &noise(rows * cols), cols, None, &mut bytes).expect("plain type");
        return bytes;
    }
    (0..n).map(|i| (i.wrapping_mul(2_654_435_761) >> 16) as u8 & 0x3f).collect()
}

fn products(c: &mut Criterion) {
    let (pool, isa) = (ThreadPool::global(), Isa::active());
    for (m, bytes) in [(1, 256 << 20), (16, 4 << 20), (512, 1 << 20)] {
        let mut group = c.benchmark_group(format!("matmul {isa} {} threads m {m}", pool.threads()));
        group.measurement_time(Duration::from_secs(1)).warm_up_time(Duration::from_millis(300));
        group.sample_size(10);
        for &dtype in TYPES {
            let cols = 2048;
            let rows = bytes / dtype.bytes_for(cols).expect("whole blocks") / 64 * 64;
            let data = weights(dtype, rows, cols);
            let w = Weight { dtype, rows, cols, bytes: &data, layout: Layout::Rows };
            let x = noise(m * cols);
            let mut out = vec![0.0; m * rows];
            group.throughput(Throughput::Elements((m * rows * cols) as u64));
            group.bench_function(BenchmarkId::from_parameter(dtype), |b| {
                b.iter(|| matmul(pool, isa, &w, black_box(&x), Activations::Int8, &mut out));
            });
        }
        group.finish();
    }
}

/// A weight of 16 rows leaves little to do but rounding what it is multiplied with.
fn activations(c: &mut Criterion) {
    let (pool, isa) = (ThreadPool::global(), Isa::active());
    let (m, rows, cols) = (512, 16, 5632);
    let mut group = c.benchmark_group(format!("activations {isa} {} threads", pool.threads()));
    group.measurement_time(Duration::from_secs(1)).sample_size(20);
    group.throughput(Throughput::Elements((m * cols) as u64));
    for dtype in [DType::Q8_0, DType::Q4_K] {
        let data = weights(dtype, rows, cols);
        let w = Weight { dtype, rows, cols, bytes: &data, layout: Layout::Rows };
        let x = noise(m * cols);
        let mut out = vec![0.0; m * rows];
        group.bench_function(BenchmarkId::from_parameter(dtype), |b| {
            b.iter(|| matmul(pool, isa, &w, black_box(&x), Activations::Int8, &mut out));
        });
    }
    group.finish();
}

criterion_group!(benches, products, activations);
criterion_main!(benches);
