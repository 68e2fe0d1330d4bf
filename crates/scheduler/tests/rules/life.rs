//! How requests and sequences end, and grow.

use scheduler::{ForkError, RequestState};

use super::*;

#[test]
fn a_cancelled_request_is_gone_wherever_it_was() {
    for preemption in [Preemption::Recompute, Preemption::Swap] {
        let mut c = config(5);
        (c.preemption, c.kv.host_blocks) = (preemption, 5);
        let mut s = scheduler(c);
        assert!(!s.cancel(RequestId(1)));
        for id in 1..4 {
            s.add(request(id, 4)).unwrap();
        }
        while s.counts().preempted == 0 {
            step(&mut s, MUCH);
        }
        let states: Vec<_> = s.requests().map(|r| r.state()).collect();
        assert_eq!(states, [RequestState::Running, RequestState::Preempted, RequestState::Waiting]);
        // In the queue; preempted; with rows in an open step.
        assert!(s.cancel(RequestId(3)) && !s.cancel(RequestId(3)));
        assert!(s.cancel(RequestId(2)));
        assert_eq!(s.kv().host_pool().used(), 0);
        let seq = s.schedule(MUCH).work[0].seq;
        assert!(s.cancel(RequestId(1)));
        s.computed();
        s.push(seq, 7);
        s.finish(seq);
        assert!(s.is_idle() && s.kv().pool().used() == 0);
        // The name is free again.
        s.add(request(1, 4)).unwrap();
        assert_eq!(started(&step(&mut s, MUCH)), [1]);
    }
}

#[test]
fn a_request_ends_with_its_last_sequence() {
    let mut s = scheduler(config(32));
    s.add(Request { sequences: 3, ..request(1, 5) }).unwrap();
    let seq = s.schedule(MUCH).work[0].seq;
    s.computed();
    let forks = [s.fork(seq).unwrap(), s.fork(seq).unwrap()];
    // The prompt's two blocks are all that there is.
    assert_eq!((s.kv().pool().used(), s.counts().running_sequences), (2, 3));
    s.finish(seq);
    s.finish(seq);
    s.push(forks[0], 7);
    s.push(forks[1], 8);
    let next = step(&mut s, MUCH);
    assert_eq!((next.work.len(), next.copies.len()), (2, 1));
    s.finish(forks[0]);
    assert!(!s.is_idle());
    s.finish(forks[1]);
    assert!(s.is_idle());
}

#[test]
fn only_what_was_sampled_can_be_forked() {
    let mut s = scheduler(config(32));
    s.add(Request { sequences: 2, ..request(1, 5) }).unwrap();
    let waiting = seqs(&s, 1)[0];
    assert_eq!(s.fork(waiting), Err(ForkError::NotRunning(waiting)));
    assert_eq!(s.fork(SeqId(99)), Err(ForkError::NotRunning(SeqId(99))));
    let seq = s.schedule(MUCH).work[0].seq;
    assert_eq!(s.fork(seq), Err(ForkError::NotSampled(seq)));
    s.computed();
    s.fork(seq).unwrap();
    s.push(seq, 7);
    assert_eq!(s.fork(seq), Err(ForkError::NotSampled(seq)));
}

#[test]
fn beams_may_be_more_than_asked_for_until_the_next_step() {
    let mut s = scheduler(config(32));
    s.add(Request { sequences: 2, ..request(1, 4) }).unwrap();
    let seq = s.schedule(MUCH).work[0].seq;
    s.computed();
    let forks: Vec<_> = (0..3).map(|_| s.fork(seq).unwrap()).collect();
    assert_eq!(s.fork(seq), Err(ForkError::TooMany { got: 4, limit: 2 }));
    [seq, forks[0], forks[1], forks[2]].iter().for_each(|&beam| s.push(beam, 7));
    // Those beyond get nothing until others have ended.
    let first = step(&mut s, MUCH);
    assert_eq!(first.work.iter().map(|w| w.seq).collect::<Vec<_>>(), [seq, forks[0]]);
    s.finish(seq);
    s.finish(forks[0]);
    let next = step(&mut s, MUCH);
    assert_eq!(next.work.iter().map(|w| w.seq).collect::<Vec<_>>(), forks[1..]);
}

#[test]
fn after_draining_what_is_here_goes_on() {
    let mut s = scheduler(SchedulerConfig { max_sequences: 1, ..config(32) });
    s.add(request(1, 4)).unwrap();
    s.add(request(2, 4)).unwrap();
    step(&mut s, MUCH);
    s.drain();
    s.cancel(RequestId(1));
    assert_eq!(started(&step(&mut s, MUCH)), [2]);
}

#[test]
fn tenants_are_charged_for_what_was_computed() {
    let mut c = config(32);
    c.kv.eviction = EvictionPolicy::Lru;
    let mut s = scheduler(c);
    let served = |s: &Scheduler| s.served_tokens().map(|(_, tokens)| tokens).sum::<u64>();
    s.add(request(1, 9)).unwrap();
    step(&mut s, MUCH);
    step(&mut s, MUCH);
    assert_eq!(served(&s), 9 + 2 * 2);
    // The same prompt: one token of it is computed.
    s.add(Request { prompt: request(1, 9).prompt, ..request(2, 1) }).unwrap();
    step(&mut s, MUCH);
    assert_eq!(served(&s), 13 + 2 + 1 + 2);
    // A prompt that is cut short is paid for as far as it came.
    s.add(request(3, 20)).unwrap();
    step(&mut s, Budget { rows: 7, prompt_rows: 7 });
    s.cancel(RequestId(3));
    assert_eq!(served(&s), 18 + 2 * 2 + 5);
}

#[test]
#[cfg(debug_assertions)]
#[should_panic = "waits for no token"]
fn a_token_that_nobody_waits_for_is_a_mistake() {
    let mut s = scheduler(config(32));
    s.add(request(1, 4)).unwrap();
    let seq = s.schedule(MUCH).work[0].seq;
    s.push(seq, 7);
}
