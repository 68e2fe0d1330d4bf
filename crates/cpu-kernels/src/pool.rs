//! A small pool of threads for kernels that are called thousands of times a second.
//!
//! A job is a number of chunks and a function of the chunk's index. The calling thread and the
//! workers take indices from a shared counter, so every chunk runs exactly once and a kernel's
//! result cannot depend on who ran it. Workers look for the next job for some tens of
//! microseconds and then sleep; an idle pool uses no processor time. It is no general scheduler:
//! one job runs at a time, and a job started from within a job, or while another thread's job
//! runs, is done by its caller alone.

use crate::Profile;
use std::any::Any;
use std::num::NonZeroUsize;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::ptr;
use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Condvar, Mutex, OnceLock, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// How long a worker looks for the next job before it sleeps.
const SPIN: Duration = Duration::from_micros(60);

/// The most threads of a pool: beyond any machine of use, below what a system refuses.
const MAX_THREADS: usize = 1024;

/// A set of threads that run the chunks of one job at a time.
pub struct ThreadPool {
    shared: Arc<Shared>,
    workers: Vec<JoinHandle<()>>,
    /// Held by the thread whose job the workers see.
    owner: Mutex<()>,
    profile: Profile,
}

/// One call of [`ThreadPool::run`], on the caller's stack.
struct Job<'a> {
    body: &'a (dyn Fn(usize) + Sync),
    chunks: usize,
    next: AtomicUsize,
    panic: Mutex<Option<Box<dyn Any + Send>>>,
}

/// A line of its own: what a job changes is not on the lines that callers keep reading.
#[repr(align(128))]
struct Shared {
    /// The job at hand, or null. Read only by a thread that has counted itself in `inside`.
    job: AtomicPtr<Job<'static>>,
    /// Workers that may hold a pointer to the job.
    inside: AtomicUsize,
    /// Jobs published so far.
    epoch: AtomicUsize,
    sleepers: AtomicUsize,
    sleep: Mutex<()>,
    wake: Condvar,
    stop: AtomicBool,
}

impl Job<'_> {
    /// Takes chunks until none is left. After a panic the remaining chunks are given up.
    fn work(&self) {
        loop {
            let chunk = self.next.fetch_add(1, SeqCst);
            if chunk >= self.chunks {
                return;
            }
            if let Err(payload) = catch_unwind(AssertUnwindSafe(|| (self.body)(chunk))) {
                self.next.store(self.chunks, SeqCst);
                let mut first = self.panic.lock().unwrap_or_else(PoisonError::into_inner);
                first.get_or_insert(payload);
                return;
            }
        }
    }
}

impl Shared {
    /// Helps with the job at hand, if there is one.
    fn help(&self) {
        self.inside.fetch_add(1, SeqCst);
        let job = self.job.load(SeqCst);
        if !job.is_null() {
            // SAFETY: the owner clears `job` and then waits for `inside` to be 0 before the job
            // dies. All four accesses are sequentially consistent, and ours to `inside` came
            // first: either we saw the null, or the owner sees our count and waits.
            unsafe { &*job }.work();
        }
        self.inside.fetch_sub(1, SeqCst);
    }

    fn worker(&self) {
        let mut seen = 0;
        loop {
            let started = Instant::now();
            let mut turns = 0u32;
            while self.epoch.load(SeqCst) == seen {
                if self.stop.load(SeqCst) {
                    return;
                }
                std::hint::spin_loop();
                turns += 1;
                if turns.is_multiple_of(32) && started.elapsed() > SPIN {
                    self.park(seen);
                }
            }
            seen = self.epoch.load(SeqCst);
            self.help();
        }
    }

    /// Sleeps until there is a job after `seen`, or the pool stops.
    fn park(&self, seen: usize) {
        let mut guard = self.sleep.lock().unwrap_or_else(PoisonError::into_inner);
        self.sleepers.fetch_add(1, SeqCst);
        while self.epoch.load(SeqCst) == seen && !self.stop.load(SeqCst) {
            guard = self.wake.wait(guard).unwrap_or_else(PoisonError::into_inner);
        }
        self.sleepers.fetch_sub(1, SeqCst);
    }

    fn wake_sleepers(&self) {
        if self.sleepers.load(SeqCst) > 0 {
            // The lock orders this after a worker's last look at `epoch` and before its wait.
            drop(self.sleep.lock().unwrap_or_else(PoisonError::into_inner));
            self.wake.notify_all();
        }
    }
}

static GLOBAL: OnceLock<ThreadPool> = OnceLock::new();

impl ThreadPool {
    /// A pool of `threads` threads, the caller of [`run`](Self::run) counted; 0 counts as 1, and more
    /// than 1024 as 1024. If
    /// the system refuses a thread, the pool goes on with those it has.
    pub fn new(threads: usize) -> ThreadPool {
        ThreadPool::profiled(threads, Profile::default())
    }

    /// As [`new`](Self::new), with a profile for what runs on it.
    pub fn profiled(threads: usize, profile: Profile) -> ThreadPool {
        let shared = Arc::new(Shared {
            job: AtomicPtr::new(ptr::null_mut()),
            inside: AtomicUsize::new(0),
            epoch: AtomicUsize::new(0),
            sleepers: AtomicUsize::new(0),
            sleep: Mutex::new(()),
            wake: Condvar::new(),
            stop: AtomicBool::new(false),
        });
        let mut workers = Vec::new();
        for index in 1..threads.min(MAX_THREADS) {
            let shared = Arc::clone(&shared);
            let thread = std::thread::Builder::new().name(format!("kernel-{index}"));
            match thread.spawn(move || shared.worker()) {
                Ok(handle) => workers.push(handle),
                Err(error) => {
                    tracing::warn!("{index} of {threads} threads started: {error}");
                    break;
                }
            }
        }
        ThreadPool { shared, workers, owner: Mutex::new(()), profile }
    }

    /// The pool of this process. Unless [`init_global`](Self::init_global) came first, it has as
    /// many threads as the environment variable `INFINITY_THREADS` says, or else one a core that
    /// the system lets this process run on, and no more than the quota of its control group.
    pub fn global() -> &'static ThreadPool {
        GLOBAL.get_or_init(|| ThreadPool::new(default_threads()))
    }

    /// Sets the number of threads of [`global`](Self::global); `false` if it already runs.
    pub fn init_global(threads: usize) -> bool {
        let mut fresh = false;
        GLOBAL.get_or_init(|| {
            fresh = true;
            ThreadPool::new(threads)
        });
        fresh
    }

    /// Threads that take part in a job, the caller counted.
    pub fn threads(&self) -> usize {
        self.workers.len() + 1
    }

    /// Where kernels note what they do.
    pub fn profile(&self) -> &Profile {
        &self.profile
    }

    /// Runs `body(i)` once for every `i` in `0..chunks` and returns when all are done. The order
    /// and the thread of each are open. If a `body` panics, some chunks may not run and the panic
    /// goes on in the caller. May be called from within `body`.
    pub fn run(&self, chunks: usize, body: impl Fn(usize) + Sync) {
        let alone = || (0..chunks).for_each(&body);
        if chunks <= 1 || self.workers.is_empty() {
            return alone();
        }
        let Ok(_owner) = self.owner.try_lock() else { return alone() };
        let job = Job { body: &body, chunks, next: AtomicUsize::new(0), panic: Mutex::new(None) };
        let shared = &*self.shared;
        shared.job.store(ptr::from_ref(&job).cast_mut().cast(), SeqCst);
        shared.epoch.fetch_add(1, SeqCst);
        shared.wake_sleepers();
        job.work(); // does not unwind
        shared.job.store(ptr::null_mut(), SeqCst);
        let mut turns = 0u32;
        while shared.inside.load(SeqCst) > 0 {
            turns += 1;
            if turns.is_multiple_of(1024) {
                // More threads than processors: let the one we wait for run.
                std::thread::yield_now();
            }
            std::hint::spin_loop();
        }
        drop(_owner);
        let panic = job.panic.into_inner().unwrap_or_else(PoisonError::into_inner);
        if let Some(payload) = panic {
            resume_unwind(payload);
        }
    }
}

impl Drop for ThreadPool {
    fn drop(&mut self) {
        self.shared.stop.store(true, SeqCst);
        self.shared.wake_sleepers();
        for worker in self.workers.drain(..) {
            let _ = worker.join();
        }
    }
}

impl std::fmt::Debug for ThreadPool {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ThreadPool").field("threads", &self.threads()).finish()
    }
}

fn default_threads() -> usize {
    // Two threads of one core share what the kernels need, so a second one is of no use.
    let available = || {
        let threads = std::thread::available_parallelism().map_or(1, NonZeroUsize::get);
        crate::topology::cores().map_or(threads, |cores| threads.min(cores.get()))
    };
    match std::env::var("INFINITY_THREADS") {
        Err(_) => available(),
        Ok(text) => match text.trim().parse() {
            Ok(threads) if threads >= 1 => threads,
            _ => {
                let threads = available();
                tracing::warn!("INFINITY_THREADS='{text}' is no count, using {threads}");
                threads
            }
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_chunk_runs_once() {
        for threads in [0, 1, 2, 5] {
            let pool = ThreadPool::new(threads);
            for chunks in [0, 1, 2, 3, 64, 1000] {
                let counts: Vec<AtomicUsize> = (0..chunks).map(|_| AtomicUsize::new(0)).collect();
                pool.run(chunks, |i| {
                    counts[i].fetch_add(1, SeqCst);
                });
                assert!(counts.iter().all(|c| c.load(SeqCst) == 1));
            }
        }
    }

    #[test]
    fn many_short_jobs_and_sleep_between() {
        let pool = ThreadPool::new(3);
        let total = AtomicUsize::new(0);
        for i in 0..3000 {
            pool.run(4, |_| {
                total.fetch_add(1, SeqCst);
            });
            if i % 1000 == 0 {
                std::thread::sleep(Duration::from_millis(2));
            }
        }
        assert_eq!(total.load(SeqCst), 12000);
    }

    #[test]
    fn nested_and_concurrent_runs_finish() {
        let pool = ThreadPool::new(3);
        let total = AtomicUsize::new(0);
        std::thread::scope(|scope| {
            for _ in 0..3 {
                scope.spawn(|| {
                    pool.run(8, |_| {
                        pool.run(8, |_| {
                            total.fetch_add(1, SeqCst);
                        });
                    });
                });
            }
        });
        assert_eq!(total.load(SeqCst), 3 * 64);
    }

    #[test]
    fn a_panic_reaches_the_caller_and_the_pool_goes_on() {
        let pool = ThreadPool::new(2);
        for bad in [0, 7] {
            let caught = catch_unwind(AssertUnwindSafe(|| {
                pool.run(8, |i| assert!(i != bad, "chunk {i}"));
            }));
            let payload = caught.expect_err("the panic is passed on");
            assert_eq!(payload.downcast_ref::<String>().unwrap(), &format!("chunk {bad}"));
        }
        pool.run(8, |_| {});
    }
}
