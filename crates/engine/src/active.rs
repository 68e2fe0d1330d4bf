//! A request that the engine has taken: its answers, and what its reader is told.

use std::sync::{Arc, OnceLock};
use std::time::Instant;

use paged_kv::SeqId;
use tokenizer::DecodeStream;
use tokio::sync::mpsc::{self, error::TrySendError};

use crate::answer::{Answer, Grown, Kept};
use crate::beam::{self, Pending};
use crate::load::Weight;
use crate::request::{Event, FinishReason, GenerationRequest, Search, TokenInfo, Usage};
use crate::{GenerationError, RequestTimes};

/// A request and the state of its answers.
pub(crate) struct Active<'m> {
    pub(crate) request: GenerationRequest,
    pub(crate) max_tokens: usize,
    pub(crate) weight: Weight,
    pub(crate) submitted: Instant,
    /// When its prompt began to be computed.
    pub(crate) began: Option<Instant>,
    /// When its first token came.
    pub(crate) first_token: Option<Instant>,
    /// Whether an answer ended because it was as long as it might be.
    pub(crate) ended_at_length: bool,
    pub(crate) usage: Usage,
    /// Answers that grow, by the sequence that each one is.
    pub(crate) growing: Vec<(SeqId, Answer<'m>)>,
    /// Whether the prompt is computed and its sequence is as many as there are answers.
    pub(crate) forked: bool,
    /// Answers that are complete, where they are compared: score and text.
    complete: Vec<(f64, Kept)>,
    pub(crate) beams: Pending<SeqId>,
    /// The prompt's probabilities, as far as computed, and its text.
    pub(crate) prompt: Vec<Option<TokenInfo>>,
    pub(crate) prompt_text: Option<(DecodeStream<'m>, usize)>,
    events: mpsc::Sender<Event>,
    failure: Arc<OnceLock<GenerationError>>,
}

impl<'m> Active<'m> {
    pub(crate) fn new(
        request: GenerationRequest,
        max_tokens: usize,
        weight: Weight,
        submitted: Instant,
        events: mpsc::Sender<Event>,
        failure: Arc<OnceLock<GenerationError>>,
    ) -> Self {
        let prompt_tokens = request.prompt.len();
        Self {
            request,
            max_tokens,
            weight,
            submitted,
            began: None,
            first_token: None,
            ended_at_length: false,
            usage: Usage { prompt_tokens, ..Usage::default() },
            growing: Vec::new(),
            forked: false,
            complete: Vec::new(),
            beams: Pending::default(),
            prompt: Vec::new(),
            prompt_text: None,
            events,
            failure,
        }
    }

    /// How long it took until now.
    pub(crate) fn times(&self) -> RequestTimes {
        let now = Instant::now();
        let began = self.began.unwrap_or(now);
        let first = self.first_token.unwrap_or(now);
        RequestTimes { queue: began - self.submitted, prefill: first - began, decode: now - first }
    }

    /// Sends an event.
    ///
    /// # Errors
    /// [`GenerationError::SlowReader`] if the reader has left too many unread. A reader who is gone
    /// cancels the request, which is no error here.
    pub(crate) fn tell(&self, event: Event) -> Result<(), GenerationError> {
        match self.events.try_send(event) {
            Ok(()) | Err(TrySendError::Closed(_)) => Ok(()),
            Err(TrySendError::Full(_)) => Err(GenerationError::SlowReader),
        }
    }

    /// Ends the request with an error.
    pub(crate) fn fail(self, error: GenerationError) {
        // The reader finds it there if the events are full.
        let _ = self.failure.set(error.clone());
        let _ = self.tell(Event::Failed(error));
    }

    /// Takes note of what one more token did to an answer; whether the answer is complete.
    ///
    /// # Errors
    /// As [`tell`](Self::tell).
    pub(crate) fn grew(&mut self, seq: SeqId, grown: Grown) -> Result<bool, GenerationError> {
        self.usage.completion_tokens += 1;
        self.advanced(seq, grown)
    }

    /// Takes note of a beam that grew by a token: it goes on as `seq`, or is complete.
    pub(crate) fn beam_grew(&mut self, seq: SeqId, mut answer: Answer<'m>, grown: Grown) {
        self.usage.completion_tokens += 1;
        self.ended_at_length |= matches!(grown.finished, Some((FinishReason::Length, _)));
        let ends = grown.finished.is_some();
        answer.keep(grown);
        match ends {
            true => self.complete.push((score(&self.request.search, &answer), answer.kept)),
            false => self.growing.push((seq, answer)),
        }
    }

    /// Ends an answer at the length it has.
    ///
    /// # Errors
    /// As [`tell`](Self::tell).
    pub(crate) fn cut(&mut self, seq: SeqId) -> Result<(), GenerationError> {
        let finished = Some((FinishReason::Length, None));
        self.advanced(seq, Grown { finished, ..Grown::default() }).map(drop)
    }

    fn advanced(&mut self, seq: SeqId, grown: Grown) -> Result<bool, GenerationError> {
        let finished = grown.finished.is_some();
        let compared = self.request.search.chooses();
        self.ended_at_length |= matches!(grown.finished, Some((FinishReason::Length, _)));
        let Some(at) = self.growing.iter().position(|(s, _)| *s == seq) else { return Ok(true) };
        let answer = &mut self.growing[at].1;
        if compared {
            answer.keep(grown);
            if finished {
                let (_, answer) = self.growing.remove(at);
                self.complete.push((score(&self.request.search, &answer), answer.kept));
            }
            return Ok(finished);
        }
        let index = answer.index;
        if finished {
            self.growing.remove(at);
        }
        let Grown { text, token, finished: end } = grown;
        if token.is_some() || !text.is_empty() {
            self.tell(Event::Delta { index, text, tokens: token.into_iter().collect() })?;
        }
        if let Some((reason, stopped_by)) = end {
            self.tell(Event::Finished { index, reason, stopped_by })?;
        }
        Ok(finished)
    }

    /// Scores of the answers that are complete, where they are compared.
    pub(crate) fn scores(&self) -> Vec<f64> {
        self.complete.iter().map(|&(score, _)| score).collect()
    }

    /// Tells the best answers, where they are compared, and that the request is done.
    ///
    /// # Errors
    /// As [`tell`](Self::tell).
    pub(crate) fn done(&mut self) -> Result<(), GenerationError> {
        let mut complete = std::mem::take(&mut self.complete);
        complete.sort_by(|a, b| b.0.total_cmp(&a.0));
        let best = complete.into_iter().take(self.request.search.n());
        for (index, (_, Kept { text, tokens, finished })) in best.enumerate() {
            self.tell(Event::Delta { index, text, tokens })?;
            let (reason, stopped_by) = finished.unwrap_or((FinishReason::Length, None));
            self.tell(Event::Finished { index, reason, stopped_by })?;
        }
        self.tell(Event::Done(self.usage))
    }
}

/// What answers are compared by.
fn score(search: &Search, answer: &Answer<'_>) -> f64 {
    let penalty = match *search {
        Search::Sample { .. } => 1.0,
        Search::Beam { length_penalty, .. } => length_penalty,
    };
    beam::score(answer.logprob, answer.tokens.len(), penalty)
}
