//! Three answers to one prompt: what they share, and what each write costs.

use paged_kv::{CacheSalt, KvCacheConfig, KvCacheManager, SeqId};

fn main() -> Result<(), paged_kv::PagedKvError> {
    let config = KvCacheConfig { block_size: 16, blocks: 64, ..Default::default() };
    let mut kv = KvCacheManager::new(config)?;
    let prompt: Vec<u32> = (0..100).collect();

    kv.create(SeqId(0), CacheSalt(0), &prompt)?;
    kv.append(SeqId(0), &prompt)?;
    // Here a model would write keys and values to the runs of the table.
    for run in kv.table(SeqId(0))?.runs(90..100, 16) {
        println!(
            "positions 90..100: slots {}..{} of {:?}",
            run.offset,
            run.offset + run.len,
            run.block
        );
    }
    kv.commit(SeqId(0))?;
    kv.fork(SeqId(0), SeqId(1))?;
    kv.fork(SeqId(0), SeqId(2))?;
    for seq in 0..3 {
        let copy = kv.append(SeqId(seq), &[1000 + seq as u32])?;
        println!("sequence {seq} grows: copy {copy:?}");
        kv.commit(SeqId(seq))?;
    }
    let stats = kv.stats();
    println!(
        "{} entries of tables in {} blocks: sharing saves {:.0} %, {:.1} % of the slots are empty",
        stats.table_entries,
        stats.used_blocks,
        100.0 * stats.sharing(),
        100.0 * stats.waste()
    );
    assert_eq!((stats.used_blocks, stats.table_entries), (9, 21));

    // The next one with this prompt computes four of its positions.
    assert_eq!(kv.create(SeqId(3), CacheSalt(0), &prompt)?, 96);
    Ok(())
}
