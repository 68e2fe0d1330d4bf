//! Two users of one machine: a stream, and a long prompt that must not stall it.

use paged_kv::{CacheSalt, KvCacheConfig};
use scheduler::{Budget, Preemption, Request, RequestId, Scheduler, SchedulerConfig, TenantId};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut scheduler = Scheduler::new(SchedulerConfig {
        kv: KvCacheConfig { block_size: 16, blocks: 64, ..Default::default() },
        max_sequences: 8,
        max_waiting: 8,
        max_model_len: 512,
        preemption: Preemption::Recompute,
    })?;
    let request = |id, prompt: usize, max_new_tokens| Request {
        id: RequestId(id),
        tenant: TenantId(id),
        salt: CacheSalt(0),
        priority: 0,
        prompt: (0..prompt as u32).map(|t| 1000 * id as u32 + t).collect(),
        max_new_tokens,
        sequences: 1,
        every_logit: false,
    };
    scheduler.add(request(1, 10, 12))?;
    let mut left = [12, 1];
    let mut steps = 0;
    while !scheduler.is_idle() {
        if steps == 3 {
            scheduler.add(request(2, 200, 1))?;
        }
        let step = scheduler.schedule(Budget { rows: 64, prompt_rows: 48 }).clone();
        let of = |id: u64| -> usize {
            step.work.iter().filter(|w| w.request.0 == id).map(|w| w.tokens.len()).sum()
        };
        println!("step {steps}: {} rows of the stream, {} of the long prompt", of(1), of(2));
        // While there is more to say, the stream has a row in every step.
        assert!(left[0] == 0 || of(1) > 0);
        scheduler.computed();
        for work in step.work.iter().filter(|work| work.samples) {
            let left = &mut left[work.request.0 as usize - 1];
            *left -= 1;
            match left {
                0 => scheduler.finish(work.seq),
                _ => scheduler.push(work.seq, 7),
            }
        }
        steps += 1;
    }
    assert_eq!((left, scheduler.kv().pool().used()), ([0, 0], 0));
    Ok(())
}
