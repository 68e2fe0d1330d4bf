//! Working memory that a thread keeps between calls.

use super::PANEL_GROUPS;
use super::float::FloatGroup;
use super::int8::Int8Group;
#[cfg(target_arch = "x86_64")]
use super::int8::tiles::TileBuffers;
use super::rows::Step;
use crate::simd::LANES;
use std::cell::Cell;

/// Buffers of one thread. Their content means nothing between uses.
#[derive(Default)]
pub(crate) struct Scratch {
    pub(crate) float: [FloatGroup; PANEL_GROUPS],
    pub(crate) int8: [Int8Group; PANEL_GROUPS],
    #[cfg(target_arch = "x86_64")]
    pub(crate) tiles: TileBuffers,
    /// Sums, 16 rows an entry.
    pub(crate) sums: Vec<[f32; LANES]>,
    /// Rows completed with zeros.
    pub(crate) pad: Vec<u8>,
    /// Decoded rows.
    pub(crate) decoded: Vec<f32>,
    /// Sums that lanes step along k with.
    pub(crate) lanes: Vec<Step>,
    /// Unpacked rows.
    pub(crate) panel: Vec<Step>,
    /// The same, transposed.
    pub(crate) slab: Vec<Step>,
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
