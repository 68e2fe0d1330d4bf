//! Products of a quantized weight with one row of activations (decode) and with 128 (prefill).
//!
//! Throughput of `decode` is bytes of the weight: compare it with `read`, what the memory gives in the
//! same run. Throughput of `prefill` is multiplications.

use std::hint::black_box;
use std::time::Duration;

use blocks::DType;
use cpu_kernels::matmul::{Activations, Layout, Weight, matmul};
use cpu_kernels::{Isa, ThreadPool};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};

const COLS: usize = 2048;
const ROWS: usize = 5632;
/// Copies of the weight, so that it does not stay in a cache: over 300 MB for four bits.
const COPIES: usize = 48;

fn products(c: &mut Criterion) {
    let (pool, isa) = (ThreadPool::global(), Isa::active());
    println!("{} threads, {isa:?}", pool.threads());
    read(c, pool);
    for dtype in [DType::Q4_0, DType::Q4_K, DType::Q6_K, DType::Q8_0, DType::F16] {
        let row = benches::weights(COLS);
        let mut one = vec![0; dtype.bytes_for(COLS).expect("whole blocks")];
        blocks::encode(dtype, &row, COLS, None, &mut one).expect("finite");
        let matrix = one.len() * ROWS;
        let bytes = one.repeat(ROWS * COPIES);
        let mut next = (0..COPIES).cycle();

        for (name, m) in [("decode", 1), ("prefill", 128)] {
            let x = benches::weights(m * COLS);
            let mut out = vec![0.0; m * ROWS];
            let mut group = c.benchmark_group(name);
            group.measurement_time(Duration::from_secs(3)).throughput(match m {
                1 => Throughput::Bytes(matrix as u64),
                _ => Throughput::Elements((m * ROWS * COLS) as u64),
            });
            group.bench_function(dtype.name(), |b| {
                b.iter(|| {
                    let at = next.next().expect("a cycle") * matrix;
                    let bytes = black_box(&bytes[at..at + matrix]);
                    let weight =
                        Weight { dtype, rows: ROWS, cols: COLS, bytes, layout: Layout::Rows };
                    matmul(pool, isa, &weight, &x, Activations::Int8, &mut out).expect("it fits");
                });
            });
            group.finish();
        }
    }
}

/// The ceiling: all threads read memory and do nothing else that counts.
fn read(c: &mut Criterion, pool: &ThreadPool) {
    const WORDS: usize = 48 << 20; // 384 MB
    let memory: Vec<u64> = (0..WORDS as u64).collect();
    let chunks = 8 * pool.threads();
    let mut group = c.benchmark_group("read");
    group.measurement_time(Duration::from_secs(3)).throughput(Throughput::Bytes(8 * WORDS as u64));
    group.bench_function("memory", |b| {
        b.iter(|| {
            pool.run(chunks, |i| {
                let part = &memory[i * (WORDS / chunks)..(i + 1) * (WORDS / chunks)];
                black_box(part.iter().fold(0u64, |sum, &x| sum.wrapping_add(x)));
            });
        });
    });
    group.finish();
}

criterion_group! {
    name = benches;
    config = Criterion::default().sample_size(20);
    targets = products
}
criterion_main!(benches);
