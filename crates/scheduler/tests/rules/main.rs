//! Each rule by itself, on as few requests as show it.

mod admission;
mod life;
mod preemption;
mod rows;

use paged_kv::{CacheSalt, EvictionPolicy, KvCacheConfig, SeqId};
use scheduler::{
    Budget, Preemption, Request, RequestId, Scheduler, SchedulerConfig, Step, TenantId,
};

/// A budget that is never short.
const MUCH: Budget = Budget { rows: 1000, prompt_rows: 1000 };

fn config(blocks: u32) -> SchedulerConfig {
    SchedulerConfig {
        kv: KvCacheConfig { block_size: 4, blocks, host_blocks: 0, eviction: EvictionPolicy::None },
        max_sequences: 8,
        max_waiting: 16,
        max_model_len: 64,
        preemption: Preemption::Recompute,
    }
}

fn scheduler(config: SchedulerConfig) -> Scheduler {
    Scheduler::new(config).unwrap()
}

/// A request with a prompt like no other's, and 12 tokens to follow.
fn request(id: u64, prompt: u32) -> Request {
    Request {
        id: RequestId(id),
        tenant: TenantId(0),
        salt: CacheSalt(0),
        priority: 0,
        prompt: (0..prompt).map(|i| 1000 * id as u32 + i).collect(),
        max_new_tokens: 12,
        sequences: 1,
        every_logit: false,
    }
}

/// Request, first position, how many rows, whether sampled.
type Rows = (u64, usize, usize, bool);

fn rows(step: &Step) -> Vec<Rows> {
    step.work.iter().map(|w| (w.request.0, w.first, w.tokens.len(), w.samples)).collect()
}

/// A step whose every sample is followed by token 7.
fn step(scheduler: &mut Scheduler, budget: Budget) -> Step {
    let step = scheduler.schedule(budget).clone();
    scheduler.computed();
    step.work.iter().filter(|w| w.samples).for_each(|w| scheduler.push(w.seq, 7));
    step
}

/// The sequences of a request.
fn seqs(scheduler: &Scheduler, id: u64) -> Vec<SeqId> {
    let request = scheduler.requests().find(|r| r.id() == RequestId(id)).unwrap();
    request.sequences().map(|s| s.id()).collect()
}

fn started(step: &Step) -> Vec<u64> {
    step.started.iter().map(|s| s.0.0).collect()
}
