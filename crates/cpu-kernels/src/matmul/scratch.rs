//! Working memory that a thread keeps between calls.

use super::PANEL_GROUPS;
use super::int8::Int8Group;
#[cfg(target_arch = "x86_64")]
use super::int8::tiles::TileBuffers;
use super::rows::Step;
use crate::simd::LANES;
use bytemuck::Zeroable;
use std::cell::Cell;

/// Buffers of one thread. Their content means nothing between uses.
#[derive(Default)]
pub(crate) struct Scratch {
    pub(crate) int8: [Int8Group; PANEL_GROUPS],
    #[cfg(target_arch = "x86_64")]
    pub(crate) tiles: TileBuffers,
    /// Sums, 16 rows an entry.
    pub(crate) sums: Sums,
    /// Rows completed with zeros.
    pub(crate) pad: Vec<u8>,
    /// Unpacked rows.
    pub(crate) panel: Vec<Step>,
    /// The same, transposed.
    pub(crate) slab: Vec<Step>,
}

/// Lanes that begin at cache lines: else each access would touch two.
#[derive(Default)]
pub(crate) struct Sums(Vec<Step>);

impl Sums {
    /// `n` entries of zeros.
    pub(crate) fn zeroed(&mut self, n: usize) -> &mut [[f32; LANES]] {
        self.0.clear();
        self.0.resize(n, Step::zeroed());
        bytemuck::cast_slice_mut(&mut self.0)
    }
}

thread_local! {
    static SCRATCH: Cell<Option<Box<Scratch>>> = const { Cell::new(None) };
}

impl Scratch {
    /// This thread's buffers, or fresh ones if they are in use further up. No closure is passed
    /// to, so that kernels stay inside the code compiled for their instructions.
    pub(crate) fn take() -> Box<Scratch> {
        SCRATCH.take().unwrap_or_default()
    }

    /// Keeps the buffers for the next call.
    pub(crate) fn give_back(self: Box<Self>) {
        SCRATCH.set(Some(self));
    }
}
