//! A paged key-value cache, after PagedAttention (Kwon et al. 2023, "Efficient Memory Management for
//! Large Language Model Serving with PagedAttention", sections 4.1 to 4.5).
//!
//! A sequence's keys and values grow by one position a step, to a length that nobody knows
//! beforehand. Reserving the longest possible stretch for each wastes most of the memory, and
//! stretches of different lengths leave holes that fit nobody. So memory is cut into *blocks* of a
//! fixed number of positions, and a sequence's [`BlockTable`] says which block holds which
//! positions, as an operating system's page table does. What is lost is at most one block less one
//! position a sequence; any free block is as good as any other.
//!
//! - [`BlockPool`]: which blocks are free, used (with reference counts), or idle (unreferenced,
//!   content kept). All in constant time.
//! - [`KvCacheManager`]: sequences on one pool: appending, forking with copy-on-write (parallel
//!   samples, beams), truncating (rejected drafts), the prefix cache, swapping to the host,
//!   [`KvStats`].
//! - [`PrefixCache`]: blocks by content.
//! - [`ContiguousAllocator`]: what pages replace, for comparison.
//!
//! - `storage`, behind the feature of that name: keys and values in blocks, as the cache that a model's
//!   forward reads and writes.
//!
//! All but that is bookkeeping alone: no keys, values, model, clock or thread. The same calls give the
//! same blocks. (The key of the prefix cache's hash is random, and has no say in what is found.)
//!
//! # How ids map to storage
//! A pool of `n` blocks of `b` positions stands for storage that somebody else holds: per layer, keys
//! and values of `n * b` slots each. Slot `s` of block `k` is row `k * b + s`, so that a
//! [`BlockRun`] (`block`, `offset`, `len`) is the byte range
//!
//! `(block * b + offset) * slot_bytes .. (block * b + offset + len) * slot_bytes`
//!
//! of a layer's keys, and the same of its values, `slot_bytes` being one position's keys in one layer
//! (`KvLayout::slot_bytes` of the crate `tensor`). That is one `KvRun` of attention: `PagedKvCache`
//! answers `runs(layer, seq, positions)` with [`BlockTable::runs`], those that touch being one. A
//! block is thus `b` positions *of every layer*: one table serves all layers, and one block takes
//! `b * bytes_per_token` bytes. A [`BlockCopy`] or [`SwapCopy`] is done in every layer before the next
//! step reads or writes. Any element type will do whose slots are whole bytes, since slots never
//! straddle blocks.
//!
//! ```
//! use paged_kv::{CacheSalt, KvCacheConfig, KvCacheManager, SeqId};
//!
//! let config = KvCacheConfig { block_size: 4, blocks: 8, ..Default::default() };
//! let mut kv = KvCacheManager::new(config)?;
//! let (prompt, salt) = ([1, 2, 3, 4, 5, 6], CacheSalt(0));
//!
//! // Nothing is cached yet, so all six positions are computed.
//! assert_eq!(kv.create(SeqId(1), salt, &prompt)?, 0);
//! assert_eq!(kv.append(SeqId(1), &prompt)?, None);
//! kv.commit(SeqId(1))?;
//!
//! // A fork shares both blocks. Who writes into the half-filled one first gets a copy of it.
//! kv.fork(SeqId(1), SeqId(2))?;
//! assert_eq!(kv.stats().used_blocks, 2);
//! let copy = kv.append(SeqId(2), &[7])?.expect("the last block is shared");
//! assert_eq!(copy.slots, 2);
//! assert_eq!(kv.stats().used_blocks, 3);
//!
//! // The same prompt again: its full block is found.
//! assert_eq!(kv.create(SeqId(3), salt, &prompt)?, 4);
//! assert_eq!(kv.stats().used_blocks, 3);
//! # Ok::<(), paged_kv::PagedKvError>(())
//! ```
#![forbid(unsafe_code)]

mod contiguous;
mod error;
mod idle;
mod manager;
mod pool;
mod prefix;
mod sequence;
mod stats;
#[cfg(feature = "storage")]
pub mod storage;
mod swap;
mod table;

pub use contiguous::{ContiguousAllocator, ContiguousError, Extent, Fit};
pub use error::PagedKvError;
pub use manager::{BlockCopy, EvictionPolicy, KvCacheConfig, KvCacheManager};
pub use pool::{Allocation, BlockId, BlockPool, Keep};
pub use prefix::{CacheSalt, Inserted, Parent, PrefixCache};
pub use sequence::SeqId;
pub use stats::KvStats;
#[cfg(feature = "storage")]
pub use storage::{PagedKvCache, PagedStorage};
pub use swap::SwapCopy;
pub use table::{BlockRun, BlockTable};

/// A token of the model's vocabulary.
pub type TokenId = u32;
