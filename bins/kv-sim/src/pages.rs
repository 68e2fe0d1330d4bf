//! Blocks, taken as a request grows.

use std::collections::HashMap;

use paged_kv::{
    BlockId, CacheSalt, EvictionPolicy, KvCacheConfig, KvCacheManager, PagedKvError, SeqId, TokenId,
};
use workload::Request;

use crate::memory::{Admission, Memory, MemoryRecord, Preemption, Shortage, Tenure, Usage};

/// How pages are managed.
#[derive(Clone, Copy, Debug)]
pub struct PagesConfig {
    /// Slots on the device; what does not fill a block is lost.
    pub slots: u64,
    /// Slots on the host.
    pub host_slots: u64,
    /// Slots a block.
    pub block_size: usize,
    /// What happens to content that nobody holds.
    pub eviction: EvictionPolicy,
    /// How a preempted request comes back.
    pub preemption: Preemption,
    /// Tokens at the beginning of each prompt which are the same.
    pub system_prompt: usize,
    /// Bytes of a position, for what swapping costs.
    pub bytes_per_token: u64,
}

/// Memory in blocks.
#[derive(Debug)]
pub struct PagedMemory {
    config: PagesConfig,
    kv: KvCacheManager,
    /// Slots that each running request will have filled at its end.
    totals: HashMap<u32, usize>,
    /// Who took a used block, and when.
    owners: Vec<Option<(u32, u64)>>,
    tenures: Vec<Tenure>,
    now: u64,
}

impl PagedMemory {
    /// Free blocks.
    ///
    /// # Errors
    /// [`PagedKvError::BlockSize`].
    pub fn new(config: PagesConfig) -> Result<Self, PagedKvError> {
        let blocks = |slots: u64| (slots / (config.block_size as u64).max(1)) as u32;
        let blocks_here = blocks(config.slots);
        let kv = KvCacheManager::new(KvCacheConfig {
            block_size: config.block_size,
            blocks: blocks_here,
            host_blocks: blocks(config.host_slots),
            eviction: config.eviction,
        })?;
        let owners = vec![None; blocks_here as usize];
        Ok(Self { config, kv, totals: HashMap::new(), owners, tenures: Vec::new(), now: 0 })
    }

    fn slots(&self, blocks: usize) -> u64 {
        (blocks * self.config.block_size) as u64
    }

    /// Token `position` of a request: prompts differ after the system prompt, so that nothing else
    /// is found by its content.
    fn token(&self, request: u32, position: usize) -> TokenId {
        match position < self.config.system_prompt {
            true => position as TokenId,
            false => request.wrapping_mul(0x9e37_79b9) ^ (position as TokenId) << 1 | 1 << 31,
        }
    }

    fn tokens(&self, request: u32, positions: std::ops::Range<usize>) -> Vec<TokenId> {
        positions.map(|p| self.token(request, p)).collect()
    }

    /// Blocks that must be available for a request to be taken in: its own, and one in a hundred for
    /// those that run, as with vLLM; else who comes in last is preempted at once.
    fn blocks_to_admit(&self, request: &Request, len: usize, alone: bool) -> usize {
        let spare = if alone { 0 } else { self.kv.pool().total() / 100 };
        let own = match self.kv.is_swapped(seq(request.id)) {
            true => len.div_ceil(self.config.block_size),
            false => self.kv.blocks_to_start(SALT, &self.tokens(request.id, 0..len)),
        };
        own + spare
    }

    /// Records the blocks that a request has taken.
    fn own(&mut self, request: u32) {
        for block in self.kv.table(seq(request)).expect("it runs").blocks() {
            self.owners[block.index()].get_or_insert((request, self.now));
        }
    }

    /// Records which of these blocks nobody holds any more; those taken and lost within a step leave
    /// no trace.
    fn disown(&mut self, blocks: &[BlockId]) {
        for &block in blocks {
            if self.kv.pool().references(block) == 0
                && let Some((request, from)) = self.owners[block.index()].take()
                && from < self.now
            {
                let start = self.slots(block.index());
                let (len, to) = (self.slots(1), self.now);
                self.tenures.push(Tenure { request, start, len, from, to });
            }
        }
    }

    fn blocks(&self, request: &Request) -> Vec<BlockId> {
        self.kv.table(seq(request.id)).expect("it runs").blocks().to_vec()
    }

    fn swapped_bytes(&self, blocks: usize) -> u64 {
        self.slots(blocks) * self.config.bytes_per_token
    }
}

const SALT: CacheSalt = CacheSalt(0);

fn seq(request: u32) -> SeqId {
    SeqId(u64::from(request))
}

impl Memory for PagedMemory {
    fn admit(&mut self, request: &Request, len: usize, alone: bool) -> Result<Admission, Shortage> {
        let id = seq(request.id);
        let mut admission = Admission::default();
        if self.blocks_to_admit(request, len, alone) > self.kv.pool().available() {
            return Err(self.shortage(request, len));
        }
        if self.kv.is_swapped(id) {
            let copies = self.kv.swap_in(&[id]).expect("counted just above");
            admission.cached = len;
            admission.swapped_bytes = self.swapped_bytes(copies.len());
        } else {
            let tokens = self.tokens(request.id, 0..len);
            admission.cached = self.kv.create(id, SALT, &tokens).expect("its name is its own");
            self.kv.append(id, &tokens[admission.cached..]).expect("counted just above");
        }
        self.totals.insert(request.id, request.total());
        self.own(request.id);
        Ok(admission)
    }

    fn computed(&mut self, request: &Request) {
        let before = self.blocks(request);
        self.kv.commit(seq(request.id)).expect("it runs");
        self.disown(&before);
    }

    fn grow(&mut self, request: &Request) -> Result<(), Shortage> {
        let len = self.kv.table(seq(request.id)).expect("it runs").len();
        let token = self.token(request.id, len);
        match self.kv.append(seq(request.id), &[token]) {
            Ok(_) => {
                if len.is_multiple_of(self.config.block_size) {
                    self.own(request.id);
                }
                self.kv.commit(seq(request.id)).expect("it runs");
                Ok(())
            }
            Err(_) => Err(self.shortage(request, len + 1)),
        }
    }

    fn preempt(&mut self, request: &Request) -> (Preemption, u64) {
        let blocks = self.blocks(request);
        let swapped = match self.config.preemption {
            Preemption::Swap => self.kv.swap_out(&[seq(request.id)]).ok(),
            Preemption::Recompute => None,
        };
        // A full host leaves nothing but to compute again.
        let done = match &swapped {
            Some(copies) => (Preemption::Swap, self.swapped_bytes(copies.len())),
            None => {
                self.kv.free(seq(request.id)).expect("it runs");
                (Preemption::Recompute, 0)
            }
        };
        self.totals.remove(&request.id);
        self.disown(&blocks);
        done
    }

    fn finish(&mut self, request: &Request) {
        let blocks = self.blocks(request);
        self.kv.free(seq(request.id)).expect("it runs");
        self.totals.remove(&request.id);
        self.disown(&blocks);
    }

    fn shortage(&self, request: &Request, len: usize) -> Shortage {
        let blocks = match self.kv.table(seq(request.id)) {
            Ok(table) => len.div_ceil(self.config.block_size) - table.blocks().len(),
            Err(_) => self.blocks_to_admit(request, len, self.totals.is_empty()),
        };
        let need = self.slots(blocks);
        let free = self.slots(self.kv.pool().available());
        Shortage { need, largest_hole: free, free }
    }

    fn most(&self, request: &Request) -> (u64, u64) {
        let longest = request.total().div_ceil(self.config.block_size);
        (self.slots(self.kv.pool().total()), self.slots(longest))
    }

    fn usage(&self) -> Usage {
        let stats = self.kv.stats();
        // Of the empty slots, those that a request is about to fill.
        let block_size = self.config.block_size;
        let empty = stats.empty_slots as u64;
        let later = self.totals.iter().map(|(&id, &total)| {
            let len = self.kv.table(seq(id)).expect("it runs").len();
            (len.next_multiple_of(block_size).min(total) - len) as u64
        });
        let later = later.sum::<u64>().min(empty);
        Usage {
            held: stats.used_slots as u64 - empty,
            later,
            never: empty - later,
            scattered: 0,
            free: self.slots(self.kv.pool().available()),
        }
    }

    fn set_time(&mut self, now: u64) {
        self.now = now;
    }

    fn into_record(mut self: Box<Self>) -> MemoryRecord {
        let pages = Some(self.kv.stats());
        let all: Vec<BlockId> = (0..self.kv.config().blocks).map(BlockId).collect();
        self.disown(&all);
        MemoryRecord { tenures: self.tenures, pages }
    }
}
