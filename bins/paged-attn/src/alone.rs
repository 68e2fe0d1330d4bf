//! What a request gets when nobody else is there and its keys and values lie in one piece.
//!
//! Paging, sharing, copying, batching and preemption must not change a token of it.

use anyhow::{Result, ensure};
use model::{Batch, Model, Outputs};
use sampling::Sampler;
use tensor::DType;
use tensor::kv::SeqId;
use tokenizer::Tokenizer;

use crate::requests::SimRequest;

/// An answer that came out of the engine otherwise than alone.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Difference {
    /// The request.
    pub request: usize,
    /// Which of its answers, from 0.
    pub answer: usize,
    /// The first token that differs, or that one of the two does not have.
    pub at: usize,
    /// What the engine chose there.
    pub paged: Option<u32>,
    /// What was chosen alone.
    pub alone: Option<u32>,
}

/// One answer to a request with a contiguous cache of `kv_type`.
///
/// # Errors
/// Those of the model and of the sampler.
pub fn generate(
    model: &Model,
    tokenizer: &Tokenizer,
    request: &SimRequest,
    answer: usize,
    kv_type: DType,
) -> Result<Vec<u32>> {
    ensure!(!request.prompt.is_empty(), "request {} has no prompt", request.number);
    let slots = request.prompt.len() + request.max_tokens;
    let mut cache = model.new_cache(kv_type, slots)?;
    let mut sampler = Sampler::new(request.sampling(answer))?;
    sampler.observe_prompt(&request.prompt);
    let (mut tokens, mut next) = (Vec::new(), request.prompt.clone());
    let mut batch = Batch::new();
    while tokens.len() < request.max_tokens {
        batch.clear();
        batch.extend(SeqId(0), &next);
        let out = model.forward(&batch, &mut cache, &Outputs::last_logits(&batch))?;
        let token = sampler.next_token(out.logits.as_f32()?)?;
        tokens.push(token);
        if tokenizer.is_eog(token) {
            break;
        }
        next = vec![token];
    }
    Ok(tokens)
}

/// The first place where an answer differs from what it is alone.
pub fn compare(request: usize, answer: usize, paged: &[u32], alone: &[u32]) -> Option<Difference> {
    let same = paged.iter().zip(alone).take_while(|(p, a)| p == a).count();
    let (paged, alone) = (paged.get(same).copied(), alone.get(same).copied());
    (paged != alone).then_some(Difference { request, answer, at: same, paged, alone })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_other_token_or_a_missing_one_is_a_difference() {
        let differ = |paged: &[u32], alone: &[u32]| {
            compare(2, 1, paged, alone).map(|d| (d.at, d.paged, d.alone))
        };
        assert_eq!(differ(&[5, 6, 7], &[5, 6, 7]), None);
        assert_eq!(differ(&[5, 6, 7], &[5, 9, 7]), Some((1, Some(6), Some(9))));
        assert_eq!(differ(&[5, 6], &[5, 6, 7]), Some((2, None, Some(7))));
        assert_eq!(differ(&[5, 6, 7], &[]), Some((0, Some(5), None)));
    }
}
