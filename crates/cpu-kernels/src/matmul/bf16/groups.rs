//! What both kinds of products by tiles cut their activations into.

use super::super::rows::Step;
use super::super::run::Limits;
use super::super::{DisjointMut, Job};
use super::K;
use crate::ThreadPool;
use crate::simd::LANES;
use bytemuck::Zeroable;
use std::ops::Range;

/// Steps of k in a block: of two groups of rows, a block stays in the first-level cache while the
/// activations pass through it two groups after the other; of these, it stays in the second-level one.
pub(super) const BLOCK: usize = 8;

/// Cut for many activations: the sums of a piece stay in the second-level cache.
pub(super) const MANY: Limits = Limits { rows: [2 * LANES, 256], acts: 512, a_thread: 4 };

/// Activations of a group and steps of k.
pub(super) fn shape(job: &Job<'_>) -> [usize; 2] {
    [job.m.min(LANES), job.cols.div_ceil(K)]
}

/// Up to sixteen activations, and where they are laid out.
pub(super) struct Group<'a> {
    pub(super) job: &'a Job<'a>,
    pub(super) acts: Range<usize>,
    /// Lines of a step, those of activations that are missing included.
    pub(super) width: usize,
    pub(super) to: &'a mut [Step],
}

/// Lays out the activations of a product one group after the other.
pub(super) fn pack(
    pool: &ThreadPool,
    job: &Job<'_>,
    to: &mut Vec<Step>,
    lay_out: impl Fn(Group<'_>) + Sync,
) {
    let [width, steps] = shape(job);
    let groups = job.m.div_ceil(width);
    to.resize(groups * steps * width, Step::zeroed());
    let out = &DisjointMut::new(to);
    pool.run(groups, |g| {
        // SAFETY: each group is written once.
        let to = unsafe { out.slice_mut(g * steps * width..(g + 1) * steps * width) };
        lay_out(Group { job, acts: g * width..job.m.min((g + 1) * width), width, to });
    });
}
