//! A seeded simulation: random arrivals, lengths, priorities, tenants, forks, ends, cancels and failing
//! steps over tiny pools, with every step and everything after it held against records of its own.
//!
//! `SCHEDULER_SEEDS=10000 cargo test --release -p scheduler --test simulation` plays more seeds;
//! `SCHEDULER_SEED=7` one.

mod checks;
mod fairness;
mod scenario;
mod storage;
mod world;

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};

use paged_kv::SeqId;
use scheduler::{Step, TenantId, Work};

use checks::{Violation, fairness_bound};
use world::{Sabotage, Tally, World};

fn number(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(text.parse().expect("a number"))
}

#[test]
fn every_rule_holds_in_every_step() {
    let seeds = match number("SCHEDULER_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..number("SCHEDULER_SEEDS").unwrap_or(400),
    };
    let mut all = Tally::default();
    let played = seeds.end - seeds.start;
    for seed in seeds {
        let mut world = World::new(seed, Sabotage::None);
        let ran = catch_unwind(AssertUnwindSafe(|| world.run()));
        match ran {
            Ok(Ok(())) => {}
            Ok(Err(violation)) => panic!("seed {seed}: {violation:?} in {:#?}", world.scenario),
            Err(_) => panic!("seed {seed} panicked in {:#?}", world.scenario),
        }
        all.add(world.tally);
    }
    println!("{played} seeds: {all:?}");
    if played >= 100 {
        let happened = [
            all.ended,
            all.cancelled,
            all.refused,
            all.preempted,
            all.swapped,
            all.copied,
            all.cached,
            all.forked,
            all.failed,
            all.turns,
        ];
        assert!(happened.iter().all(|&n| n > played / 10), "{all:?}");
    }
}

impl Tally {
    fn add(&mut self, other: Self) {
        self.steps += other.steps;
        self.ended += other.ended;
        self.cancelled += other.cancelled;
        self.refused += other.refused;
        self.preempted += other.preempted;
        self.swapped += other.swapped;
        self.copied += other.copied;
        self.cached += other.cached;
        self.forked += other.forked;
        self.failed += other.failed;
        self.turns += other.turns;
        self.unfairness = self.unfairness.max(other.unfairness);
    }
}

#[test]
fn the_same_seed_gives_the_same_steps() {
    for seed in 0..50 {
        let steps = || {
            let mut world = World::new(seed, Sabotage::None);
            world.history = Some(Vec::new());
            world.run().unwrap();
            world.history.unwrap()
        };
        assert!(steps() == steps(), "seed {seed}");
    }
}

/// Negative control: an engine that does something wrong is noticed, in some scenario at least.
#[test]
fn engines_that_do_wrong_are_noticed() {
    let wrong = [
        Sabotage::NoCopies,
        Sabotage::NoSwapIn,
        Sabotage::LateSwapOut,
        Sabotage::FailureIsSuccess,
        Sabotage::NoFinish,
    ];
    for sabotage in wrong {
        let noticed = (0..60).filter(|&seed| World::new(seed, sabotage).run().is_err()).count();
        assert!(noticed > 2, "{sabotage:?} was noticed for {noticed} seeds");
    }
}

/// Negative control: a step with an error is not accepted. Steps are tampered with in all ways that
/// they allow.
#[test]
fn wrong_steps_are_noticed() {
    let mut noticed: BTreeMap<&str, usize> = BTreeMap::new();
    for seed in 0..40 {
        let mut world = World::new(seed, Sabotage::None);
        for _ in 0..40 {
            world.arrive();
            world.step().unwrap();
            // The next step, and the same with an error in it.
            let mut copy = world.clone();
            let step = copy.schedule();
            assert_eq!(copy.check_step(&step), Ok(()), "seed {seed}");
            for (name, wrong, want) in tampered(&copy, &step) {
                let got = copy.check_step(&wrong).expect_err(name);
                assert!(want(&got), "seed {seed}: {name} gives {got:?}");
                *noticed.entry(name).or_default() += 1;
            }
        }
    }
    assert!(noticed.len() == 8 && noticed.values().all(|&n| n > 20), "{noticed:?}");
}

type Tampered = (&'static str, Step, fn(&Violation) -> bool);

fn tampered(world: &World, step: &Step) -> Vec<Tampered> {
    let Some(last) = step.work.last() else { return Vec::new() };
    let changed = |change: &dyn Fn(&mut Step)| {
        let mut step = step.clone();
        change(&mut step);
        step
    };
    let twice = changed(&|s| {
        let at = s.tokens.len();
        s.tokens.extend_from_within(last.tokens.clone());
        s.work.push(Work { tokens: at..s.tokens.len(), ..last.clone() });
    });
    let cut = changed(&|s| s.work.last_mut().expect("it has work").tokens.end -= 1);
    let far = changed(&|s| s.work[0].first += 1);
    let other = changed(&|s| s.tokens[0] ^= 1 << 20);
    let sampled = changed(&|s| s.work[0].samples ^= true);
    let prompt = changed(&|s| s.work[0].prompt_rows += 1);
    let unknown = changed(&|s| s.work[0].seq = SeqId(u64::MAX));
    let mut all: Vec<Tampered> = vec![
        ("rows twice", twice, |v| matches!(v, Violation::Twice(_))),
        ("a row without work", cut, |v| matches!(v, Violation::NotContiguous(_))),
        ("a gap", far, |v| matches!(v, Violation::Gap { .. })),
        ("another token", other, |v| matches!(v, Violation::OtherTokens(_))),
        ("sampled at a wrong time", sampled, |v| matches!(v, Violation::WrongSampling(_))),
        ("more of the prompt", prompt, |v| matches!(v, Violation::WrongPromptRows(_))),
        ("an unknown sequence", unknown, |v| matches!(v, Violation::NotRunning(_))),
    ];
    let all_decode = world.decoding.len() <= world.budget.rows;
    if all_decode && world.decoding.contains(&last.seq) {
        let missing = changed(&|s| {
            s.work.pop();
            s.tokens.pop();
        });
        all.push(("no row for one that decodes", missing, |v| matches!(v, Violation::NoRow(_))));
    }
    all
}

/// Negative control: wrong records are not accepted.
#[test]
fn wrong_states_are_noticed() {
    let mut noticed = [0; 5];
    for seed in 0..40 {
        let mut world = World::new(seed, Sabotage::None);
        for _ in 0..40 {
            (0..2).for_each(|_| world.arrive());
            world.step().unwrap();
            let mut copy = world.clone();
            let step = copy.schedule();
            let rows = step.tokens.len();
            if rows > 1 {
                copy.budget.rows = rows - 1;
                let got = copy.check_step(&step);
                assert_eq!(got, Err(Violation::TooManyRows { rows }));
                noticed[0] += 1;
            }
            // A block that is lost, and one that is freed too early.
            let mut references = world.references();
            if let Some(block) = references.keys().next().copied() {
                *references.get_mut(&block).expect("it is there") += 1;
                let got = world.check_blocks(&references);
                assert!(matches!(got, Err(Violation::WrongReferences { .. })));
                references.remove(&block);
                let got = world.check_blocks(&references);
                assert!(matches!(got, Err(Violation::WrongReferences { .. })));
                noticed[1] += 1;
            }
            // The last of a tenant's queue before the first.
            let waiting: Vec<_> = world.clients.values().filter(|c| !c.started).collect();
            if let [first, .., last] = &waiting[..]
                && first.request.tenant == last.request.tenant
                && first.request.priority == last.request.priority
            {
                let (by, request) = (last.request.id, first.request.id);
                let started = vec![(by, SeqId(u64::MAX), 0)];
                let got = world.check_order(&Step { started, ..Step::default() });
                assert!(matches!(got, Err(Violation::Overtaken { .. })), "{request:?}: {got:?}");
                noticed[2] += 1;
            }
            if let Some(first) = waiting.first().filter(|_| world.scenario.priorities == 1) {
                let (id, own) = (first.request.id, first.request.tenant);
                let mut copy = world.clone();
                let much = 1 + fairness_bound(&copy) as u64;
                copy.served = first.served_before.clone();
                *copy.served.entry(TenantId(own.0 + 1)).or_default() += much;
                assert!(matches!(copy.check_fair(id), Err(Violation::Unfair { .. })));
                noticed[3] += 1;
            }
            if let Some(seq) = world.answers.keys().next().copied() {
                let mut copy = world.clone();
                copy.answers.get_mut(&seq).expect("it is there").tokens[0] ^= 1 << 20;
                assert_eq!(copy.check_rest(), Err(Violation::OtherRequests));
                noticed[4] += 1;
            }
        }
    }
    assert!(noticed.iter().all(|&n| n > 20), "{noticed:?}");
}
