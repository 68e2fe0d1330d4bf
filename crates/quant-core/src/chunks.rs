//! Work on a tensor in chunks of rows, over threads, with progress and cancellation.

use std::ops::ControlFlow;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use cpu_kernels::ThreadPool;

use crate::QuantError;

/// How much of a tensor is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// Rows done.
    pub rows: usize,
    /// Rows of the tensor.
    pub of: usize,
}

/// Called from the working threads after each chunk; `Break` cancels.
type Report<'a> = &'a (dyn Fn(Progress) -> ControlFlow<()> + Sync);

/// Threads and progress of work on a tensor. The results do not depend on the number of threads.
#[derive(Clone, Copy, Default)]
pub struct Work<'a> {
    threads: usize,
    report: Option<Report<'a>>,
}

impl<'a> Work<'a> {
    /// Work on `threads` threads; 0 means as many as [`ThreadPool::global`] has.
    pub fn threads(threads: usize) -> Self {
        Self { threads, report: None }
    }

    /// Reports progress to `report`, from whichever thread made it; it cancels with `Break`.
    pub fn report(self, report: Report<'a>) -> Self {
        Self { report: Some(report), ..self }
    }
}

/// Elements a chunk, about: 512 KiB as f32, a share of a second-level cache.
const CHUNK: usize = 1 << 17;

/// Rows a chunk.
pub(crate) fn rows_per_chunk(cols: usize) -> usize {
    (CHUNK / cols.max(1)).max(1)
}

/// Calls `work` for each chunk, on several threads, until all are done or one fails; the failure
/// that is reported is that of the earliest chunk. `scratch` makes what a thread reuses.
pub(crate) fn for_each_chunk<T: Send, S>(
    work: Work<'_>,
    rows: usize,
    chunks: impl ExactSizeIterator<Item = T> + Send,
    rows_of: impl Fn(&T) -> usize + Sync,
    scratch: impl Fn() -> S + Sync,
    body: impl Fn(usize, T, &mut S) -> Result<(), QuantError> + Sync,
) -> Result<(), QuantError> {
    let threads = match work.threads {
        0 => ThreadPool::global().threads(),
        n => n,
    };
    let threads = threads.clamp(1, chunks.len().max(1));
    let queue = Mutex::new(chunks.enumerate());
    let done = AtomicUsize::new(0);
    let stop = AtomicBool::new(false);
    let failure: Mutex<Option<(usize, QuantError)>> = Mutex::new(None);
    let fail = |index: usize, error: QuantError| {
        stop.store(true, Ordering::Relaxed);
        let mut failure = failure.lock().expect("no panic while it is held");
        if failure.as_ref().is_none_or(|(first, _)| index < *first) {
            *failure = Some((index, error));
        }
    };
    let run = || {
        let mut scratch = scratch();
        while !stop.load(Ordering::Relaxed) {
            let Some((index, chunk)) = queue.lock().expect("no panic while it is held").next()
            else {
                break;
            };
            let chunk_rows = rows_of(&chunk);
            if let Err(error) = body(index, chunk, &mut scratch) {
                return fail(index, error);
            }
            let rows_done = done.fetch_add(chunk_rows, Ordering::Relaxed) + chunk_rows;
            if let Some(report) = work.report
                && report(Progress { rows: rows_done, of: rows }).is_break()
            {
                return fail(index, QuantError::Cancelled);
            }
        }
    };
    std::thread::scope(|scope| {
        for _ in 1..threads {
            scope.spawn(run);
        }
        run();
    });
    match failure.into_inner().expect("no panic while it is held") {
        Some((_, error)) => Err(error),
        None => Ok(()),
    }
}
