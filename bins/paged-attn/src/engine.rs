//! The scheduler, the blocks, their storage and the model, one forward after the other.
//!
//! What the server's engine does for many, with everything that happens written down: [`Engine::step`]
//! returns the [`Frame`] of a step.

use std::collections::VecDeque;

use anyhow::{Context, Result, anyhow};
use model::{Batch, Model, Outputs};
use paged_kv::{BlockId, CacheSalt, KvCacheConfig, PagedStorage, SeqId};
use sampling::Sampler;
use scheduler::{
    Budget, Preemption, Request, RequestId, Scheduler, SchedulerConfig, Step, TenantId,
};
use tensor::{DType, Tensor};
use tokenizer::{DecodeOptions, Tokenizer};

use crate::alone::{self, Difference};
use crate::frame::{BlockFrame, Event, Frame, Name, PoolFrame, Rows, SequenceFrame, State, Totals};
use crate::requests::SimRequest;

/// How keys and values are stored.
pub const KV_TYPE: DType = DType::F16;

/// How large everything is.
#[derive(Clone, Copy, Debug)]
pub struct EngineConfig {
    /// Positions a block.
    pub block_size: usize,
    /// Blocks of the pool.
    pub blocks: u32,
    /// Rows of a step.
    pub budget: Budget,
}

/// Requests on their way through one paged cache.
pub struct Engine<'m> {
    model: &'m Model,
    tokenizer: &'m Tokenizer,
    scheduler: Scheduler,
    storage: PagedStorage,
    budget: Budget,
    /// Those that come later.
    arriving: VecDeque<SimRequest>,
    /// Those that have come.
    arrived: Vec<SimRequest>,
    /// Their answers, in the order in which they began.
    answers: Vec<Answer>,
    step: usize,
    totals: Totals,
    waste: f64,
}

/// An answer that has begun.
struct Answer {
    seq: SeqId,
    name: Name,
    sampler: Sampler,
    tokens: Vec<u32>,
    ended: bool,
}

impl<'m> Engine<'m> {
    /// An engine that the requests will come to.
    ///
    /// # Errors
    /// Where there is no memory for so many blocks, or a size makes no sense.
    pub fn new(
        model: &'m Model,
        tokenizer: &'m Tokenizer,
        requests: Vec<SimRequest>,
        config: EngineConfig,
    ) -> Result<Self> {
        let EngineConfig { block_size, blocks, budget } = config;
        let kv = KvCacheConfig { block_size, blocks, ..KvCacheConfig::default() };
        let decoder = &model.decoder()?.config;
        let storage = PagedStorage::new(decoder.kv_layout(KV_TYPE), &kv)?;
        let scheduler = Scheduler::new(SchedulerConfig {
            kv,
            max_sequences: requests.iter().map(|r| r.sequences).sum::<usize>().max(1),
            max_waiting: requests.len(),
            max_model_len: decoder.context_length,
            preemption: Preemption::Recompute,
        })?;
        Ok(Self {
            model,
            tokenizer,
            scheduler,
            storage,
            budget,
            arriving: requests.into(),
            arrived: Vec::new(),
            answers: Vec::new(),
            step: 0,
            totals: Totals::default(),
            waste: 0.0,
        })
    }

    /// Computes one step; none when all requests have their answers.
    ///
    /// # Errors
    /// A request that can never fit, and what the model or the sampler has to say.
    pub fn step(&mut self) -> Result<Option<Frame>> {
        if self.scheduler.is_idle() && self.arriving.is_empty() {
            return Ok(None);
        }
        // Nobody waits through the steps in which nobody is there.
        let next = self.arriving.front().map_or(0, |r| r.arrives);
        let idle = self.scheduler.is_idle();
        self.step = if idle { self.step.max(next) } else { self.step } + 1;
        let mut events = Vec::new();
        self.arrive(&mut events)?;
        let before = self.tables();
        let evictions = self.scheduler.kv().stats().evictions;
        let step = self.scheduler.schedule(self.budget).clone();
        self.note_decisions(&step, &before, &mut events)?;
        let evicted = self.scheduler.kv().stats().evictions - evictions;
        if evicted > 0 {
            events.push(Event::Evicts { blocks: evicted });
        }
        self.storage.transfer(&step.swap_out, &step.swap_in, &step.copies)?;
        let logits = self.forward(&step)?;
        let before = self.tables();
        self.scheduler.computed();
        self.note_merges(&before, &mut events);
        let rows = match logits {
            Some(logits) => self.sample(&step, &logits, &mut events)?,
            None => Vec::new(),
        };
        let frame = self.frame(events, rows);
        self.count(&frame);
        Ok(Some(frame))
    }

    /// The run so far.
    pub fn totals(&self) -> Totals {
        let stats = self.scheduler.kv().stats();
        Totals {
            prefix_queries: stats.prefix_queries,
            prefix_hits: stats.prefix_hits,
            copies: stats.copies,
            merged: stats.merged,
            evictions: stats.evictions,
            mean_waste: self.waste / self.totals.steps.max(1) as f64,
            ..self.totals.clone()
        }
    }

    /// Generates each answer again, alone and with a contiguous cache, and says which differ.
    ///
    /// # Errors
    /// Those of the model and of the sampler.
    pub fn check(&self) -> Result<Vec<Difference>> {
        let mut differences = Vec::new();
        for answer in &self.answers {
            let Name { request, answer: index } = answer.name;
            let asked = &self.arrived[request - 1];
            let alone = alone::generate(self.model, self.tokenizer, asked, index, KV_TYPE)?;
            differences.extend(alone::compare(request, index, &answer.tokens, &alone));
        }
        Ok(differences)
    }

    fn arrive(&mut self, events: &mut Vec<Event>) -> Result<()> {
        while self.arriving.front().is_some_and(|r| r.arrives < self.step) {
            let Some(request) = self.arriving.pop_front() else { break };
            let number = request.number;
            let scheduled = Request {
                id: RequestId(number as u64),
                tenant: TenantId(0),
                salt: CacheSalt(0),
                priority: 0,
                prompt: request.prompt.clone(),
                max_new_tokens: request.max_tokens,
                sequences: request.sequences,
                every_logit: false,
            };
            self.scheduler.add(scheduled).map_err(|refusal| {
                anyhow!("request {number}: {refusal}; more --blocks or fewer --max-tokens may do")
            })?;
            let (prompt, answers) = (request.prompt.len(), request.sequences);
            events.push(Event::Arrives { request: number, prompt, answers });
            self.arrived.push(request);
        }
        Ok(())
    }

    /// What the scheduler decided, as events; a request that starts gets its first answer.
    fn note_decisions(
        &mut self,
        step: &Step,
        before: &[(Name, Vec<u32>, usize)],
        events: &mut Vec<Event>,
    ) -> Result<()> {
        for &seq in &step.preempted {
            self.totals.preemptions += 1;
            let sequence = self.name(seq);
            let had = before.iter().find(|(name, ..)| *name == sequence);
            events.push(Event::Preempted { sequence, positions: had.map_or(0, |had| had.2) });
        }
        for &(id, seq, cached) in &step.started {
            let request = &self.arrived[id.0 as usize - 1];
            let name = Name { request: request.number, answer: 0 };
            let prompt = request.prompt.len();
            self.answers.push(Answer::new(request, seq, name)?);
            let blocks =
                self.table(seq)[..cached / self.scheduler.kv().config().block_size].to_vec();
            events.push(Event::Starts { sequence: name, prompt, cached, blocks });
        }
        for &seq in &step.resumed {
            let kept = self.scheduler.kv().committed(seq).unwrap_or(0);
            events.push(Event::Resumes { sequence: self.name(seq), kept });
        }
        for copy in &step.copies {
            // Nobody else can have it: it was taken for this.
            let writer = self.answers.iter().find(|a| self.table(a.seq).contains(&copy.to.0));
            if let Some(writer) = writer {
                let (from, to, slots) = (copy.from.0, copy.to.0, copy.slots);
                events.push(Event::CopyOnWrite { sequence: writer.name, from, to, slots });
            }
        }
        Ok(())
    }

    /// Blocks of tables that became others when the step was committed.
    fn note_merges(&self, before: &[(Name, Vec<u32>, usize)], events: &mut Vec<Event>) {
        for (answer, (_, before, _)) in self.answers.iter().zip(before) {
            for (&from, to) in before.iter().zip(self.table(answer.seq)) {
                if from != to {
                    events.push(Event::Merges { sequence: answer.name, from, to });
                }
            }
        }
    }

    /// The logits `[rows, vocabulary]` of the rows that are sampled from.
    fn forward(&mut self, step: &Step) -> Result<Option<Tensor>> {
        if step.work.is_empty() {
            return Ok(None);
        }
        let (mut batch, mut outputs) = (Batch::new(), Outputs::default());
        for work in &step.work {
            batch.extend(work.seq.into(), step.tokens(work));
            if work.samples {
                outputs.logits.push(batch.len() - 1);
            }
            self.totals.prompt_rows += work.prompt_rows;
        }
        self.totals.steps += 1;
        let mut cache = self.storage.with(self.scheduler.kv());
        Ok(Some(self.model.forward(&batch, &mut cache, &outputs)?.logits))
    }

    fn sample(
        &mut self,
        step: &Step,
        logits: &Tensor,
        events: &mut Vec<Event>,
    ) -> Result<Vec<Rows>> {
        let mut logits = logits.as_f32()?.chunks_exact(logits.cols().max(1));
        let mut rows = Vec::new();
        for work in &step.work {
            let sequence = self.name(work.seq);
            let (first, prompt) = (work.first, work.prompt_rows);
            rows.push(Rows { sequence, first, rows: work.tokens.len(), prompt, token: None });
            if !work.samples {
                continue;
            }
            let row = logits.next().context("a row of logits for each that samples")?;
            let is_prompt = self.answers.iter().any(|a| a.name == sequence && a.tokens.is_empty());
            // The prompt is computed: the other answers begin with all that there is.
            let mut grow = vec![work.seq];
            if is_prompt {
                grow.extend(self.fork(work.seq, sequence, events)?);
            }
            for seq in grow {
                let token = self.advance(seq, row, events)?;
                let name = self.name(seq);
                match rows.last_mut().filter(|r| r.sequence == name) {
                    Some(rows) => rows.token = Some(token),
                    // An answer's first token comes from another's row.
                    None => rows.push(Rows {
                        sequence: name,
                        first,
                        rows: 0,
                        prompt: 0,
                        token: Some(token),
                    }),
                }
            }
        }
        Ok(rows)
    }

    fn fork(&mut self, seq: SeqId, parent: Name, events: &mut Vec<Event>) -> Result<Vec<SeqId>> {
        let mut children = Vec::new();
        for answer in 1..self.arrived[parent.request - 1].sequences {
            let child = Name { answer, ..parent };
            let forked = self.scheduler.fork(seq)?;
            self.answers.push(Answer::new(&self.arrived[parent.request - 1], forked, child)?);
            events.push(Event::Forks { parent, child, blocks: self.table(forked) });
            children.push(forked);
        }
        Ok(children)
    }

    /// Draws the next token of an answer and returns its text.
    fn advance(&mut self, seq: SeqId, logits: &[f32], events: &mut Vec<Event>) -> Result<String> {
        let answer = self.answers.iter_mut().find(|a| a.seq == seq && !a.ended);
        let answer = answer.context("only what runs is computed")?;
        let token = answer.sampler.next_token(logits)?;
        answer.tokens.push(token);
        self.totals.generated += 1;
        let asked = self.arrived[answer.name.request - 1].max_tokens;
        let is_last = self.tokenizer.is_eog(token) || answer.tokens.len() >= asked;
        let (name, tokens) = (answer.name, answer.tokens.len());
        answer.ended = is_last;
        if is_last {
            let table = self.table(seq);
            self.scheduler.finish(seq);
            let pool = self.scheduler.kv().pool();
            let (held, given): (Vec<u32>, Vec<u32>) =
                table.into_iter().partition(|&b| pool.references(BlockId(b)) > 0);
            let (kept, freed) = given.into_iter().partition(|&b| pool.is_idle(BlockId(b)));
            events.push(Event::Ends { sequence: name, tokens, freed, kept, held });
        } else {
            self.scheduler.push(seq, token);
        }
        Ok(self.tokenizer.decode(&[token], AS_SHOWN)?)
    }

    fn name(&self, seq: SeqId) -> Name {
        // The newest of that number: others may have had it before.
        let answer = self.answers.iter().rev().find(|a| a.seq == seq);
        answer.expect("the scheduler runs what was started or forked").name
    }

    /// The block table of a sequence; empty where it holds nothing.
    fn table(&self, seq: SeqId) -> Vec<u32> {
        let table = self.scheduler.kv().table(seq);
        table.map_or(Vec::new(), |t| t.blocks().iter().map(|b| b.0).collect())
    }

    /// All answers' tables and how many positions they hold.
    fn tables(&self) -> Vec<(Name, Vec<u32>, usize)> {
        let kv = self.scheduler.kv();
        let len = |seq| kv.table(seq).map_or(0, |t| t.len());
        self.answers.iter().map(|a| (a.name, self.table(a.seq), len(a.seq))).collect()
    }

    fn frame(&self, events: Vec<Event>, rows: Vec<Rows>) -> Frame {
        let kv = self.scheduler.kv();
        let (pool, block_size) = (kv.pool(), kv.config().block_size);
        let mut blocks: Vec<_> = (0..pool.total() as u32)
            .map(|block| {
                let (block, idle) = (BlockId(block), pool.is_idle(BlockId(block)));
                let filled = if idle { block_size } else { 0 };
                BlockFrame { references: pool.references(block), idle, filled }
            })
            .collect();
        for table in self.answers.iter().filter_map(|a| kv.table(a.seq).ok()) {
            for run in table.runs(0..table.len(), block_size) {
                let block = &mut blocks[run.block.index()];
                block.filled = block.filled.max(run.len);
            }
        }
        let mut sequences: Vec<_> = self.answers.iter().map(|a| self.sequence_frame(a)).collect();
        let waiting =
            self.arrived.iter().filter(|r| self.answers.iter().all(|a| a.name.request != r.number));
        sequences.extend(waiting.map(|r| SequenceFrame {
            name: Name { request: r.number, answer: 0 },
            state: State::Waiting,
            prompt: r.prompt.len(),
            positions: 0,
            table: Vec::new(),
            text: String::new(),
        }));
        sequences.sort_by_key(|s| s.name);
        let stats = kv.stats();
        let pool = PoolFrame {
            used: stats.used_blocks,
            shared: blocks.iter().filter(|b| b.references > 1).count(),
            idle: stats.idle_blocks,
            free: stats.free_blocks,
            entries: stats.table_entries,
            waste: stats.waste(),
        };
        Frame { step: self.step, events, rows, sequences, blocks, pool }
    }

    fn sequence_frame(&self, answer: &Answer) -> SequenceFrame {
        // A sequence that ended may have left its number to another.
        let table = if answer.ended { Vec::new() } else { self.table(answer.seq) };
        let state = match (answer.ended, table.is_empty()) {
            (true, _) => State::Ended,
            (false, true) => State::Waiting,
            (false, false) => State::Running,
        };
        let positions = match state {
            State::Running => self.scheduler.kv().table(answer.seq).map_or(0, |t| t.len()),
            _ => 0,
        };
        let prompt = self.arrived[answer.name.request - 1].prompt.len();
        // Every token was in the vocabulary when it was drawn.
        let text = self.tokenizer.decode(&answer.tokens, AS_SHOWN).unwrap_or_default();
        SequenceFrame { name: answer.name, state, prompt, positions, table, text }
    }

    fn count(&mut self, frame: &Frame) {
        self.waste += frame.pool.waste;
        if frame.pool.used > self.totals.peak_used {
            self.totals.peak_used = frame.pool.used;
            self.totals.entries_at_peak = frame.pool.entries;
        }
    }
}

const AS_SHOWN: DecodeOptions = DecodeOptions { skip_special: true, continues: true };

impl Answer {
    fn new(request: &SimRequest, seq: SeqId, name: Name) -> Result<Self> {
        let mut sampler = Sampler::new(request.sampling(name.answer))?;
        sampler.observe_prompt(&request.prompt);
        Ok(Self { seq, name, sampler, tokens: Vec::new(), ended: false })
    }
}

#[cfg(test)]
mod tests {
    use paged_kv::BlockCopy;

    use super::*;
    use crate::bard::Bard;
    use crate::requests::Workload;

    /// Serves three requests; `meddle` is called after each step.
    fn differences(meddle: &mut dyn FnMut(&mut Engine<'_>, &Frame)) -> Vec<Difference> {
        let bard = Bard::load().unwrap();
        let workload =
            Workload { requests: 3, sequences: 2, max_tokens: 16, temperature: 0.8, seed: 1 };
        let requests = workload.requests(&bard.tokenizer).unwrap();
        let budget = Budget { rows: 64, prompt_rows: 16 };
        let config = EngineConfig { block_size: 8, blocks: 64, budget };
        let mut engine = Engine::new(&bard.model, &bard.tokenizer, requests, config).unwrap();
        while let Some(frame) = engine.step().unwrap() {
            meddle(&mut engine, &frame);
        }
        engine.check().unwrap()
    }

    #[test]
    fn answers_are_those_of_a_contiguous_cache_unless_a_block_is_damaged() {
        assert_eq!(differences(&mut |_, _| {}), []);
        // As if a copy had gone to the wrong block: one that a running answer reads.
        let mut damaged = None;
        let found = differences(&mut |engine, frame| {
            let running =
                frame.sequences.iter().find(|s| s.state == State::Running && !s.text.is_empty());
            if let (None, Some(s)) = (damaged, running) {
                let (from, to) = (BlockId(s.table[0]), BlockId(s.table[2]));
                engine.storage.copy(BlockCopy { from, to, slots: 8 }).unwrap();
                damaged = Some(s.name);
            }
        });
        let name = damaged.unwrap();
        assert!(found.iter().any(|d| d.request == name.request && d.at > 0), "{found:?}");
    }
}
