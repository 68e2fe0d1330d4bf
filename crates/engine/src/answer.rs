//! One answer as it grows: which tokens may come, which one does, and the text they make.

use std::time::Instant;

use constrain::Constraint;
use sampling::{Sampler, TokenLogprobs};
use tokenizer::{DecodeOptions, DecodeStream, Tokenizer};

use crate::GenerationError;
use crate::request::{FinishReason, GenerationRequest, StopCause, TokenInfo};
use crate::stop::StopText;

/// The state of one sequence of a request.
#[derive(Clone)]
pub(crate) struct Answer<'m> {
    /// Which answer of its request.
    pub(crate) index: usize,
    sampler: Sampler,
    constraint: Option<Constraint>,
    stream: DecodeStream<'m>,
    text: StopText,
    /// What was generated.
    pub(crate) tokens: Vec<u32>,
    /// ln p of it, added up, where probabilities are asked for or compared.
    pub(crate) logprob: f64,
    /// What was not shown yet, where answers are compared when all are complete.
    pub(crate) kept: Kept,
    /// Tokens left.
    left: usize,
    /// When the newest token came.
    pub(crate) last: Option<Instant>,
}

/// An answer, or what there is of it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Kept {
    pub(crate) text: String,
    pub(crate) tokens: Vec<TokenInfo>,
    pub(crate) finished: Option<(FinishReason, Option<StopCause>)>,
}

/// What one more token did.
#[derive(Debug, Default)]
pub(crate) struct Grown {
    /// Text that can be shown.
    pub(crate) text: String,
    /// The token; not one that ended the answer.
    pub(crate) token: Option<TokenInfo>,
    /// Whether the answer is complete, and why.
    pub(crate) finished: Option<(FinishReason, Option<StopCause>)>,
}

impl<'m> Answer<'m> {
    /// Answer `index` to a request, of at most `max_tokens`.
    pub(crate) fn new(
        request: &GenerationRequest,
        index: usize,
        max_tokens: usize,
        tokenizer: &'m Tokenizer,
    ) -> Result<Self, GenerationError> {
        let mut sampling = request.sampling.clone();
        sampling.seed = sampling.seed.map(|seed| seed.wrapping_add(index as u64));
        let mut sampler = Sampler::new(sampling)?;
        sampler.observe_prompt(&request.prompt);
        let shown = DecodeOptions { skip_special: request.skip_special_tokens, continues: true };
        Ok(Self {
            index,
            sampler,
            constraint: request.constraint.clone(),
            stream: tokenizer.decode_stream_with(shown),
            text: StopText::new(&request.stop.strings, request.stop.include_stop),
            tokens: Vec::new(),
            logprob: 0.0,
            kept: Kept::default(),
            left: max_tokens,
            last: None,
        })
    }

    fn is_too_short(&self, request: &GenerationRequest) -> bool {
        self.tokens.len() < request.stop.min_tokens
    }

    /// Whether any token may come next.
    fn is_free(&self, request: &GenerationRequest) -> bool {
        request.allowed_tokens.is_none()
            && request.bad_words.is_empty()
            && self.constraint.is_none()
            && !self.is_too_short(request)
    }

    /// What the next token is drawn by, if nothing else than the draw is wanted of its logits.
    pub(crate) fn sampler(&self, request: &GenerationRequest) -> Option<&Sampler> {
        let drawn_alone = request.logprobs.is_none() && !request.search.chooses();
        (drawn_alone && self.is_free(request)).then_some(&self.sampler)
    }

    /// Forbids in a row of logits what must not come next. `scratch` gets the row if anything is
    /// forbidden; returns the row that counts.
    pub(crate) fn allowed<'a>(
        &mut self,
        request: &GenerationRequest,
        tokenizer: &Tokenizer,
        logits: &'a [f32],
        scratch: &'a mut Vec<f32>,
    ) -> Result<&'a [f32], GenerationError> {
        if self.is_free(request) {
            return Ok(logits);
        }
        let too_short = self.is_too_short(request);
        scratch.clear();
        scratch.extend_from_slice(logits);
        let mut forbid = |token: u32| {
            if let Some(logit) = scratch.get_mut(token as usize) {
                *logit = f32::NEG_INFINITY;
            }
        };
        if too_short {
            tokenizer.eog_ids().iter().chain(&request.stop.tokens).for_each(|&t| forbid(t));
        }
        for word in &request.bad_words {
            if let Some((&last, before)) = word.split_last()
                && self.tokens.ends_with(before)
            {
                forbid(last);
            }
        }
        if let Some(allowed) = &request.allowed_tokens {
            let mut kept: Vec<(u32, f32)> = Vec::with_capacity(allowed.len());
            kept.extend(allowed.iter().filter_map(|&t| Some((t, *scratch.get(t as usize)?))));
            scratch.fill(f32::NEG_INFINITY);
            kept.into_iter().for_each(|(t, logit)| scratch[t as usize] = logit);
        }
        if let Some(constraint) = &mut self.constraint {
            let masked = constraint.mask(scratch);
            masked.map_err(|e| GenerationError::Constraint(e.to_string()))?;
        }
        Ok(scratch)
    }

    /// Draws the next token from logits that [`allowed`](Self::allowed) went over.
    pub(crate) fn draw(&mut self, allowed: &[f32]) -> Result<u32, GenerationError> {
        Ok(self.sampler.next_token(allowed)?)
    }

    /// Takes a token that was drawn elsewhere, by the state of [`sampler`](Self::sampler).
    pub(crate) fn drawn(&mut self, token: u32) {
        self.sampler.drawn(token);
    }

    /// Appends a token; `found` is how probable it was, where that is asked for or compared.
    pub(crate) fn grow(
        &mut self,
        request: &GenerationRequest,
        tokenizer: &Tokenizer,
        token: u32,
        found: Option<TokenLogprobs>,
    ) -> Result<Grown, GenerationError> {
        self.logprob += found.as_ref().map_or(0.0, |found| found.chosen.logprob);
        let info = match found.filter(|_| request.logprobs.is_some()) {
            Some(found) => TokenInfo::with(found, self.text.len()),
            None => TokenInfo::plain(token, self.text.len()),
        };
        let mut grown = Grown::default();
        self.tokens.push(token);
        self.left -= 1;
        if let Some(constraint) = &mut self.constraint
            && !tokenizer.is_eog(token)
        {
            let accepted = constraint.accept(token);
            accepted.map_err(|e| GenerationError::Constraint(e.to_string()))?;
        }
        let asked_for = request.stop.tokens.contains(&token);
        if asked_for || (tokenizer.is_eog(token) && !request.stop.ignore_eos) {
            self.text.finish(&mut grown.text);
            if request.stop.include_stop {
                grown.token = Some(info);
            }
            let cause = asked_for.then_some(StopCause::Token(token));
            grown.finished = Some((FinishReason::Stop, cause));
            return Ok(grown);
        }
        grown.token = Some(info);
        let piece = self.stream.push(token).map_err(|e| GenerationError::Model(e.to_string()))?;
        if let Some(stop) = self.text.push(&piece.unwrap_or_default(), &mut grown.text) {
            grown.finished = Some((FinishReason::Stop, Some(StopCause::Text(stop))));
            return Ok(grown);
        }
        if self.constraint.as_ref().is_some_and(Constraint::is_complete) {
            grown.finished = Some((FinishReason::Stop, None));
        } else if self.left == 0 {
            grown.finished = Some((FinishReason::Length, None));
        }
        if grown.finished.is_some() {
            // Bytes that did not become a character.
            if let Some(rest) = self.stream.clone().finish() {
                let stopped = self.text.push(&rest, &mut grown.text);
                if let Some(stop) = stopped {
                    grown.finished = Some((FinishReason::Stop, Some(StopCause::Text(stop))));
                    return Ok(grown);
                }
            }
            self.text.finish(&mut grown.text);
        }
        Ok(grown)
    }

    /// Tells the sampler of a token that a beam search chose.
    pub(crate) fn told(&mut self, token: u32) {
        self.sampler.accept(token);
    }

    /// Keeps what a token did until answers are compared.
    pub(crate) fn keep(&mut self, grown: Grown) {
        let Grown { text, token, finished } = grown;
        self.kept.text.push_str(&text);
        self.kept.tokens.extend(token);
        self.kept.finished = finished.or(self.kept.finished.take());
    }
}

impl TokenInfo {
    pub(crate) fn plain(token: u32, text_offset: usize) -> Self {
        Self { token, logprob: None, rank: None, top: Vec::new(), text_offset }
    }

    pub(crate) fn with(found: TokenLogprobs, text_offset: usize) -> Self {
        let TokenLogprobs { chosen, rank, top } = found;
        let logprob = Some(chosen.logprob);
        Self { token: chosen.token, logprob, rank: Some(rank), top, text_offset }
    }
}
