//! Sequences on one pool of blocks.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};

use crate::pool::{BlockPool, Keep};
use crate::prefix::{Inserted, Parent};
use crate::sequence::Sequence;
use crate::stats::Counters;
use crate::{BlockId, BlockTable, CacheSalt, PagedKvError, PrefixCache, SeqId, TokenId};

/// What happens to a full block's content when no sequence holds it any more.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum EvictionPolicy {
    /// There is no prefix cache: the content is gone.
    None,
    /// It stays until the block is needed, the least recently used going first.
    #[default]
    Lru,
    /// As `Lru`, but blocks that were found at least once go after all others, so that a flood of
    /// prompts that come once does not wash a shared prefix out.
    SegmentedLru,
}

/// The size of a cache and what it does with content.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KvCacheConfig {
    /// Positions a block.
    pub block_size: usize,
    /// Blocks on the device.
    pub blocks: u32,
    /// Blocks on the host, to swap to.
    pub host_blocks: u32,
    /// When content goes.
    pub eviction: EvictionPolicy,
}

impl Default for KvCacheConfig {
    /// Blocks of 16 positions, of which there are none yet.
    fn default() -> Self {
        Self { block_size: 16, blocks: 0, host_blocks: 0, eviction: EvictionPolicy::default() }
    }
}

/// Slots to copy in every layer, keys and values, before anything is written to `to`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BlockCopy {
    /// The block to read.
    pub from: BlockId,
    /// The block to write.
    pub to: BlockId,
    /// The first slots, which are filled.
    pub slots: usize,
}

/// Sequences, their tables and the pool below them.
///
/// A step goes: [`append`](Self::append) the tokens to be computed, do the copies, write keys and
/// values to the slots of the table, [`commit`](Self::commit). A full block that is committed can
/// be found by others and is never written again.
///
/// A failed call changes nothing. Appending takes time linear in the tokens, forking and freeing in
/// the blocks, creating in the tokens found.
#[derive(Clone, Debug)]
pub struct KvCacheManager<S = RandomState> {
    pub(crate) config: KvCacheConfig,
    pub(crate) pool: BlockPool,
    pub(crate) host: BlockPool,
    pub(crate) prefix: PrefixCache<S>,
    pub(crate) sequences: HashMap<SeqId, Sequence>,
    pub(crate) swapped: HashMap<SeqId, Sequence>,
    pub(crate) counters: Counters,
}

impl KvCacheManager {
    /// A cache without sequences, its hash keyed at random.
    ///
    /// # Errors
    /// [`PagedKvError::BlockSize`] unless blocks hold 1 to 65,536 positions.
    pub fn new(config: KvCacheConfig) -> Result<Self, PagedKvError> {
        Self::with_hasher(config, RandomState::new())
    }
}

impl<S: BuildHasher> KvCacheManager<S> {
    /// A cache with another hash. Whoever sends tokens must not be able to predict it.
    ///
    /// # Errors
    /// As [`new`](KvCacheManager::new).
    pub fn with_hasher(config: KvCacheConfig, hasher: S) -> Result<Self, PagedKvError> {
        const MAX: usize = 1 << 16;
        if !(1..=MAX).contains(&config.block_size) {
            return Err(PagedKvError::BlockSize { got: config.block_size, max: MAX });
        }
        // Without a prefix cache its tables stay empty.
        let findable = if config.eviction == EvictionPolicy::None { 0 } else { config.blocks };
        Ok(Self {
            pool: BlockPool::new(config.blocks),
            host: BlockPool::new(config.host_blocks),
            prefix: PrefixCache::new(findable, config.block_size, hasher),
            sequences: HashMap::new(),
            swapped: HashMap::new(),
            counters: Counters::default(),
            config,
        })
    }

    /// The sizes it was made with.
    pub fn config(&self) -> &KvCacheConfig {
        &self.config
    }

    /// The blocks on the device.
    pub fn pool(&self) -> &BlockPool {
        &self.pool
    }

    /// The blocks on the host.
    pub fn host_pool(&self) -> &BlockPool {
        &self.host
    }

    /// The blocks that can be found by content.
    pub fn prefix_cache(&self) -> &PrefixCache<S> {
        &self.prefix
    }

    /// The table of a sequence on the device. Its blocks may change with every call that changes
    /// the sequence.
    ///
    /// # Errors
    /// [`PagedKvError::NoSuchSequence`].
    pub fn table(&self, seq: SeqId) -> Result<&BlockTable, PagedKvError> {
        self.sequence(seq).map(|s| &s.table)
    }

    /// The tokens of a sequence on the device.
    ///
    /// # Errors
    /// [`PagedKvError::NoSuchSequence`].
    pub fn tokens(&self, seq: SeqId) -> Result<&[TokenId], PagedKvError> {
        self.sequence(seq).map(|s| &s.tokens[..])
    }

    /// How many of a sequence's positions have their keys and values written.
    ///
    /// # Errors
    /// [`PagedKvError::NoSuchSequence`].
    pub fn committed(&self, seq: SeqId) -> Result<usize, PagedKvError> {
        self.sequence(seq).map(|s| s.committed)
    }

    /// How many of the pool's available blocks [`create`](Self::create) and appending the rest of
    /// `tokens` would take: new ones, and idle ones that are found. What admission asks before it
    /// starts a sequence.
    pub fn blocks_to_start(&self, salt: CacheSalt, tokens: &[TokenId]) -> usize {
        let mut blocks = tokens.len().div_ceil(self.config.block_size);
        if self.config.eviction != EvictionPolicy::None {
            let found = self.prefix.peek(salt, findable(tokens));
            blocks -= found.filter(|&block| !self.pool.is_idle(block)).count();
        }
        blocks
    }

    /// Starts a sequence with what is cached of `tokens`: that many positions, which is returned,
    /// need not be computed; append the rest. The last token is never taken from the cache, since
    /// the model must compute something to say what comes next.
    ///
    /// # Errors
    /// [`PagedKvError::SequenceExists`].
    pub fn create(
        &mut self,
        seq: SeqId,
        salt: CacheSalt,
        tokens: &[TokenId],
    ) -> Result<usize, PagedKvError> {
        self.must_be_new(seq)?;
        let mut sequence = Sequence::new(salt);
        if self.config.eviction != EvictionPolicy::None {
            self.prefix.lookup(salt, findable(tokens), &mut sequence.table.blocks);
            self.counters.prefix_queries += tokens.len() as u64;
        }
        let found = sequence.table.blocks.len();
        for &block in &sequence.table.blocks {
            self.pool.retain(block).expect("a cached block is used or idle");
        }
        let len = found * self.config.block_size;
        sequence.tokens.extend_from_slice(&tokens[..len]);
        sequence.table.len = len;
        (sequence.committed, sequence.cached) = (len, found);
        self.counters.prefix_hits += len as u64;
        self.counters.table_entries += found;
        self.sequences.insert(seq, sequence);
        Ok(len)
    }

    /// Blocks that appending `tokens` positions would take, a copy of a shared block included.
    ///
    /// # Errors
    /// [`PagedKvError::NoSuchSequence`].
    pub fn blocks_needed(&self, seq: SeqId, tokens: usize) -> Result<usize, PagedKvError> {
        let sequence = self.sequence(seq)?;
        let blocks = (sequence.table.len + tokens).div_ceil(self.config.block_size);
        let copies = tokens > 0 && self.must_copy(sequence).is_some();
        Ok(blocks - sequence.table.blocks.len() + usize::from(copies))
    }

    /// Gives a sequence slots for more tokens, and says what to copy before they are written: the
    /// last block if others see it too (copy-on-write).
    ///
    /// # Errors
    /// [`PagedKvError::NoSuchSequence`]; [`PagedKvError::OutOfBlocks`] if idle blocks do not suffice
    /// either.
    pub fn append(
        &mut self,
        seq: SeqId,
        tokens: &[TokenId],
    ) -> Result<Option<BlockCopy>, PagedKvError> {
        let needed = self.blocks_needed(seq, tokens.len())?;
        let available = self.pool.available();
        if needed > available {
            return Err(PagedKvError::OutOfBlocks { needed, available });
        }
        if tokens.is_empty() {
            return Ok(None);
        }
        let copied = self.must_copy(&self.sequences[&seq]);
        let copy = copied.map(|(from, slots)| {
            let to = self.take_block();
            self.drop_block(from);
            BlockCopy { from, to, slots }
        });
        self.counters.copies += u64::from(copy.is_some());
        let new = needed - usize::from(copy.is_some());
        for _ in 0..new {
            let block = self.take_block();
            self.get_mut(seq).table.blocks.push(block);
        }
        // Blocks that a sequence gave back together lie behind each other: in order they are one run again,
        // which attention reads without copying.
        let blocks = &mut self.get_mut(seq).table.blocks;
        let first = blocks.len() - new;
        blocks[first..].sort_unstable();
        self.counters.table_entries += new;
        let block_size = self.config.block_size;
        let sequence = self.get_mut(seq);
        if let Some(copy) = copy {
            let at = sequence.table.len / block_size;
            sequence.table.blocks[at] = copy.to;
            sequence.cached = sequence.cached.min(at);
        }
        sequence.tokens.extend_from_slice(tokens);
        sequence.table.len += tokens.len();
        Ok(copy)
    }

    /// Reports that keys and values of all positions are written. Blocks that became full can be
    /// found by others from now on; where another block holds the same already, the sequence
    /// changes to that one and its own is free.
    ///
    /// # Errors
    /// [`PagedKvError::NoSuchSequence`].
    pub fn commit(&mut self, seq: SeqId) -> Result<(), PagedKvError> {
        let block_size = self.config.block_size;
        let Some(sequence) = self.sequences.get_mut(&seq) else {
            return Err(PagedKvError::NoSuchSequence(seq));
        };
        sequence.committed = sequence.table.len;
        if self.config.eviction == EvictionPolicy::None {
            return Ok(());
        }
        while sequence.cached < sequence.table.len / block_size {
            let at = sequence.cached;
            let own = sequence.table.blocks[at];
            let parent = match at.checked_sub(1) {
                Some(before) => Parent::Block(sequence.table.blocks[before]),
                None => Parent::Salt(sequence.salt),
            };
            let tokens = &sequence.tokens[at * block_size..(at + 1) * block_size];
            match self.prefix.insert(own, parent, tokens) {
                Inserted::New => {}
                Inserted::Known(other) => {
                    self.pool.retain(other).expect("a cached block is used or idle");
                    self.pool.release(own, Keep::Nothing).expect("the table holds it");
                    sequence.table.blocks[at] = other;
                    self.counters.merged += 1;
                }
                Inserted::Collision => break,
            }
            sequence.cached += 1;
        }
        Ok(())
    }

    /// Starts a sequence that shares all of another's blocks; each then grows on its own.
    ///
    /// # Errors
    /// [`PagedKvError::NoSuchSequence`], [`PagedKvError::SequenceExists`]; and
    /// [`PagedKvError::Uncommitted`] if the parent's last positions may not be written yet.
    pub fn fork(&mut self, parent: SeqId, child: SeqId) -> Result<(), PagedKvError> {
        self.must_be_new(child)?;
        let sequence = self.sequence(parent)?;
        if sequence.committed < sequence.table.len {
            return Err(PagedKvError::Uncommitted(parent));
        }
        let sequence = sequence.clone();
        for &block in &sequence.table.blocks {
            self.pool.retain(block).expect("the parent's table holds it");
        }
        self.counters.table_entries += sequence.table.blocks.len();
        self.sequences.insert(child, sequence);
        Ok(())
    }

    /// Shortens a sequence to its first `len` positions, as after rejected drafts.
    ///
    /// # Errors
    /// [`PagedKvError::NoSuchSequence`], [`PagedKvError::NoSuchPosition`].
    pub fn truncate(&mut self, seq: SeqId, len: usize) -> Result<(), PagedKvError> {
        let had = self.sequence(seq)?.table.len;
        if len > had {
            return Err(PagedKvError::NoSuchPosition { seq, position: len, len: had });
        }
        let kept = len.div_ceil(self.config.block_size);
        let sequence = self.get_mut(seq);
        sequence.tokens.truncate(len);
        sequence.table.len = len;
        sequence.committed = sequence.committed.min(len);
        sequence.cached = sequence.cached.min(kept);
        let mut blocks = std::mem::take(&mut sequence.table.blocks);
        self.drop_blocks(&blocks[kept..]);
        blocks.truncate(kept);
        self.get_mut(seq).table.blocks = blocks;
        Ok(())
    }

    /// Ends a sequence, on the device or on the host. What it computed may be found later.
    ///
    /// # Errors
    /// [`PagedKvError::NoSuchSequence`].
    pub fn free(&mut self, seq: SeqId) -> Result<(), PagedKvError> {
        if let Some(sequence) = self.sequences.remove(&seq) {
            self.drop_blocks(&sequence.table.blocks);
        } else if let Some(sequence) = self.swapped.remove(&seq) {
            for &block in &sequence.table.blocks {
                self.host.release(block, Keep::Nothing).expect("the table holds it");
            }
        } else {
            return Err(PagedKvError::NoSuchSequence(seq));
        }
        Ok(())
    }

    pub(crate) fn must_be_new(&self, seq: SeqId) -> Result<(), PagedKvError> {
        match self.sequences.contains_key(&seq) || self.swapped.contains_key(&seq) {
            true => Err(PagedKvError::SequenceExists(seq)),
            false => Ok(()),
        }
    }

    pub(crate) fn sequence(&self, seq: SeqId) -> Result<&Sequence, PagedKvError> {
        self.sequences.get(&seq).ok_or(PagedKvError::NoSuchSequence(seq))
    }

    fn get_mut(&mut self, seq: SeqId) -> &mut Sequence {
        self.sequences.get_mut(&seq).expect("looked up before")
    }

    /// The last block and its filled slots, if it has room but must not be written: others hold it,
    /// or can find it.
    fn must_copy(&self, sequence: &Sequence) -> Option<(BlockId, usize)> {
        let (block, filled) = sequence.table.partly_filled(self.config.block_size)?;
        let seen = self.pool.references(block) > 1 || sequence.last_is_cached();
        seen.then_some((block, filled))
    }

    /// A block, of which there is one.
    pub(crate) fn take_block(&mut self) -> BlockId {
        let taken = self.pool.allocate().expect("counted before");
        if taken.evicted {
            self.prefix.remove(taken.block);
            self.counters.evictions += 1;
        }
        taken.block
    }

    fn drop_block(&mut self, block: BlockId) {
        let keep = match self.config.eviction {
            _ if !self.prefix.contains(block) => Keep::Nothing,
            EvictionPolicy::SegmentedLru if self.prefix.hits(block) > 0 => Keep::Protected,
            _ => Keep::Idle,
        };
        self.pool.release(block, keep).expect("the table holds it");
    }

    /// Drops a table's entries, the last first: a block goes before those that it continues, which
    /// could not be found without them.
    pub(crate) fn drop_blocks(&mut self, blocks: &[BlockId]) {
        blocks.iter().rev().for_each(|&block| self.drop_block(block));
        self.counters.table_entries -= blocks.len();
    }
}

/// All but the last token.
fn findable(tokens: &[TokenId]) -> &[TokenId] {
    &tokens[..tokens.len().saturating_sub(1)]
}
