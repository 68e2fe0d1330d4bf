//! Finding blocks by what they hold.
//!
//! Keys and values of a position depend on every token up to it, so a full block is identified by
//! its own tokens and the block before it:
//!
//! `h(b) = H(key; h(parent of b), tokens of b)`, and `h(b) = H(key; salt, tokens of b)` for the first
//!
//! as in vLLM's automatic prefix caching. The hash only finds candidates. A hit compares the tokens
//! and the parent, which the walk from the first block on has verified, so that a collision costs a
//! miss and never gives a wrong block. The hasher is keyed at random ([`std::hash::RandomState`],
//! SipHash-1-3), so that a client cannot prepare collisions.
//!
//! Content is stored under at most one block. Whoever computes it a second time, as two prompts in
//! one batch do, learns of the first ([`Inserted::Known`]) and can share it.

use std::collections::HashMap;
use std::hash::{BuildHasher, BuildHasherDefault, Hasher, RandomState};

use crate::{BlockId, TokenId};

/// Separates those who must not see each other's prefixes: sequences share only under equal salts.
/// A server numbers the tenants or the `cache_salt`s of its requests.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct CacheSalt(pub u64);

/// What precedes a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Parent {
    /// Nothing: it is the first of a sequence with this salt.
    Salt(CacheSalt),
    /// The cached block before it.
    Block(BlockId),
}

/// What became of a block that was to be found by its content.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Inserted {
    /// It will be found.
    New,
    /// This block holds the same.
    Known(BlockId),
    /// Another content has the same hash and stays; this one will not be found.
    Collision,
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    hash: u64,
    parent: Parent,
    hits: u32,
}

/// Blocks by content. It holds no references: who frees a block calls [`remove`](Self::remove).
#[derive(Clone, Debug)]
pub struct PrefixCache<S = RandomState> {
    hasher: S,
    block_size: usize,
    by_hash: HashMap<u64, BlockId, BuildHasherDefault<AlreadyHashed>>,
    entries: Vec<Option<Entry>>,
    /// `[blocks, block_size]`
    tokens: Vec<TokenId>,
}

impl<S: BuildHasher> PrefixCache<S> {
    /// An empty cache over `blocks` blocks of `block_size` positions.
    pub fn new(blocks: u32, block_size: usize, hasher: S) -> Self {
        Self {
            hasher,
            block_size,
            by_hash: HashMap::default(),
            entries: vec![None; blocks as usize],
            tokens: vec![0; blocks as usize * block_size],
        }
    }

    /// Blocks that can be found.
    pub fn len(&self) -> usize {
        self.by_hash.len()
    }

    /// Whether none can.
    pub fn is_empty(&self) -> bool {
        self.by_hash.is_empty()
    }

    /// Whether this block can be found.
    pub fn contains(&self, block: BlockId) -> bool {
        self.entries.get(block.index()).is_some_and(Option::is_some)
    }

    /// What precedes a block that can be found. The block it names can be found too.
    pub fn parent(&self, block: BlockId) -> Option<Parent> {
        self.entries.get(block.index()).and_then(Option::as_ref).map(|e| e.parent)
    }

    /// How often [`lookup`](Self::lookup) returned this block.
    pub fn hits(&self, block: BlockId) -> u32 {
        self.entries.get(block.index()).and_then(Option::as_ref).map_or(0, |e| e.hits)
    }

    /// The longest chain of cached blocks that `tokens` begins with. Time is linear in the tokens
    /// found.
    pub fn peek<'a>(
        &'a self,
        salt: CacheSalt,
        tokens: &'a [TokenId],
    ) -> impl Iterator<Item = BlockId> + 'a {
        let mut parent = Parent::Salt(salt);
        tokens.chunks_exact(self.block_size).map_while(move |tokens| {
            let block = self.find(self.hash(parent, tokens), parent, tokens)?;
            parent = Parent::Block(block);
            Some(block)
        })
    }

    /// Appends the blocks of [`peek`](Self::peek), and counts a hit of each.
    pub fn lookup(&mut self, salt: CacheSalt, tokens: &[TokenId], found: &mut Vec<BlockId>) {
        let from = found.len();
        found.extend(self.peek(salt, tokens));
        for block in &found[from..] {
            if let Some(entry) = &mut self.entries[block.index()] {
                entry.hits = entry.hits.saturating_add(1);
            }
        }
    }

    /// Makes a full block findable by its tokens after `parent`, which must be cached.
    ///
    /// # Panics
    /// If `tokens` are not a block's, or `block` is not one of this cache's.
    pub fn insert(&mut self, block: BlockId, parent: Parent, tokens: &[TokenId]) -> Inserted {
        assert_eq!(tokens.len(), self.block_size, "only full blocks are cached");
        let hash = self.hash(parent, tokens);
        match self.by_hash.get(&hash) {
            Some(&other) if self.matches(other, parent, tokens) => Inserted::Known(other),
            Some(_) => Inserted::Collision,
            None => {
                self.by_hash.insert(hash, block);
                self.entries[block.index()] = Some(Entry { hash, parent, hits: 0 });
                self.own_tokens(block).copy_from_slice(tokens);
                Inserted::New
            }
        }
    }

    /// Forgets a block whose content goes. Blocks that follow it must have gone before.
    pub fn remove(&mut self, block: BlockId) -> bool {
        let Some(entry) = self.entries.get_mut(block.index()).and_then(Option::take) else {
            return false;
        };
        self.by_hash.remove(&entry.hash);
        true
    }

    fn find(&self, hash: u64, parent: Parent, tokens: &[TokenId]) -> Option<BlockId> {
        let block = *self.by_hash.get(&hash)?;
        self.matches(block, parent, tokens).then_some(block)
    }

    fn matches(&self, block: BlockId, parent: Parent, tokens: &[TokenId]) -> bool {
        let at = block.index() * self.block_size;
        self.entries[block.index()].is_some_and(|e| e.parent == parent)
            && self.tokens[at..at + self.block_size] == *tokens
    }

    fn own_tokens(&mut self, block: BlockId) -> &mut [TokenId] {
        let at = block.index() * self.block_size;
        &mut self.tokens[at..at + self.block_size]
    }

    fn hash(&self, parent: Parent, tokens: &[TokenId]) -> u64 {
        let mut hasher = self.hasher.build_hasher();
        match parent {
            Parent::Salt(salt) => hasher.write_u64(salt.0),
            Parent::Block(block) => {
                hasher.write_u64(self.entries[block.index()].map_or(0, |e| e.hash));
            }
        }
        // Bytes in pieces: a call a token would cost more than the hash.
        let mut bytes = [0; 64];
        for tokens in tokens.chunks(bytes.len() / 4) {
            for (to, token) in bytes.chunks_exact_mut(4).zip(tokens) {
                to.copy_from_slice(&token.to_le_bytes());
            }
            hasher.write(&bytes[..4 * tokens.len()]);
        }
        hasher.finish()
    }
}

/// Keys of the map are hashes already.
#[derive(Clone, Debug, Default)]
struct AlreadyHashed(u64);

impl Hasher for AlreadyHashed {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for &b in bytes {
            self.0 = self.0.rotate_left(8) ^ u64::from(b);
        }
    }

    fn write_u64(&mut self, hash: u64) {
        self.0 = hash;
    }
}
