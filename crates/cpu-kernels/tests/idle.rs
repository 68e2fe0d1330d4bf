//! A pool that waits for work takes no processor time. Alone in its process: the time of all its
//! threads is counted.
#![cfg(target_os = "linux")]

use cpu_kernels::ThreadPool;
use std::time::Duration;

/// Nanoseconds that the threads of this process have run.
fn processor_time() -> Option<u64> {
    let mut sum = 0;
    for task in std::fs::read_dir("/proc/self/task").ok()? {
        let stat = std::fs::read_to_string(task.ok()?.path().join("schedstat")).ok()?;
        sum += stat.split_whitespace().next()?.parse::<u64>().ok()?;
    }
    Some(sum)
}

#[test]
fn an_idle_pool_takes_no_processor_time() {
    let pool = ThreadPool::new(3);
    pool.run(64, |_| {});
    std::thread::sleep(Duration::from_millis(20)); // the workers look for work a little longer
    let Some(before) = processor_time() else {
        println!("skipped: this system does not tell the time of threads");
        return;
    };
    std::thread::sleep(Duration::from_millis(200));
    let spent = processor_time().unwrap() - before;
    assert!(spent < 2_000_000, "{spent} ns in 200 ms");
    let count = std::sync::atomic::AtomicUsize::new(0);
    pool.run(64, |_| {
        count.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    });
    assert_eq!(count.into_inner(), 64); // and it wakes up again
}
