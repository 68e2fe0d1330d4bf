//! What must hold of every run, and what the comparison must show.

use std::collections::BTreeMap;

use kv_sim::cost::StepCost;
use kv_sim::experiment::{Experiment, Run};
use kv_sim::memory::{Allocator, Preemption};
use kv_sim::pages::PagesConfig;
use kv_sim::sim::{Happening, Rules};
use kv_sim::sweep::sweep;
use paged_kv::EvictionPolicy;
use proptest::prelude::*;
use workload::Workload;

const ALL: [Allocator; 4] =
    [Allocator::FirstFit, Allocator::BestFit, Allocator::ReserveMaximum, Allocator::Pages];

/// What the program plays by default, with another seed.
fn default_experiment(seed: u64) -> Experiment {
    let bytes_per_token = 819_200;
    let cost = StepCost {
        weights: 26_000_000_000,
        bandwidth: 1_555_000_000_000,
        flops: 312e12,
        host_bandwidth: 25_000_000_000,
    };
    let workload = Workload {
        requests: 50,
        rate: 25.0,
        max_model_len: 2048,
        system_prompt: 0,
        seed,
        ..Workload::default()
    };
    Experiment {
        trace: workload.trace(),
        max_model_len: 2048,
        rules: Rules {
            patience: 5_000_000,
            max_num_seqs: 256,
            max_num_batched_tokens: 2048,
            bytes_per_token,
            cost,
        },
        pages: PagesConfig {
            slots: 16_000_000_000 / bytes_per_token,
            host_slots: 16_000_000_000 / bytes_per_token,
            block_size: 16,
            eviction: EvictionPolicy::Lru,
            preemption: Preemption::Recompute,
            system_prompt: 0,
            bytes_per_token,
        },
    }
}

fn compared_until(experiment: &Experiment) -> u64 {
    experiment.trace.last().unwrap().arrival + experiment.rules.patience
}

#[test]
fn pages_serve_two_and_a_half_times_the_tokens_with_little_waste() {
    let mut holes = 0;
    for seed in (0..20).chain([42]) {
        let experiment = default_experiment(seed);
        let until = compared_until(&experiment);
        let [first, reserved, pages] =
            [Allocator::FirstFit, Allocator::ReserveMaximum, Allocator::Pages]
                .map(|a| experiment.run(a).unwrap().summary(until));
        let ratio = pages.generated_in_time as f64 / reserved.generated_in_time as f64;
        assert!(ratio >= 2.5, "seed {seed}: {ratio}");
        assert!(pages.waste < 0.04, "seed {seed}: {}", pages.waste);
        assert_eq!(pages.outcomes.served, 50, "seed {seed}");
        assert!(pages.external_fragmentation == 0.0 && first.external_fragmentation > 0.1);
        holes += usize::from(first.outcomes.fragmentation > 0);
    }
    // A request fails for want of a hole while the free memory would do: not with every trace.
    assert!(holes >= 15, "{holes} of 21");
    let default = default_experiment(42).run(Allocator::FirstFit).unwrap();
    let fails_for_a_hole = |h: &Happening| match h {
        Happening::GivesUp { shortage: s } => s.largest_hole < s.need && s.need <= s.free,
        _ => false,
    };
    assert!(default.history.events.iter().any(|e| fails_for_a_hole(&e.happening)));
}

#[test]
fn a_shared_prompt_is_stored_once() {
    let mut experiment = default_experiment(42);
    let workload = Workload {
        requests: 50,
        rate: 25.0,
        max_model_len: 2048,
        system_prompt: 500,
        seed: 42,
        ..Workload::default()
    };
    experiment.trace = workload.trace();
    let until = compared_until(&experiment);
    let alone = experiment.run(Allocator::Pages).unwrap().summary(until);
    experiment.pages.system_prompt = 500;
    let shared = experiment.run(Allocator::Pages).unwrap().summary(until);
    // All but the first few, which arrive before the first is computed, find 496 of 500 tokens.
    assert!(shared.prefix_hit_rate > 0.6, "{}", shared.prefix_hit_rate);
    // Prompts that differ are found only by requests that were preempted and compute them again.
    assert!(alone.prefix_hit_rate < 0.1 && alone.preemptions > 0);
    assert!(shared.most_running > alone.most_running);
    assert!(shared.memory.held < 0.8 * alone.memory.held);
    experiment.pages.eviction = EvictionPolicy::None;
    let dropped = experiment.run(Allocator::Pages).unwrap().summary(until);
    assert_eq!(dropped.prefix_hit_rate, 0.0);
    assert!(dropped.memory.held > shared.memory.held);
}

#[test]
fn larger_blocks_waste_more() {
    let experiment = default_experiment(42);
    let until = compared_until(&experiment);
    let points = sweep(&experiment, until, 256, |_| None).unwrap();
    assert_eq!(points[0].waste, 0.0);
    assert!(points.windows(2).all(|p| p[0].waste < p[1].waste), "{points:#?}");
    let at = |size| points.iter().find(|p| p.block_size == size).unwrap();
    assert!(at(16).waste < 0.04 && at(256).waste > 0.2);
    assert_eq!((at(16).bytes_a_run, at(1).bytes_a_run), (4096, 256));
}

#[test]
fn a_request_larger_than_the_memory_is_refused_at_once() {
    let mut experiment = default_experiment(42);
    experiment.pages.slots = 400;
    for allocator in ALL {
        let run = experiment.run(allocator).unwrap();
        check(&experiment, &run);
        let summary = run.summary(u64::MAX);
        assert!(summary.outcomes.too_large > 0);
        let all = allocator == Allocator::ReserveMaximum;
        assert_eq!(summary.outcomes.too_large == 50, all);
    }
}

/// The invariants of a run.
fn check(experiment: &Experiment, run: &Run) {
    let history = &run.history;
    let trace = &experiment.trace;
    // Every request ends exactly once, and those that were served got all their tokens.
    let mut ends: BTreeMap<u32, usize> = BTreeMap::new();
    let mut tokens = 0;
    for event in &history.events {
        match event.happening {
            Happening::Finishes => tokens += trace[event.request as usize - 1].output,
            Happening::GivesUp { .. } | Happening::TooLarge { .. } => {}
            _ => continue,
        }
        *ends.entry(event.request).or_default() += 1;
    }
    assert_eq!(ends.len(), trace.len());
    assert!(ends.values().all(|&n| n == 1));
    assert_eq!(history.samples.last().map_or(0, |s| s.generated), tokens as u64);
    // The parts of the memory add up at every step, time moves, and nobody runs without memory.
    let slots = match run.allocator {
        Allocator::Pages => {
            let block = experiment.pages.block_size as u64;
            experiment.pages.slots / block * block
        }
        _ => experiment.pages.slots,
    };
    for s in &history.samples {
        assert_eq!(s.usage.allocated() + s.usage.scattered + s.usage.free, slots);
        assert!(s.to > s.from && s.usage.held >= s.running as u64);
    }
    // No slot is held by two at a time; what was held was given back.
    let mut by_place = history.memory.tenures.clone();
    by_place.sort_by_key(|t| (t.start, t.from));
    assert!(by_place.iter().all(|t| t.start + t.len <= slots && t.from < t.to));
    let mut sweep: Vec<(u64, u8, u64, u64)> = Vec::new();
    for t in &by_place {
        sweep.push((t.from, 1, t.start, t.start + t.len));
        sweep.push((t.to, 0, t.start, t.start + t.len));
    }
    sweep.sort_unstable();
    let mut held: BTreeMap<u64, u64> = BTreeMap::new();
    for (_, begins, start, end) in sweep {
        if begins == 0 {
            assert_eq!(held.remove(&start), Some(end));
            continue;
        }
        let before = held.range(..=start).next_back();
        assert!(before.is_none_or(|(_, &before_end)| before_end <= start));
        let after = held.range(start..).next();
        assert!(after.is_none_or(|(&after_start, _)| end <= after_start));
        held.insert(start, end);
    }
    assert!(held.is_empty());
    if let Some(pages) = &history.memory.pages {
        assert_eq!((pages.used_blocks, pages.sequences, pages.swapped_sequences), (0, 0, 0));
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 150, ..ProptestConfig::default() })]

    #[test]
    fn whatever_is_asked_every_request_ends_once_and_memory_adds_up(
        (seed, requests, rate) in (any::<u64>(), 1..60usize, 0.5..200.0f64),
        (slots, host_slots) in (100..20_000u64, 0..4000u64),
        block_size in prop_oneof![Just(1usize), Just(16), 2..200usize],
        eviction in prop_oneof![
            Just(EvictionPolicy::None), Just(EvictionPolicy::Lru), Just(EvictionPolicy::SegmentedLru)],
        swap in any::<bool>(),
        (system_prompt, patience) in (0..300usize, 0..8_000_000u64),
        (max_num_seqs, max_num_batched_tokens) in (1..64usize, 1..3000usize),
    ) {
        let mut experiment = default_experiment(0);
        let workload = Workload { requests, rate, max_model_len: 1024, system_prompt, seed, ..Workload::default() };
        experiment.trace = workload.trace();
        experiment.max_model_len = 1024;
        experiment.rules.patience = patience;
        experiment.rules.max_num_seqs = max_num_seqs;
        experiment.rules.max_num_batched_tokens = max_num_batched_tokens;
        let preemption = if swap { Preemption::Swap } else { Preemption::Recompute };
        experiment.pages = PagesConfig {
            slots, host_slots, block_size, eviction, preemption, system_prompt, ..experiment.pages
        };
        for allocator in ALL {
            let run = experiment.run(allocator).unwrap();
            check(&experiment, &run);
            let again = experiment.run(allocator).unwrap();
            prop_assert_eq!(&run.history.events, &again.history.events);
            prop_assert_eq!(run.history.memory.tenures, again.history.memory.tenures);
        }
    }
}
