//! The engine's thread: takes commands between steps, lets the scheduler choose the rows of a step,
//! runs the model, and makes tokens of the logits.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::sync::mpsc::{Receiver, TryRecvError};
use std::time::Instant;

use model::{Batch, Model, Outputs};
use paged_kv::{CacheSalt, PagedStorage, SeqId};
use sampling::logprobs;
use scheduler::{Request, RequestId, Scheduler, TenantId, Work};
use tensor::Tensor;
use tokenizer::{DecodeOptions, Tokenizer};
use tokio::sync::oneshot;

use super::active::Active;
use super::answer::Answer;
use super::beam;
use super::embed::{EmbedRequest, Embedder};
use super::pace::Pace;
use super::request::{Event, FinishReason, Search, TokenInfo};
use super::snapshot::Snapshot;
use super::view::{self, Totals};
use super::{GenerationError, Shared};

/// What the handle asks of the thread.
pub(crate) enum Command {
    Submit(RequestId, Box<Active<'static>>),
    Cancel(RequestId),
    Embed(EmbedRequest),
    Ping(oneshot::Sender<()>),
    Snapshot(oneshot::Sender<Snapshot>),
    Stop,
    /// A fault, for tests.
    Panic,
}

pub(crate) struct Worker<'m> {
    model: &'m Model,
    tokenizer: &'m Tokenizer,
    shared: &'m Shared,
    scheduler: Scheduler,
    storage: PagedStorage,
    pace: Pace,
    requests: HashMap<RequestId, Active<'m>>,
    embedder: Embedder,
    totals: Totals,
    hasher: RandomState,
    batch: Batch,
    outputs: Outputs,
    /// A row of logits with what is forbidden.
    scratch: Vec<f32>,
    work: Vec<Work>,
}

impl<'m> Worker<'m> {
    pub(crate) fn new(
        model: &'m Model,
        tokenizer: &'m Tokenizer,
        shared: &'m Shared,
        hasher: RandomState,
    ) -> Result<Self, super::StartError> {
        let config = &shared.config;
        let scheduler = Scheduler::new(config.scheduler())?;
        let layout = model.decoder().map(|d| d.config.kv_layout(config.kv_type))?;
        Ok(Self {
            model,
            tokenizer,
            shared,
            scheduler,
            storage: PagedStorage::new(layout, &config.kv)?,
            pace: Pace::new(config.max_batch_tokens),
            requests: HashMap::new(),
            embedder: Embedder::default(),
            totals: Totals::default(),
            hasher,
            batch: Batch::new(),
            outputs: Outputs::default(),
            scratch: Vec::new(),
            work: Vec::new(),
        })
    }

    /// Serves until somebody says stop, or nobody is left who could ask for anything.
    pub(crate) fn run(&mut self, commands: &Receiver<Command>) {
        loop {
            if self.scheduler.is_idle() && self.embedder.is_idle() {
                match commands.recv() {
                    Ok(Command::Stop) | Err(_) => return self.stop(commands),
                    Ok(command) => self.handle(command),
                }
            }
            loop {
                match commands.try_recv() {
                    Ok(Command::Stop) | Err(TryRecvError::Disconnected) => {
                        return self.stop(commands);
                    }
                    Ok(command) => self.handle(command),
                    Err(TryRecvError::Empty) => break,
                }
            }
            self.give_up_waiting();
            self.embedder.step(self.model);
            self.step();
        }
    }

    fn stop(&mut self, commands: &Receiver<Command>) {
        let queued = commands.try_iter().filter_map(|command| match command {
            Command::Submit(id, active) => Some((id, *active)),
            _ => None,
        });
        self.requests.extend(queued);
        for (_, active) in self.requests.drain() {
            count_end(self.shared, &active, false);
            active.fail(GenerationError::ShutDown);
        }
    }

    fn handle(&mut self, command: Command) {
        match command {
            Command::Submit(id, active) => self.submit(id, *active),
            Command::Cancel(id) => self.end(id, None),
            Command::Embed(request) => self.embedder.push(request),
            // Whoever asked may have gone.
            Command::Ping(reply) => drop(reply.send(())),
            Command::Snapshot(reply) => drop(reply.send(self.snapshot())),
            Command::Stop => {}
            Command::Panic => panic!("asked to"),
        }
    }

    fn submit(&mut self, id: RequestId, active: Active<'m>) {
        let request = &active.request;
        let salt = |text: &str| self.hasher.hash_one(text);
        let scheduled = Request {
            id,
            tenant: TenantId(salt(&request.tenant.0)),
            salt: CacheSalt(request.cache_salt.as_deref().map_or(0, salt)),
            priority: request.priority,
            prompt: request.prompt.clone(),
            max_new_tokens: active.max_tokens,
            sequences: request.search.width(),
            every_logit: request.prompt_logprobs.is_some(),
        };
        match self.scheduler.add(scheduled) {
            Ok(()) => drop(self.requests.insert(id, active)),
            Err(refusal) => {
                // The handle looks at all this before; it is here for when the two disagree.
                count_end(self.shared, &active, false);
                active.fail(GenerationError::Refused(refusal));
            }
        }
    }

    /// Ends a request wherever it is: with an error, or because nobody waits for it.
    fn end(&mut self, id: RequestId, error: Option<GenerationError>) {
        let Some(active) = self.requests.remove(&id) else { return };
        self.scheduler.cancel(id);
        count_end(self.shared, &active, false);
        if let Some(error) = error {
            tracing::debug!(request = id.0, %error, "request failed");
            active.fail(error);
        }
    }

    /// Ends requests that have waited for too long.
    fn give_up_waiting(&mut self) {
        let limit = self.shared.config.queue_timeout;
        let late = |a: &Active<'_>| a.began.is_none() && a.submitted.elapsed() > limit;
        let late: Vec<RequestId> =
            self.requests.iter().filter(|(_, a)| late(a)).map(|(&id, _)| id).collect();
        for id in late {
            let waited = self.requests[&id].submitted.elapsed();
            let retry_after = self.shared.load.retry_after();
            self.end(id, Some(GenerationError::QueueTimeout { waited, retry_after }));
        }
    }

    /// One forward, if there is something to compute.
    fn step(&mut self) {
        let began = Instant::now();
        let decoding = self.scheduler.decoding();
        let step = self.scheduler.schedule(self.pace.budget(decoding));
        if step.work.is_empty() && step.is_quiet() {
            return;
        }
        for &copy in &step.swap_out {
            self.storage.swap_out(copy);
        }
        for &copy in &step.swap_in {
            self.storage.swap_in(copy);
        }
        for &copy in &step.copies {
            self.storage.copy(copy);
        }
        self.batch.clear();
        self.work.clear();
        self.outputs.logits.clear();
        let (mut decoding, mut prompt_rows, mut first_seen) = (0, 0, 0);
        for work in &step.work {
            let tokens = step.tokens(work);
            let first = self.batch.len();
            self.batch.extend(work.seq.into(), tokens);
            let every = self
                .requests
                .get(&work.request)
                .is_some_and(|a| a.request.prompt_logprobs.is_some() && work.prompt_rows > 0);
            let wanted = if every { first } else { self.batch.len() - usize::from(work.samples) };
            self.outputs.logits.extend(wanted..self.batch.len());
            match work.prompt_rows {
                0 if tokens.len() == 1 => decoding += 1,
                _ => prompt_rows += tokens.len(),
            }
            first_seen += work.prompt_rows;
            self.work.push(work.clone());
        }
        let started = step.started.clone();
        for (id, seq, cached) in started {
            self.begin(id, seq, cached);
        }
        if self.batch.is_empty() {
            self.scheduler.computed();
            return;
        }
        let logits = self.forward();
        self.scheduler.computed();
        if let Some(logits) = logits {
            self.sample(&logits);
        }
        self.totals.steps += 1;
        self.totals.tokens.prompt += first_seen as u64;
        let seconds = began.elapsed().as_secs_f64();
        self.pace.took(decoding, prompt_rows, seconds);
        self.shared.load.step(prompt_rows, seconds);
    }

    /// A request's prompt begins to be computed.
    fn begin(&mut self, id: RequestId, seq: SeqId, cached: usize) {
        let Some(active) = self.requests.get_mut(&id) else { return };
        active.began = Some(Instant::now());
        self.shared.load.left_queue(active.weight, true);
        active.usage.cached_tokens = cached;
        let made = Answer::new(&active.request, 0, active.max_tokens, self.tokenizer);
        if active.request.prompt_logprobs.is_some() {
            let shown = DecodeOptions { skip_special: false, continues: false };
            active.prompt_text = Some((self.tokenizer.decode_stream_with(shown), 0));
        }
        let told = active.tell(Event::Started { cached_tokens: cached });
        match made.and_then(|answer| told.map(|()| answer)) {
            Ok(answer) => active.growing.push((seq, answer)),
            Err(error) => self.end(id, Some(error)),
        }
    }

    /// The logits of the step's rows. If the model cannot compute them all, each sequence is computed
    /// for itself and those that fail are ended; there are no logits then, and the others' rows are
    /// computed once more by the next step.
    fn forward(&mut self) -> Option<Tensor> {
        let mut cache = self.storage.with(self.scheduler.kv());
        let error = match self.model.forward(&self.batch, &mut cache, &self.outputs) {
            Ok(forward) => return Some(forward.logits),
            Err(error) => error,
        };
        tracing::warn!(%error, "a step failed; its sequences are computed one by one");
        let mut failed = Vec::new();
        let mut row = 0;
        for work in &self.work {
            let rows = self.batch.rows()[row..row + work.tokens.len()].iter();
            row += work.tokens.len();
            let tokens: Vec<u32> = rows.map(|row| row.token).collect();
            let mut alone = Batch::new();
            alone.extend(work.seq.into(), &tokens);
            let mut cache = self.storage.with(self.scheduler.kv());
            if let Err(error) = self.model.forward(&alone, &mut cache, &Outputs::default()) {
                failed.push((work.request, GenerationError::Model(error.to_string())));
            }
        }
        self.scheduler.abandoned();
        for (id, error) in failed {
            self.end(id, Some(error));
        }
        None
    }

    /// Makes tokens of the step's logits.
    fn sample(&mut self, logits: &Tensor) {
        let rows = match logits.as_f32() {
            Ok(rows) => rows,
            Err(error) => {
                // Logits are f32 on every device that there is.
                tracing::error!(%error, "logits cannot be read");
                return;
            }
        };
        let vocabulary = logits.cols();
        let mut row = 0;
        for work in std::mem::take(&mut self.work).iter() {
            let Some(active) = self.requests.get_mut(&work.request) else {
                row += usize::from(work.samples);
                continue;
            };
            let every = active.request.prompt_logprobs.is_some() && work.prompt_rows > 0;
            let wanted = if every { work.tokens.len() } else { usize::from(work.samples) };
            let own = &rows[row * vocabulary..(row + wanted) * vocabulary];
            row += wanted;
            let mut done = Ok(());
            if every {
                done = self.score_prompt(work, own, vocabulary);
            }
            if work.samples && done.is_ok() {
                let last = &own[own.len() - vocabulary..];
                done = self.advance(work.request, work.seq, last);
            }
            if let Err(error) = done {
                self.end(work.request, Some(error));
            }
        }
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
            let grown = answer.grow(request, self.tokenizer, token, found)?;
            let finished = active.grew(seq, grown)?;
            self.totals.tokens.generated += 1;
            self.after(id, seq, token, finished)?;
        }
        Ok(())
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
            count_end(self.shared, &active, true);
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
            active.growing.push((seq, answer));
            active.grew(seq, grown)?;
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

    fn snapshot(&self) -> Snapshot {
        let model = &self.shared.info.name;
        view::snapshot(model, &self.scheduler, &self.totals, &self.requests)
    }
}

/// Serves a model that only embeds.
pub(crate) fn embed_only(model: &Model, commands: &Receiver<Command>) {
    let mut embedder = Embedder::default();
    while let Ok(command) = commands.recv() {
        match command {
            Command::Embed(request) => embedder.push(request),
            Command::Ping(reply) => drop(reply.send(())),
            Command::Stop => return,
            // The handle refuses the one; of the other nothing is known.
            Command::Submit(..) | Command::Cancel(_) | Command::Snapshot(_) | Command::Panic => {}
        }
        while !embedder.is_idle() {
            embedder.step(model);
        }
    }
}

/// Takes a request out of the counts of those waiting or running.
fn count_end(shared: &Shared, active: &Active<'_>, served: bool) {
    match active.began {
        None => shared.load.left_queue(active.weight, false),
        Some(began) => shared.load.ended(active.weight, began, served),
    }
}

/// What a worker that is no more leaves behind: its requests have not ended, and are counted.
impl Drop for Worker<'_> {
    fn drop(&mut self) {
        for active in self.requests.values() {
            count_end(self.shared, active, false);
        }
    }
}
