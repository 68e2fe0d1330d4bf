//! Graphs of steps that repeat: see [`crate::steps`].

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use cuda_kernels::ops::attention::{RowLists, Rows, RowsKind};
use cuda_kernels::{Buffer, Graph};

use super::GpuState;
use super::attention::seen;
use crate::kv::{KvCache, Span};
use crate::steps::{StepCounts, on_host};
use crate::{AttentionRow, Compute, Device, Error, Result, Rope, Tensor};

/// Kinds that are remembered.
const MOST_KINDS: usize = 64;
/// Failures after which a kind is not captured again.
const MOST_FAILURES: u32 = 3;
/// Where each list begins in the memory of all: as `Gpu::alloc` would have it.
const ALIGNMENT: usize = 256;

/// What a step takes from the host.
#[derive(Debug, Default)]
pub(crate) struct Inputs {
    lists: Vec<List>,
    /// Which of the lists each operation takes.
    calls: Vec<usize>,
    fixed: Vec<usize>,
    rows: Option<RowLists>,
    cache: Option<Cache>,
}

/// Bytes, and what they are for: so that those of two operations that are equal by chance are two lists.
#[derive(Debug)]
struct List {
    what: &'static str,
    bytes: Vec<u8>,
}

#[derive(Clone, Debug)]
struct Cache {
    users: Arc<Users>,
    slots: usize,
}

impl Inputs {
    fn list<T: bytemuck::NoUninit>(&mut self, what: &'static str, elements: &[T]) {
        let bytes: &[u8] = bytemuck::cast_slice(elements);
        let known = self.lists.iter().position(|list| list.what == what && list.bytes == bytes);
        let index = known.unwrap_or_else(|| {
            self.lists.push(List { what, bytes: bytes.to_vec() });
            self.lists.len() - 1
        });
        self.calls.push(index);
    }

    pub(crate) fn fixed(&mut self, numbers: &[usize]) {
        self.fixed.push(numbers.len());
        self.fixed.extend(numbers);
    }

    pub(crate) fn embedding(&mut self, ids: &[u32]) -> Result<()> {
        self.list(super::IDS, &super::ints("embedding", ids.iter().map(|&id| id as usize))?);
        Ok(())
    }

    pub(crate) fn gather_rows(&mut self, indices: &[usize]) -> Result<()> {
        self.list(super::ROWS, &super::ints("gather_rows", indices.iter().copied())?);
        Ok(())
    }

    pub(crate) fn attention(
        &mut self,
        angles: Option<&Rope>,
        cache: &dyn KvCache,
        spans: &[Span],
        rows: &[AttentionRow],
    ) -> Result<()> {
        if let Some(Rope { cos, sin, .. }) = angles {
            self.list(super::COSINES, cos);
            self.list(super::SINES, sin);
        }
        if self.cache.is_some() {
            return Ok(());
        }
        let wrong =
            Error::WrongDevice { op: "attention", expected: Device::Cuda(0), got: Device::Cpu };
        let Some(pages) = cache.pages() else { return Err(wrong) };
        let Some(users) = pages.storage.users() else { return Err(wrong) };
        let slots = super::slots(cache, pages.page_slots, spans, rows.len())?;
        self.list(super::SLOTS, &slots);
        self.rows = Some(seen(cache, pages.page_slots, rows)?);
        self.cache = Some(Cache { users: Arc::clone(users), slots: pages.storage.slots() });
        Ok(())
    }

    /// `None` for what is not captured.
    fn kind(&self) -> Option<Kind> {
        let rows = self.rows.as_ref()?.kind().clone();
        Some(Kind {
            cache: self.cache.as_ref()?.users.id,
            lists: self.lists.iter().map(|list| (list.what, list.bytes.len())).collect(),
            calls: self.calls.clone(),
            fixed: self.fixed.clone(),
            rows: Some(rows).filter(|rows| !rows.has_spans())?,
        })
    }

    /// All lists behind each other, those of rows last, and where each begins and ends.
    fn packed(&self) -> (Vec<u8>, Vec<Range<usize>>) {
        let mut all = Vec::new();
        let lists = self.lists.iter().map(|list| &list.bytes[..]);
        let place = |bytes: &[u8]| {
            all.resize(all.len().next_multiple_of(ALIGNMENT), 0);
            let start = all.len();
            all.extend_from_slice(bytes);
            start..all.len()
        };
        let places = lists.chain(self.rows.as_ref().map(RowLists::bytes)).map(place).collect();
        (all, places)
    }
}

/// What the launches of a step depend on.
#[derive(Debug, PartialEq, Eq)]
struct Kind {
    cache: u64,
    lists: Vec<(&'static str, usize)>,
    calls: Vec<usize>,
    fixed: Vec<usize>,
    rows: RowsKind,
}

/// What is known of a kind.
#[derive(Debug)]
enum State {
    /// A step of it was computed; so many captures and replays failed.
    Seen {
        failures: u32,
    },
    Captured(Box<Captured>),
}

/// A step's graph, the memory in which it finds its inputs, and its results.
#[derive(Debug)]
struct Captured {
    graph: Graph,
    inputs: Buffer,
    results: Vec<Option<Tensor>>,
    failures: u32,
}

/// What a capture finds in the place of uploads.
#[derive(Debug)]
pub(crate) struct Bound {
    lists: Vec<(List, Buffer)>,
    rows: (RowLists, Arc<Rows>),
}

impl Bound {
    pub(crate) fn list(&self, what: &'static str, bytes: &[u8]) -> Option<Buffer> {
        let mut lists = self.lists.iter();
        let known = lists.find(|(list, _)| list.what == what && list.bytes == bytes);
        known.map(|(_, buffer)| buffer.clone())
    }

    pub(super) fn rows(&self, lists: &RowLists) -> Option<Arc<Rows>> {
        (self.rows.0 == *lists).then(|| Arc::clone(&self.rows.1))
    }
}

/// The kinds of steps of a model, the last first.
#[derive(Debug, Default)]
pub(crate) struct Graphs {
    kinds: Mutex<VecDeque<(Kind, State)>>,
    counts: Mutex<StepCounts>,
}

impl Graphs {
    pub(crate) fn counts(&self) -> StepCounts {
        *self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn count(&self, add: impl FnOnce(&mut StepCounts)) {
        add(&mut self.counts.lock().unwrap_or_else(PoisonError::into_inner));
    }

    fn take(&self, kind: &Kind) -> Option<State> {
        let mut kinds = self.kinds.lock().unwrap_or_else(PoisonError::into_inner);
        let at = kinds.iter().position(|(known, _)| known == kind)?;
        kinds.remove(at).map(|(_, state)| state)
    }

    fn put(&self, kind: Kind, state: State) {
        let mut kinds = self.kinds.lock().unwrap_or_else(PoisonError::into_inner);
        kinds.push_front((kind, state));
        let forgotten = if kinds.len() > MOST_KINDS { kinds.pop_back() } else { None };
        drop((kinds, forgotten)); // graphs go without the lock
    }

    fn forget(&self, cache: u64) {
        let mut kinds = self.kinds.lock().unwrap_or_else(PoisonError::into_inner);
        let (gone, stay) = kinds.drain(..).partition(|(kind, _)| kind.cache == cache);
        *kinds = stay;
        drop((kinds, gone));
    }
}

/// Whose graphs write to a cache's memory. They hold it, so they go before the cache does.
#[derive(Debug)]
pub(crate) struct Users {
    id: u64,
    graphs: Mutex<Vec<Weak<Graphs>>>,
}

impl Users {
    pub(crate) fn new() -> Arc<Self> {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let id = NEXT.fetch_add(1, Ordering::Relaxed);
        Arc::new(Self { id, graphs: Mutex::default() })
    }

    fn add(&self, graphs: &Arc<Graphs>) {
        let mut all = self.graphs.lock().unwrap_or_else(PoisonError::into_inner);
        all.retain(|known| known.strong_count() > 0);
        if !all.iter().any(|known| std::ptr::eq(known.as_ptr(), &raw const **graphs)) {
            all.push(Arc::downgrade(graphs));
        }
    }

    /// Gives up the graphs.
    pub(crate) fn leave(&self) {
        let all = std::mem::take(&mut *self.graphs.lock().unwrap_or_else(PoisonError::into_inner));
        for graphs in all.iter().filter_map(Weak::upgrade) {
            graphs.forget(self.id);
        }
    }
}

/// A step, as the caller computes it.
type Work<'a, E, const N: usize> = dyn FnMut(&Compute) -> Result<[Option<Tensor>; N], E> + 'a;

impl GpuState {
    pub(crate) fn step<E: From<Error>, const N: usize>(
        &self,
        compute: &Compute,
        graphs: &Arc<Graphs>,
        inputs: &Inputs,
        stay: [bool; N],
        work: &mut Work<'_, E, N>,
    ) -> Result<[Option<Tensor>; N], E> {
        let eager = |work: &mut Work<'_, E, N>| {
            graphs.count(|counts| counts.eager += 1);
            on_host(work(compute)?, stay).map_err(E::from)
        };
        let Some(kind) = inputs.kind() else { return eager(work) };
        let (results, state) = match graphs.take(&kind) {
            None => {
                if let Some(cache) = &inputs.cache {
                    cache.users.add(graphs);
                }
                (eager(work)?, State::Seen { failures: 0 })
            }
            Some(State::Seen { failures: failures @ MOST_FAILURES.. }) => {
                (eager(work)?, State::Seen { failures })
            }
            Some(State::Seen { failures }) => {
                // Before the step, whose memory is what the capture takes.
                let memory = self.gpu.upload(&inputs.packed().0).map_err(Error::from);
                let results = eager(work)?;
                // The capture takes as much for its results while these are still there.
                let held = results.iter().zip(stay).filter(|(_, stays)| *stays);
                let held = held.filter_map(|(result, _)| Some(result.as_ref()?.byte_len()));
                let room: Result<Vec<Buffer>> = held.map(|n| Ok(self.gpu.alloc(n)?)).collect();
                drop(room);
                let captured = memory.and_then(|at| self.capture(compute, inputs, at, work));
                (results, graphs.state(captured, failures))
            }
            Some(State::Captured(mut captured)) => {
                match captured.replay(inputs).and_then(|it| self.taken(it, stay)) {
                    Ok(results) => {
                        graphs.count(|counts| counts.replayed += 1);
                        (results, State::Captured(captured))
                    }
                    Err(_) => {
                        graphs.count(|counts| counts.failed += 1);
                        let failures = captured.failures + 1;
                        drop(captured);
                        (eager(work)?, State::Seen { failures })
                    }
                }
            }
        };
        graphs.put(kind, state);
        Ok(results)
    }

    /// Results of a graph in memory that its next replay does not write.
    fn taken<const N: usize>(
        &self,
        mut results: [Option<Tensor>; N],
        stay: [bool; N],
    ) -> Result<[Option<Tensor>; N]> {
        for (result, _) in results.iter_mut().zip(stay).filter(|(_, stays)| *stays) {
            *result = result.as_ref().map(|result| self.copied(result)).transpose()?;
        }
        on_host(results, stay)
    }

    fn capture<E, const N: usize>(
        &self,
        compute: &Compute,
        inputs: &Inputs,
        memory: Buffer,
        work: &mut Work<'_, E, N>,
    ) -> Result<Captured> {
        let none = || self.not_bound("what fails in a capture alone");
        let (_, mut places) = inputs.packed();
        let (rows, place) = inputs.rows.clone().zip(places.pop()).ok_or_else(none)?;
        let at = rows.at(&memory.slice(place))?;
        let of = |(list, place): (&List, Range<usize>)| {
            let known = List { what: list.what, bytes: list.bytes.clone() };
            (known, memory.slice(place))
        };
        let lists = inputs.lists.iter().zip(places).map(of).collect();
        let bound = Bound { lists, rows: (rows, Arc::new(at)) };
        let with = compute.with_gpu(Self { bound: Some(Arc::new(bound)), ..self.clone() });
        let (graph, results) = self.gpu.capture(|| Ok(work(&with).ok()))?;
        let results = results.ok_or_else(none)?.into();
        Ok(Captured { graph, inputs: memory, results, failures: 0 })
    }
}

impl Graphs {
    /// What a capture makes of a kind that was seen.
    fn state(&self, captured: Result<Captured>, failures: u32) -> State {
        match captured {
            Ok(captured) => {
                self.count(|counts| counts.captured += 1);
                State::Captured(Box::new(Captured { failures, ..captured }))
            }
            Err(_) => {
                self.count(|counts| counts.failed += 1);
                State::Seen { failures: failures + 1 }
            }
        }
    }
}

impl Captured {
    fn replay<const N: usize>(&mut self, inputs: &Inputs) -> Result<[Option<Tensor>; N]> {
        let both = inputs.rows.as_ref().zip(inputs.cache.as_ref());
        if both.is_none_or(|(rows, cache)| rows.slots() > cache.slots) {
            let ordinal = self.inputs.gpu().properties().ordinal;
            let what = "rows beyond those of the cache".into();
            return Err(cuda_kernels::Error::Capture { ordinal, what }.into());
        }
        self.inputs.write(&inputs.packed().0)?;
        self.graph.replay()?;
        Ok(std::array::from_fn(|i| self.results.get(i).cloned().flatten()))
    }
}
