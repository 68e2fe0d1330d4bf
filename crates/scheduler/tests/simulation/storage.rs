//! Blocks with content. What a position holds is a hash of the salt and all tokens up to it, as real
//! keys and values depend on them: a block that was shared, copied, swapped or found wrongly shows as
//! another content.

use paged_kv::{BlockCopy, BlockTable, CacheSalt, KvCacheConfig, SwapCopy, TokenId};

/// What one position holds; None if nothing, or something that must not be read, was written.
pub(crate) type Content = Option<u64>;

/// What the position before the first would hold.
pub(crate) fn beginning(salt: CacheSalt) -> u64 {
    mix(salt.0 ^ 0x9e37_79b9_7f4a_7c15)
}

/// What a position holds after one that holds `before`.
pub(crate) fn next(before: u64, token: TokenId) -> u64 {
    mix(before.rotate_left(17) ^ u64::from(token))
}

/// SplitMix64's.
pub(crate) fn mix(x: u64) -> u64 {
    let x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

#[derive(Clone, Debug)]
pub(crate) struct Storage {
    block_size: usize,
    device: Vec<Content>,
    host: Vec<Content>,
}

impl Storage {
    pub(crate) fn new(config: &KvCacheConfig) -> Self {
        let slots = |blocks: u32| vec![None; blocks as usize * config.block_size];
        let (device, host) = (slots(config.blocks), slots(config.host_blocks));
        Self { block_size: config.block_size, device, host }
    }

    pub(crate) fn copy(&mut self, copy: BlockCopy) {
        let from = copy.from.index() * self.block_size;
        let to = copy.to.index() * self.block_size;
        self.device.copy_within(from..from + copy.slots, to);
    }

    pub(crate) fn swap_out(&mut self, copy: SwapCopy) {
        let (device, host) = self.pair(copy);
        self.host[host..host + self.block_size]
            .copy_from_slice(&self.device[device..device + self.block_size]);
    }

    pub(crate) fn swap_in(&mut self, copy: SwapCopy) {
        let (device, host) = self.pair(copy);
        self.device[device..device + self.block_size]
            .copy_from_slice(&self.host[host..host + self.block_size]);
    }

    /// What a sequence's positions hold, read through its table.
    pub(crate) fn read<'a>(&'a self, table: &'a BlockTable) -> impl Iterator<Item = Content> + 'a {
        (0..table.len()).map(|position| self.device[self.slot(table, position)])
    }

    pub(crate) fn write(&mut self, table: &BlockTable, position: usize, content: Content) {
        let slot = self.slot(table, position);
        self.device[slot] = content;
    }

    fn slot(&self, table: &BlockTable, position: usize) -> usize {
        table.blocks()[position / self.block_size].index() * self.block_size
            + position % self.block_size
    }

    fn pair(&self, copy: SwapCopy) -> (usize, usize) {
        (copy.device.index() * self.block_size, copy.host.index() * self.block_size)
    }
}
