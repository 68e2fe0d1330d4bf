//! What others may see: numbers, and every request.

use paged_kv::{SeqId, TokenId};

use crate::group::{Group, Place, RequestState, Sequence};
use crate::{RequestId, Scheduler, TenantId};

/// Requests and sequences in numbers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Requests that were never started.
    pub waiting: usize,
    /// Requests that run.
    pub running: usize,
    /// Their sequences.
    pub running_sequences: usize,
    /// Requests that lost their blocks.
    pub preempted: usize,
    /// How often a request lost its blocks, since the beginning.
    pub preemptions: u64,
}

/// What a request is doing.
#[derive(Clone, Copy, Debug)]
pub struct RequestView<'a>(&'a Group);

/// What a sequence is doing.
#[derive(Clone, Copy, Debug)]
pub struct SequenceView<'a> {
    sequence: &'a Sequence,
    prompt: usize,
}

impl<'a> RequestView<'a> {
    /// Its name.
    pub fn id(&self) -> RequestId {
        self.0.request
    }

    /// Who pays for it.
    pub fn tenant(&self) -> TenantId {
        self.0.tenant
    }

    /// Lower ones go first.
    pub fn priority(&self) -> i32 {
        self.0.priority
    }

    /// Whether it waits, runs or was preempted.
    pub fn state(&self) -> RequestState {
        self.0.state
    }

    /// Tokens of its prompt.
    pub fn prompt_tokens(&self) -> usize {
        self.0.prompt
    }

    /// Of them, those that were found in the prefix cache when it started.
    pub fn cached_tokens(&self) -> usize {
        self.0.cached.unwrap_or(0)
    }

    /// Tokens that each sequence may be continued by.
    pub fn max_new_tokens(&self) -> usize {
        self.0.max_new
    }

    /// Its sequences, in the order in which they were forked.
    pub fn sequences(&self) -> impl Iterator<Item = SequenceView<'a>> + use<'a> {
        let prompt = self.0.prompt;
        self.0.sequences.iter().map(move |sequence| SequenceView { sequence, prompt })
    }
}

impl<'a> SequenceView<'a> {
    /// Its name.
    pub fn id(&self) -> SeqId {
        self.sequence.id
    }

    /// The prompt, and what was pushed.
    pub fn tokens(&self) -> &'a [TokenId] {
        &self.sequence.tokens
    }

    /// Positions whose keys and values exist, on the device or on the host.
    pub fn computed(&self) -> usize {
        self.sequence.computed
    }

    /// Tokens that were pushed.
    pub fn generated(&self) -> usize {
        self.sequence.tokens.len() - self.prompt
    }

    /// Whether its keys and values are on the device. It has a block table then.
    pub fn is_on_device(&self) -> bool {
        self.sequence.place == Place::Device
    }

    /// Whether its keys and values are on the host.
    pub fn is_on_host(&self) -> bool {
        self.sequence.place == Place::Host
    }

    /// Whether a token was sampled for it that was not pushed yet.
    pub fn awaits_push(&self) -> bool {
        self.sequence.sampled
    }
}

impl Scheduler {
    /// All numbers at once. Takes time in the requests that run.
    pub fn counts(&self) -> Counts {
        Counts {
            waiting: self.waiting(),
            running: self.running(),
            running_sequences: self.running.iter().map(|&s| self.groups[s].sequences.len()).sum(),
            preempted: self.queue.preempted(),
            preemptions: self.preemptions,
        }
    }

    /// Requests that were never started.
    pub fn waiting(&self) -> usize {
        self.queue.waiting()
    }

    /// Requests that run.
    pub fn running(&self) -> usize {
        self.running.len()
    }

    /// Sequences that have a generated token to be computed, and so get a row of the next step if the
    /// budget and the blocks allow.
    pub fn decoding(&self) -> usize {
        let of = |group: &Group| {
            let served = group.sequences.len().min(group.limit);
            (0..served).filter(|&k| group.is_decoding(k)).count()
        };
        self.running.iter().map(|&slot| of(&self.groups[slot])).sum()
    }

    /// Whether there is no request.
    pub fn is_idle(&self) -> bool {
        self.running.is_empty() && self.queue.waiting() == 0 && self.queue.preempted() == 0
    }

    /// All requests: those that run, by rank; then by priority those that were preempted and those that
    /// were never started, in the order in which they started or came.
    pub fn requests(&self) -> impl Iterator<Item = RequestView<'_>> {
        let slots = self.running.iter().copied().chain(self.queue.slots());
        slots.map(|slot| RequestView(&self.groups[slot]))
    }

    /// What each tenant was charged: a token of a prompt counts [`PROMPT_WEIGHT`](crate::PROMPT_WEIGHT),
    /// a generated one [`OUTPUT_WEIGHT`](crate::OUTPUT_WEIGHT). Differences matter alone, and tenants
    /// without requests may be missing.
    pub fn served_tokens(&self) -> impl Iterator<Item = (TenantId, u64)> + '_ {
        self.counters.iter()
    }
}
