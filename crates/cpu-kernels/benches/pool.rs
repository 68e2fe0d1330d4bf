//! What it costs to hand a job to the pool and to have it back, beside `rayon::join`: the price of
//! every operation that is shared by threads. `INFINITY_THREADS` chooses their number.

use cpu_kernels::ThreadPool;
use criterion::{Criterion, criterion_group, criterion_main};
use std::hint::black_box;
use std::time::Duration;

fn hand_out(c: &mut Criterion) {
    let pool = ThreadPool::global();
    let mut group = c.benchmark_group(format!("empty job, {} threads", pool.threads()));
    group.warm_up_time(Duration::from_millis(300)).measurement_time(Duration::from_secs(1));
    for chunks in [1, pool.threads(), 4 * pool.threads()] {
        group.bench_function(format!("pool, {chunks} chunks"), |b| {
            b.iter(|| {
                pool.run(chunks, |i| {
                    black_box(i);
                })
            });
        });
    }
    let rayon = rayon::ThreadPoolBuilder::new().num_threads(pool.threads()).build().unwrap();
    group.bench_function("rayon::join inside its pool", |b| {
        rayon.install(|| b.iter(|| rayon::join(|| black_box(0), || black_box(1))));
    });
    group.bench_function("rayon::join from outside", |b| {
        b.iter(|| rayon.install(|| rayon::join(|| black_box(0), || black_box(1))));
    });
    group.finish();
}

/// Jobs of a few microseconds a thread: what is lost against half the time of one thread.
fn short_work(c: &mut Criterion) {
    let mut group = c.benchmark_group("1024 additions x 16");
    group.warm_up_time(Duration::from_millis(300)).measurement_time(Duration::from_secs(1));
    for threads in [1, ThreadPool::global().threads()] {
        let pool = ThreadPool::new(threads);
        let data = vec![1.0f32; 1024];
        group.bench_function(format!("{threads} threads"), |b| {
            b.iter(|| {
                pool.run(16, |_| {
                    black_box(black_box(&data).iter().sum::<f32>());
                });
            });
        });
    }
    group.finish();
}

criterion_group!(benches, hand_out, short_work);
criterion_main!(benches);
