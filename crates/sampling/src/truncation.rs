//! The steps that cut the distribution: top-k, top-p, min-p, locally typical.
//!
//! Each takes the candidates in any order, leaves those that it keeps in any order, and keeps at least
//! one. Nothing is sorted as a whole: where a prefix of the sorted candidates is wanted, growing prefixes
//! are selected until one is long enough, which for the few tokens that usually carry the mass costs a
//! pass or two over the vocabulary.

use std::cmp::Ordering;

/// A token that may still be drawn.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Candidate {
    pub(crate) token: u32,
    /// After bias and penalties, before temperature: the exact key of every comparison.
    pub(crate) logit: f32,
    /// exp((logit - largest logit) / temperature), in (0, 1].
    pub(crate) weight: f64,
}

/// Most probable first; lowest id first among equals.
fn by_rank(a: &Candidate, b: &Candidate) -> Ordering {
    b.logit.partial_cmp(&a.logit).unwrap_or(Ordering::Equal).then(a.token.cmp(&b.token))
}

/// Keeps the `k` most probable.
pub(crate) fn top_k(candidates: &mut Vec<Candidate>, k: usize) {
    if k < candidates.len() {
        candidates.select_nth_unstable_by(k - 1, by_rank);
        candidates.truncate(k);
    }
}

/// Keeps the shortest prefix by rank with at least the fraction `p` of the mass.
pub(crate) fn top_p(candidates: &mut Vec<Candidate>, p: f64) {
    let target = p * mass(candidates);
    keep_prefix(candidates, target, by_rank);
}

/// Keeps what is at least `p` times as probable as the most probable.
pub(crate) fn min_p(candidates: &mut Vec<Candidate>, p: f64) {
    let largest = candidates.iter().fold(0.0, |m: f64, c| m.max(c.weight));
    candidates.retain(|c| c.weight >= p * largest);
}

/// Keeps the shortest prefix by |surprise - entropy| with at least the fraction `p` of the mass
/// (Meister et al. 2023, section 5, equation 10).
pub(crate) fn typical(candidates: &mut Vec<Candidate>, p: f64) {
    let total = mass(candidates);
    // With w = total * probability, surprise is ln(total) - ln(w), and so entropy is ln(total) less the
    // mean of ln(w): the logarithms of the total cancel in the difference.
    let mean = candidates.iter().map(|c| c.weight * c.weight.ln()).sum::<f64>() / total;
    let distance = |c: &Candidate| (mean - c.weight.ln()).abs();
    let by_distance = |a: &Candidate, b: &Candidate| {
        distance(a).total_cmp(&distance(b)).then(a.token.cmp(&b.token))
    };
    keep_prefix(candidates, p * total, by_distance);
}

/// The sum of the weights.
pub(crate) fn mass(candidates: &[Candidate]) -> f64 {
    candidates.iter().map(|c| c.weight).sum()
}

/// Keeps the shortest prefix of at least one candidate, in the given order, whose weights reach `target`.
fn keep_prefix(
    candidates: &mut Vec<Candidate>,
    target: f64,
    order: impl Fn(&Candidate, &Candidate) -> Ordering,
) {
    let (mut sorted, mut sum) = (0, 0.0);
    let mut step = 64;
    while sorted < candidates.len() {
        let rest = &mut candidates[sorted..];
        if step < rest.len() {
            rest.select_nth_unstable_by(step - 1, &order);
        }
        let n = step.min(rest.len());
        rest[..n].sort_unstable_by(&order);
        for i in sorted..sorted + n {
            sum += candidates[i].weight;
            if sum >= target {
                candidates.truncate(i + 1);
                return;
            }
        }
        sorted += n;
        step *= 8;
    }
}
