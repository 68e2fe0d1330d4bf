//! One stretch of memory a request.

use std::collections::HashMap;

use paged_kv::{ContiguousAllocator, Extent};
use workload::Request;

use crate::memory::{Admission, Memory, MemoryRecord, Preemption, Shortage, Tenure, Usage};

/// A request's stretch.
#[derive(Clone, Copy, Debug)]
struct Held {
    extent: Extent,
    since: u64,
    len: u64,
    /// Slots that it will have filled at its end.
    total: u64,
}

/// Memory in stretches; a request gets all that it may need when it starts, and never waits again.
#[derive(Clone, Debug)]
pub struct ContiguousMemory {
    allocator: ContiguousAllocator,
    held: HashMap<u32, Held>,
    tenures: Vec<Tenure>,
    now: u64,
}

impl ContiguousMemory {
    /// Memory that `allocator` manages.
    pub fn new(allocator: ContiguousAllocator) -> Self {
        Self { allocator, held: HashMap::new(), tenures: Vec::new(), now: 0 }
    }

    fn need(&self, request: &Request) -> u64 {
        self.allocator.reserved_for(request.declared() as u64)
    }
}

impl Memory for ContiguousMemory {
    fn admit(&mut self, request: &Request, len: usize, _: bool) -> Result<Admission, Shortage> {
        let taken = self.allocator.allocate(request.declared() as u64);
        let Ok(extent) = taken else { return Err(self.shortage(request, len)) };
        let (len, total) = (len as u64, request.total() as u64);
        self.held.insert(request.id, Held { extent, since: self.now, len, total });
        Ok(Admission::default())
    }

    fn computed(&mut self, _: &Request) {}

    fn grow(&mut self, request: &Request) -> Result<(), Shortage> {
        self.held.get_mut(&request.id).expect("it runs").len += 1;
        Ok(())
    }

    /// Never needed: a request has all its memory from the start.
    fn preempt(&mut self, request: &Request) -> (Preemption, u64) {
        self.finish(request);
        (Preemption::Recompute, 0)
    }

    fn finish(&mut self, request: &Request) {
        let held = self.held.remove(&request.id).expect("it runs");
        let Extent { start, len } = held.extent;
        let (from, to) = (held.since, self.now);
        self.tenures.push(Tenure { request: request.id, start, len, from, to });
        self.allocator.release(held.extent).expect("it was allocated");
    }

    fn shortage(&self, request: &Request, _: usize) -> Shortage {
        let (largest_hole, free) = (self.allocator.largest_hole(), self.allocator.free());
        Shortage { need: self.need(request), largest_hole, free }
    }

    fn most(&self, request: &Request) -> (u64, u64) {
        (self.allocator.total(), self.need(request))
    }

    fn usage(&self) -> Usage {
        let (free, largest) = (self.allocator.free(), self.allocator.largest_hole());
        let mut usage = Usage { scattered: free - largest, free: largest, ..Default::default() };
        for held in self.held.values() {
            usage.held += held.len;
            usage.later += held.total - held.len;
            usage.never += held.extent.len - held.total;
        }
        usage
    }

    fn set_time(&mut self, now: u64) {
        self.now = now;
    }

    fn into_record(self: Box<Self>) -> MemoryRecord {
        MemoryRecord { tenures: self.tenures, pages: None }
    }
}
