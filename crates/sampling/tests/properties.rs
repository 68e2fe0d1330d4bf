//! What holds for any logits and any valid parameters.

use proptest::prelude::*;
use sampling::{PenaltyWindow, Sampler, SamplingParams};

fn logit() -> impl Strategy<Value = f32> {
    prop_oneof![
        8 => -20.0f32..20.0,
        1 => Just(f32::NEG_INFINITY),
        1 => prop_oneof![Just(f32::MAX), Just(f32::MIN), Just(0.0f32), Just(-0.0f32)],
        1 => any::<f32>().prop_filter("finite", |x| x.is_finite()),
    ]
}

fn params() -> impl Strategy<Value = SamplingParams> {
    let truncation = (
        prop_oneof![Just(0.0f32), Just(1.0), 0.0f32..100.0, 0.0f32..1e-6],
        0usize..50,
        0.0f32..=1.0,
        0.0f32..=1.0,
        (0.0f32..=1.0).prop_map(|x| x.max(1e-6)),
    );
    let penalties = (
        0.01f32..100.0,
        prop::option::of(0usize..5),
        -10.0f32..10.0,
        -10.0f32..10.0,
        prop::option::of((0u32..2, -100.0f32..100.0)),
        any::<u64>(),
    );
    (truncation, penalties).prop_map(|((t, k, p, m, y), (r, w, pr, fr, bias, seed))| {
        SamplingParams {
            temperature: t,
            top_k: k,
            top_p: p,
            min_p: m,
            typical_p: y,
            repetition_penalty: r,
            penalty_window: w.map_or(PenaltyWindow::All, PenaltyWindow::Last),
            presence_penalty: pr,
            frequency_penalty: fr,
            logit_bias: bias.into_iter().collect(),
            seed: Some(seed),
        }
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, ..Default::default() })]

    /// Probabilities sum to 1, each token has one and is allowed, and every draw is one of them.
    #[test]
    fn a_distribution_is_one(
        params in params(),
        logits in prop::collection::vec(logit(), 2..300),
        prompt in prop::collection::vec(0u32..2, 0..6),
    ) {
        let allowed = logits.iter().filter(|l| l.is_finite()).count();
        let (top_k, seed) = (params.top_k, params.seed);
        let mut s = Sampler::new(params).unwrap();
        s.observe_prompt(&prompt);
        if allowed == 0 {
            prop_assert!(s.next_token(&logits).is_err());
            return Ok(());
        }
        for _ in 0..8 {
            let p = s.distribution(&logits).unwrap();
            prop_assert!((p.probabilities().iter().sum::<f64>() - 1.0).abs() < 1e-12);
            prop_assert!(p.probabilities().iter().all(|&x| x > 0.0 && x <= 1.0));
            prop_assert!(p.tokens().windows(2).all(|w| w[0] < w[1]));
            prop_assert!(p.tokens().iter().all(|&t| logits[t as usize].is_finite()));
            prop_assert!(!p.tokens().is_empty());
            prop_assert!(top_k == 0 || p.tokens().len() <= top_k);
            let t = s.sample(&p);
            prop_assert!(p.probability(t) > 0.0);
            s.accept(t);
        }
        prop_assert_eq!(Some(s.seed()), seed);
    }

    /// The same seed says the same, whatever was computed in between.
    #[test]
    fn a_seed_decides(params in params(), rows in prop::collection::vec(
        prop::collection::vec(-10.0f32..10.0, 40), 1..20)) {
        let mut a = Sampler::new(params.clone()).unwrap();
        let mut b = Sampler::new(params).unwrap();
        for row in &rows {
            let t = a.next_token(row).unwrap();
            // Asking for a distribution, or walking along a draft and back, is not a draw.
            b.distribution(&rows[0]).unwrap();
            (0..3).for_each(|d| b.accept(d));
            b.rollback(3).unwrap();
            prop_assert_eq!(b.next_token(row).unwrap(), t);
        }
    }

    /// `quantile` inverts the cumulative distribution.
    #[test]
    fn quantiles_invert(logits in prop::collection::vec(-5.0f32..5.0, 1..100), u in 0.0f64..1.0) {
        let mut s = Sampler::new(SamplingParams::default()).unwrap();
        let p = s.distribution(&logits).unwrap();
        let t = p.quantile(u);
        let below: f64 = p.iter().filter(|&(x, _)| x < t).map(|(_, q)| q).sum();
        prop_assert!(below <= u + 1e-12);
        prop_assert!(u <= below + p.probability(t) + 1e-12);
    }
}
