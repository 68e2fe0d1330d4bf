//! Pearson's chi-square test of the draws against the distribution they are drawn from.
//!
//! 200,000 draws from 64 tokens, significance 1e-6 (a correct sampler fails one seed in a million; the
//! seed is fixed). The negative controls show that the test can tell: draws at a temperature 5 % off,
//! and draws from a generator that favours low tokens by one part in a hundred, must fail it.

use sampling::{Distribution, Sampler, SamplingParams};

const DRAWS: usize = 200_000;

/// The upper quantile of chi-square at 1e-6, by Wilson and Hilferty's cube (within 1 % from 10 degrees
/// of freedom on).
fn critical(degrees: usize) -> f64 {
    let d = degrees as f64;
    // The standard normal's upper quantile at 1e-6.
    let z = 4.753_424;
    d * (1.0 - 2.0 / (9.0 * d) + z * (2.0 / (9.0 * d)).sqrt()).powi(3)
}

/// The statistic and its degrees of freedom; tokens that expect under 10 draws are pooled.
fn chi_square(p: &Distribution, draw: impl FnMut() -> u32) -> (f64, usize) {
    let mut counts = vec![0usize; 64];
    std::iter::repeat_with(draw).take(DRAWS).for_each(|t| counts[t as usize] += 1);
    let (mut sum, mut cells) = (0.0, 0);
    let (mut pooled, mut pooled_count) = (0.0, 0);
    for token in 0..64u32 {
        let expected = p.probability(token) * DRAWS as f64;
        let count = counts[token as usize];
        if expected == 0.0 {
            assert_eq!(count, 0, "token {token} cannot be drawn");
        } else if expected < 10.0 {
            pooled += expected;
            pooled_count += count;
        } else {
            sum += (count as f64 - expected).powi(2) / expected;
            cells += 1;
        }
    }
    if pooled > 0.0 {
        sum += (pooled_count as f64 - pooled).powi(2) / pooled;
        cells += 1;
    }
    (sum, cells - 1)
}

fn logits() -> Vec<f32> {
    (0..64).map(|i| ((i * 37 % 64) as f32 / 9.0).sin() * 3.0).collect()
}

fn sampler(temperature: f32, top_p: f32, seed: u64) -> Sampler {
    let params = SamplingParams { temperature, top_p, seed: Some(seed), ..Default::default() };
    Sampler::new(params).unwrap()
}

#[test]
fn draws_follow_the_distribution() {
    for (temperature, top_p) in [(1.0, 1.0), (0.7, 0.9), (2.0, 0.5)] {
        let mut s = sampler(temperature, top_p, 42);
        let p = s.distribution(&logits()).unwrap();
        let (statistic, degrees) = chi_square(&p, || s.sample(&p));
        assert!(degrees >= 10);
        assert!(statistic < critical(degrees), "{statistic} on {degrees} degrees of freedom");
    }
}

#[test]
fn a_wrong_sampler_is_found_out() {
    let p = sampler(1.0, 1.0, 42).distribution(&logits()).unwrap();
    let mut warmer = sampler(1.05, 1.0, 42);
    let row = logits();
    let (statistic, degrees) = chi_square(&p, || warmer.next_token(&row).unwrap());
    assert!(statistic > critical(degrees), "{statistic} on {degrees} degrees of freedom");

    let mut s = sampler(1.0, 1.0, 42);
    let (statistic, degrees) = chi_square(&p, || p.quantile(s.uniform() * 0.99));
    assert!(statistic > critical(degrees), "{statistic} on {degrees} degrees of freedom");
}

#[test]
fn different_seeds_are_independent() {
    // Pairs of draws of two samplers with neighbouring seeds over 8 x 8 cells, against independence.
    let (mut a, mut b) = (sampler(1.0, 1.0, 1), sampler(1.0, 1.0, 2));
    let p = a.distribution(&[0.0; 64]).unwrap();
    let eighth = |s: &mut Sampler| (s.uniform() * 8.0) as u32;
    let (statistic, degrees) = chi_square(&p, || eighth(&mut a) * 8 + eighth(&mut b));
    assert!(statistic < critical(degrees), "{statistic} on {degrees} degrees of freedom");
}
