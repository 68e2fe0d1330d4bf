//! A step in which sequences decode allocates nothing.

use paged_kv::{CacheSalt, KvCacheConfig, SeqId};
use scheduler::{Budget, Preemption, Request, RequestId, Scheduler, SchedulerConfig, TenantId};

/// Whole prompts, so that buffers grow to known sizes.
const BUDGET: Budget = Budget { rows: 1 << 20, prompt_rows: 1 << 20 };
const SEQUENCES: u64 = 64;

fn request(id: u64, tokens: u32) -> Request {
    Request {
        id: RequestId(id),
        tenant: TenantId(id % 3),
        salt: CacheSalt(0),
        priority: 0,
        prompt: (0..tokens).map(|i| i ^ (id as u32) << 16).collect(),
        max_new_tokens: 500,
        sequences: 1,
        every_logit: false,
    }
}

fn step(scheduler: &mut Scheduler, sampled: &mut Vec<SeqId>) {
    let step = scheduler.schedule(BUDGET);
    sampled.clear();
    sampled.extend(step.work.iter().filter(|w| w.samples).map(|w| w.seq));
    scheduler.computed();
    sampled.iter().for_each(|&seq| scheduler.push(seq, seq.0 as u32));
}

#[test]
fn a_steady_step_allocates_nothing() {
    let kv = KvCacheConfig { blocks: 64 * 40, ..Default::default() };
    let mut scheduler = Scheduler::new(SchedulerConfig {
        kv,
        max_sequences: SEQUENCES as usize,
        max_waiting: 100,
        max_model_len: 4096,
        preemption: Preemption::Recompute,
    })
    .unwrap();
    let mut sampled = Vec::new();
    // Fill the pool once, so that the tables of the prefix cache have their size.
    for id in 0..SEQUENCES {
        scheduler.add(request(id, 600)).unwrap();
    }
    while scheduler.counts().running > 0 || scheduler.waiting() > 0 {
        step(&mut scheduler, &mut sampled);
        sampled.iter().for_each(|&seq| scheduler.finish(seq));
    }
    // Buffers of tokens double after the prompt, and then at 602.
    for id in 0..SEQUENCES {
        scheduler.add(request(SEQUENCES + id, 301)).unwrap();
    }
    while scheduler.decoding() < SEQUENCES as usize {
        step(&mut scheduler, &mut sampled);
    }
    step(&mut scheduler, &mut sampled);
    let used = allocation_counter::measure(|| {
        for _ in 0..100 {
            step(&mut scheduler, &mut sampled);
        }
    });
    assert_eq!(used.count_total, 0);
    assert_eq!((sampled.len(), scheduler.kv().stats().evictions > 100), (SEQUENCES as usize, true));
}
