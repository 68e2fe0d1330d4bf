//! What a seed stands for: the sizes of a scheduler, and how those who use it behave.

use paged_kv::{CacheSalt, EvictionPolicy, KvCacheConfig};
use rand::RngExt;
use rand_chacha::ChaCha8Rng;
use scheduler::{Budget, Preemption, Request, RequestId, SchedulerConfig, TenantId};

#[derive(Clone, Debug)]
pub(crate) struct Scenario {
    pub(crate) config: SchedulerConfig,
    pub(crate) budget: Budget,
    /// Steps in which requests come; then the rest is finished.
    pub(crate) steps: usize,
    pub(crate) tenants: u64,
    pub(crate) priorities: i32,
    /// The probability that another request comes before a step, of each of several.
    pub(crate) arrival: f64,
    pub(crate) cancel: f64,
    pub(crate) failure: f64,
    /// That an answer ends before its limit.
    pub(crate) end: f64,
    /// That a sampled token is pushed before the next step.
    pub(crate) push: f64,
    pub(crate) fork: f64,
    pub(crate) longest_prompt: usize,
    pub(crate) longest_answer: usize,
    /// Different tokens; with few of them, prompts have prefixes in common by chance.
    pub(crate) vocabulary: u32,
}

impl Scenario {
    /// Tiny pools, so that everything that can run short does.
    pub(crate) fn random(rng: &mut ChaCha8Rng) -> Self {
        let block_size = rng.random_range(1..=5);
        let max_model_len = rng.random_range(6..=80);
        // Mostly enough for one of the longest, and too little for several.
        let longest = (max_model_len / block_size) as u32;
        let blocks = rng.random_range(longest * 3 / 4 + 2..=longest * 2 + 4);
        let eviction = [EvictionPolicy::None, EvictionPolicy::Lru, EvictionPolicy::SegmentedLru];
        let config = SchedulerConfig {
            kv: KvCacheConfig {
                block_size,
                blocks,
                host_blocks: rng.random_range(0..=blocks),
                eviction: eviction[rng.random_range(0..3)],
            },
            max_sequences: rng.random_range(1..=12),
            max_waiting: rng.random_range(1..=12),
            max_model_len,
            preemption: match rng.random_bool(0.5) {
                true => Preemption::Recompute,
                false => Preemption::Swap,
            },
        };
        let rare = |rng: &mut ChaCha8Rng, p| if rng.random_bool(0.5) { p } else { 0.0 };
        Self {
            config,
            budget: Budget { rows: rng.random_range(1..=24), prompt_rows: rng.random_range(1..=8) },
            steps: rng.random_range(20..=120),
            tenants: rng.random_range(1..=3),
            priorities: if rng.random_bool(0.6) { 1 } else { 3 },
            arrival: rng.random_range(0.05..0.6),
            cancel: rare(rng, 0.03),
            failure: rare(rng, 0.1),
            end: rare(rng, 0.05),
            push: if rng.random_bool(0.5) { 1.0 } else { 0.7 },
            fork: rare(rng, 0.3),
            longest_prompt: rng.random_range(1..=max_model_len / 2),
            longest_answer: rng.random_range(0..=max_model_len),
            vocabulary: [2, 4, 1000][rng.random_range(0..3)],
        }
    }

    pub(crate) fn request(&self, rng: &mut ChaCha8Rng, id: u64) -> Request {
        let len = rng.random_range(1..=self.longest_prompt);
        // Some begin as others do: with tokens 0, 1, 2, ...
        let shared = if rng.random_bool(0.5) { rng.random_range(0..=len) } else { 0 };
        let vocabulary = self.vocabulary;
        let prompt = (0..len)
            .map(|i| match i < shared {
                true => i as u32 % vocabulary,
                false => rng.random_range(0..vocabulary),
            })
            .collect();
        let sequences = match rng.random_bool(self.fork) {
            true => rng.random_range(1..=4.min(self.config.max_sequences)),
            false => 1,
        };
        Request {
            id: RequestId(id),
            tenant: TenantId(rng.random_range(0..self.tenants)),
            salt: CacheSalt(u64::from(rng.random_bool(0.2))),
            priority: rng.random_range(0..self.priorities),
            prompt,
            max_new_tokens: rng.random_range(0..=self.longest_answer),
            sequences,
            every_logit: rng.random_bool(0.1),
        }
    }
}
