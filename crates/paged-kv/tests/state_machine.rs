//! Random histories of a cache against a model that stores everything plainly.
//!
//! The model is storage: per device and host block, what was written to each slot. What is written
//! for a position is all tokens up to it, salt included, as real keys and values depend on them, so
//! that a block shared or found wrongly shows as another content.

use std::collections::{BTreeMap, HashMap};
use std::hash::{BuildHasher, Hasher};

use paged_kv::{
    BlockId, CacheSalt, EvictionPolicy, KvCacheConfig, KvCacheManager, PagedKvError, Parent, SeqId,
    SwapCopy, TokenId,
};
use proptest::prelude::*;

/// What a position's keys and values depend on.
type Content = (CacheSalt, Vec<TokenId>);

#[derive(Clone, Debug)]
enum Call {
    Create { seq: u64, salt: u64, prompt: Vec<TokenId> },
    Append { seq: u64, tokens: Vec<TokenId>, commit: bool },
    Fork { parent: u64, child: u64 },
    Truncate { seq: u64, len: usize },
    Free { seq: u64 },
    SwapOut { seqs: Vec<u64> },
    SwapIn { seqs: Vec<u64> },
}

/// Few names, tokens and salts, so that calls meet.
fn call() -> impl Strategy<Value = Call> {
    let seq = || 0..4u64;
    let tokens = |most| prop::collection::vec(0..2u32, 0..most);
    prop_oneof![
        4 => (seq(), 0..2u64, tokens(14))
            .prop_map(|(seq, salt, prompt)| Call::Create { seq, salt, prompt }),
        6 => (seq(), tokens(6), prop::bool::weighted(0.9))
            .prop_map(|(seq, tokens, commit)| Call::Append { seq, tokens, commit }),
        3 => (seq(), seq()).prop_map(|(parent, child)| Call::Fork { parent, child }),
        2 => (seq(), 0..16usize).prop_map(|(seq, len)| Call::Truncate { seq, len }),
        3 => seq().prop_map(|seq| Call::Free { seq }),
        1 => prop::collection::vec(seq(), 1..3).prop_map(|seqs| Call::SwapOut { seqs }),
        2 => prop::collection::vec(seq(), 1..3).prop_map(|seqs| Call::SwapIn { seqs }),
    ]
}

fn config() -> impl Strategy<Value = KvCacheConfig> {
    let policy = prop_oneof![
        Just(EvictionPolicy::None),
        Just(EvictionPolicy::Lru),
        Just(EvictionPolicy::SegmentedLru)
    ];
    (1..5usize, 0..24u32, 0..12u32, policy).prop_map(
        |(block_size, blocks, host_blocks, eviction)| KvCacheConfig {
            block_size,
            blocks,
            host_blocks,
            eviction,
        },
    )
}

/// A hash of so many values only: the fewer, the more collisions.
#[derive(Clone, Copy, Debug)]
struct Weak(u64);

struct WeakHasher(u64, u64);

impl BuildHasher for Weak {
    type Hasher = WeakHasher;

    fn build_hasher(&self) -> WeakHasher {
        WeakHasher(0, self.0)
    }
}

impl Hasher for WeakHasher {
    fn write(&mut self, bytes: &[u8]) {
        for &b in bytes {
            self.0 = (self.0 ^ u64::from(b)).wrapping_mul(0x0100_0000_01b3).rotate_left(29);
        }
    }

    fn finish(&self) -> u64 {
        self.0 % self.1
    }
}

struct Model {
    kv: KvCacheManager<Weak>,
    device: HashMap<(BlockId, usize), Content>,
    host: HashMap<(BlockId, usize), Content>,
    /// All sequences, with the tokens they must hold; on the host or not.
    seqs: BTreeMap<SeqId, (Content, bool)>,
}

impl Model {
    fn new(config: KvCacheConfig, hashes: u64) -> Self {
        let kv = KvCacheManager::with_hasher(config, Weak(hashes)).unwrap();
        Self { kv, device: HashMap::new(), host: HashMap::new(), seqs: BTreeMap::new() }
    }

    fn block_size(&self) -> usize {
        self.kv.config().block_size
    }

    /// What the storage holds for a sequence, read through its table.
    fn read(&self, seq: SeqId) -> Vec<Option<&Content>> {
        let table = self.kv.table(seq).unwrap();
        let runs = table.runs(0..usize::MAX, self.block_size());
        runs.flat_map(|r| (r.offset..r.offset + r.len).map(move |slot| (r.block, slot)))
            .map(|at| self.device.get(&at))
            .collect()
    }

    fn write(&mut self, seq: SeqId, from: usize) {
        let (salt, tokens) = self.seqs[&seq].0.clone();
        let table = self.kv.table(seq).unwrap().clone();
        for position in from..tokens.len() {
            let run = table.runs(position..position + 1, self.block_size()).next().unwrap();
            let content = (salt, tokens[..=position].to_vec());
            self.device.insert((run.block, run.offset), content);
        }
    }

    fn swap(&mut self, copies: &[SwapCopy], out: bool) {
        for copy in copies {
            for slot in 0..self.block_size() {
                let (device, host) = ((copy.device, slot), (copy.host, slot));
                match out {
                    true => self.device.get(&device).cloned().map(|c| self.host.insert(host, c)),
                    false => self.host.get(&host).cloned().map(|c| self.device.insert(device, c)),
                };
            }
        }
    }

    /// Makes the call; what it must do or refuse follows from the model alone.
    fn call(&mut self, call: Call) {
        let on_device = |m: &Self, seq: &SeqId| m.seqs.get(seq).is_some_and(|s| !s.1);
        let before = self.kv.stats();
        let failed = match call {
            Call::Create { seq, salt, prompt } => {
                let (seq, salt) = (SeqId(seq), CacheSalt(salt));
                let needed = self.kv.blocks_to_start(salt, &prompt);
                let created = self.kv.create(seq, salt, &prompt);
                assert_eq!(created.is_ok(), !self.seqs.contains_key(&seq));
                let Ok(found) = created else { return };
                assert_eq!(found % self.block_size(), 0);
                assert!(found == 0 || found < prompt.len());
                let available = before.free_blocks + before.idle_blocks;
                let revived = available - self.kv.pool().available();
                let new = self.kv.blocks_needed(seq, prompt.len() - found).unwrap();
                assert_eq!(revived + new, needed);
                self.seqs.insert(seq, ((salt, prompt[..found].to_vec()), false));
                false
            }
            Call::Append { seq, tokens, commit } => {
                let seq = SeqId(seq);
                let needed = self.kv.blocks_needed(seq, tokens.len());
                match self.kv.append(seq, &tokens) {
                    Ok(copy) => {
                        let needed = needed.unwrap();
                        assert!(needed <= before.free_blocks + before.idle_blocks);
                        if let Some(copy) = copy {
                            assert_eq!(self.kv.pool().references(copy.to), 1);
                            for slot in 0..copy.slots {
                                let content = self.device[&(copy.from, slot)].clone();
                                self.device.insert((copy.to, slot), content);
                            }
                        }
                        let content = &mut self.seqs.get_mut(&seq).unwrap().0.1;
                        let from = content.len();
                        content.extend(tokens);
                        self.write(seq, from);
                        if commit {
                            self.kv.commit(seq).unwrap();
                        }
                        false
                    }
                    Err(PagedKvError::OutOfBlocks { needed: n, available }) => {
                        assert_eq!(Ok(n), needed);
                        assert_eq!(available, before.free_blocks + before.idle_blocks);
                        assert!(n > available);
                        true
                    }
                    Err(e) => {
                        assert_eq!(e, PagedKvError::NoSuchSequence(seq));
                        assert!(!on_device(self, &seq));
                        true
                    }
                }
            }
            Call::Fork { parent, child } => {
                let (parent, child) = (SeqId(parent), SeqId(child));
                let forked = self.kv.fork(parent, child);
                if forked.is_ok() {
                    let content = self.seqs[&parent].clone();
                    assert!(self.seqs.insert(child, content).is_none());
                } else if forked != Err(PagedKvError::Uncommitted(parent)) {
                    assert!(!on_device(self, &parent) || self.seqs.contains_key(&child));
                }
                forked.is_err()
            }
            Call::Truncate { seq, len } => {
                let seq = SeqId(seq);
                let truncated = self.kv.truncate(seq, len);
                let fits = on_device(self, &seq) && len <= self.seqs[&seq].0.1.len();
                assert_eq!(truncated.is_ok(), fits);
                if fits {
                    self.seqs.get_mut(&seq).unwrap().0.1.truncate(len);
                }
                !fits
            }
            Call::Free { seq } => {
                let seq = SeqId(seq);
                assert_eq!(self.kv.free(seq).is_ok(), self.seqs.remove(&seq).is_some());
                false
            }
            Call::SwapOut { seqs } => {
                let seqs: Vec<SeqId> = seqs.into_iter().map(SeqId).collect();
                let swapped = self.kv.swap_out(&seqs);
                if let Ok(copies) = &swapped {
                    self.swap(copies, true);
                    seqs.iter().for_each(|s| self.seqs.get_mut(s).unwrap().1 = true);
                }
                swapped.is_err()
            }
            Call::SwapIn { seqs } => {
                let seqs: Vec<SeqId> = seqs.into_iter().map(SeqId).collect();
                let swapped = self.kv.swap_in(&seqs);
                if let Ok(copies) = &swapped {
                    self.swap(copies, false);
                    seqs.iter().for_each(|s| self.seqs.get_mut(s).unwrap().1 = false);
                }
                swapped.is_err()
            }
        };
        if failed {
            assert_eq!(self.kv.stats(), before, "a failed call changes nothing");
        }
    }

    /// A block that can be found continues the one that is named as its parent, which can be found
    /// too.
    fn check_cached(&self, block: BlockId) {
        let last = self.block_size() - 1;
        let before = match self.kv.prefix_cache().parent(block) {
            None => return,
            Some(Parent::Salt(salt)) => (salt, Vec::new()),
            Some(Parent::Block(parent)) => {
                assert!(self.kv.prefix_cache().contains(parent), "{block:?} outlived {parent:?}");
                self.device[&(parent, last)].clone()
            }
        };
        let (salt, tokens) = &self.device[&(block, last)];
        assert_eq!((*salt, &tokens[..tokens.len() - last - 1]), (before.0, &before.1[..]));
    }

    fn check(&self) {
        let (kv, bs) = (&self.kv, self.block_size());
        let stats = kv.stats();
        // Every position reads what was written for it, whatever the others did.
        let mut references: HashMap<BlockId, u32> = HashMap::new();
        let mut filled: HashMap<BlockId, usize> = HashMap::new();
        for (&seq, (content, swapped)) in &self.seqs {
            if *swapped {
                assert!(kv.is_swapped(seq));
                continue;
            }
            assert_eq!(kv.tokens(seq).unwrap(), content.1);
            let table = kv.table(seq).unwrap();
            assert_eq!(table.len(), content.1.len());
            assert_eq!(table.blocks().len(), table.len().div_ceil(bs));
            for (position, read) in self.read(seq).into_iter().enumerate() {
                let want = (content.0, content.1[..=position].to_vec());
                assert_eq!(read, Some(&want), "{seq:?} at {position}");
            }
            for (i, &block) in table.blocks().iter().enumerate() {
                *references.entry(block).or_default() += 1;
                let slots = (table.len() - i * bs).min(bs);
                let most = filled.entry(block).or_default();
                *most = slots.max(*most);
            }
        }
        // Reference counts are those of the tables, and the three kinds of blocks add up.
        for id in 0..kv.config().blocks {
            let block = BlockId(id);
            let counted = references.get(&block).copied().unwrap_or(0);
            assert_eq!(kv.pool().references(block), counted);
            assert!(!kv.pool().is_idle(block) || kv.prefix_cache().contains(block));
            assert!(!(kv.pool().is_idle(block) && counted > 0));
            self.check_cached(block);
        }
        assert_eq!(stats.used_blocks, references.len());
        assert_eq!(stats.free_blocks + stats.idle_blocks + stats.used_blocks, stats.total_blocks);
        assert_eq!(stats.table_entries, references.values().sum::<u32>() as usize);
        assert_eq!(stats.empty_slots, filled.values().map(|f| bs - f).sum::<usize>());
        let swapped = self.seqs.values().filter(|s| s.1).count();
        assert_eq!(
            (stats.sequences, stats.swapped_sequences),
            (self.seqs.len() - swapped, swapped)
        );
        let host = kv.host_pool();
        assert_eq!(host.free() + host.used(), host.total());
        assert!(swapped > 0 || host.used() == 0);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 5000, ..ProptestConfig::default() })]

    #[test]
    fn the_cache_behaves_as_plain_storage(
        config in config(),
        // Mostly a good hash; sometimes one that collides at almost every block.
        hashes in prop_oneof![2 => Just(u64::MAX), 1 => Just(3)],
        calls in prop::collection::vec(call(), 1..60),
    ) {
        let mut model = Model::new(config, hashes);
        for call in calls {
            model.call(call);
            model.check();
        }
        // At rest nothing is referenced, and what can be found is idle.
        for seq in model.seqs.keys() {
            model.kv.free(*seq).unwrap();
        }
        let stats = model.kv.stats();
        prop_assert_eq!((stats.used_blocks, stats.table_entries), (0, 0));
        prop_assert_eq!(stats.idle_blocks, model.kv.prefix_cache().len());
        prop_assert_eq!(model.kv.host_pool().used(), 0);
    }

    #[test]
    fn contiguous_memory_is_never_handed_out_twice(
        total in 0..200u64,
        best in any::<bool>(),
        calls in prop::collection::vec((any::<bool>(), 0..60u64), 1..80),
    ) {
        use paged_kv::{ContiguousAllocator, ContiguousError, Extent, Fit};
        let fit = if best { Fit::Best } else { Fit::First };
        let mut memory = ContiguousAllocator::new(total, fit);
        let mut held: Vec<Extent> = Vec::new();
        for (take, n) in calls {
            // The holes by the model: what lies between the sorted stretches.
            held.sort();
            let mut holes = Vec::new();
            let mut at = 0;
            for e in held.iter().copied().chain([Extent { start: total, len: 0 }]) {
                if e.start > at {
                    holes.push(Extent { start: at, len: e.start - at });
                }
                at = e.start + e.len;
            }
            prop_assert!(memory.holes().eq(holes.iter().copied()));
            let free: u64 = holes.iter().map(|h| h.len).sum();
            let largest_hole = holes.iter().map(|h| h.len).max().unwrap_or(0);
            prop_assert_eq!((memory.free(), memory.largest_hole()), (free, largest_hole));
            if take {
                let enough = holes.iter().filter(|h| h.len >= n);
                let hole = match fit {
                    Fit::First => enough.min_by_key(|h| h.start),
                    Fit::Best => enough.min_by_key(|h| (h.len, h.start)),
                };
                let want = match hole {
                    _ if n == 0 => Err(ContiguousError::Length { got: 0, max: u64::MAX }),
                    Some(h) => Ok(Extent { start: h.start, len: n }),
                    None => Err(ContiguousError::NoHole { needed: n, largest_hole, free }),
                };
                let got = memory.allocate(n);
                prop_assert_eq!(&got, &want);
                held.extend(got);
            } else if !held.is_empty() {
                let extent = held.swap_remove(n as usize % held.len());
                prop_assert_eq!(memory.release(extent), Ok(()));
            }
        }
    }
}
