//! What must hold of every step and after it. Everything is held against [`World`]'s own records, and
//! against the scheduler's tables where it has to be.

use std::collections::{BTreeMap, BTreeSet};

use paged_kv::{BlockId, SeqId};
use scheduler::{OUTPUT_WEIGHT, RequestId, RequestState, Step, TenantId, Work};

use crate::storage::{self, Content};
use crate::world::{Answer, World};

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Violation {
    TooManyRows {
        rows: usize,
    },
    TooManyPromptRows {
        rows: usize,
    },
    /// The ranges of the work are not the tokens of the step, one after the other.
    NotContiguous(SeqId),
    Twice(SeqId),
    /// Work for a sequence that does not exist, was not started or was preempted.
    NotRunning(SeqId),
    /// Rows that do not follow what is computed.
    Gap {
        seq: SeqId,
        first: usize,
    },
    OtherTokens(SeqId),
    WrongSampling(SeqId),
    WrongPromptRows(SeqId),
    /// A decoding sequence has no row although rows and blocks are left, or for too long.
    NoRow(SeqId),
    /// The first in rank has no row.
    FirstHasNoRow(RequestId),
    /// Work is left, and nothing is done.
    Stuck,
    /// Somebody else was to start or to resume before.
    Overtaken {
        by: RequestId,
        request: RequestId,
    },
    StartedTwice(RequestId),
    /// Blocks were taken away for somebody in the very step that starts another, or brings it back:
    /// what goes to the host could be what comes from there.
    AdmittedBesidePreempted,
    /// A prompt's tokens were said to be cached that are wanted or cannot be.
    WrongCached {
        request: RequestId,
        cached: usize,
    },
    /// While a request waited, this tenant was served more than the request's own and the bound.
    Unfair {
        request: RequestId,
        tenant: TenantId,
        surplus: i64,
        bound: i64,
    },
    /// A position does not hold what its sequence's tokens say.
    WrongContent {
        seq: SeqId,
        position: usize,
    },
    BlocksLost {
        used: usize,
        idle: usize,
        free: usize,
        total: usize,
    },
    WrongReferences {
        block: BlockId,
        got: u32,
        want: u32,
    },
    /// The requests and sequences are not those that have not ended.
    OtherRequests,
    HostBlocksLost {
        used: usize,
    },
}

/// Service of two tenants, both of which have requests waiting, differs by no more than this:
/// `2 U` as the crate says, and what is charged and not computed yet.
pub(crate) fn fairness_bound(world: &World) -> i64 {
    let (scenario, running) = (&world.scenario, world.scenario.config.max_sequences);
    let answers = running * scenario.longest_answer.max(1) * OUTPUT_WEIGHT as usize;
    let most = scenario.longest_prompt + answers;
    (2 * most + running * scenario.longest_prompt) as i64
}

impl World {
    /// Looks at a step before anything of it is done.
    pub(crate) fn check_step(&self, step: &Step) -> Result<(), Violation> {
        self.check_rows(step)?;
        step.work.iter().try_for_each(|work| self.check_work(step, work))?;
        self.check_budget(step)?;
        self.check_decoding(step)?;
        self.check_first(step)?;
        self.check_order(step)
    }

    fn check_rows(&self, step: &Step) -> Result<(), Violation> {
        let (mut at, mut seen) = (0, BTreeSet::new());
        for work in &step.work {
            if work.tokens.start != at || work.tokens.is_empty() {
                return Err(Violation::NotContiguous(work.seq));
            }
            at = work.tokens.end;
            if !seen.insert(work.seq) {
                return Err(Violation::Twice(work.seq));
            }
        }
        match step.work.last() {
            Some(work) if at != step.tokens.len() => Err(Violation::NotContiguous(work.seq)),
            _ => Ok(()),
        }
    }

    fn check_work(&self, step: &Step, work: &Work) -> Result<(), Violation> {
        let seq = work.seq;
        let Some(answer) = self.answer_or_new(step, seq) else {
            return Err(Violation::NotRunning(seq));
        };
        if answer.request != work.request || step.preempted.contains(&seq) {
            return Err(Violation::NotRunning(seq));
        }
        let client = &self.clients[&work.request];
        let started = step.started.iter().find(|s| s.1 == seq);
        let (first, end) = (work.first, work.first + work.tokens.len());
        // A sequence that lost its blocks goes on wherever it finds its positions; that they are its
        // own, the contents tell.
        let follows = match started {
            Some(&(_, _, cached)) => first == cached,
            None => answer.lost || first == answer.computed,
        };
        if !follows || self.table_len(seq) != Some(end) {
            return Err(Violation::Gap { seq, first });
        }
        if answer.tokens.get(first..end) != Some(step.tokens(work)) {
            return Err(Violation::OtherTokens(seq));
        }
        if work.samples != (end == answer.tokens.len() && !answer.sampled) {
            return Err(Violation::WrongSampling(seq));
        }
        let prompt = client.request.prompt.len();
        let seen = client.prompt_seen.max(started.map_or(0, |s| s.2));
        let new = end.min(prompt).saturating_sub(first.max(seen));
        // What was found when it resumed counts as seen, and may have been lost again.
        let lost = client.lost && !client.request.every_logit && work.prompt_rows < new;
        if work.prompt_rows != new && !lost {
            return Err(Violation::WrongPromptRows(seq));
        }
        Ok(())
    }

    fn check_budget(&self, step: &Step) -> Result<(), Violation> {
        let rows = |decoding: bool| -> usize {
            let of = step.work.iter().filter(|w| self.decoding.contains(&w.seq) == decoding);
            of.map(|w| w.tokens.len()).sum()
        };
        let (decoding, prompts) = (rows(true), rows(false));
        if decoding + prompts > self.budget.rows {
            return Err(Violation::TooManyRows { rows: decoding + prompts });
        }
        if decoding > 0 && prompts > self.budget.prompt_rows {
            return Err(Violation::TooManyPromptRows { rows: prompts });
        }
        Ok(())
    }

    fn check_decoding(&self, step: &Step) -> Result<(), Violation> {
        let has_row = |seq: SeqId| step.work.iter().any(|w| w.seq == seq);
        let turns = self.decoding.len() > self.budget.rows;
        for &seq in &self.decoding {
            if has_row(seq) || self.cannot_have_row(step, seq) {
                continue;
            }
            // Each of the others has a turn before it, twice if it comes back from the host.
            let most = 2 * self.scenario.config.max_sequences;
            if !turns || self.answers[&seq].rows_of_others > most {
                return Err(Violation::NoRow(seq));
            }
        }
        Ok(())
    }

    /// Whether a sequence lost its blocks in this step, or finds none as the last in rank.
    pub(crate) fn cannot_have_row(&self, step: &Step, seq: SeqId) -> bool {
        let kv = self.scheduler.kv();
        let got_none = self.table_len(seq) == Some(self.answers[&seq].computed);
        let needed = kv.blocks_needed(seq, 1).unwrap_or(0);
        let running = self.scheduler.requests().filter(|r| r.state() == RequestState::Running);
        let last = running.last().map(|r| r.id()) == Some(self.answers[&seq].request);
        step.preempted.contains(&seq) || (got_none && last && needed > kv.pool().available())
    }

    fn check_first(&self, step: &Step) -> Result<(), Violation> {
        let mut requests = self.scheduler.requests();
        let Some(first) = requests.next() else { return Ok(()) };
        if first.state() != RequestState::Running {
            // Nothing runs, yet somebody waits.
            return Err(Violation::Stuck);
        }
        let room = self.budget.rows > self.decoding.len();
        let pending = first.sequences().any(|s| s.computed() < s.tokens().len());
        let rows = step.work.iter().any(|w| w.request == first.id());
        if room && pending && !rows {
            return Err(Violation::FirstHasNoRow(first.id()));
        }
        Ok(())
    }

    /// Nobody starts before others who have a better claim.
    pub(crate) fn check_order(&self, step: &Step) -> Result<(), Violation> {
        let admitted = !step.started.is_empty() || !step.resumed.is_empty();
        if admitted && !step.preempted.is_empty() {
            return Err(Violation::AdmittedBesidePreempted);
        }
        let still = |state| self.scheduler.requests().filter(move |r| r.state() == state);
        for &(id, _, cached) in &step.started {
            let Some(client) = self.clients.get(&id) else { return Err(Violation::OtherRequests) };
            if client.started {
                return Err(Violation::StartedTwice(id));
            }
            let request = &client.request;
            let wrong = cached % self.scenario.config.kv.block_size != 0;
            if wrong || cached >= request.prompt.len() || (request.every_logit && cached > 0) {
                return Err(Violation::WrongCached { request: id, cached });
            }
            for other in still(RequestState::Waiting) {
                let came_before = self.clients[&other.id()].number < client.number;
                let claim = (other.priority(), !(other.tenant() == request.tenant && came_before));
                if claim < (request.priority, true) {
                    return Err(Violation::Overtaken { by: id, request: other.id() });
                }
            }
            let preempted = still(RequestState::Preempted);
            let mut before = preempted.filter(|o| o.priority() <= request.priority);
            if let Some(other) = before.next() {
                return Err(Violation::Overtaken { by: id, request: other.id() });
            }
            self.check_fair(id)?;
        }
        Ok(())
    }

    /// A request that starts now: what others were served since it came.
    pub(crate) fn check_fair(&self, id: RequestId) -> Result<(), Violation> {
        let client = &self.clients[&id];
        if self.scenario.priorities > 1 {
            return Ok(());
        }
        let since = |t: TenantId| {
            let before = client.served_before.get(&t).copied().unwrap_or(0);
            (self.served.get(&t).copied().unwrap_or(0) - before) as i64
        };
        let bound = fairness_bound(self);
        for &tenant in self.served.keys() {
            let surplus = since(tenant) - since(client.request.tenant);
            if surplus > bound {
                return Err(Violation::Unfair { request: id, tenant, surplus, bound });
            }
        }
        Ok(())
    }

    /// Looks at everything between two steps.
    pub(crate) fn check_rest(&self) -> Result<(), Violation> {
        let kv = self.scheduler.kv();
        let mut known = BTreeSet::new();
        let mut on_host = false;
        for request in self.scheduler.requests() {
            let Some(client) = self.clients.get(&request.id()) else {
                return Err(Violation::OtherRequests);
            };
            for s in request.sequences() {
                on_host |= s.is_on_host();
                if client.started {
                    known.insert(s.id());
                    let same = self.answers.get(&s.id()).is_some_and(|a| a.tokens == s.tokens());
                    if !same {
                        return Err(Violation::OtherRequests);
                    }
                }
                if s.is_on_device() {
                    let table = kv.table(s.id()).map_err(|_| Violation::NotRunning(s.id()))?;
                    if table.len() != s.computed() {
                        return Err(Violation::Gap { seq: s.id(), first: table.len() });
                    }
                    let read: Vec<Content> = self.storage.read(table).collect();
                    check_content(s.id(), client.request.salt, s.tokens(), &read)?;
                }
            }
        }
        let requests = self.scheduler.requests().count();
        if requests != self.clients.len() || !known.iter().eq(self.answers.keys()) {
            return Err(Violation::OtherRequests);
        }
        self.check_blocks(&self.references())?;
        let used = kv.host_pool().used();
        if used > 0 && !on_host { Err(Violation::HostBlocksLost { used }) } else { Ok(()) }
    }

    /// How often the tables of all sequences name each block.
    pub(crate) fn references(&self) -> BTreeMap<BlockId, u32> {
        let mut references = BTreeMap::new();
        let kv = self.scheduler.kv();
        let sequences = self.scheduler.requests().flat_map(|r| r.sequences());
        for table in sequences.filter_map(|s| kv.table(s.id()).ok()) {
            table.blocks().iter().for_each(|&b| *references.entry(b).or_default() += 1);
        }
        references
    }

    /// Every reference is an entry of a live table, and no block is lost.
    pub(crate) fn check_blocks(
        &self,
        references: &BTreeMap<BlockId, u32>,
    ) -> Result<(), Violation> {
        let pool = self.scheduler.kv().pool();
        for block in (0..pool.total() as u32).map(BlockId) {
            let (got, want) =
                (pool.references(block), references.get(&block).copied().unwrap_or(0));
            if got != want {
                return Err(Violation::WrongReferences { block, got, want });
            }
        }
        let (used, idle, free, total) = (pool.used(), pool.idle(), pool.free(), pool.total());
        let referenced = references.len();
        match used + idle + free == total && used == referenced {
            true => Ok(()),
            false => Err(Violation::BlocksLost { used, idle, free, total }),
        }
    }

    /// A sequence as it was before the step; one that starts now has the prompt and nothing else.
    fn answer_or_new(&self, step: &Step, seq: SeqId) -> Option<Answer> {
        let new = step.started.iter().find(|s| s.1 == seq);
        match new {
            Some(&(id, _, _)) => Some(Answer::new(id, &self.clients.get(&id)?.request.prompt)),
            None => self.answers.get(&seq).cloned(),
        }
    }

    fn table_len(&self, seq: SeqId) -> Option<usize> {
        self.scheduler.kv().table(seq).ok().map(|t| t.len())
    }
}

/// Holds what was read for a sequence against its tokens.
pub(crate) fn check_content(
    seq: SeqId,
    salt: paged_kv::CacheSalt,
    tokens: &[u32],
    read: &[Content],
) -> Result<(), Violation> {
    let mut want = storage::beginning(salt);
    for (position, (&token, &content)) in tokens.iter().zip(read).enumerate() {
        want = storage::next(want, token);
        if content != Some(want) {
            return Err(Violation::WrongContent { seq, position });
        }
    }
    Ok(())
}
