//! What is shared, with whom, and for how long.

use paged_kv::{
    BlockCopy, BlockId, CacheSalt, EvictionPolicy, KvCacheConfig, KvCacheManager, PagedKvError,
    SeqId, TokenId,
};

const SALT: CacheSalt = CacheSalt(0);

fn cache(blocks: u32, eviction: EvictionPolicy) -> KvCacheManager {
    let config = KvCacheConfig { block_size: 4, blocks, host_blocks: 8, eviction };
    KvCacheManager::new(config).unwrap()
}

/// Runs a prompt; how much of it was cached.
fn run(kv: &mut KvCacheManager, seq: u64, salt: CacheSalt, prompt: &[TokenId]) -> usize {
    let found = kv.create(SeqId(seq), salt, prompt).unwrap();
    kv.append(SeqId(seq), &prompt[found..]).unwrap();
    kv.commit(SeqId(seq)).unwrap();
    found
}

fn prompt(name: u32, len: u32) -> Vec<TokenId> {
    (0..len).map(|i| name * 1000 + i).collect()
}

#[test]
fn a_prefix_is_found_by_the_same_tenant_only() {
    let mut kv = cache(16, EvictionPolicy::Lru);
    let tokens = prompt(1, 10);
    assert_eq!(run(&mut kv, 1, SALT, &tokens), 0);
    assert_eq!(run(&mut kv, 2, CacheSalt(1), &tokens), 0);
    assert_eq!(run(&mut kv, 3, SALT, &tokens), 8);
    assert_eq!(
        kv.table(SeqId(1)).unwrap().blocks()[..2],
        kv.table(SeqId(3)).unwrap().blocks()[..2]
    );
    // 3 + 3 + 1 blocks for 9 table entries.
    let stats = kv.stats();
    assert_eq!((stats.used_blocks, stats.table_entries), (7, 9));
    assert!((stats.sharing() - 2.0 / 9.0).abs() < 1e-12);
    assert!((stats.hit_rate() - 8.0 / 30.0).abs() < 1e-12);
}

#[test]
fn a_prompt_of_whole_blocks_leaves_one_to_compute() {
    let mut kv = cache(16, EvictionPolicy::Lru);
    let tokens = prompt(1, 8);
    run(&mut kv, 1, SALT, &tokens);
    assert_eq!(run(&mut kv, 2, SALT, &tokens), 4);
    // It computed the second block again, and gave it up for the first copy.
    assert_eq!(kv.table(SeqId(1)), kv.table(SeqId(2)));
    assert_eq!((kv.stats().merged, kv.stats().used_blocks), (1, 2));
}

#[test]
fn what_is_not_committed_is_not_found() {
    let mut kv = cache(16, EvictionPolicy::Lru);
    let tokens = prompt(1, 9);
    kv.create(SeqId(1), SALT, &tokens).unwrap();
    kv.append(SeqId(1), &tokens).unwrap();
    assert_eq!(kv.create(SeqId(2), SALT, &tokens), Ok(0));
    assert_eq!(kv.fork(SeqId(1), SeqId(3)), Err(PagedKvError::Uncommitted(SeqId(1))));
    kv.commit(SeqId(1)).unwrap();
    assert_eq!(kv.create(SeqId(3), SALT, &tokens), Ok(8));
}

#[test]
fn beams_copy_the_block_they_write_and_no_other() {
    let mut kv = cache(16, EvictionPolicy::Lru);
    run(&mut kv, 1, SALT, &prompt(1, 10));
    for beam in 2..5 {
        kv.fork(SeqId(1), SeqId(beam)).unwrap();
    }
    assert_eq!(kv.stats().used_blocks, 3);
    let shared = kv.table(SeqId(1)).unwrap().blocks()[2];
    let mut copies = Vec::new();
    for beam in 1..5 {
        copies.extend(kv.append(SeqId(beam), &[beam as TokenId]).unwrap());
    }
    // The last to write is alone by then.
    let of = |id| BlockCopy { from: shared, to: BlockId(id), slots: 2 };
    assert_eq!(copies, [of(3), of(4), of(5)]);
    assert_eq!(kv.stats().used_blocks, 6);
    // Each of the four last blocks has one empty slot of four.
    assert!((kv.stats().waste() - 4.0 / 24.0).abs() < 1e-12);
}

#[test]
fn a_found_block_is_never_written() {
    let mut kv = cache(16, EvictionPolicy::Lru);
    run(&mut kv, 1, SALT, &prompt(1, 8));
    let second = kv.table(SeqId(1)).unwrap().blocks()[1];
    // As after a rejected draft: back into a block that others could find.
    kv.truncate(SeqId(1), 6).unwrap();
    let copy = kv.append(SeqId(1), &[7]).unwrap().unwrap();
    assert_eq!((copy.from, copy.slots), (second, 2));
    assert_eq!(run(&mut kv, 2, SALT, &prompt(1, 9)), 8);
    assert_eq!(kv.table(SeqId(2)).unwrap().blocks()[1], second);
}

#[test]
fn the_end_of_a_prefix_goes_before_its_beginning() {
    let mut kv = cache(4, EvictionPolicy::Lru);
    run(&mut kv, 1, SALT, &prompt(1, 12));
    kv.free(SeqId(1)).unwrap();
    assert_eq!(kv.stats().idle_blocks, 3);
    run(&mut kv, 2, SALT, &prompt(2, 8));
    kv.free(SeqId(2)).unwrap();
    // One block was free and one evicted: the last of the first prompt.
    assert_eq!(kv.stats().evictions, 1);
    assert_eq!(run(&mut kv, 3, SALT, &prompt(1, 13)), 8);
}

#[test]
fn a_flood_washes_a_shared_prefix_out_unless_it_is_protected() {
    for (eviction, found) in [(EvictionPolicy::Lru, 0), (EvictionPolicy::SegmentedLru, 8)] {
        let mut kv = cache(8, eviction);
        for seq in 0..2 {
            run(&mut kv, seq, SALT, &prompt(1, 9));
            kv.free(SeqId(seq)).unwrap();
        }
        for seq in 2..12 {
            run(&mut kv, seq, SALT, &prompt(seq as u32, 9));
            kv.free(SeqId(seq)).unwrap();
        }
        assert_eq!(run(&mut kv, 99, SALT, &prompt(1, 9)), found, "{eviction:?}");
    }
}

#[test]
fn sequences_that_leave_together_stay_shared() {
    let mut kv = cache(8, EvictionPolicy::Lru);
    run(&mut kv, 1, SALT, &prompt(1, 9));
    kv.fork(SeqId(1), SeqId(2)).unwrap();
    let out = kv.swap_out(&[SeqId(1), SeqId(2)]).unwrap();
    assert_eq!((out.len(), kv.stats().used_blocks, kv.host_pool().used()), (3, 0, 3));
    assert_eq!(kv.append(SeqId(1), &[1]), Err(PagedKvError::NoSuchSequence(SeqId(1))));
    let back = kv.swap_in(&[SeqId(1), SeqId(2)]).unwrap();
    assert_eq!((back.len(), kv.stats().used_blocks, kv.host_pool().used()), (3, 3, 0));
    // The full blocks are still cached where they were: committing finds them.
    kv.append(SeqId(1), &[1]).unwrap();
    kv.commit(SeqId(1)).unwrap();
    assert_eq!(kv.stats().merged, 2);
}

#[test]
fn a_sequence_on_the_host_can_end_there() {
    let mut kv = cache(8, EvictionPolicy::None);
    run(&mut kv, 1, SALT, &prompt(1, 40 / 2));
    kv.swap_out(&[SeqId(1)]).unwrap();
    let full = PagedKvError::OutOfHostBlocks { needed: 4, available: 3 };
    run(&mut kv, 2, SALT, &prompt(2, 16));
    assert_eq!(kv.swap_out(&[SeqId(2)]), Err(full));
    kv.free(SeqId(1)).unwrap();
    assert_eq!(kv.host_pool().used(), 0);
    kv.swap_out(&[SeqId(2)]).unwrap();
    run(&mut kv, 3, SALT, &prompt(3, 20));
    let full = PagedKvError::OutOfBlocks { needed: 4, available: 3 };
    assert_eq!(kv.swap_in(&[SeqId(2)]), Err(full));
}

#[test]
fn block_sizes_are_bounded() {
    for got in [0, 1 << 17] {
        let config = KvCacheConfig { block_size: got, ..Default::default() };
        let error = KvCacheManager::new(config).unwrap_err();
        assert_eq!(error, PagedKvError::BlockSize { got, max: 1 << 16 });
    }
}
