//! Blocks run out.

use super::*;

/// Two requests in a pool of 5 blocks of 4 positions, all of which the first may come to need.
fn two(preemption: Preemption, host_blocks: u32) -> Scheduler {
    let mut c = config(5);
    c.preemption = preemption;
    c.kv.host_blocks = host_blocks;
    let mut s = scheduler(c);
    s.add(Request { max_new_tokens: 16, ..request(1, 4) }).unwrap();
    s.add(request(2, 3)).unwrap();
    assert_eq!(started(&step(&mut s, MUCH)), [1, 2]);
    s
}

/// Steps until somebody is preempted.
fn until_preempted(s: &mut Scheduler) -> Step {
    (0..20).map(|_| step(s, MUCH)).find(|step| !step.preempted.is_empty()).expect("blocks run out")
}

#[test]
fn the_last_in_rank_is_computed_again_and_nothing_is_sampled_twice() {
    let mut s = two(Preemption::Recompute, 0);
    let before = until_preempted(&mut s);
    let (first, second) = (seqs(&s, 1)[0], seqs(&s, 2)[0]);
    assert_eq!(before.preempted, [second]);
    assert_eq!(before.work.iter().map(|w| w.seq).collect::<Vec<_>>(), [first]);
    let lost: Vec<u32> = tokens(&s, 2);
    // Others wait behind it, even those who would fit.
    s.add(Request { tenant: TenantId(9), max_new_tokens: 0, ..request(3, 1) }).unwrap();
    while s.running() == 1 {
        step(&mut s, MUCH);
        if tokens(&s, 1).len() == 16 {
            s.finish(first);
        }
    }
    let small = Budget { rows: 5, prompt_rows: 5 };
    let resumed = s.schedule(small).clone();
    assert_eq!((&resumed.resumed[..], started(&resumed)), (&[second][..], vec![]));
    let mut got = resumed.tokens.clone();
    assert_eq!(rows(&resumed), [(2, 0, 5, false)]);
    assert_eq!(resumed.work[0].prompt_rows, 0);
    s.computed();
    let last = s.schedule(small).clone();
    got.extend(last.tokens(&last.work[0]));
    assert_eq!(got, lost);
    assert!(last.work[0].samples);
    s.computed();
    assert_eq!(s.counts().preemptions, 1);
}

fn tokens(s: &Scheduler, id: u64) -> Vec<u32> {
    let request = s.requests().find(|r| r.id() == RequestId(id)).unwrap();
    request.sequences().next().unwrap().tokens().to_vec()
}

#[test]
fn priority_decides_before_the_order_of_starts() {
    let mut s = scheduler(config(6));
    s.add(Request { priority: 1, ..request(1, 4) }).unwrap();
    step(&mut s, MUCH);
    s.add(Request { priority: 0, ..request(2, 4) }).unwrap();
    step(&mut s, MUCH);
    assert_eq!(s.running(), 2);
    let first = seqs(&s, 1);
    assert_eq!(until_preempted(&mut s).preempted, first);
}

#[test]
fn blocks_go_to_the_host_and_come_back() {
    let mut s = two(Preemption::Swap, 4);
    let out = until_preempted(&mut s);
    let second = seqs(&s, 2)[0];
    assert_eq!((out.swap_out.len(), s.kv().host_pool().used()), (2, 2));
    let view = s.requests().find(|r| r.id().0 == 2).unwrap();
    assert!(view.sequences().all(|s| s.is_on_host()));
    assert_eq!(view.state(), scheduler::RequestState::Preempted);
    let computed = view.sequences().next().unwrap().computed();
    s.cancel(RequestId(1));
    // It goes on with the token that it had, and nothing is computed again.
    let back = s.schedule(MUCH).clone();
    assert_eq!((back.swap_in.len(), &back.resumed[..]), (2, &[second][..]));
    assert_eq!(rows(&back), [(2, computed, 1, true)]);
    assert_eq!(s.kv().host_pool().used(), 0);
}

#[test]
fn without_room_on_the_host_it_is_computed_again() {
    let mut s = two(Preemption::Swap, 1);
    let out = until_preempted(&mut s);
    assert_eq!((out.swap_out.len(), s.kv().host_pool().used()), (0, 0));
    s.cancel(RequestId(1));
    assert_eq!(rows(s.schedule(MUCH))[0].1, 0);
}

/// A request of three sequences that share a prompt of 10 and have 2 tokens of their own, preempted
/// by another, which then goes.
fn preempted_forks(preemption: Preemption) -> Scheduler {
    let mut c = config(20);
    (c.preemption, c.kv.host_blocks) = (preemption, 20);
    let mut s = scheduler(c);
    s.add(Request { priority: -1, max_new_tokens: 36, ..request(1, 4) }).unwrap();
    step(&mut s, MUCH);
    s.add(Request { sequences: 3, max_new_tokens: 20, ..request(2, 10) }).unwrap();
    let work = s.schedule(MUCH).work[1].clone();
    s.computed();
    assert!(work.samples);
    s.push(seqs(&s, 1)[0], 7);
    let forks = [s.fork(work.seq).unwrap(), s.fork(work.seq).unwrap()];
    s.push(work.seq, 20);
    forks.iter().zip([21, 22]).for_each(|(&fork, token)| s.push(fork, token));
    // Two blocks are shared; the third is copied but for the last to write it.
    let copies = step(&mut s, MUCH).copies;
    assert_eq!((copies.len(), s.kv().pool().used()), (2, 2 + 2 + 3));
    let lost = until_preempted(&mut s).preempted;
    assert_eq!(lost, seqs(&s, 2));
    s.cancel(RequestId(1));
    s
}

#[test]
fn forks_that_are_swapped_stay_shared() {
    let mut s = preempted_forks(Preemption::Swap);
    let on_host = s.kv().host_pool().used();
    let back = step(&mut s, MUCH);
    assert_eq!(back.swap_in.len(), on_host);
    // Two blocks are in all three tables.
    assert_eq!(s.kv().stats().table_entries - s.kv().pool().used(), 4);
    assert_eq!(back.work.len(), 3);
}

#[test]
fn forks_that_are_computed_again_are_shared_again() {
    let mut s = preempted_forks(Preemption::Recompute);
    let all = seqs(&s, 2);
    // It would fit beside the first sequence, and the others could not come back then.
    s.add(request(3, 4)).unwrap();
    let request = s.requests().find(|r| r.id() == RequestId(2)).unwrap();
    let lens: Vec<usize> = request.sequences().map(|s| s.tokens().len()).collect();
    // The first from the start; then the others from where they differ, with a copy of the block in
    // which that is.
    let first = step(&mut s, MUCH);
    assert_eq!(rows(&first), [(2, 0, lens[0], true)]);
    let others = step(&mut s, MUCH);
    let of = |w: &scheduler::Work| (w.seq, w.first, w.tokens.len(), w.samples, w.prompt_rows);
    let got: Vec<_> = others.work.iter().map(of).collect();
    let again = |k: usize| (all[k], 10, lens[k] - 10, true, 0);
    assert_eq!(got, [again(1), again(2), (all[0], lens[0], 1, true, 0)]);
    assert_eq!(s.waiting(), 1);
    assert_eq!(others.copies.len(), 2);
    assert!(others.copies.iter().all(|c| c.slots == 2));
    assert_eq!(s.kv().stats().table_entries - s.kv().pool().used(), 4);
}

#[test]
fn a_sequence_that_waits_for_a_token_is_computed_again_without_sampling() {
    let mut s = two(Preemption::Recompute, 0);
    let second = seqs(&s, 2)[0];
    // The second request's reader is slow: its token is not pushed.
    s.schedule(MUCH);
    s.computed();
    let (first, mut preempted) = (seqs(&s, 1)[0], false);
    while !preempted {
        s.push(first, 7);
        preempted = s.schedule(MUCH).preempted == [second];
        s.computed();
    }
    s.cancel(RequestId(1));
    let again = s.schedule(MUCH).work[0].clone();
    assert_eq!((again.first, again.tokens.len(), again.samples), (0, 4, false));
    s.computed();
    s.push(second, 8);
    let next = s.schedule(MUCH).work[0].clone();
    assert_eq!((next.first, next.tokens.len(), next.samples), (4, 1, true));
}
