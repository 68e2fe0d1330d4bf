//! The steps that cut the distribution: top-k, top-p, min-p, locally typical.
//!
//! Each takes the candidates in any order, leaves those that it keeps in any order, and keeps at least
//! one. Nothing is sorted as a whole: where a prefix of the sorted candidates is wanted, growing prefixes
//! are selected until one is long enough, and only tokens that may be in it become candidates, which are
//! few where few tokens carry the mass.

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
pub(crate) fn by_rank(a: &Candidate, b: &Candidate) -> Ordering {
    b.logit.partial_cmp(&a.logit).unwrap_or(Ordering::Equal).then(a.token.cmp(&b.token))
}

impl Candidate {
    pub(crate) fn new(token: u32, logit: f32) -> Self {
        Self { token, logit, weight: 0.0 }
    }
}

/// Appends the `k` most probable of a row to `candidates`, which is empty; tokens of logit -inf,
/// which have no probability, need not be among them.
///
/// The vocabulary is passed over once: what is not larger than the least of the `k` best so far
/// cannot be one of them, since of equals the first is kept, and soon that is nearly everything.
pub(crate) fn top_k(logits: &[f32], k: usize, candidates: &mut Vec<Candidate>) {
    const BLOCK: usize = 64;
    let room = k.saturating_mul(4).max(BLOCK);
    let mut least = f32::NEG_INFINITY;
    for (start, block) in (0u32..).step_by(BLOCK).zip(logits.chunks(BLOCK)) {
        // Without branches, so that the compiler compares many at once.
        if !block.iter().fold(false, |any, &l| any | (l > least)) {
            continue;
        }
        for (token, &logit) in (start..).zip(block).filter(|&(_, &l)| l > least) {
            candidates.push(Candidate::new(token, logit));
        }
        if candidates.len() >= room {
            keep_first(candidates, k);
            least = candidates.iter().fold(f32::INFINITY, |m, c| m.min(c.logit));
        }
    }
    keep_first(candidates, k);
}

/// Keeps the `k` most probable candidates.
fn keep_first(candidates: &mut Vec<Candidate>, k: usize) {
    if k < candidates.len() {
        candidates.select_nth_unstable_by(k - 1, by_rank);
        candidates.truncate(k);
    }
}

/// Appends the tokens of a row whose logit is at most `distance` below `max`, or a hair more.
pub(crate) fn within(logits: &[f32], max: f64, distance: f64, candidates: &mut Vec<Candidate>) {
    // Rounding must leave nobody out: the exact test is on weights.
    let hair = 1e-6 * (max.abs() + distance);
    let bound = ((max - distance - hair) as f32).max(f32::MIN);
    let add = |token, _, logit| candidates.push(Candidate::new(token, logit));
    for_each_above(logits, bound, add);
}

/// Appends so many of the most probable tokens of a row, in any order, that their `weights` sum to
/// `target` or more; all if none are enough. The largest logit is `max`.
pub(crate) fn most_of(
    logits: &[f32],
    weights: &[f64],
    max: f64,
    temperature: f64,
    target: f64,
    candidates: &mut Vec<Candidate>,
) {
    // Weights down to e^-5 first, which in most rows are few and enough.
    for depth in [5.0, 10.0, 20.0, f64::INFINITY] {
        candidates.clear();
        let bound = ((max - depth * temperature) as f32).max(f32::MIN);
        let mut sum = 0.0;
        for_each_above(logits, bound, |token, index, logit| {
            let weight = weights[index];
            sum += weight;
            candidates.push(Candidate { token, logit, weight });
        });
        if sum >= target {
            return;
        }
    }
}

/// Puts the candidates, a prefix of the row by rank with the last in rank at the end, in ascending
/// order of their ids. Many are gathered again, which is faster than sorting.
pub(crate) fn by_id(logits: &[f32], weights: &[f64], candidates: &mut Vec<Candidate>) {
    const FEW: usize = 256;
    let last = match candidates.last() {
        Some(&last) if candidates.len() > FEW => last,
        _ => return candidates.sort_unstable_by_key(|c| c.token),
    };
    candidates.clear();
    for_each_above(logits, last.logit, |token, index, logit| {
        if logit > last.logit || token <= last.token {
            candidates.push(Candidate { token, logit, weight: weights[index] });
        }
    });
}

/// Calls `found(token, index, logit)` for each logit that is at least `bound`, in ascending order.
fn for_each_above(logits: &[f32], bound: f32, mut found: impl FnMut(u32, usize, f32)) {
    const BLOCK: usize = 64;
    for (start, block) in (0..).step_by(BLOCK).zip(logits.chunks(BLOCK)) {
        // Without branches, so that the compiler compares many at once.
        if block.iter().fold(false, |any, &l| any | (l >= bound)) {
            for (index, &logit) in (start..).zip(block).filter(|&(_, &l)| l >= bound) {
                found(index as u32, index, logit);
            }
        }
    }
}

/// Keeps the shortest prefix by rank whose weights reach `target`.
pub(crate) fn top_p(candidates: &mut Vec<Candidate>, target: f64) {
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
///
/// Growing prefixes until one reaches it, then halves of what the last one added: a time that is
/// linear in the candidates however many are kept.
fn keep_prefix(
    candidates: &mut Vec<Candidate>,
    target: f64,
    order: impl Fn(&Candidate, &Candidate) -> Ordering,
) {
    const FEW: usize = 64;
    // The cut lies in start..end; `sum` is the mass before.
    let (mut start, mut end, mut sum) = (0, candidates.len(), 0.0);
    let mut step = FEW;
    let mut grows = true;
    while end - start > FEW {
        let range = &mut candidates[start..end];
        grows &= step < range.len();
        let first = if grows { step } else { range.len() / 2 };
        range.select_nth_unstable_by(first, &order);
        let mass = mass(&range[..first]);
        if sum + mass >= target {
            (end, grows) = (start + first, false);
        } else {
            (start, sum) = (start + first, sum + mass);
            step *= 8;
        }
    }
    candidates[start..end].sort_unstable_by(&order);
    for (i, candidate) in candidates.iter().enumerate().take(end).skip(start) {
        sum += candidate.weight;
        if sum >= target {
            end = i + 1;
            break;
        }
    }
    candidates.truncate(end);
}

#[cfg(test)]
mod tests {
    use super::*;

    /// All sorted by rank, then cut.
    fn sorted(logits: &[f32], k: usize) -> Vec<u32> {
        let mut all: Vec<_> = (0u32..).zip(logits).map(|(t, &l)| Candidate::new(t, l)).collect();
        all.sort_by(by_rank);
        all.iter().filter(|c| c.logit > f32::NEG_INFINITY).take(k).map(|c| c.token).collect()
    }

    #[test]
    fn the_k_most_probable_are_those_of_the_sorted_row() {
        let n = 5000;
        let noise = |i: u32| f64::from(i.wrapping_mul(2_654_435_761) >> 8) as f32;
        let rows: [Vec<f32>; 5] = [
            (0..n).map(noise).collect(),
            (0..n).map(|i| noise(i) % 7.0).collect(), // many equals
            (0..n).map(|i| i as f32).collect(),
            (0..n).map(|i| -(i as f32)).collect(),
            (0..n).map(|i| if i % 100 == 99 { i as f32 } else { f32::NEG_INFINITY }).collect(),
        ];
        for row in &rows {
            for k in [1, 2, 40, 63, 1000, 4999, 5000, 9000] {
                let mut kept = Vec::new();
                top_k(row, k, &mut kept);
                kept.sort_by(by_rank);
                let kept: Vec<u32> = kept.iter().map(|c| c.token).collect();
                assert_eq!(kept, sorted(row, k), "k {k}");
            }
        }
    }
}
