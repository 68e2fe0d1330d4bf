//! Work that is captured once and then done as often as wanted, with one call.
//!
//! A step of a model is some hundreds of launches of a few microseconds each, which the host hardly gives in time;
//! a graph gives them all at once. What changes from step to step is written to the same buffers
//! before each replay.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use crate::backend::GraphId;
use crate::memory::{Arena, Pool};
use crate::{Error, Gpu, Result};

/// Captured work: see [`Gpu::capture`].
pub struct Graph {
    pool: Arc<Pool>,
    id: GraphId,
    /// One replay is given at a time.
    turn: Mutex<()>,
    /// Whatever the work uses.
    _arena: Arc<Arena>,
}

impl Gpu {
    /// Notes what `work` launches, copies and fills instead of doing it, as a [`Graph`]. Buffers that it makes
    /// and gives back are what each replay writes; buffers that it uses stay for as long as the graph.
    ///
    /// Do the same work once before: memory then comes from what that left behind, and the kernels are
    /// loaded. Nothing can be uploaded, downloaded or waited for in a capture. Other threads' work on
    /// this device waits until it is over.
    ///
    /// # Errors
    /// [`Error::Capture`] for what cannot become part of a graph, those of `work`, and [`Error::Call`].
    pub fn capture<R>(&self, work: impl FnOnce() -> Result<R>) -> Result<(Graph, R)> {
        let pool = &self.pool;
        let ordinal = self.properties().ordinal;
        let Some(_capturing) = pool.gate.capture() else {
            let what = "another capture of the same thread".into();
            return Err(Error::Capture { ordinal, what });
        };
        pool.backend().begin_capture()?;
        // Ends the capture also if `work` panics.
        let mut open = Open { pool, arena: pool.open_arena(), ended: false };
        let done = work();
        let id = open.end();
        let made = id.map(|id| Graph {
            pool: Arc::clone(pool),
            id,
            turn: Mutex::default(),
            _arena: Arc::clone(&open.arena),
        });
        // What `work` says comes first: a capture that it broke ends with a less telling error.
        let done = done?;
        Ok((made?, done))
    }
}

struct Open<'a> {
    pool: &'a Pool,
    arena: Arc<Arena>,
    ended: bool,
}

impl Open<'_> {
    fn end(&mut self) -> Result<GraphId> {
        self.ended = true;
        self.pool.close_arena();
        self.pool.backend().end_capture()
    }
}

impl Drop for Open<'_> {
    fn drop(&mut self) {
        if !self.ended
            && let Ok(id) = self.end()
        {
            // SAFETY: it was captured just now and nobody has it.
            unsafe { self.pool.backend().free_graph(id) };
        }
    }
}

impl Graph {
    /// Does the work again; returns before it is done.
    ///
    /// # Errors
    /// [`Error::Call`]; [`Error::Capture`] within a capture.
    pub fn replay(&self) -> Result<()> {
        let gate = self.pool.gate.enter();
        let backend = &**self.pool.backend();
        if gate.capturing {
            let what = "the replay of another graph".into();
            return Err(Error::Capture { ordinal: backend.properties().ordinal, what });
        }
        let _turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        // SAFETY: it was captured here and is freed when dropped, the arena holds its memory, and the lock
        // keeps others from it.
        let replay = || unsafe { backend.replay(self.id) };
        self.pool.recorder.around(backend, "graph replay", replay)
    }
}

impl Drop for Graph {
    fn drop(&mut self) {
        // SAFETY: it was captured here and nobody uses it any longer.
        unsafe { self.pool.backend().free_graph(self.id) };
    }
}

impl fmt::Debug for Graph {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a graph on cuda:{}", self.pool.backend().properties().ordinal)
    }
}
