//! Two tenants whose requests never run out: one asks for little, many times, the other for much.

use paged_kv::{CacheSalt, EvictionPolicy, KvCacheConfig};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use scheduler::{
    Budget, OUTPUT_WEIGHT, PROMPT_WEIGHT, Preemption, Request, RequestId, SchedulerConfig, TenantId,
};

use crate::checks::fairness_bound;
use crate::scenario::Scenario;
use crate::world::{Sabotage, World};

fn scenario() -> Scenario {
    Scenario {
        config: SchedulerConfig {
            kv: KvCacheConfig {
                block_size: 4,
                blocks: 48,
                host_blocks: 16,
                eviction: EvictionPolicy::Lru,
            },
            max_sequences: 6,
            max_waiting: 100,
            max_model_len: 64,
            preemption: Preemption::Swap,
        },
        budget: Budget { rows: 24, prompt_rows: 12 },
        steps: 0,
        tenants: 2,
        priorities: 1,
        arrival: 0.0,
        cancel: 0.0,
        failure: 0.0,
        end: 0.0,
        push: 1.0,
        fork: 0.0,
        longest_prompt: 40,
        longest_answer: 20,
        vocabulary: 50_000,
    }
}

/// A request of one of two kinds, by the number's parity.
fn request(rng: &mut ChaCha8Rng, id: u64, tenant: TenantId) -> Request {
    let (prompt, answer) = match id % 2 {
        0 => (rng.random_range(1..=4), rng.random_range(1..=3)),
        _ => (rng.random_range(30..=40), rng.random_range(10..=20)),
    };
    Request {
        id: RequestId(id),
        tenant,
        salt: CacheSalt(0),
        priority: 0,
        prompt: (0..prompt).map(|_| rng.random_range(0..50_000)).collect(),
        max_new_tokens: answer,
        sequences: 1,
        every_logit: false,
    }
}

struct Played {
    /// The largest difference of what tenants 0 and 1 were served, after any step.
    difference: i64,
    /// Weighted tokens of the requests of both kinds that ended.
    ended: [i64; 2],
    bound: i64,
}

/// Keeps requests of both kinds waiting.
fn play(seed: u64, tenants: [TenantId; 2], steps: usize) -> Played {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let mut world = World::with(scenario(), rng.clone(), Sabotage::None);
    let mut next = [0, 1];
    let (mut difference, mut sent) = (0, Vec::new());
    for _ in 0..steps {
        for kind in 0..2 {
            let waiting = |w: &World| {
                w.clients.values().filter(|c| !c.started && c.request.id.0 % 2 == kind).count()
            };
            // More than can start in one step, so that the queue is never empty.
            while waiting(&world) < 10 {
                let request = request(&mut rng, next[kind as usize], tenants[kind as usize]);
                next[kind as usize] += 2;
                sent.push((request.id, request.prompt.len(), request.max_new_tokens));
                world.send(request);
            }
        }
        world.step().unwrap();
        let served = |t: u64| world.served.get(&TenantId(t)).copied().unwrap_or(0) as i64;
        difference = difference.max((served(0) - served(1)).abs());
    }
    assert_eq!(world.tally.refused, 0);
    let mut ended = [0; 2];
    for (id, prompt, answer) in sent.into_iter().filter(|(id, ..)| !world.clients.contains_key(id))
    {
        let weighted = prompt as u64 * PROMPT_WEIGHT + answer as u64 * OUTPUT_WEIGHT;
        ended[(id.0 % 2) as usize] += weighted as i64;
    }
    Played { difference, ended, bound: fairness_bound(&world) }
}

#[test]
fn tenants_get_as_much_whatever_the_size_of_their_requests() {
    for seed in 0..5 {
        let played = play(seed, [TenantId(0), TenantId(1)], 3000);
        let (got, bound) = (played.difference, played.bound);
        assert!(got <= bound, "seed {seed}: {got}, at most {bound}");
        assert!(played.ended.iter().all(|&tokens| tokens > 10 * bound), "{:?}", played.ended);
        println!("seed {seed}: {got} of {bound}, {:?} tokens", played.ended);
    }
}

/// Negative control: where both kinds come from one tenant, the order of arrival decides, and who
/// asks for much gets much.
#[test]
fn without_tenants_who_asks_for_much_gets_much() {
    let played = play(0, [TenantId(0); 2], 3000);
    let [little, much] = played.ended;
    assert!(much - little > 10 * played.bound, "{:?}", played.ended);
}
