//! What scheduling costs a step: sequences that decode, alone and while others wait that do not fit.

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use paged_kv::{CacheSalt, KvCacheConfig, SeqId};
use scheduler::{Budget, Preemption, Request, RequestId, Scheduler, SchedulerConfig, TenantId};

const BUDGET: Budget = Budget { rows: 512, prompt_rows: 512 };
const PROMPT: usize = 500;
/// Steps before all start anew, so that sequences stay of a length that occurs.
const STEPS: usize = 1000;

struct Engine {
    scheduler: Scheduler,
    waiting: usize,
    steps: usize,
    sampled: Vec<SeqId>,
}

impl Engine {
    fn new(sequences: usize, waiting: usize) -> Self {
        let kv = KvCacheConfig { blocks: 100 * sequences as u32, ..Default::default() };
        let scheduler = Scheduler::new(SchedulerConfig {
            kv,
            max_sequences: sequences,
            max_waiting: usize::MAX,
            max_model_len: 1 << 16,
            preemption: Preemption::Recompute,
        });
        let scheduler = scheduler.expect("the block size is right");
        let mut engine = Self { scheduler, waiting, steps: 0, sampled: Vec::new() };
        engine.start(sequences);
        engine
    }

    fn start(&mut self, sequences: usize) {
        for i in 0..sequences + self.waiting {
            let id = i as u64;
            let request = Request {
                id: RequestId(id),
                tenant: TenantId(id % 8),
                salt: CacheSalt(0),
                priority: 0,
                prompt: (0..PROMPT as u32).map(|at| at ^ (i as u32) << 16).collect(),
                max_new_tokens: STEPS + 1,
                sequences: 1,
                every_logit: false,
            };
            self.scheduler.add(request).expect("it fits");
        }
        self.steps = 0;
        while self.scheduler.decoding() < sequences {
            self.step();
        }
    }

    fn step(&mut self) {
        let step = self.scheduler.schedule(BUDGET);
        self.sampled.clear();
        self.sampled.extend(step.work.iter().filter(|w| w.samples).map(|w| w.seq));
        self.scheduler.computed();
        for &seq in &self.sampled {
            // Another token for each sequence and position.
            let token = (self.steps as u32) << 8 | seq.0 as u32 & 255;
            self.scheduler.push(seq, token);
        }
        self.steps += 1;
    }
}

fn decode(c: &mut Criterion) {
    let mut group = c.benchmark_group("a step: schedule, computed, push");
    for (name, waiting) in [("decoding", 0), ("decoding, 100 wait", 100)] {
        for sequences in [1, 8, 64, 256] {
            let mut engine = Engine::new(sequences, waiting);
            group.bench_function(BenchmarkId::new(name, sequences), |b| {
                b.iter_custom(|iterations| {
                    let mut spent = std::time::Duration::ZERO;
                    for _ in 0..iterations {
                        if engine.steps >= STEPS {
                            engine = Engine::new(sequences, waiting);
                        }
                        let began = std::time::Instant::now();
                        engine.step();
                        spent += began.elapsed();
                    }
                    spent
                });
            });
        }
    }
    group.finish();
}

criterion_group!(benches, decode);
criterion_main!(benches);
