//! Requests come, grow and go.

use std::collections::BTreeMap;

use paged_kv::{KvCacheConfig, KvCacheManager, PagedKvError, SeqId, TokenId};

use crate::fairness::{OUTPUT_WEIGHT, PROMPT_WEIGHT, TokenCounters};
use crate::group::{Group, Groups, Place, RequestState, Sequence, Slot};
use crate::queue::Queue;
use crate::{Refusal, Request, RequestId, Step};

/// What becomes of the keys and values of a request whose blocks others need.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Preemption {
    /// They are computed again, but for what the prefix cache still has by then.
    #[default]
    Recompute,
    /// They move to the host; or as above, if there is no room.
    Swap,
}

/// The sizes of a scheduler.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SchedulerConfig {
    /// The blocks.
    pub kv: KvCacheConfig,
    /// Sequences that run at once, counting each request's [`Request::sequences`].
    pub max_sequences: usize,
    /// Requests in the queue, not counting those that were preempted. Every request goes through it.
    pub max_waiting: usize,
    /// Tokens of prompt and answer together.
    pub max_model_len: usize,
    /// What is done when blocks run out.
    pub preemption: Preemption,
}

/// A sequence that cannot be forked.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ForkError {
    /// It does not exist, or its request was preempted.
    #[error("sequence {0:?} does not run")]
    NotRunning(SeqId),
    /// Its newest token was not computed since it was pushed.
    #[error("nothing was sampled for sequence {0:?}")]
    NotSampled(SeqId),
    /// Its request has twice as many sequences as it asked for.
    #[error("the request has {got} sequences and asked for {limit}")]
    TooMany {
        /// Sequences that it has.
        got: usize,
        /// Sequences that it asked for.
        limit: usize,
    },
}

/// Requests and their sequences on one pool of blocks. See the [crate's documentation](crate) for the
/// rules.
///
/// A step goes: [`schedule`](Self::schedule); the copies and the forward that it says;
/// [`computed`](Self::computed), or [`abandoned`](Self::abandoned) if the forward failed; then for
/// each sequence whose work `samples`, [`push`](Self::push) or [`finish`](Self::finish), after as many
/// [`fork`](Self::fork)s as wanted. These need not come before the next step: a sequence without a
/// new token holds its blocks and gets no rows. [`add`](Self::add) and [`cancel`](Self::cancel) come
/// at any time.
#[derive(Clone, Debug)]
pub struct Scheduler {
    pub(crate) config: SchedulerConfig,
    pub(crate) kv: KvCacheManager,
    pub(crate) groups: Groups,
    pub(crate) queue: Queue,
    pub(crate) counters: TokenCounters,
    /// Those that run, by rank.
    pub(crate) running: Vec<Slot>,
    /// Sequences that those may be forked into.
    pub(crate) reserved: usize,
    requests: BTreeMap<RequestId, Slot>,
    sequences: BTreeMap<SeqId, Slot>,
    next_seq: u64,
    arrivals: u64,
    pub(crate) starts: u64,
    /// Steps so far.
    pub(crate) steps: u64,
    pub(crate) step: Step,
    /// Whether the step's rows are neither computed nor abandoned.
    pub(crate) open: bool,
    draining: bool,
    pub(crate) preemptions: u64,
    /// Of `schedule`, to be used again.
    pub(crate) scratch: Vec<(u64, usize, usize)>,
}

impl Scheduler {
    /// A scheduler without requests.
    ///
    /// # Errors
    /// [`PagedKvError::BlockSize`].
    pub fn new(config: SchedulerConfig) -> Result<Self, PagedKvError> {
        Ok(Self {
            kv: KvCacheManager::new(config.kv.clone())?,
            config,
            groups: Groups::default(),
            queue: Queue::default(),
            counters: TokenCounters::default(),
            running: Vec::new(),
            reserved: 0,
            requests: BTreeMap::new(),
            sequences: BTreeMap::new(),
            next_seq: 0,
            arrivals: 0,
            starts: 0,
            steps: 0,
            step: Step::default(),
            open: false,
            draining: false,
            preemptions: 0,
            scratch: Vec::new(),
        })
    }

    /// Puts a request into the queue.
    ///
    /// # Errors
    /// [`Refusal`]; nothing has changed then.
    pub fn add(&mut self, request: Request) -> Result<(), Refusal> {
        self.check(&request)?;
        let waits = self.queue.tenants().any(|t| t == request.tenant);
        let lift = (!waits).then(|| self.counters.lift(self.queue.tenants()));
        self.counters.arrived(request.tenant, lift);
        let seq = self.new_seq();
        let group = Group {
            request: request.id,
            tenant: request.tenant,
            salt: request.salt,
            priority: request.priority,
            every_logit: request.every_logit,
            prompt: request.prompt.len(),
            prompt_seen: 0,
            cached: None,
            max_new: request.max_new_tokens,
            limit: request.sequences,
            state: RequestState::Waiting,
            started: None,
            host_blocks: 0,
            sequences: vec![Sequence::new(seq, request.prompt)],
        };
        let slot = self.groups.insert(group);
        self.queue.push(&self.groups[slot], slot, self.arrivals);
        self.arrivals += 1;
        self.requests.insert(request.id, slot);
        self.sequences.insert(seq, slot);
        Ok(())
    }

    fn check(&self, request: &Request) -> Result<(), Refusal> {
        let (prompt, max_new) = (request.prompt.len(), request.max_new_tokens);
        if self.draining {
            return Err(Refusal::Draining);
        }
        if self.requests.contains_key(&request.id) {
            return Err(Refusal::DuplicateId(request.id));
        }
        if prompt == 0 {
            return Err(Refusal::EmptyPrompt);
        }
        let (asked, limit) = (request.sequences, self.config.max_sequences);
        if !(1..=limit).contains(&asked) {
            return Err(Refusal::TooManySequences { asked, limit });
        }
        let limit = self.config.max_model_len;
        let len = prompt.saturating_add(max_new);
        if len > limit {
            return Err(Refusal::TooLong { prompt, max_new, limit });
        }
        // A sequence that is computed again shares all of the prompt but, perhaps, its last token.
        let shared = (prompt - 1) / self.config.kv.block_size;
        let own = len.div_ceil(self.config.kv.block_size) - shared;
        let needed = own.saturating_mul(asked).saturating_add(shared);
        let total = self.kv.pool().total();
        if needed > total {
            return Err(Refusal::NeverFits { needed, total });
        }
        let waiting = self.queue.waiting();
        if waiting >= self.config.max_waiting {
            return Err(Refusal::QueueFull { waiting });
        }
        Ok(())
    }

    /// Reports that the keys and values of the step's rows are written. Nothing happens if there is
    /// no step between [`schedule`](Self::schedule) and this.
    pub fn computed(&mut self) {
        if !std::mem::take(&mut self.open) {
            return;
        }
        for work in &self.step.work {
            // It may have been cancelled meanwhile.
            let Some(&slot) = self.sequences.get(&work.seq) else { continue };
            self.kv.commit(work.seq).expect("a sequence with rows is on the device");
            let group = &mut self.groups[slot];
            let end = work.first + work.tokens.len();
            group.prompt_seen = group.prompt_seen.max(end.min(group.prompt));
            if work.samples {
                self.counters.charge(group.tenant, 1, OUTPUT_WEIGHT);
            }
            let k = group.position(work.seq).expect("it was looked up");
            let sequence = &mut group.sequences[k];
            sequence.computed = end;
            sequence.sampled |= work.samples;
        }
    }

    /// Reports that the step's rows were not computed, whatever was written of them: sequences are as
    /// long as before, and the next step has the same rows again. What was copied stays copied, and
    /// who was started, preempted or resumed stays so.
    pub fn abandoned(&mut self) {
        if !std::mem::take(&mut self.open) {
            return;
        }
        for work in &self.step.work {
            if self.sequences.contains_key(&work.seq) {
                self.kv.truncate(work.seq, work.first).expect("the rows were appended there");
            }
        }
    }

    /// Appends the token that was sampled for a sequence: a row of the next step. Nothing happens if
    /// its request has been cancelled.
    ///
    /// A token comes once after each work that `samples`, and at most
    /// [`max_new_tokens`](Request::max_new_tokens) of them; others are not taken (and are a panic
    /// where debug assertions are on).
    pub fn push(&mut self, seq: SeqId, token: TokenId) {
        let Some(&slot) = self.sequences.get(&seq) else { return };
        let group = &mut self.groups[slot];
        let most = group.prompt + group.max_new;
        let k = group.position(seq).expect("it was looked up");
        let sequence = &mut group.sequences[k];
        let wanted = sequence.sampled && sequence.tokens.len() < most;
        debug_assert!(wanted, "{seq:?} waits for no token");
        if wanted {
            sequence.tokens.push(token);
            sequence.sampled = false;
        }
    }

    /// Starts a further sequence of a request, which shares all blocks of `seq` and waits for a token
    /// of its own: after [`computed`](Self::computed), before the [`push`](Self::push).
    ///
    /// Before the next step the request has to be back at the sequences that it asked for: those
    /// beyond get no rows. (A beam search forks before it knows whom to finish.)
    ///
    /// # Errors
    /// [`ForkError`].
    pub fn fork(&mut self, seq: SeqId) -> Result<SeqId, ForkError> {
        let &slot = self.sequences.get(&seq).ok_or(ForkError::NotRunning(seq))?;
        let group = &self.groups[slot];
        let k = group.position(seq).expect("it was looked up");
        let sequence = &group.sequences[k];
        if sequence.place != Place::Device {
            return Err(ForkError::NotRunning(seq));
        }
        if !sequence.sampled || sequence.pending() > 0 {
            return Err(ForkError::NotSampled(seq));
        }
        let (got, limit) = (group.sequences.len(), group.limit);
        if got >= limit.saturating_mul(2) {
            return Err(ForkError::TooMany { got, limit });
        }
        let child = Sequence { id: SeqId(self.next_seq), ..sequence.clone() };
        let id = self.new_seq();
        self.kv.fork(seq, id).expect("all of it is committed");
        self.groups[slot].sequences.push(child);
        self.sequences.insert(id, slot);
        Ok(id)
    }

    /// Ends a sequence; with the last one, its request. What it computed can be found as a prefix
    /// until its blocks are needed. Nothing happens if it has ended before.
    pub fn finish(&mut self, seq: SeqId) {
        let Some(slot) = self.sequences.remove(&seq) else { return };
        let group = &mut self.groups[slot];
        let k = group.position(seq).expect("it was looked up");
        let sequence = group.sequences.remove(k);
        if sequence.place != Place::Nowhere {
            self.kv.free(seq).expect("it is on the device or on the host");
        }
        if group.sequences.is_empty() {
            self.end(slot);
        }
    }

    /// Ends a request wherever it is: in the queue, running, preempted. False if there is none.
    pub fn cancel(&mut self, id: RequestId) -> bool {
        let Some(&slot) = self.requests.get(&id) else { return false };
        let sequences = &self.groups[slot].sequences;
        let seqs: Vec<SeqId> = sequences.iter().map(|s| s.id).collect();
        // The last is the youngest: what it shares stays with those it was forked from.
        seqs.into_iter().rev().for_each(|seq| self.finish(seq));
        true
    }

    /// Takes no more requests; those that are here go on.
    pub fn drain(&mut self) {
        self.draining = true;
    }

    /// The blocks and tables.
    pub fn kv(&self) -> &KvCacheManager {
        &self.kv
    }

    fn new_seq(&mut self) -> SeqId {
        self.next_seq += 1;
        SeqId(self.next_seq - 1)
    }

    /// Forgets a request that has no sequence left.
    fn end(&mut self, slot: Slot) {
        let group = self.groups.remove(slot);
        match group.state {
            RequestState::Running => {
                self.running.retain(|&s| s != slot);
                self.reserved -= group.limit;
            }
            RequestState::Waiting | RequestState::Preempted => self.queue.remove(&group, slot),
        }
        if group.started.is_some() {
            let unseen = group.prompt - group.prompt_seen;
            self.counters.refund(group.tenant, unseen, PROMPT_WEIGHT);
        }
        self.counters.ended(group.tenant);
        self.requests.remove(&group.request);
    }
}
