//! Who may come in, and who goes first.

use scheduler::Refusal;

use super::*;

#[test]
fn what_cannot_be_served_is_refused() {
    let mut s = scheduler(SchedulerConfig { max_waiting: 2, ..config(12) });
    let ok = request(1, 8);
    let refused = |s: &mut Scheduler, r: &Request| s.add(r.clone()).unwrap_err();
    let changed = |change: &dyn Fn(&mut Request)| {
        let mut r = ok.clone();
        change(&mut r);
        r
    };
    assert_eq!(refused(&mut s, &changed(&|r| r.prompt.clear())), Refusal::EmptyPrompt);
    for asked in [0, 9, 1_000_000_000, usize::MAX] {
        let got = refused(&mut s, &changed(&|r| r.sequences = asked));
        assert_eq!(got, Refusal::TooManySequences { asked, limit: 8 });
    }
    for max_new in [57, 1 << 62, usize::MAX] {
        let got = refused(&mut s, &changed(&|r| r.max_new_tokens = max_new));
        assert_eq!(got, Refusal::TooLong { prompt: 8, max_new, limit: 64 });
    }
    // 49 positions are 13 blocks.
    let got = refused(&mut s, &changed(&|r| r.max_new_tokens = 41));
    assert_eq!(got, Refusal::NeverFits { needed: 13, total: 12 });
    // One shared block of the prompt, 4 of their own each; 3 would do for two.
    let got = refused(&mut s, &changed(&|r| r.sequences = 3));
    assert_eq!(got, Refusal::NeverFits { needed: 13, total: 12 });
    s.add(changed(&|r| r.sequences = 2)).unwrap();
    assert_eq!(refused(&mut s, &ok), Refusal::DuplicateId(RequestId(1)));
    s.add(Request { max_new_tokens: 40, ..request(2, 8) }).unwrap();
    assert_eq!(refused(&mut s, &request(3, 1)), Refusal::QueueFull { waiting: 2 });
    s.drain();
    assert_eq!(refused(&mut s, &request(3, 1)), Refusal::Draining);
    // Nothing has come of those.
    assert_eq!((s.requests().count(), s.waiting()), (2, 2));
}

#[test]
fn a_pool_without_blocks_refuses_all() {
    let mut s = scheduler(config(0));
    let never = Refusal::NeverFits { needed: 4, total: 0 };
    assert_eq!(s.add(request(1, 1)).unwrap_err(), never);
    assert_eq!(*s.schedule(MUCH), Step::default());
}

#[test]
fn priority_goes_before_fairness_and_fairness_before_arrival() {
    let mut s = scheduler(SchedulerConfig { max_sequences: 1, ..config(16) });
    let of = |id, tenant, priority| Request {
        tenant: TenantId(tenant),
        priority,
        max_new_tokens: 0,
        ..request(id, 10)
    };
    for (id, tenant, priority) in
        [(1, 1, 0), (2, 1, 0), (3, 1, 0), (4, 2, 0), (5, 2, 0), (6, 1, 1), (7, 1, -1)]
    {
        s.add(of(id, tenant, priority)).unwrap();
    }
    let mut order = Vec::new();
    while !s.is_idle() {
        let step = s.schedule(MUCH).clone();
        s.computed();
        order.extend(started(&step));
        step.work.iter().for_each(|w| s.finish(w.seq));
    }
    // Tenant 1 has had one request when tenant 2 has had none.
    assert_eq!(order, [7, 4, 1, 5, 2, 3, 6]);
}

#[test]
fn a_large_request_is_not_overtaken() {
    let mut s = scheduler(config(16));
    s.add(request(1, 20)).unwrap();
    step(&mut s, MUCH);
    // 5 blocks are used; this one needs 10, and two more are to stay free.
    s.add(request(2, 40)).unwrap();
    for (id, priority) in [(3, 0), (4, 1)] {
        s.add(Request { priority, ..request(id, 1) }).unwrap();
    }
    for _ in 0..3 {
        assert_eq!(started(&step(&mut s, MUCH)), []);
    }
    // A higher priority may.
    s.add(Request { priority: -1, ..request(5, 1) }).unwrap();
    assert_eq!(started(&step(&mut s, MUCH)), [5]);
    s.cancel(RequestId(1));
    s.cancel(RequestId(5));
    assert_eq!(started(&step(&mut s, MUCH)), [2, 3, 4]);
}

#[test]
fn a_block_for_every_sequence_stays_free() {
    let starts = |blocks, sequences| {
        let mut s = scheduler(config(blocks));
        s.add(request(1, 4)).unwrap();
        step(&mut s, MUCH);
        s.add(Request { max_new_tokens: 1, sequences, ..request(2, 8) }).unwrap();
        !step(&mut s, MUCH).started.is_empty()
    };
    // Two used, two for the prompt, one for each that may run.
    assert!(!starts(5, 1) && starts(6, 1));
    assert!(!starts(7, 3) && starts(8, 3));
}

#[test]
fn sequences_that_a_request_may_fork_into_count() {
    let mut s = scheduler(config(64));
    s.add(Request { sequences: 6, ..request(1, 4) }).unwrap();
    s.add(Request { sequences: 3, ..request(2, 4) }).unwrap();
    s.add(Request { sequences: 2, ..request(3, 4) }).unwrap();
    assert_eq!(started(&step(&mut s, MUCH)), [1]);
    s.cancel(RequestId(2));
    assert_eq!(started(&step(&mut s, MUCH)), [3]);
}

#[test]
fn who_can_share_waits_one_step_for_it() {
    let mut c = config(64);
    c.kv.eviction = EvictionPolicy::Lru;
    let mut s = scheduler(c);
    let prompt: Vec<u32> = (0..22).collect();
    for id in 1..4 {
        s.add(Request { prompt: prompt.clone(), ..request(id, 1) }).unwrap();
    }
    // Nothing to share with: another tenant's salt.
    s.add(Request { prompt: prompt.clone(), salt: CacheSalt(1), ..request(4, 1) }).unwrap();
    assert_eq!(started(&step(&mut s, MUCH)), [1]);
    let second = step(&mut s, MUCH);
    let cached: Vec<_> = second.started.iter().map(|&(id, _, cached)| (id.0, cached)).collect();
    assert_eq!(cached, [(2, 20), (3, 20), (4, 0)]);
    let new: Vec<_> = second.work.iter().map(|w| (w.first, w.prompt_rows)).collect();
    assert_eq!(new, [(22, 0), (20, 2), (20, 2), (0, 22)]);
}

#[test]
fn wanted_logits_are_never_skipped() {
    let mut c = config(64);
    c.kv.eviction = EvictionPolicy::Lru;
    let mut s = scheduler(c);
    let prompt: Vec<u32> = (0..12).collect();
    for id in 1..3 {
        s.add(Request { prompt: prompt.clone(), every_logit: true, ..request(id, 1) }).unwrap();
    }
    let both = step(&mut s, MUCH);
    assert_eq!(rows(&both), [(1, 0, 12, true), (2, 0, 12, true)]);
    assert!(both.started.iter().all(|s| s.2 == 0));
    // They share the blocks all the same.
    assert_eq!(s.kv().pool().used(), 3);
}
