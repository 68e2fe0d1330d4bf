//! An engine without a model: it asks for steps, does what they say to a [`Storage`], and answers as
//! the seed decides. Its own records say what the scheduler must do.

use std::collections::{BTreeMap, BTreeSet};

use paged_kv::{SeqId, TokenId};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use scheduler::{
    Budget, OUTPUT_WEIGHT, PROMPT_WEIGHT, Refusal, Request, RequestId, Scheduler, Step, TenantId,
};

use crate::checks::{Violation, check_content};
use crate::scenario::Scenario;
use crate::storage::{self, Content, Storage};

/// A request that has not ended.
#[derive(Clone, Debug)]
pub(crate) struct Client {
    pub(crate) request: Request,
    /// How many came before it.
    pub(crate) number: u64,
    pub(crate) started: bool,
    pub(crate) forked: bool,
    pub(crate) prompt_seen: usize,
    /// Whether it was preempted at some time.
    pub(crate) lost: bool,
    /// What each tenant had been served when it came.
    pub(crate) served_before: BTreeMap<TenantId, u64>,
}

/// A sequence that has not ended.
#[derive(Clone, Debug)]
pub(crate) struct Answer {
    pub(crate) request: RequestId,
    pub(crate) tokens: Vec<TokenId>,
    pub(crate) computed: usize,
    /// Whether its next token was sampled.
    pub(crate) sampled: bool,
    /// Whether it was preempted and had no rows since.
    pub(crate) lost: bool,
    /// Rows of steps in which it could have decoded and did not, since it did.
    pub(crate) rows_of_others: usize,
}

impl Answer {
    pub(crate) fn new(request: RequestId, prompt: &[TokenId]) -> Self {
        let (tokens, lost) = (prompt.to_vec(), false);
        Self { request, tokens, computed: 0, sampled: false, lost, rows_of_others: 0 }
    }
}

/// What an engine might do wrong. The checks have to notice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sabotage {
    None,
    /// Copies on write are not made.
    NoCopies,
    /// Blocks do not come back from the host.
    NoSwapIn,
    /// Blocks go to the host after others were written.
    LateSwapOut,
    /// A step that failed is reported as computed.
    FailureIsSuccess,
    /// A sequence ends and the scheduler is not told.
    NoFinish,
}

/// How often things happened, over a simulation: tests of nothing prove nothing.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Tally {
    pub(crate) steps: u64,
    pub(crate) ended: u64,
    pub(crate) cancelled: u64,
    pub(crate) refused: u64,
    pub(crate) preempted: u64,
    pub(crate) swapped: u64,
    pub(crate) copied: u64,
    pub(crate) cached: u64,
    pub(crate) forked: u64,
    pub(crate) failed: u64,
    /// Steps with more that decode than rows.
    pub(crate) turns: u64,
    /// The largest surplus of one tenant over another, in percent of the bound.
    pub(crate) unfairness: i64,
}

#[derive(Clone)]
pub(crate) struct World {
    pub(crate) scenario: Scenario,
    pub(crate) scheduler: Scheduler,
    pub(crate) storage: Storage,
    pub(crate) budget: Budget,
    pub(crate) clients: BTreeMap<RequestId, Client>,
    pub(crate) answers: BTreeMap<SeqId, Answer>,
    /// Those that had one generated token to be computed, before the step.
    pub(crate) decoding: BTreeSet<SeqId>,
    /// Weighted tokens, as they are computed.
    pub(crate) served: BTreeMap<TenantId, u64>,
    pub(crate) tally: Tally,
    /// All steps, if they are kept.
    pub(crate) history: Option<Vec<Step>>,
    sabotage: Sabotage,
    rng: ChaCha8Rng,
    came: u64,
}

impl World {
    pub(crate) fn new(seed: u64, sabotage: Sabotage) -> Self {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let scenario = Scenario::random(&mut rng);
        Self::with(scenario, rng, sabotage)
    }

    pub(crate) fn with(scenario: Scenario, rng: ChaCha8Rng, sabotage: Sabotage) -> Self {
        let scheduler = Scheduler::new(scenario.config.clone()).expect("the block size is right");
        Self {
            scheduler,
            storage: Storage::new(&scenario.config.kv),
            budget: scenario.budget,
            clients: BTreeMap::new(),
            answers: BTreeMap::new(),
            decoding: BTreeSet::new(),
            served: BTreeMap::new(),
            tally: Tally::default(),
            history: None,
            scenario,
            sabotage,
            rng,
            came: 0,
        }
    }

    /// Plays the whole scenario: requests come for a while, then all are finished.
    pub(crate) fn run(&mut self) -> Result<(), Violation> {
        for _ in 0..self.scenario.steps {
            for _ in 0..3 {
                if self.rng.random_bool(self.scenario.arrival) {
                    self.arrive();
                }
            }
            self.step()?;
        }
        self.scheduler.drain();
        let late = self.scenario.request(&mut self.rng, u64::MAX);
        assert_eq!(self.scheduler.add(late), Err(Refusal::Draining));
        // Every step computes a row of the first in rank, or all rows of the budget; what is
        // computed again, is for its sake.
        (self.scenario.failure, self.scenario.push) = (0.0, 1.0);
        let rows =
            |c: &Client| c.request.sequences * (c.request.prompt.len() + c.request.max_new_tokens);
        let bound = 10 + 4 * self.clients.values().map(rows).sum::<usize>();
        for _ in 0..bound {
            if self.clients.is_empty() {
                break;
            }
            self.step()?;
        }
        let at_rest = self.scheduler.is_idle() && self.clients.is_empty();
        if !at_rest {
            return Err(Violation::Stuck);
        }
        self.check_blocks(&BTreeMap::new())?;
        assert_eq!(self.scheduler.kv().host_pool().used(), 0);
        assert_eq!(self.came, self.tally.ended + self.tally.cancelled + self.tally.refused);
        Ok(())
    }

    /// Sends a request.
    pub(crate) fn arrive(&mut self) {
        let request = self.scenario.request(&mut self.rng, self.came);
        self.send(request);
    }

    pub(crate) fn send(&mut self, request: Request) {
        let again = self.clients.keys().next().copied();
        if let Some(id) = again
            && self.rng.random_bool(0.05)
        {
            let twice = Request { id, ..request.clone() };
            assert_eq!(self.scheduler.add(twice), Err(Refusal::DuplicateId(id)));
        }
        let (number, id) = (self.came, request.id);
        self.came += 1;
        match self.scheduler.add(request.clone()) {
            Ok(()) => {
                let client = Client {
                    request,
                    number,
                    started: false,
                    forked: false,
                    prompt_seen: 0,
                    lost: false,
                    served_before: self.served.clone(),
                };
                self.clients.insert(id, client);
            }
            Err(_) => self.tally.refused += 1,
        }
    }

    /// One step and what follows it.
    pub(crate) fn step(&mut self) -> Result<(), Violation> {
        if self.rng.random_bool(0.1) {
            let rows = self.rng.random_range(1..=self.scenario.budget.rows);
            self.budget = Budget { rows, ..self.scenario.budget };
        }
        self.cancel_some();
        let step = self.schedule();
        self.check_step(&step)?;
        self.note(&step);
        // Whoever leaves now has rows in the step.
        self.cancel_some();
        let failed = self.rng.random_bool(self.scenario.failure);
        self.forward(&step, failed)?;
        if failed && self.sabotage != Sabotage::FailureIsSuccess {
            self.scheduler.abandoned();
            self.tally.failed += 1;
        } else {
            self.scheduler.computed();
            self.grow(&step);
        }
        self.answer();
        if let Some(history) = &mut self.history {
            history.push(step);
        }
        self.check_rest()
    }

    /// Asks for a step.
    pub(crate) fn schedule(&mut self) -> Step {
        self.decoding = self.find_decoding();
        assert_eq!(self.scheduler.decoding(), self.decoding.len());
        self.scheduler.schedule(self.budget).clone()
    }

    fn find_decoding(&self) -> BTreeSet<SeqId> {
        let of = self.scheduler.requests().flat_map(|request| {
            let prompt = request.prompt_tokens();
            request.sequences().filter(move |s| {
                let computed = s.computed();
                s.is_on_device() && computed >= prompt && computed + 1 == s.tokens().len()
            })
        });
        of.map(|s| s.id()).collect()
    }

    fn cancel_some(&mut self) {
        let all: Vec<RequestId> = self.clients.keys().copied().collect();
        for id in all {
            if self.rng.random_bool(self.scenario.cancel / 2.0) {
                assert!(self.scheduler.cancel(id));
                assert!(!self.scheduler.cancel(id));
                self.forget(id);
                self.tally.cancelled += 1;
            }
        }
    }

    fn forget(&mut self, id: RequestId) {
        self.clients.remove(&id);
        self.answers.retain(|_, a| a.request != id);
    }

    /// Takes down who started and who was preempted.
    fn note(&mut self, step: &Step) {
        self.tally.steps += 1;
        self.tally.preempted += step.preempted.len() as u64;
        self.tally.swapped += step.swap_out.len() as u64;
        self.tally.copied += step.copies.len() as u64;
        self.tally.turns += u64::from(self.decoding.len() > self.budget.rows);
        for &(id, seq, cached) in &step.started {
            self.note_surplus(id);
            let client = self.clients.get_mut(&id).expect("it waited");
            client.started = true;
            client.prompt_seen = cached;
            let answer = Answer { computed: cached, ..Answer::new(id, &client.request.prompt) };
            self.answers.insert(seq, answer);
            self.tally.cached += cached as u64;
        }
        for seq in &step.preempted {
            let answer = self.answers.get_mut(seq).expect("it ran");
            answer.lost = true;
            self.clients.get_mut(&answer.request).expect("it ran").lost = true;
        }
        for &seq in &self.decoding {
            let has_row = step.work.iter().any(|w| w.seq == seq) || self.cannot_have_row(step, seq);
            let answer = self.answers.get_mut(&seq).expect("it ran");
            let rows = answer.rows_of_others + self.budget.rows;
            answer.rows_of_others = if has_row { 0 } else { rows };
        }
    }

    fn note_surplus(&mut self, id: RequestId) {
        let client = &self.clients[&id];
        let since = |t: &TenantId| self.served[t] - client.served_before.get(t).unwrap_or(&0);
        let own =
            self.served.get(&client.request.tenant).map_or(0, |_| since(&client.request.tenant));
        let most = self.served.keys().map(since).max().unwrap_or(0);
        if self.scenario.priorities == 1 {
            let share = 100 * (most as i64 - own as i64) / crate::checks::fairness_bound(self);
            self.tally.unfairness = self.tally.unfairness.max(share);
        }
    }

    /// Does what the step says. A forward that fails leaves anything in the slots of its rows.
    fn forward(&mut self, step: &Step, failed: bool) -> Result<(), Violation> {
        let out = |storage: &mut Storage| step.swap_out.iter().for_each(|&c| storage.swap_out(c));
        if self.sabotage != Sabotage::LateSwapOut {
            out(&mut self.storage);
        }
        if self.sabotage != Sabotage::NoSwapIn {
            step.swap_in.iter().for_each(|&c| self.storage.swap_in(c));
        }
        if self.sabotage != Sabotage::NoCopies {
            step.copies.iter().for_each(|&c| self.storage.copy(c));
        }
        // All is written before anything is read, as in a layer of a model.
        for work in &step.work {
            let Some(answer) = self.answers.get(&work.seq) else { continue };
            let table = self.scheduler.kv().table(work.seq).expect("it has rows");
            let mut content = storage::beginning(self.clients[&work.request].request.salt);
            for (position, &token) in answer.tokens[..table.len()].iter().enumerate() {
                content = storage::next(content, token);
                if position >= work.first {
                    let written = (!failed).then_some(content);
                    self.storage.write(table, position, written);
                }
            }
        }
        if self.sabotage == Sabotage::LateSwapOut {
            out(&mut self.storage);
        }
        for work in step.work.iter().filter(|_| !failed) {
            let Some(answer) = self.answers.get(&work.seq) else { continue };
            let table = self.scheduler.kv().table(work.seq).expect("it has rows");
            let read: Vec<Content> = self.storage.read(table).collect();
            let salt = self.clients[&work.request].request.salt;
            check_content(work.seq, salt, &answer.tokens[..table.len()], &read)?;
        }
        Ok(())
    }

    /// Takes down what a step computed.
    fn grow(&mut self, step: &Step) {
        for work in &step.work {
            let Some(answer) = self.answers.get_mut(&work.seq) else { continue };
            let client = self.clients.get_mut(&work.request).expect("it has an answer");
            answer.computed = work.first + work.tokens.len();
            answer.lost = false;
            assert!(!(answer.sampled && work.samples), "sampled twice");
            answer.sampled |= work.samples;
            let prompt = client.request.prompt.len();
            client.prompt_seen = client.prompt_seen.max(answer.computed.min(prompt));
            let weighted =
                work.prompt_rows as u64 * PROMPT_WEIGHT + u64::from(work.samples) * OUTPUT_WEIGHT;
            *self.served.entry(client.request.tenant).or_default() += weighted;
        }
    }

    /// Forks, pushes and finishes sequences whose token was sampled.
    fn answer(&mut self) {
        let sampled: Vec<SeqId> =
            self.answers.iter().filter(|(_, a)| a.sampled).map(|(&seq, _)| seq).collect();
        for seq in sampled {
            if self.rng.random_bool(self.scenario.push) {
                for fork in self.fork_some(seq) {
                    self.answer_one(fork);
                }
                self.answer_one(seq);
            }
        }
    }

    fn fork_some(&mut self, seq: SeqId) -> Vec<SeqId> {
        let answer = self.answers[&seq].clone();
        let client = self.clients.get_mut(&answer.request).expect("it has an answer");
        let most = client.request.sequences;
        let have = self.answers.values().filter(|a| a.request == answer.request).count();
        // All at once when the first token is sampled (`n`), or one at a time later (beams).
        let wanted = match client.forked {
            false => most - 1,
            true => usize::from(self.rng.random_bool(self.scenario.fork)),
        };
        client.forked = true;
        let forks: Vec<SeqId> =
            (0..wanted.min(most - have)).filter_map(|_| self.scheduler.fork(seq).ok()).collect();
        // Only a sequence that lost its blocks cannot be forked.
        assert!(forks.len() == wanted.min(most - have) || answer.lost);
        self.answers.extend(forks.iter().map(|&fork| (fork, answer.clone())));
        self.tally.forked += forks.len() as u64;
        forks
    }

    fn answer_one(&mut self, seq: SeqId) {
        let answer = self.answers.get_mut(&seq).expect("it is there");
        let client = &self.clients[&answer.request];
        let generated = answer.tokens.len() - client.request.prompt.len();
        let last = generated + 1 >= client.request.max_new_tokens;
        if !last && !self.rng.random_bool(self.scenario.end) {
            let token = self.rng.random_range(0..self.scenario.vocabulary);
            answer.tokens.push(token);
            answer.sampled = false;
            self.scheduler.push(seq, token);
            return;
        }
        let id = answer.request;
        self.answers.remove(&seq);
        if self.sabotage != Sabotage::NoFinish {
            self.scheduler.finish(seq);
        }
        if self.answers.values().all(|a| a.request != id) {
            self.clients.remove(&id);
            self.tally.ended += 1;
        }
    }
}
