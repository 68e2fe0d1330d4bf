//! A request and its sequences, as the scheduler sees them.

use std::ops::{Index, IndexMut};

use paged_kv::{CacheSalt, SeqId, TokenId};

use crate::{RequestId, TenantId};

/// Where the keys and values of a sequence are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// There are none: it has not started, or was preempted and is to be computed again.
    Nowhere,
    Device,
    Host,
}

#[derive(Clone, Debug)]
pub(crate) struct Sequence {
    pub(crate) id: SeqId,
    /// The prompt and what was pushed.
    pub(crate) tokens: Vec<TokenId>,
    /// Positions whose keys and values exist, at `place`.
    pub(crate) computed: usize,
    pub(crate) place: Place,
    /// Whether a step sampled after the newest token: it is the caller's turn to push.
    pub(crate) sampled: bool,
    /// The number of the last step that had rows of it.
    pub(crate) last_step: u64,
    /// The number of the last step that chose it from more that decode than there are rows.
    pub(crate) chosen: u64,
}

impl Sequence {
    /// The first of a request.
    pub(crate) fn new(id: SeqId, prompt: Vec<TokenId>) -> Self {
        let place = Place::Nowhere;
        Self { id, tokens: prompt, computed: 0, place, sampled: false, last_step: 0, chosen: 0 }
    }

    /// Tokens to be computed.
    pub(crate) fn pending(&self) -> usize {
        self.tokens.len() - self.computed
    }
}

/// What becomes of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RequestState {
    /// It was never started.
    Waiting,
    /// It has blocks and gets rows.
    Running,
    /// It lost its blocks, and waits to go on before all others of its priority.
    Preempted,
}

/// A request.
#[derive(Clone, Debug)]
pub(crate) struct Group {
    pub(crate) request: RequestId,
    pub(crate) tenant: TenantId,
    pub(crate) salt: CacheSalt,
    pub(crate) priority: i32,
    pub(crate) every_logit: bool,
    /// Tokens of the prompt.
    pub(crate) prompt: usize,
    /// Positions of the prompt that were computed or found at least once.
    pub(crate) prompt_seen: usize,
    /// Of the prompt, what was found when it started.
    pub(crate) cached: Option<usize>,
    pub(crate) max_new: usize,
    /// Sequences at most.
    pub(crate) limit: usize,
    pub(crate) state: RequestState,
    /// The number of its first start: with the priority, its rank among those that run.
    pub(crate) started: Option<u64>,
    /// Blocks that it holds on the host.
    pub(crate) host_blocks: usize,
    /// In the order in which they were forked.
    pub(crate) sequences: Vec<Sequence>,
}

impl Group {
    /// Those who run are ordered by it: who comes later is preempted for who comes earlier.
    pub(crate) fn rank(&self) -> (i32, u64) {
        (self.priority, self.started.unwrap_or(u64::MAX))
    }

    pub(crate) fn position(&self, seq: SeqId) -> Option<usize> {
        self.sequences.iter().position(|s| s.id == seq)
    }

    /// The sequences that are there.
    pub(crate) fn at(&self, place: Place) -> Vec<SeqId> {
        self.sequences.iter().filter(|s| s.place == place).map(|s| s.id).collect()
    }

    /// All sequences at `from` are at `to` now.
    pub(crate) fn move_all(&mut self, from: Place, to: Place) {
        for sequence in self.sequences.iter_mut().filter(|s| s.place == from) {
            sequence.place = to;
            if to == Place::Nowhere {
                sequence.computed = 0;
            }
        }
    }

    /// Whether the only token of sequence `k` to be computed is one that was generated.
    pub(crate) fn is_decoding(&self, k: usize) -> bool {
        let s = &self.sequences[k];
        s.place == Place::Device && s.pending() == 1 && s.computed >= self.prompt
    }

    /// From which sequence the lost sequence `k` is forked again, and how many positions they have in
    /// common: the longest that there is. None if `k` has to begin from the start.
    ///
    /// What siblings shared is thus computed once and shared again, with and without a prefix cache,
    /// so that a request never needs more blocks than [`Refusal::NeverFits`](crate::Refusal) counted.
    /// At least the last token of `k` is computed, for the row that follows it.
    pub(crate) fn origin(&self, k: usize) -> Option<(usize, usize)> {
        let tokens = &self.sequences[k].tokens;
        let tokens = &tokens[..tokens.len() - 1];
        // Of two that are lost the earlier goes first, so that they do not wait for each other.
        let there = |i: usize| self.sequences[i].place != Place::Nowhere || i < k;
        let candidates = (0..self.sequences.len()).filter(|&i| i != k && there(i));
        let common = |i: usize| {
            let pairs = self.sequences[i].tokens.iter().zip(tokens);
            pairs.take_while(|(a, b)| a == b).count()
        };
        let best = candidates.map(|i| (i, common(i))).rev().max_by_key(|&(_, common)| common);
        best.filter(|&(_, common)| common > 0)
    }
}

/// Names a group while it lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Slot(usize);

/// All requests.
#[derive(Clone, Debug, Default)]
pub(crate) struct Groups {
    slots: Vec<Option<Group>>,
    free: Vec<Slot>,
}

impl Groups {
    pub(crate) fn insert(&mut self, group: Group) -> Slot {
        let slot = self.free.pop().unwrap_or_else(|| {
            self.slots.push(None);
            Slot(self.slots.len() - 1)
        });
        self.slots[slot.0] = Some(group);
        slot
    }

    pub(crate) fn remove(&mut self, slot: Slot) -> Group {
        self.free.push(slot);
        self.slots[slot.0].take().expect("the slot is taken")
    }
}

impl Index<Slot> for Groups {
    type Output = Group;

    fn index(&self, slot: Slot) -> &Group {
        self.slots[slot.0].as_ref().expect("the slot is taken")
    }
}

impl IndexMut<Slot> for Groups {
    fn index_mut(&mut self, slot: Slot) -> &mut Group {
        self.slots[slot.0].as_mut().expect("the slot is taken")
    }
}
