//! Beam search: the most probable continuations are followed together, each a fork of the sequence
//! that it continues.

use sampling::{TokenLogprob, TokenLogprobs};

/// One more token for one of the beams.
#[derive(Clone, Debug)]
pub(crate) struct Candidate<Id> {
    /// The beam that it continues.
    pub(crate) beam: Id,
    /// The token, its probability, and the others beside it.
    pub(crate) found: TokenLogprobs,
    /// ln p of the beam with it.
    pub(crate) total: f64,
}

/// Candidates of each beam of a search, until all beams have theirs.
#[derive(Clone, Debug)]
pub(crate) struct Pending<Id>(Vec<(Id, Vec<Candidate<Id>>)>);

impl<Id> Default for Pending<Id> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<Id: Copy + PartialEq> Pending<Id> {
    /// Notes the most probable tokens of a beam of probability `logprob`, `top` being twice as many
    /// as beams are followed: half of them may end their answers.
    pub(crate) fn note(&mut self, beam: Id, logprob: f64, top: Vec<TokenLogprob>) {
        let candidate = |(rank, &chosen): (usize, &TokenLogprob)| {
            let found = TokenLogprobs { chosen, rank, top: top.clone() };
            Candidate { beam, found, total: logprob + chosen.logprob }
        };
        let usable = top.iter().enumerate().filter(|(_, c)| c.logprob > f64::NEG_INFINITY);
        self.0.push((beam, usable.map(candidate).collect()));
    }

    /// Beams that have their candidates.
    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    /// All candidates, the most probable first; of equals, those of the earlier beam, then those of
    /// lower rank.
    pub(crate) fn take(&mut self) -> Vec<Candidate<Id>> {
        let mut all: Vec<_> = self.0.drain(..).flat_map(|(_, candidates)| candidates).collect();
        all.sort_by(|a, b| b.total.total_cmp(&a.total));
        all
    }
}

/// The score of an answer of `len` tokens: `ln p / len ^ length_penalty` (Wu et al. 2016, section 7,
/// in the form of transformers and vLLM).
pub(crate) fn score(logprob: f64, len: usize, length_penalty: f64) -> f64 {
    logprob / (len.max(1) as f64).powf(length_penalty)
}

/// Whether no beam can still beat the `n` best of the finished scores: `best` is the highest ln p of
/// those running, which have `len` tokens and may come to `longest`.
pub(crate) fn is_settled(
    finished: &[f64],
    n: usize,
    best: f64,
    (len, longest): (usize, usize),
    length_penalty: f64,
) -> bool {
    let mut scores = finished.to_vec();
    scores.sort_by(|a, b| b.total_cmp(a));
    let Some(&worst) = scores.get(n - 1) else { return false };
    // ln p only falls; the divisor is largest, and so a negative score highest, at one of the ends.
    let attainable = score(best, len, length_penalty).max(score(best, longest, length_penalty));
    attainable <= worst
}

#[cfg(test)]
mod tests {
    use super::*;

    fn top(of: &[(u32, f64)]) -> Vec<TokenLogprob> {
        of.iter().map(|&(token, logprob)| TokenLogprob { token, logprob }).collect()
    }

    #[test]
    fn candidates_of_all_beams_compete() {
        let mut pending = Pending::default();
        pending.note('a', -1.0, top(&[(1, -0.5), (2, -2.0)]));
        pending.note('b', -1.2, top(&[(3, -0.1), (4, f64::NEG_INFINITY)]));
        assert_eq!(pending.len(), 2);
        let order: Vec<_> = pending.take().iter().map(|c| (c.beam, c.found.chosen.token)).collect();
        assert_eq!(order, [('b', 3), ('a', 1), ('a', 2)]);
        assert_eq!(pending.len(), 0);
    }

    #[test]
    fn a_search_ends_when_nothing_running_can_win() {
        let finished = [score(-4.0, 4, 1.0), score(-9.0, 3, 1.0)];
        assert_eq!(finished, [-1.0, -3.0]);
        // ln p = -4 over up to 8 tokens could come to -0.5.
        assert!(!is_settled(&finished, 1, -4.0, (4, 8), 1.0));
        assert!(is_settled(&finished, 1, -9.0, (4, 8), 1.0));
        assert!(!is_settled(&finished, 2, -9.0, (4, 8), 1.0));
        assert!(!is_settled(&finished, 3, -99.0, (4, 8), 1.0));
        assert!(is_settled(&finished, 1, -1.0, (4, 8), 0.0));
    }
}
