//! Who starts, who goes on, and who loses its blocks.

use paged_kv::{EvictionPolicy, PagedKvError, SeqId};

use crate::group::{Group, Place, RequestState, Sequence, Slot};
use crate::{Preemption, Scheduler};

impl Scheduler {
    /// Starts those who wait, in the order of the queue, while there are prompt rows. Whoever comes
    /// first and does not fit yet keeps all others waiting: blocks that are freed are for it, and
    /// nobody overtakes.
    pub(crate) fn admit(&mut self, mut prompt_rows: usize) {
        while prompt_rows > 0
            && let Some(slot) = self.queue.next(&self.counters)
            && self.fits(slot)
            && !self.is_soon_cached(slot)
        {
            self.start(slot);
            prompt_rows -= self.serve_admitted(slot, prompt_rows);
        }
    }

    /// Whether there are blocks for all that the request has to compute now and, so that it is not
    /// preempted at once or preempts others, one more for each sequence that may run. If nothing else
    /// runs, it has all blocks to itself.
    fn fits(&self, slot: Slot) -> bool {
        let group = &self.groups[slot];
        let sequences = self.reserved + group.limit;
        if sequences > self.config.max_sequences {
            return false;
        }
        let promised = || self.running.iter().map(|&s| self.blocks_to_come(&self.groups[s]));
        let needed = |promised: usize| self.blocks_to_come(group) + promised + sequences;
        self.running.is_empty() || needed(promised().sum()) <= self.kv.pool().available()
    }

    /// Blocks for all tokens of a request that have no slots on the device yet. What a decoding
    /// sequence takes next is not counted.
    fn blocks_to_come(&self, group: &Group) -> usize {
        let block_size = self.kv.config().block_size;
        let of = |(k, s): (usize, &Sequence)| match s.place {
            Place::Host => s.tokens.len().div_ceil(block_size) - s.computed.div_ceil(block_size),
            Place::Device if s.pending() <= 1 => 0,
            Place::Device => {
                let has = self.kv.table(s.id).map_or(0, |t| t.len());
                self.kv.blocks_needed(s.id, s.tokens.len() - has).unwrap_or(0)
            }
            Place::Nowhere => match group.origin(k) {
                Some((_, common)) => s.tokens.len().div_ceil(block_size) - common / block_size,
                None if group.every_logit => s.tokens.len().div_ceil(block_size),
                None => self.kv.blocks_to_start(group.salt, &s.tokens),
            },
        };
        group.host_blocks + group.sequences.iter().enumerate().map(of).sum::<usize>()
    }

    /// Whether this very step writes a further block of what the request begins with: it waits for
    /// that one step, and finds the block in the cache.
    fn is_soon_cached(&self, slot: Slot) -> bool {
        let group = &self.groups[slot];
        let [sequence] = &group.sequences[..] else { return false };
        let config = self.kv.config();
        if group.every_logit
            || config.eviction == EvictionPolicy::None
            || sequence.place != Place::Nowhere
        {
            return false;
        }
        let findable = &sequence.tokens[..sequence.tokens.len() - 1];
        let found = self.kv.prefix_cache().peek(group.salt, findable).count();
        let Some(next) = findable.get(..(found + 1) * config.block_size) else { return false };
        let writes = |seq: SeqId, computed: usize| {
            let tokens = self.kv.tokens(seq).unwrap_or_default();
            computed < next.len() && tokens.starts_with(next)
        };
        let sharing =
            self.running.iter().map(|&s| &self.groups[s]).filter(|g| g.salt == group.salt);
        sharing.flat_map(|g| &g.sequences).any(|s| writes(s.id, s.computed))
    }

    /// Takes a request out of the queue.
    fn start(&mut self, slot: Slot) {
        let group = &mut self.groups[slot];
        self.queue.remove(group, slot);
        if group.started.is_none() {
            group.started = Some(self.starts);
            self.starts += 1;
            self.counters.left_queue(group.tenant);
        } else {
            self.step.resumed.extend(group.sequences.iter().map(|s| s.id));
        }
        group.state = RequestState::Running;
        group.host_blocks = 0;
        self.reserved += group.limit;
        let on_host: Vec<SeqId> = group.at(Place::Host);
        let copies = self.kv.swap_in(&on_host).expect("there are blocks for them");
        self.step.swap_in.extend(copies);
        group.move_all(Place::Host, Place::Device);
        let rank = group.rank();
        let at = self.running.partition_point(|&s| self.groups[s].rank() < rank);
        self.running.insert(at, slot);
    }

    /// Preempts whoever comes last in rank, if that is after `rank`.
    pub(crate) fn preempt_after(&mut self, rank: usize) -> bool {
        let last = if self.running.len() > rank + 1 { self.running.pop() } else { None };
        last.inspect(|&slot| self.preempt(slot)).is_some()
    }

    /// Takes all blocks from a request that has no rows of this step.
    fn preempt(&mut self, slot: Slot) {
        let group = &mut self.groups[slot];
        self.reserved -= group.limit;
        self.preemptions += 1;
        self.step.preempted.extend(group.sequences.iter().map(|s| s.id));
        let on_device = group.at(Place::Device);
        let swapped = match self.config.preemption {
            Preemption::Swap => Some(self.kv.swap_out(&on_device)),
            Preemption::Recompute => None,
        };
        match swapped {
            Some(Ok(copies)) => {
                group.host_blocks = copies.len();
                self.step.swap_out.extend(copies);
                group.move_all(Place::Device, Place::Host);
            }
            None | Some(Err(PagedKvError::OutOfHostBlocks { .. })) => {
                for &seq in on_device.iter().rev() {
                    self.kv.free(seq).expect("it is on the device");
                }
                group.move_all(Place::Device, Place::Nowhere);
            }
            Some(Err(error)) => unreachable!("all on the device is committed: {error}"),
        }
        group.state = RequestState::Preempted;
        self.queue.push(&self.groups[slot], slot, 0);
    }
}
