//! Which rows a step has.

use super::*;

#[test]
fn several_prompts_share_a_step_the_oldest_first() {
    let mut s = scheduler(config(32));
    for (id, len) in [(1, 5), (2, 6), (3, 4)] {
        s.add(request(id, len)).unwrap();
    }
    let ten = Budget { rows: 10, prompt_rows: 10 };
    assert_eq!(rows(&step(&mut s, ten)), [(1, 0, 5, true), (2, 0, 5, false)]);
    let next = step(&mut s, ten);
    assert_eq!(rows(&next), [(1, 5, 1, true), (2, 5, 1, true), (3, 0, 4, true)]);
    let second = &next.work[1];
    assert_eq!((next.tokens(second), second.prompt_rows), (&[2005][..], 1));
}

#[test]
fn a_prompt_beside_streams_has_its_own_budget() {
    let mut s = scheduler(config(32));
    (1..4).for_each(|id| s.add(request(id, 2)).unwrap());
    step(&mut s, MUCH);
    s.add(request(9, 20)).unwrap();
    let budget = Budget { rows: 10, prompt_rows: 5 };
    let streams = |at| [(1, at, 1, true), (2, at, 1, true), (3, at, 1, true)];
    let with = |at, rows| streams(at).into_iter().chain([rows]).collect::<Vec<_>>();
    assert_eq!(rows(&step(&mut s, budget)), with(2, (9, 0, 5, false)));
    // Rows are scarcer than the budget of prompts.
    let budget = Budget { rows: 7, ..budget };
    assert_eq!(rows(&step(&mut s, budget)), with(3, (9, 5, 4, false)));
    // None at all for prompts: it goes on when nothing decodes.
    let budget = Budget { rows: 7, prompt_rows: 0 };
    assert_eq!(rows(&step(&mut s, budget)), streams(4));
    for id in 1..4 {
        s.cancel(RequestId(id));
    }
    assert_eq!(rows(&step(&mut s, budget)), [(9, 9, 7, false)]);
}

#[test]
fn with_too_few_rows_streams_take_turns() {
    let mut s = scheduler(config(32));
    (1..6).for_each(|id| s.add(request(id, 1)).unwrap());
    step(&mut s, MUCH);
    s.add(request(9, 3)).unwrap();
    let two = Budget { rows: 2, prompt_rows: 2 };
    let ids = |step: Step| step.work.iter().map(|w| w.request.0).collect::<Vec<_>>();
    let turns: Vec<Vec<u64>> = (0..5).map(|_| ids(step(&mut s, two))).collect();
    // Those that waited longest, by rank where they waited as long; and no prompt meanwhile.
    assert_eq!(turns, [[1, 2], [3, 4], [1, 5], [2, 3], [1, 4]]);
}

#[test]
fn without_rows_nothing_is_done() {
    let mut s = scheduler(config(8));
    s.add(request(1, 3)).unwrap();
    let step = s.schedule(Budget { rows: 0, prompt_rows: 0 });
    assert_eq!(*step, Step::default());
    assert_eq!((s.waiting(), s.running()), (1, 0));
}

#[test]
fn who_waits_for_a_token_has_no_rows() {
    let mut s = scheduler(config(8));
    s.add(request(1, 3)).unwrap();
    let seq = s.schedule(MUCH).work[0].seq;
    s.computed();
    assert_eq!(rows(s.schedule(MUCH)), []);
    s.computed();
    s.push(seq, 5);
    let step = s.schedule(MUCH);
    assert_eq!((rows(step), &step.tokens[..]), (vec![(1, 3, 1, true)], &[5][..]));
}

#[test]
fn a_prompt_alone_is_sampled_once_and_ends() {
    let mut s = scheduler(config(8));
    s.add(Request { max_new_tokens: 0, ..request(1, 6) }).unwrap();
    let first = s.schedule(Budget { rows: 4, prompt_rows: 4 });
    assert_eq!((first.work[0].samples, first.work[0].prompt_rows), (false, 4));
    s.computed();
    let last = s.schedule(MUCH).work[0].clone();
    assert_eq!((last.samples, last.prompt_rows), (true, 2));
    s.computed();
    s.finish(last.seq);
    assert!(s.is_idle());
}

#[test]
fn a_step_that_failed_comes_again() {
    let mut s = scheduler(config(8));
    s.add(request(1, 6)).unwrap();
    step(&mut s, MUCH);
    s.add(request(2, 3)).unwrap();
    let first = s.schedule(MUCH).clone();
    s.abandoned();
    // Reported by mistake, or late: nothing is open.
    s.computed();
    s.abandoned();
    let second = s.schedule(MUCH).clone();
    assert_eq!((first.work, first.tokens), (second.work, second.tokens));
    assert_eq!((first.started.len(), second.started.len()), (1, 0));
    // Who asks for a step without a word about the last has abandoned it.
    assert_eq!(rows(s.schedule(MUCH)), [(1, 6, 1, true), (2, 0, 3, true)]);
    assert_eq!(s.kv().pool().used(), 3);
}
