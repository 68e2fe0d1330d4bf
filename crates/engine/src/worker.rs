//! The engine's thread: takes commands between steps, lets the scheduler choose the rows of a step,
//! runs the model, and makes tokens of the logits.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::sync::mpsc::{Receiver, RecvTimeoutError, TryRecvError};
use std::time::{Duration, Instant};

use model::{Batch, Model, Outputs};
use paged_kv::{CacheSalt, PagedStorage, SeqId};
use scheduler::{Request, RequestId, Scheduler, TenantId, Work};
use tensor::Tensor;
use tensor::kv::KvError;
use tokenizer::{DecodeOptions, Tokenizer};
use tokio::sync::oneshot;

use crate::active::Active;
use crate::answer::Answer;
use crate::embed::{EmbedRequest, Embedder};
use crate::pace::Pace;
use crate::request::Event;
use crate::snapshot::Snapshot;
use crate::view::{self, Totals};
use crate::{GenerationError, RequestEnd, Shared};

/// How long the thread sleeps when nothing can be computed.
const PAUSE: Duration = Duration::from_millis(5);

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
    pub(crate) model: &'m Model,
    pub(crate) tokenizer: &'m Tokenizer,
    pub(crate) shared: &'m Shared,
    pub(crate) scheduler: Scheduler,
    pub(crate) storage: PagedStorage,
    pub(crate) pace: Pace,
    pub(crate) requests: HashMap<RequestId, Active<'m>>,
    pub(crate) embedder: Embedder,
    pub(crate) totals: Totals,
    pub(crate) hasher: RandomState,
    pub(crate) batch: Batch,
    pub(crate) outputs: Outputs,
    /// A row of logits with what is forbidden.
    pub(crate) scratch: Vec<f32>,
    pub(crate) work: Vec<Planned>,
}

/// A sequence's rows in the forward under way.
#[derive(Clone, Debug)]
pub(crate) struct Planned {
    pub(crate) work: Work,
    /// Whether all its rows' logits are wanted, as the prompt's probabilities are.
    pub(crate) every: bool,
    /// How many of the forward's rows of logits are its own.
    pub(crate) logits: usize,
}

impl<'m> Worker<'m> {
    pub(crate) fn new(
        model: &'m Model,
        tokenizer: &'m Tokenizer,
        shared: &'m Shared,
        hasher: RandomState,
    ) -> Result<Self, crate::StartError> {
        let config = &shared.config;
        let scheduler = Scheduler::new(config.scheduler())?;
        let layout = model.decoder().map(|d| d.config.kv_layout(config.kv_type))?;
        Ok(Self {
            model,
            tokenizer,
            shared,
            scheduler,
            storage: PagedStorage::on(model.compute().device(), layout, &config.kv)?,
            pace: Pace::new(config.max_batch_tokens),
            requests: HashMap::new(),
            embedder: Embedder::default(),
            totals: Totals::default(),
            hasher,
            batch: Batch::new(),
            outputs: Outputs { on_device: true, ..Outputs::default() },
            scratch: Vec::new(),
            work: Vec::new(),
        })
    }

    /// Serves until somebody says stop, or nobody is left who could ask for anything.
    pub(crate) fn run(&mut self, commands: &Receiver<Command>) {
        loop {
            if self.scheduler.is_idle() && self.embedder.is_idle() {
                // After the last request was cancelled there was no step that would have told.
                self.tell_load();
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
            let stepped = self.step();
            if !stepped && self.embedder.is_idle() && !self.scheduler.is_idle() {
                // Everybody waits for something that only a command or time can bring.
                match commands.recv_timeout(PAUSE) {
                    Ok(Command::Stop) | Err(RecvTimeoutError::Disconnected) => {
                        return self.stop(commands);
                    }
                    Ok(command) => self.handle(command),
                    Err(RecvTimeoutError::Timeout) => {}
                }
            }
        }
    }

    fn stop(&mut self, commands: &Receiver<Command>) {
        let queued = commands.try_iter().filter_map(|command| match command {
            Command::Submit(id, active) => Some((id, *active)),
            _ => None,
        });
        self.requests.extend(queued);
        for (_, active) in self.requests.drain() {
            let error = GenerationError::ShutDown;
            count_end(self.shared, &active, Err(Some(&error)));
            active.fail(error);
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
                let error = GenerationError::Refused(refusal);
                count_end(self.shared, &active, Err(Some(&error)));
                active.fail(error);
            }
        }
    }

    /// Ends a request wherever it is: with an error, or because nobody waits for it.
    pub(crate) fn end(&mut self, id: RequestId, error: Option<GenerationError>) {
        let Some(active) = self.requests.remove(&id) else { return };
        self.scheduler.cancel(id);
        count_end(self.shared, &active, Err(error.as_ref()));
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

    /// One forward, if there is something to compute; whether there was anything to do.
    fn step(&mut self) -> bool {
        let (began, generated) = (Instant::now(), self.totals.tokens.generated);
        let decoding = self.scheduler.decoding();
        let counts = self.scheduler.counts();
        let prompts = counts.waiting + counts.preempted + counts.running.saturating_sub(decoding);
        let step = self.scheduler.schedule(self.pace.budget(decoding, prompts));
        if step.work.is_empty() && step.is_quiet() {
            return false;
        }
        let moved = self.storage.transfer(&step.swap_out, &step.swap_in, &step.copies);
        if let Err(error) = moved {
            return self.lose_blocks(&error);
        }
        self.batch.clear();
        self.work.clear();
        self.outputs.logits.clear();
        let (mut decoding, mut prompt_rows, mut first_seen) = (0, 0, 0);
        for work in &step.work {
            let tokens = step.tokens(work);
            self.batch.extend(work.seq.into(), tokens);
            let every = self
                .requests
                .get(&work.request)
                .is_some_and(|a| a.request.prompt_logprobs.is_some() && work.prompt_rows > 0);
            let logits = if every { tokens.len() } else { usize::from(work.samples) };
            self.outputs.logits.extend(self.batch.len() - logits..self.batch.len());
            match work.prompt_rows {
                0 if tokens.len() == 1 => decoding += 1,
                _ => prompt_rows += tokens.len(),
            }
            first_seen += work.prompt_rows;
            self.work.push(Planned { work: work.clone(), every, logits });
        }
        let (started, preempted) = (step.started.clone(), step.preempted.len());
        if preempted > 0 {
            self.shared.observer.preempted(preempted);
        }
        for (id, seq, cached) in started {
            self.begin(id, seq, cached);
        }
        if self.batch.is_empty() {
            self.scheduler.computed();
            return true;
        }
        let Some(logits) = self.forward() else { return true };
        self.scheduler.computed();
        self.sample(&logits);
        self.totals.steps += 1;
        self.totals.tokens.prompt += first_seen as u64;
        self.observe(first_seen, self.totals.tokens.generated - generated);
        let seconds = began.elapsed().as_secs_f64();
        self.pace.took(decoding, prompt_rows, seconds);
        self.shared.load.step(prompt_rows, seconds);
        true
    }

    fn observe(&self, prompt_rows: usize, generated: u64) {
        self.shared.observer.step(self.batch.len(), prompt_rows, generated as usize);
        self.tell_load();
    }

    /// Who is there, and what they hold.
    fn tell_load(&self) {
        let (observer, pool) = (&self.shared.observer, self.scheduler.kv().pool());
        observer.cache_usage(pool.used() as f64 / pool.total().max(1) as f64);
        let (waiting, running) = self.shared.load.counts();
        observer.requests(running, waiting);
    }

    /// A request's prompt begins to be computed.
    fn begin(&mut self, id: RequestId, seq: SeqId, cached: usize) {
        let Some(active) = self.requests.get_mut(&id) else { return };
        active.began = Some(Instant::now());
        self.shared.load.left_queue(active.weight, true);
        active.usage.cached_tokens = cached;
        if active.request.prompt_logprobs.is_none() {
            self.shared.observer.prefix(active.request.prompt.len(), cached);
        }
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

    /// The logits of the step's rows, on the model's device. If the model cannot compute them all, each
    /// sequence is computed for itself and those that fail are ended; there are no logits then, and the
    /// others' rows are computed once more by the next step.
    fn forward(&mut self) -> Option<Tensor> {
        let mut cache = self.storage.with(self.scheduler.kv());
        let error = match self.model.forward(&self.batch, &mut cache, &self.outputs) {
            Ok(forward) => return Some(forward.logits),
            Err(error) => error,
        };
        tracing::warn!(%error, "a step failed; its sequences are computed one by one");
        let mut failed = Vec::new();
        let mut row = 0;
        for Planned { work, .. } in &self.work {
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

    /// Blocks were not copied where the scheduler thinks they are: nobody's can be trusted.
    fn lose_blocks(&mut self, error: &KvError) -> bool {
        tracing::error!(%error, "blocks were not copied; every request ends");
        self.scheduler.abandoned();
        let ids: Vec<RequestId> = self.requests.keys().copied().collect();
        for id in ids {
            self.end(id, Some(GenerationError::Model(error.to_string())));
        }
        true
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

/// Takes a request out of the counts of those waiting or running, and tells how it went: to its end,
/// cancelled (`Err(None)`), or failed.
pub(crate) fn count_end(
    shared: &Shared,
    active: &Active<'_>,
    end: Result<(), Option<&GenerationError>>,
) {
    let (times, served) = (active.times(), end.is_ok());
    match active.began {
        None => shared.load.left_queue(active.weight, false),
        Some(began) => shared.load.ended(active.weight, began, served),
    }
    let reason = match active.ended_at_length {
        _ if !served => "abort",
        true => "length",
        false => "stop",
    };
    let usage = active.usage;
    let (prompt, generated) = (usage.prompt_tokens, usage.completion_tokens);
    shared.observer.finished(reason, times, prompt, generated);
    shared.observer.tenant(&active.request.tenant.0, prompt, generated);
    if let Some(observer) = &active.request.observer {
        let error = end.err().flatten();
        observer.finished(RequestEnd { reason, error, times, usage });
    }
}

/// What a worker that is no more leaves behind: its requests have not ended, and are counted.
impl Drop for Worker<'_> {
    fn drop(&mut self) {
        for active in self.requests.values() {
            count_end(self.shared, active, Err(Some(&GenerationError::WorkerPanicked)));
        }
    }
}
