//! After warm-up a token costs no allocation.

use sampling::{PenaltyWindow, Sampler, SamplingParams};

#[test]
fn a_token_allocates_nothing() {
    let row: Vec<f32> =
        (0..32_000).map(|i| ((i * 7919 % 32_000) as f32 / 3000.0).sin() * 8.0).collect();
    for params in [
        SamplingParams::greedy(),
        SamplingParams::default(),
        SamplingParams { top_k: 40, top_p: 0.95, min_p: 0.05, ..Default::default() },
        SamplingParams { typical_p: 0.9, logit_bias: vec![(3, 1.0)], ..Default::default() },
    ] {
        let mut s = Sampler::new(params).unwrap();
        s.next_token(&row).unwrap();
        let used = allocation_counter::measure(|| {
            (0..20).for_each(|_| assert!(s.next_token(&row).is_ok()));
        });
        assert_eq!(used.count_total, 0, "{:?}", s.params());
    }
}

#[test]
fn a_history_grows_with_the_sequence_alone() {
    let params = SamplingParams {
        repetition_penalty: 1.1,
        penalty_window: PenaltyWindow::Last(64),
        top_k: 40,
        ..Default::default()
    };
    let row: Vec<f32> = (0..1000).map(|i| (i as f32 / 50.0).sin() * 4.0).collect();
    let mut s = Sampler::new(params).unwrap();
    (0..2000).for_each(|_| assert!(s.next_token(&row).is_ok()));
    let used = allocation_counter::measure(|| {
        (0..2000).for_each(|_| assert!(s.next_token(&row).is_ok()));
    });
    // The list of tokens doubles now and then.
    assert!(used.count_total <= 4, "{} allocations", used.count_total);
}
