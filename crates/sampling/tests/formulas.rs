//! Each step against its formula, written here a second time in the plainest way: dense, sorted as a
//! whole, in `f64`.

use sampling::{PenaltyWindow, Sampler, SamplingError, SamplingParams, argmax, logprobs};

fn default() -> SamplingParams {
    SamplingParams { seed: Some(1), ..Default::default() }
}

/// A row with a heavy head and a long tail, without ties.
fn row(n: usize, salt: u64) -> Vec<f32> {
    let hash = |i: u64| (i.wrapping_add(salt).wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 40) as f32;
    (0..n as u64).map(|i| (hash(i) / (1u32 << 24) as f32 + 1e-9).ln() * -2.0).collect()
}

fn softmax(logits: &[f64]) -> Vec<f64> {
    let max = logits.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let w: Vec<f64> = logits.iter().map(|l| (l - max).exp()).collect();
    let sum: f64 = w.iter().sum();
    w.iter().map(|w| w / sum).collect()
}

/// Keeps the tokens of `keep` and renormalises.
fn restrict(p: &[f64], keep: &[usize]) -> Vec<f64> {
    let sum: f64 = keep.iter().map(|&i| p[i]).sum();
    (0..p.len()).map(|i| if keep.contains(&i) { p[i] / sum } else { 0.0 }).collect()
}

/// The shortest prefix of `order` with mass `target`.
fn prefix(p: &[f64], order: &[usize], target: f64) -> Vec<usize> {
    let mut sum = 0.0;
    let mut keep = Vec::new();
    for &i in order {
        keep.push(i);
        sum += p[i];
        if sum >= target {
            break;
        }
    }
    keep
}

/// The tokens with mass, by the key's ascending order.
fn ordered(p: &[f64], key: impl Fn(usize) -> f64) -> Vec<usize> {
    let mut order: Vec<usize> = (0..p.len()).filter(|&i| p[i] > 0.0).collect();
    order.sort_by(|&a, &b| key(a).total_cmp(&key(b)).then(a.cmp(&b)));
    order
}

/// Steps 4 to 8 of the chain.
fn reference(logits: &[f64], params: &SamplingParams) -> Vec<f64> {
    let t = f64::from(params.temperature);
    let mut p = softmax(&logits.iter().map(|l| l / t).collect::<Vec<_>>());
    if params.top_k > 0 {
        let order = ordered(&p, |i| -p[i]);
        p = restrict(&p, &order[..params.top_k.min(order.len())]);
    }
    if params.top_p < 1.0 {
        let keep = prefix(&p, &ordered(&p, |i| -p[i]), f64::from(params.top_p));
        p = restrict(&p, &keep);
    }
    if params.min_p > 0.0 {
        let max = p.iter().copied().fold(0.0, f64::max);
        let keep: Vec<usize> =
            (0..p.len()).filter(|&i| p[i] >= f64::from(params.min_p) * max && p[i] > 0.0).collect();
        p = restrict(&p, &keep);
    }
    if params.typical_p < 1.0 {
        let entropy: f64 = p.iter().filter(|&&x| x > 0.0).map(|x| -x * x.ln()).sum();
        let order = ordered(&p, |i| (-p[i].ln() - entropy).abs());
        p = restrict(&p, &prefix(&p, &order, f64::from(params.typical_p)));
    }
    p
}

#[track_caller]
fn assert_close(got: &sampling::Distribution, want: &[f64]) {
    for (i, &w) in want.iter().enumerate() {
        let g = got.probability(i as u32);
        assert!((g - w).abs() < 1e-12, "token {i}: {g} against {w}");
        assert_eq!(g > 0.0, w > 0.0, "token {i}: {g} against {w}");
    }
}

#[test]
fn every_combination_of_truncations_follows_the_formulas() {
    for n in [1, 5, 200, 3000] {
        for temperature in [0.3, 1.0, 2.5] {
            for top_k in [0, 3, 700] {
                for top_p in [1.0, 0.85, 0.1] {
                    for min_p in [0.0, 0.02] {
                        for typical_p in [1.0, 0.9, 0.2] {
                            let p = SamplingParams {
                                temperature,
                                top_k,
                                top_p,
                                min_p,
                                typical_p,
                                ..default()
                            };
                            let logits = row(n, n as u64);
                            let wide: Vec<f64> = logits.iter().map(|&l| f64::from(l)).collect();
                            let want = reference(&wide, &p);
                            let got = Sampler::new(p).unwrap().distribution(&logits).unwrap();
                            assert_close(&got, &want);
                        }
                    }
                }
            }
        }
    }
}

#[test]
fn penalties_follow_their_definitions() {
    let logits = [2.0f32, -1.0, 0.5, 0.0, 3.0, -2.0];
    let params = SamplingParams {
        repetition_penalty: 2.0,
        frequency_penalty: 0.25,
        presence_penalty: 0.5,
        ..default()
    };
    let mut s = Sampler::new(params.clone()).unwrap();
    s.observe_prompt(&[1, 4, 4]);
    s.accept(0);
    s.accept(0);
    s.accept(5);
    // Repetition: 0, 1, 4 and 5 were seen. The others: 0 was generated twice and 5 once.
    let want = [1.0 - 0.5 - 0.5, -2.0, 0.5, 0.0, 1.5, -4.0 - 0.25 - 0.5];
    assert_close(&s.distribution(&logits).unwrap(), &softmax(&want));
    // Two steps back, and the counts are those of one generated 0.
    s.rollback(2).unwrap();
    let want = [1.0 - 0.25 - 0.5, -2.0, 0.5, 0.0, 1.5, -2.0];
    assert_close(&s.distribution(&logits).unwrap(), &softmax(&want));
    assert_eq!(s.rollback(2), Err(SamplingError::RollbackTooFar { asked: 2, generated: 1 }));

    // A window of two: of 1, 4, 4, 0 it reaches 4 and 0.
    let params = SamplingParams {
        repetition_penalty: 2.0,
        penalty_window: PenaltyWindow::Last(2),
        ..default()
    };
    let mut s = Sampler::new(params).unwrap();
    s.observe_prompt(&[1, 4, 4]);
    s.accept(0);
    let want = [1.0, -1.0, 0.5, 0.0, 1.5, -2.0];
    assert_close(&s.distribution(&logits).unwrap(), &softmax(&want));
}

#[test]
fn bias_adds_to_logits_and_bans() {
    let params = SamplingParams { logit_bias: vec![(0, f32::NEG_INFINITY), (2, 1.5)], ..default() };
    let mut s = Sampler::new(params).unwrap();
    let got = s.distribution(&[9.0, 1.0, 0.0]).unwrap();
    assert_close(&got, &softmax(&[f64::NEG_INFINITY, 1.0, 1.5]));
    assert_eq!(got.tokens(), [1, 2]);
    assert_eq!(
        s.distribution(&[1.0, 2.0]),
        Err(SamplingError::TokenOutOfVocabulary { token: 2, vocabulary: 2 })
    );
}

#[test]
fn greedy_takes_the_largest_and_the_lowest_of_equals() {
    let mut s = Sampler::new(SamplingParams::greedy()).unwrap();
    assert_eq!(s.next_token(&[0.0, 5.0, 5.0, 1.0]), Ok(1));
    let p = s.distribution(&[0.0, 5.0, 5.0, 1.0]).unwrap();
    assert_eq!((p.tokens(), p.probabilities()), (&[1][..], &[1.0][..]));
    assert_eq!(argmax(&[f32::NEG_INFINITY, -3.0, f32::MIN]), Ok(1));
    // A maximum at any place of rows of any length.
    for n in 1..40 {
        for i in 0..n {
            let mut row = vec![-1.0; n];
            row[i] = 0.5;
            assert_eq!(argmax(&row), Ok(i as u32));
        }
    }
}

#[test]
fn ties_are_cut_by_id() {
    let params = SamplingParams { top_k: 2, ..default() };
    let p = Sampler::new(params).unwrap().distribution(&[1.0; 5]).unwrap();
    assert_eq!(p.tokens(), [0, 1]);
    let params = SamplingParams { top_p: 0.5, ..default() };
    let p = Sampler::new(params).unwrap().distribution(&[1.0; 5]).unwrap();
    assert_eq!(p.tokens(), [0, 1, 2]);
    let params = SamplingParams { typical_p: 0.5, ..default() };
    let p = Sampler::new(params).unwrap().distribution(&[1.0; 5]).unwrap();
    assert_eq!(p.tokens(), [0, 1, 2]);
}

#[test]
fn at_least_one_token_stays() {
    let logits = row(300, 3);
    let best = argmax(&logits).unwrap();
    for p in [
        SamplingParams { top_p: 0.0, ..default() },
        SamplingParams { min_p: 1.0, ..default() },
        SamplingParams { temperature: 1e-30, ..default() },
        SamplingParams { temperature: f32::from_bits(1), ..default() },
    ] {
        let got = Sampler::new(p).unwrap().distribution(&logits).unwrap();
        assert_eq!((got.tokens(), got.probabilities()), (&[best][..], &[1.0][..]));
    }
    let p = SamplingParams { typical_p: f32::MIN_POSITIVE, ..default() };
    assert_eq!(Sampler::new(p).unwrap().distribution(&logits).unwrap().tokens().len(), 1);
}

#[test]
fn bad_logits_are_typed_errors_and_change_nothing() {
    let cases: [(&[f32], SamplingError); 5] = [
        (&[], SamplingError::EmptyLogits),
        (&[0.0, f32::NAN, f32::NAN], SamplingError::NanLogit { token: 1 }),
        (&[f32::INFINITY, f32::NAN], SamplingError::NanLogit { token: 1 }),
        (&[0.0, 0.0, f32::INFINITY], SamplingError::InfiniteLogit { token: 2 }),
        (&[f32::NEG_INFINITY; 3], SamplingError::NoCandidates { vocabulary: 3 }),
    ];
    for params in [default(), SamplingParams::greedy()] {
        let mut s = Sampler::new(params).unwrap();
        let mut undisturbed = s.clone();
        for (logits, error) in &cases {
            assert_eq!(s.next_token(logits).as_ref(), Err(error));
            assert_eq!(argmax(logits).as_ref(), Err(error));
            assert_eq!(logprobs(logits, 0, 1).as_ref(), Err(error));
        }
        let logits = row(50, 9);
        for _ in 0..20 {
            assert_eq!(s.next_token(&logits), undisturbed.next_token(&logits));
        }
    }
    // A NaN is found wherever it stands.
    for n in 1..40 {
        for i in 0..n {
            let mut row = vec![1.0; n];
            row[i] = f32::NAN;
            assert_eq!(argmax(&row), Err(SamplingError::NanLogit { token: i as u32 }));
        }
    }
}

#[test]
fn extreme_logits_stay_finite() {
    let params = SamplingParams {
        repetition_penalty: 1e-3,
        frequency_penalty: -1000.0,
        presence_penalty: 1000.0,
        logit_bias: vec![(0, 1000.0)],
        ..default()
    };
    let mut s = Sampler::new(params).unwrap();
    s.observe_prompt(&[0, 1, 2]);
    s.accept(0);
    s.accept(2);
    let p = s.distribution(&[f32::MAX, f32::MIN, f32::NEG_INFINITY, 0.0]).unwrap();
    assert_eq!((p.tokens(), p.probabilities()), (&[0][..], &[1.0][..]));
}

#[test]
fn parameters_outside_their_range_are_refused_by_name() {
    let nan = f32::NAN;
    let d = default;
    let cases = [
        ("temperature", SamplingParams { temperature: nan, ..d() }),
        ("temperature", SamplingParams { temperature: -1.0, ..d() }),
        ("temperature", SamplingParams { temperature: 1e30, ..d() }),
        ("temperature", SamplingParams { temperature: f32::INFINITY, ..d() }),
        ("top_p", SamplingParams { top_p: nan, ..d() }),
        ("top_p", SamplingParams { top_p: 1.1, ..d() }),
        ("top_p", SamplingParams { top_p: -0.1, ..d() }),
        ("min_p", SamplingParams { min_p: 2.0, ..d() }),
        ("min_p", SamplingParams { min_p: nan, ..d() }),
        ("typical_p", SamplingParams { typical_p: 0.0, ..d() }),
        ("typical_p", SamplingParams { typical_p: nan, ..d() }),
        ("repetition_penalty", SamplingParams { repetition_penalty: 0.0, ..d() }),
        ("repetition_penalty", SamplingParams { repetition_penalty: -1.0, ..d() }),
        ("repetition_penalty", SamplingParams { repetition_penalty: nan, ..d() }),
        ("presence_penalty", SamplingParams { presence_penalty: f32::INFINITY, ..d() }),
        ("frequency_penalty", SamplingParams { frequency_penalty: nan, ..d() }),
        ("logit_bias", SamplingParams { logit_bias: vec![(3, nan)], ..d() }),
        ("logit_bias", SamplingParams { logit_bias: vec![(3, f32::INFINITY)], ..d() }),
    ];
    for (field, params) in cases {
        match Sampler::new(params) {
            Err(SamplingError::InvalidParameter { name, .. }) => assert_eq!(name, field),
            other => panic!("{field}: {other:?}"),
        }
    }
    let twice = SamplingParams { logit_bias: vec![(3, 1.0), (5, 0.0), (3, 1.0)], ..d() };
    assert_eq!(Sampler::new(twice).err(), Some(SamplingError::DuplicateBias { token: 3 }));
}

#[test]
fn logprobs_are_the_models_own() {
    let logits = row(100, 5);
    let p = softmax(&logits.iter().map(|&l| f64::from(l)).collect::<Vec<_>>());
    let order = ordered(&p, |i| -p[i]);
    let got = logprobs(&logits, order[7] as u32, 5).unwrap();
    assert_eq!(got.rank, 7);
    assert!((got.chosen.logprob - p[order[7]].ln()).abs() < 1e-12);
    assert_eq!(got.top.iter().map(|t| t.token as usize).collect::<Vec<_>>(), order[..5]);
    for t in &got.top {
        assert!((t.logprob - p[t.token as usize].ln()).abs() < 1e-12);
    }
    // As many as there are, whatever is asked for.
    assert_eq!(logprobs(&logits, 0, usize::MAX).unwrap().top.len(), 100);
    assert!(logprobs(&logits, 0, 0).unwrap().top.is_empty());
    let error = SamplingError::TokenOutOfVocabulary { token: 100, vocabulary: 100 };
    assert_eq!(logprobs(&logits, 100, 1), Err(error));
}
