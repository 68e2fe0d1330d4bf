//! From a step's logits to the tokens of its sequences.

use std::time::Instant;

use paged_kv::SeqId;
use sampling::{Sampler, TokenLogprobs, logprobs};
use scheduler::{RequestId, Work};
use tensor::{Device, Tensor};

use crate::GenerationError;
use crate::answer::Answer;
use crate::beam;
use crate::request::{Event, FinishReason, Search, TokenInfo};
use crate::worker::{Planned, Worker, count_end};

/// What comes of a step's logits where they lie.
struct Drawn {
    /// The tokens drawn there, of each sequence of the step.
    tokens: Vec<Option<u32>>,
    /// The rows of the other sequences, brought here.
    logits: Tensor,
}

impl Worker<'_> {
    /// Makes tokens of the step's logits.
    pub(crate) fn sample(&mut self, logits: &Tensor) {
        let work = std::mem::take(&mut self.work);
        let drawn = self.draw(&work, logits).map_err(|error| error.to_string());
        let rows = drawn.as_ref().map_err(Clone::clone).and_then(|drawn| {
            let rows = drawn.logits.as_f32().map_err(|error| error.to_string())?;
            Ok((&drawn.tokens, rows))
        });
        let (tokens, mut rest) = match rows {
            Ok(rows) => rows,
            Err(error) => {
                tracing::error!(%error, "logits cannot be read; the step's requests end");
                for Planned { work, .. } in work {
                    self.end(work.request, Some(GenerationError::Model(error.clone())));
                }
                return;
            }
        };
        let vocabulary = logits.cols();
        for (Planned { work, every, logits }, token) in work.into_iter().zip(tokens) {
            let done = match *token {
                Some(token) => self.take_drawn(work.request, work.seq, token),
                None => {
                    let (own, others) = rest.split_at(logits * vocabulary);
                    rest = others;
                    let scored = match every {
                        true => self.score_prompt(&work, own, vocabulary),
                        false => Ok(()),
                    };
                    scored.and_then(|()| match work.samples {
                        true => {
                            self.advance(work.request, work.seq, &own[own.len() - vocabulary..])
                        }
                        false => Ok(()),
                    })
                }
            };
            if let Err(error) = done {
                self.end(work.request, Some(error));
            }
        }
    }

    /// Draws tokens on the device that the logits lie on, and brings the other rows here.
    fn draw(&self, work: &[Planned], logits: &Tensor) -> Result<Drawn, model::Error> {
        let here = Device::Cpu;
        if logits.device() == here {
            return Ok(Drawn { tokens: vec![None; work.len()], logits: logits.clone() });
        }
        let mut samplers = Vec::with_capacity(logits.rows());
        let mut ends = Vec::with_capacity(work.len());
        for planned in work {
            samplers.resize(samplers.len() + planned.logits, None);
            if let Some(last) = samplers.last_mut().filter(|_| planned.work.samples) {
                *last = self.sampler(planned);
            }
            ends.push(samplers.len());
        }
        let all = crate::draw(self.model, logits, &samplers)?;
        let (mut tokens, mut rows) = (Vec::with_capacity(work.len()), Vec::new());
        for (planned, end) in work.iter().zip(ends) {
            let token = end.checked_sub(1).and_then(|last| all[last]);
            let token = token.filter(|_| planned.work.samples);
            if token.is_none() {
                rows.extend(end - planned.logits..end);
            }
            tokens.push(token);
        }
        let rest = match rows.len() {
            0 => Tensor::from_vec([0, logits.cols()], Vec::new())?,
            n if n == logits.rows() => logits.to_device(&here)?,
            _ => self.model.compute().gather_rows(logits, &rows)?.to_device(&here)?,
        };
        Ok(Drawn { tokens, logits: rest })
    }

    /// The sampler of a sequence whose next token may be drawn anywhere. The first token comes from a row that serves
    /// all answers, and prompts that are scored need all of their rows.
    fn sampler(&self, planned: &Planned) -> Option<&Sampler> {
        let active = self.requests.get(&planned.work.request)?;
        if !active.forked || planned.every || matches!(active.request.search, Search::Beam { .. }) {
            return None;
        }
        let (_, answer) = active.growing.iter().find(|(seq, _)| *seq == planned.work.seq)?;
        answer.sampler(&active.request)
    }

    /// Notes how probable the tokens of a prompt were that follow the rows of `work`.
    fn score_prompt(
        &mut self,
        work: &Work,
        rows: &[f32],
        vocabulary: usize,
    ) -> Result<(), GenerationError> {
        let Some(active) = self.requests.get_mut(&work.request) else { return Ok(()) };
        let n = active.request.prompt_logprobs.unwrap_or(0);
        let prompt = &active.request.prompt;
        let Some((stream, offset)) = &mut active.prompt_text else { return Ok(()) };
        let mut read = |token: u32| -> Result<usize, GenerationError> {
            let at = *offset;
            let piece = stream.push(token).map_err(|e| GenerationError::Model(e.to_string()))?;
            *offset += piece.map_or(0, |piece| piece.len());
            Ok(at)
        };
        if active.prompt.is_empty() {
            read(prompt[0])?;
            active.prompt.push(None);
        }
        for (i, row) in rows.chunks_exact(vocabulary).enumerate() {
            let next = work.first + i + 1;
            // After a preemption rows come again.
            if next < prompt.len() && next == active.prompt.len() {
                let at = read(prompt[next])?;
                let found = logprobs(row, prompt[next], n)?;
                active.prompt.push(Some(TokenInfo::with(found, at)));
            }
        }
        if active.prompt.len() == prompt.len() && active.prompt_text.take().is_some() {
            let all = std::mem::take(&mut active.prompt);
            active.tell(Event::Prompt(all))?;
        }
        Ok(())
    }

    /// Chooses the next token of a sequence whose newest row gave these logits.
    fn advance(
        &mut self,
        id: RequestId,
        seq: SeqId,
        logits: &[f32],
    ) -> Result<(), GenerationError> {
        let Some(active) = self.requests.get_mut(&id) else { return Ok(()) };
        let mut seqs = vec![seq];
        if !active.forked {
            active.forked = true;
            if active.max_tokens == 0 {
                return self.end_empty(id, seq);
            }
            // A beam search begins with one beam; the others are forked from its candidates.
            if let Search::Sample { best_of, .. } = active.request.search {
                for index in 1..best_of {
                    let fork = self.scheduler.fork(seq)?;
                    let request = &active.request;
                    let answer = Answer::new(request, index, active.max_tokens, self.tokenizer)?;
                    active.growing.push((fork, answer));
                    seqs.push(fork);
                }
            }
        }
        if let Search::Beam { width, .. } = active.request.search {
            return self.note_beam(id, seq, logits, width);
        }
        let compared = active.request.search.chooses();
        for seq in seqs {
            let Some(active) = self.requests.get_mut(&id) else { return Ok(()) };
            let Some(at) = active.growing.iter().position(|(s, _)| *s == seq) else { continue };
            let (request, answer) = (&active.request, &mut active.growing[at].1);
            let allowed = answer.allowed(request, self.tokenizer, logits, &mut self.scratch)?;
            let token = answer.draw(allowed)?;
            let found = match request.logprobs {
                None if !compared => None,
                wanted => Some(logprobs(logits, token, wanted.unwrap_or(0))?),
            };
            self.grow(id, seq, token, found)?;
        }
        Ok(())
    }

    /// Takes a token that was drawn where the logits lie.
    fn take_drawn(&mut self, id: RequestId, seq: SeqId, token: u32) -> Result<(), GenerationError> {
        let Some(active) = self.requests.get_mut(&id) else { return Ok(()) };
        if let Some((_, answer)) = active.growing.iter_mut().find(|(s, _)| *s == seq) {
            answer.drawn(token);
        }
        self.grow(id, seq, token, None)
    }

    /// Appends a token to an answer; `found` is how probable it was, where that is asked for or compared.
    fn grow(
        &mut self,
        id: RequestId,
        seq: SeqId,
        token: u32,
        found: Option<TokenLogprobs>,
    ) -> Result<(), GenerationError> {
        let Some(active) = self.requests.get_mut(&id) else { return Ok(()) };
        let Some((_, answer)) = active.growing.iter_mut().find(|(s, _)| *s == seq) else {
            return Ok(());
        };
        let grown = answer.grow(&active.request, self.tokenizer, token, found)?;
        self.timed(id, seq);
        let Some(active) = self.requests.get_mut(&id) else { return Ok(()) };
        let finished = active.grew(seq, grown)?;
        self.totals.tokens.generated += 1;
        self.after(id, seq, token, finished)
    }

    /// Tells whoever watches how long a token took.
    fn timed(&mut self, id: RequestId, seq: SeqId) {
        let (now, observer) = (Instant::now(), &self.shared.observer);
        let Some(active) = self.requests.get_mut(&id) else { return };
        if active.first_token.is_none() {
            active.first_token = Some(now);
            observer.first_token(now - active.submitted);
        }
        if let Some((_, answer)) = active.growing.iter_mut().find(|(s, _)| *s == seq)
            && let Some(last) = answer.last.replace(now)
        {
            observer.inter_token(now - last);
        }
    }

    /// Passes a token on to the scheduler, or the end of its sequence.
    fn after(
        &mut self,
        id: RequestId,
        seq: SeqId,
        token: u32,
        finished: bool,
    ) -> Result<(), GenerationError> {
        if !finished {
            self.scheduler.push(seq, token);
            return Ok(());
        }
        self.scheduler.finish(seq);
        self.done_if_complete(id)
    }

    fn done_if_complete(&mut self, id: RequestId) -> Result<(), GenerationError> {
        let complete = self.requests.get(&id).is_some_and(|a| a.growing.is_empty());
        if complete && let Some(mut active) = self.requests.remove(&id) {
            count_end(self.shared, &active, Ok(()));
            let told = active.done();
            self.scheduler.cancel(id);
            if let Err(error) = told {
                active.fail(error);
            }
        }
        Ok(())
    }

    /// An answer of no tokens: the prompt was all that was wanted.
    fn end_empty(&mut self, id: RequestId, seq: SeqId) -> Result<(), GenerationError> {
        if let Some(active) = self.requests.get_mut(&id) {
            for index in 1..active.request.search.n() {
                active.tell(Event::Finished {
                    index,
                    reason: FinishReason::Length,
                    stopped_by: None,
                })?;
            }
            active.cut(seq)?;
        }
        self.scheduler.finish(seq);
        self.done_if_complete(id)
    }

    /// Notes the candidates of a beam, and chooses among those of all when the last has its own.
    fn note_beam(
        &mut self,
        id: RequestId,
        seq: SeqId,
        logits: &[f32],
        width: usize,
    ) -> Result<(), GenerationError> {
        let Some(active) = self.requests.get_mut(&id) else { return Ok(()) };
        let Some(at) = active.growing.iter().position(|(s, _)| *s == seq) else { return Ok(()) };
        let (request, answer) = (&active.request, &mut active.growing[at].1);
        let row = answer.allowed(request, self.tokenizer, logits, &mut self.scratch)?;
        let top = logprobs(row, sampling::argmax(row)?, 2 * width)?.top;
        let logprob = answer.logprob;
        active.beams.note(seq, logprob, top);
        match active.beams.len() == active.growing.len() {
            true => self.choose_beams(id, width),
            false => Ok(()),
        }
    }

    fn choose_beams(&mut self, id: RequestId, width: usize) -> Result<(), GenerationError> {
        let Some(active) = self.requests.get_mut(&id) else { return Ok(()) };
        let Search::Beam { n, length_penalty, .. } = active.request.search else { return Ok(()) };
        let candidates = active.beams.take();
        let parents = std::mem::take(&mut active.growing);
        let mut used: Vec<SeqId> = Vec::new();
        let mut grew: Vec<(SeqId, u32)> = Vec::new();
        let mut best = f64::NEG_INFINITY;
        for candidate in candidates {
            if grew.len() == width {
                break;
            }
            let Some((_, parent)) = parents.iter().find(|(seq, _)| *seq == candidate.beam) else {
                continue;
            };
            let (mut answer, token) = (parent.clone(), candidate.found.chosen.token);
            answer.told(token);
            let mut found = candidate.found;
            found.top.truncate(active.request.logprobs.unwrap_or(0));
            let grown = answer.grow(&active.request, self.tokenizer, token, Some(found))?;
            let ends = grown.finished.is_some();
            // One that ends needs no sequence of its own; the first that goes on keeps its parent's.
            let seq = match ends || !used.contains(&candidate.beam) {
                true => candidate.beam,
                false => self.scheduler.fork(candidate.beam)?,
            };
            active.beam_grew(seq, answer, grown);
            self.totals.tokens.generated += 1;
            if !ends {
                used.push(candidate.beam);
                best = best.max(candidate.total);
                grew.push((seq, token));
            }
        }
        let len = active.growing.first().map_or(0, |(_, answer)| answer.tokens.len());
        let lengths = (len, active.max_tokens);
        if beam::is_settled(&active.scores(), n, best, lengths, length_penalty) {
            active.growing.clear();
        }
        let goes_on: Vec<SeqId> = active.growing.iter().map(|&(seq, _)| seq).collect();
        for (seq, token) in grew {
            match goes_on.contains(&seq) {
                true => self.scheduler.push(seq, token),
                false => self.scheduler.finish(seq),
            }
        }
        for (seq, _) in parents.iter().filter(|(seq, _)| !used.contains(seq)) {
            self.scheduler.finish(*seq);
        }
        self.done_if_complete(id)
    }
}
