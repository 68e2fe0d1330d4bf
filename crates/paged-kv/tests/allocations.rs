//! After warm-up a step costs no allocation.

use paged_kv::{CacheSalt, KvCacheConfig, KvCacheManager, SeqId};

#[test]
fn a_token_allocates_nothing() {
    let config = KvCacheConfig { block_size: 4, blocks: 64, ..Default::default() };
    let mut kv = KvCacheManager::new(config).unwrap();
    let (seq, salt) = (SeqId(1), CacheSalt(0));
    kv.create(seq, salt, &[]).unwrap();
    // Over the ends of blocks and back, each time with other tokens, until idle blocks are evicted.
    let mut round = |n: u32| {
        for i in 0..10 {
            kv.append(seq, &[10 * n + i]).unwrap();
            kv.commit(seq).unwrap();
        }
        kv.truncate(seq, 0).unwrap();
    };
    (0..50).for_each(&mut round);
    let used = allocation_counter::measure(|| (50..150).for_each(&mut round));
    assert_eq!(used.count_total, 0);
    assert!(kv.stats().evictions > 100);
}
