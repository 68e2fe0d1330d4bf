//! What the two kinds of memory have in common, as the simulation sees them.

use serde::Serialize;
use workload::Request;

/// Who manages the memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Allocator {
    /// One stretch of the declared length a request, in the first hole that is large enough.
    FirstFit,
    /// The same, in the smallest hole that is large enough.
    BestFit,
    /// One stretch of the model's maximum length a request.
    ReserveMaximum,
    /// Blocks of a fixed size, taken as the request grows.
    Pages,
}

impl Allocator {
    /// As on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::FirstFit => "first-fit",
            Self::BestFit => "best-fit",
            Self::ReserveMaximum => "reserve-maximum",
            Self::Pages => "pages",
        }
    }
}

/// What keeps a request out, in slots (positions).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Shortage {
    /// Slots needed at once.
    pub need: u64,
    /// Slots that one request could get: the largest hole, or all free blocks.
    pub largest_hole: u64,
    /// Slots that are free.
    pub free: u64,
}

impl Shortage {
    /// Whether there is enough, but not in one piece.
    pub fn is_fragmentation(&self) -> bool {
        self.largest_hole < self.need && self.need <= self.free
    }

    /// Whether it could be had.
    pub fn fits(&self) -> bool {
        self.need <= self.largest_hole
    }
}

/// Where the memory goes, in slots.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Usage {
    /// Slots that hold a position.
    pub held: u64,
    /// Allocated, and will hold a position of the same request later.
    pub later: u64,
    /// Allocated, and will never hold one: internal fragmentation.
    pub never: u64,
    /// Free, and not to be had in one piece with the rest: external fragmentation.
    pub scattered: u64,
    /// The other free slots.
    pub free: u64,
}

impl Usage {
    /// Allocated slots.
    pub fn allocated(&self) -> u64 {
        self.held + self.later + self.never
    }
}

/// A stretch of slots that a request holds for a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Tenure {
    /// The request (for shared blocks, the first).
    pub request: u32,
    /// The first slot.
    pub start: u64,
    /// How many.
    pub len: u64,
    /// From when, in microseconds.
    pub from: u64,
    /// Until when.
    pub to: u64,
}

/// How a preempted request comes back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Preemption {
    /// Its blocks go to the host and come back.
    Swap,
    /// Its blocks are freed, and its positions computed again.
    Recompute,
}

/// A request that was taken in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Admission {
    /// Positions that need not be computed.
    pub cached: usize,
    /// Bytes copied from the host.
    pub swapped_bytes: u64,
}

/// Memory for the keys and values of running requests. All lengths are in slots.
pub trait Memory {
    /// Takes a request in with `len` positions: its prompt, and after a preemption what it generated
    /// before. `alone` says that nothing else runs.
    ///
    /// # Errors
    /// What is missing; nothing has changed.
    fn admit(&mut self, request: &Request, len: usize, alone: bool) -> Result<Admission, Shortage>;

    /// The positions that it was admitted with are computed.
    fn computed(&mut self, request: &Request);

    /// Room for one more position of a running request.
    ///
    /// # Errors
    /// What is missing; nothing has changed. Preempt another, and ask again.
    fn grow(&mut self, request: &Request) -> Result<(), Shortage>;

    /// Takes a running request's memory away; bytes copied to the host.
    fn preempt(&mut self, request: &Request) -> (Preemption, u64);

    /// A running request has ended.
    fn finish(&mut self, request: &Request);

    /// What a request of `len` positions would lack now, and would have if it could be taken in.
    fn shortage(&self, request: &Request, len: usize) -> Shortage;

    /// The most slots that a request can get when it has the memory to itself, and those that this
    /// one needs at its longest.
    fn most(&self, request: &Request) -> (u64, u64);

    /// Where the memory goes now.
    fn usage(&self) -> Usage;

    /// Sets the clock by which tenures are recorded, in microseconds.
    fn set_time(&mut self, now: u64);

    /// Who held what until now, and the memory's own counts.
    fn into_record(self: Box<Self>) -> MemoryRecord;
}

/// What remains of a memory when the simulation is over.
#[derive(Clone, Debug, Default)]
pub struct MemoryRecord {
    /// Who held what.
    pub tenures: Vec<Tenure>,
    /// Of pages.
    pub pages: Option<paged_kv::KvStats>,
}
