//! What the bookkeeping costs: each operation over pools of two sizes, whose times should not differ
//! where the operation is said to take constant time.

use criterion::{BatchSize, BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use paged_kv::{BlockPool, CacheSalt, Keep, KvCacheConfig, KvCacheManager, SeqId, TokenId};
use std::hint::black_box;

const SALT: CacheSalt = CacheSalt(0);
const POOLS: [u32; 2] = [1 << 10, 1 << 20];

fn manager(blocks: u32) -> KvCacheManager {
    KvCacheManager::new(KvCacheConfig { blocks, ..Default::default() }).expect("sizes are right")
}

fn tokens(n: u32) -> Vec<TokenId> {
    (0..n).map(|i| i.wrapping_mul(2_654_435_761)).collect()
}

fn run(kv: &mut KvCacheManager, seq: SeqId, tokens: &[TokenId]) {
    let found = kv.create(seq, SALT, tokens).expect("a new name");
    kv.append(seq, &tokens[found..]).expect("there is room");
    kv.commit(seq).expect("it exists");
}

fn pool(c: &mut Criterion) {
    let mut group = c.benchmark_group("pool: allocate and release");
    for blocks in POOLS {
        for (name, keep) in [("free", Keep::Nothing), ("idle, evicting", Keep::Idle)] {
            let mut pool = BlockPool::new(blocks);
            let all: Vec<_> = std::iter::from_fn(|| pool.allocate()).collect();
            for taken in all.iter().step_by(2) {
                pool.release(taken.block, keep).expect("just taken");
            }
            group.bench_function(BenchmarkId::new(name, blocks), |b| {
                b.iter(|| {
                    let taken = pool.allocate().expect("half are not used");
                    pool.release(black_box(taken.block), keep)
                });
            });
        }
    }
    group.finish();
}

fn sequences(c: &mut Criterion) {
    let (prompt, a, b) = (tokens(1000), SeqId(1), SeqId(2));
    for blocks in POOLS {
        let name = format!("sequences of 1000 tokens, {blocks} blocks");
        let mut group = c.benchmark_group(name);
        let mut kv = manager(blocks);
        run(&mut kv, a, &prompt);
        group.bench_function("append and commit one token, truncate it", |bench| {
            bench.iter(|| {
                kv.append(a, &[7]).expect("there is room");
                kv.commit(a).expect("it exists");
                kv.truncate(a, 1000).expect("it is longer")
            });
        });
        group.bench_function("fork and free", |bench| {
            bench.iter(|| {
                kv.fork(a, b).expect("a new name");
                kv.free(b).expect("it exists")
            });
        });
        group.bench_function("fork, copy on write, free", |bench| {
            bench.iter(|| {
                kv.fork(a, b).expect("a new name");
                let copy = kv.append(b, &[7]).expect("there is room");
                kv.free(b).expect("it exists");
                copy
            });
        });
        group.throughput(Throughput::Elements(1000));
        group.bench_function("create with all cached, free", |bench| {
            bench.iter(|| {
                let found = kv.create(b, SALT, &prompt).expect("a new name");
                kv.free(b).expect("it exists");
                found
            });
        });
        // Every prompt another: the small pool is soon full, and each block evicts one; in the large
        // one each block is touched for the first time.
        let mut first = 0;
        group.bench_function("create, append, commit, free: nothing cached", |bench| {
            let next = || {
                first += 1;
                tokens(1000).into_iter().map(|t| t ^ first).collect::<Vec<_>>()
            };
            bench.iter_batched(
                next,
                |prompt| {
                    run(&mut kv, b, &prompt);
                    kv.free(b)
                },
                BatchSize::SmallInput,
            );
        });
        group.finish();
    }
}

criterion_group!(benches, pool, sequences);
criterion_main!(benches);
