//! Dot products along the rows of a weight: sixteen lanes step along k together, and a row's
//! lanes are added up at its end.
//!
//! Rows are read as they lie in a file: nothing is transposed. A lane's sum is one chain of
//! operations over all of k from zero, whatever the blocking; the lanes of an output are added in
//! a fixed order (see [`add_lanes`]). So the cut into blocks, panels and pieces is free, and a
//! row's result depends on nothing else in the batch.
//!
//! Few activations: rows go by as they lie, in four streams, which is what memory takes to be busy.
//! More: blocks of up to 64 rows are unpacked once, transposed so that lanes are rows, and each of
//! the sixteen chains has its turn: a step multiplies 64 weights by a broadcast activation, which
//! takes far less from the caches. An output is the same chains added in the same order either way.

use super::run::Limits;
use super::{DisjointMut, Job, Layout, Piece, Scratch, bf16};
use crate::simd::{LANES, Simd, Tile, dispatch, prefetch_near};
use crate::{Isa, ThreadPool};
use bytemuck::{Pod, Zeroable};

/// What sixteen lanes hold in a step: f32, or pairs of bf16.
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C, align(64))]
pub(crate) struct Step(pub(crate) [f32; LANES]);

/// Steps of k in a block: what one of the chains takes of it stays in the first-level cache.
const BLOCK: usize = 64;

/// The most activations that take a weight as it lies.
const FEW: usize = 12;

/// Bytes of a row between what is multiplied and what is asked for. Memory is slower with 1024 or
/// 4096: the one comes too late, the other waits in a cache that others write to.
const AHEAD: usize = 2048;

/// Activations of a register tile.
const CHUNK: usize = 6;

/// The most activations of a piece: a block of them stays in the second-level cache.
pub(super) const PIECE_ACTS: usize = 256;

/// How the step of a row is read and multiplied.
pub(super) trait Dot<S: Simd> {
    /// The bytes of a step.
    type Bytes: Pod;
    fn load(s: S, from: &Self::Bytes) -> S::F;
    /// `acc` plus the products of `w` and `x`, lane by lane.
    fn step(s: S, acc: S::F, w: S::F, x: S::F) -> S::F;
}

/// Sixteen f32.
pub(super) struct F32;

impl<S: Simd> Dot<S> for F32 {
    type Bytes = [u8; 64];
    #[inline(always)]
    fn load(s: S, from: &[u8; 64]) -> S::F {
        s.as_f(s.load_i(from))
    }
    #[inline(always)]
    fn step(s: S, acc: S::F, w: S::F, x: S::F) -> S::F {
        s.fma(w, x, acc)
    }
}

/// A weight as a family of products takes it.
pub(super) trait Family<S: Simd> {
    /// Rows as they are stored.
    type Stored: Dot<S>;
    /// Elements of a step.
    const K: usize;
    /// Unpacks elements `k0..k0 + k` of a row; what is missing in the last step becomes zeros.
    fn unpack(
        s: S,
        job: &Job<'_>,
        row: usize,
        k: (usize, usize),
        pad: &mut Vec<u8>,
        to: &mut [Step],
    );
}

/// A product whose activations are cut into steps.
pub(super) struct RowProduct<'a> {
    pub(super) job: &'a Job<'a>,
    pub(super) steps: Steps,
    /// The activations, as [`Steps::fill`] cuts them.
    pub(super) x: &'a [Step],
    pub(super) out: &'a DisjointMut<'a, f32>,
}

/// How activations are cut into steps of k.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct Steps {
    /// What elements become.
    elements: Elements,
    /// Steps of a row.
    total: usize,
    /// For rows that are taken as they lie `[activation][step][lane]`, otherwise
    /// `[block][lane][activation][step]`.
    direct: bool,
}

/// What activations are made of in a product along rows.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Elements {
    /// f32 as they are.
    F32,
    /// f32 rounded to bf16.
    RoundedF32,
    /// bf16.
    Bf16,
}

impl Elements {
    /// Elements of a step.
    fn of_step(self) -> usize {
        match self {
            Self::F32 | Self::RoundedF32 => LANES,
            Self::Bf16 => 2 * LANES,
        }
    }

    /// Writes a whole row, with zeros where it ends early.
    fn fill(self, isa: Isa, row: &[f32], to: &mut [Step]) {
        if self == Self::Bf16 {
            return dispatch(isa, bf16::Round { row, to });
        }
        let to: &mut [f32] = bytemuck::cast_slice_mut(to);
        to[..row.len()].copy_from_slice(row);
        to[row.len()..].fill(0.0);
        if self == Self::RoundedF32 {
            to.iter_mut().for_each(|x| *x = bf16::rounded(*x));
        }
    }
}

impl Steps {
    /// For a product whose weight may meet activations as it is `stored`.
    pub(super) fn new(job: &Job<'_>, elements: Elements, stored: bool) -> Self {
        let k = elements.of_step();
        let in_place = job.cols.is_multiple_of(k) && job.source.layout == Layout::Rows;
        let direct = stored && job.m <= FEW && in_place;
        Steps { elements, total: job.cols.div_ceil(k), direct }
    }

    /// Whether the steps hold activations that were rounded.
    pub(super) fn is_rounded(self) -> bool {
        self.elements != Elements::F32
    }

    /// The pieces that such a product can be cut into.
    pub(super) fn limits(self) -> Limits {
        match self.direct {
            true => Limits::streams(LANES),
            false => Limits::panels(PIECE_ACTS),
        }
    }

    /// Cuts the activations of a product.
    pub(super) fn fill(self, pool: &ThreadPool, job: &Job<'_>, to: &mut Vec<Step>) {
        let Steps { elements, total, direct } = self;
        let m = job.m;
        to.resize(m * total, Step::zeroed());
        let out = &DisjointMut::new(bytemuck::cast_slice_mut::<Step, f32>(to));
        // Some rows a chunk: a row is a microsecond or so.
        const ROWS: usize = 8;
        pool.run(m.div_ceil(ROWS), |chunk| {
            let mut own = Scratch::take();
            let row = &mut own.slab;
            row.resize(total, Step::zeroed());
            for i in chunk * ROWS..m.min((chunk + 1) * ROWS) {
                elements.fill(job.isa, &job.x[i * job.cols..][..job.cols], row);
                if direct {
                    let at = i * total * LANES;
                    // SAFETY: row `i` belongs to this chunk alone.
                    let to = unsafe { out.slice_mut(at..at + total * LANES) };
                    to.copy_from_slice(bytemuck::cast_slice(row));
                    continue;
                }
                for (block, steps) in row.chunks(BLOCK).enumerate() {
                    let n = steps.len();
                    for lane in 0..LANES {
                        let at = block * BLOCK * LANES * m + (lane * m + i) * n;
                        // SAFETY: row `i` belongs to this chunk alone.
                        let to = unsafe { out.slice_mut(at..at + n) };
                        for (to, step) in to.iter_mut().zip(steps) {
                            *to = step.0[lane];
                        }
                    }
                }
            }
            own.give_back();
        });
    }
}

impl RowProduct<'_> {
    #[inline(always)]
    pub(super) fn piece<S: Simd, F: Family<S>>(&self, s: S, piece: &Piece) {
        let mut own = Scratch::take();
        if self.steps.direct {
            self.stream::<S, F>(s, piece, &mut own);
        } else {
            self.sweep::<S, F>(s, piece, &mut own);
        }
        own.give_back();
    }

    /// Rows as they lie: four at once from the quarters of the piece, so that four long streams of
    /// memory are under way.
    #[inline(always)]
    fn stream<S: Simd, F: Family<S>>(&self, s: S, piece: &Piece, scratch: &mut Scratch) {
        let (job, n, stride) = (self.job, self.steps.total, self.job.source.stride);
        let rows = piece.rows.len();
        let padded = rows.next_multiple_of(LANES);
        // `[activation][row][lane]`
        let sums = scratch.sums.zeroed(job.m * padded);
        let bytes = &job.source.bytes[piece.rows.start * stride..][..rows * stride];
        let streams =
            Streams::<S, F::Stored> { rows: bytemuck::cast_slice(bytes), n, x: self.x, padded };
        let quarter = if S::MANY_REGISTERS { rows / 4 } else { 0 };
        for row in 0..quarter {
            streams.rows(s, [row, row + quarter, row + 2 * quarter, row + 3 * quarter], sums);
        }
        for row in 4 * quarter..rows {
            streams.rows(s, [row], sums);
        }
        for (i, sums) in sums.chunks_exact(padded).enumerate() {
            for (group, sums) in sums.as_chunks::<LANES>().0.iter().enumerate() {
                let line = size_of::<Step>();
                let tile = Tile::new(bytemuck::cast_slice(sums), line, line);
                let mut lanes = [s.splat_f(0.0); LANES];
                for (at, lanes) in lanes.chunks_exact_mut(4).enumerate() {
                    for (lane, line) in lanes.iter_mut().zip(s.load_4(tile, 16 * at)) {
                        *lane = s.as_f(line);
                    }
                }
                let row = piece.rows.start + group * LANES;
                self.store(s, add_lanes(s, lanes), i, row..piece.rows.end.min(row + LANES));
            }
        }
    }

    /// Rows unpacked and transposed, a block of k after the other.
    #[inline(always)]
    fn sweep<S: Simd, F: Family<S>>(&self, s: S, piece: &Piece, scratch: &mut Scratch) {
        let (job, m) = (self.job, piece.acts.len());
        let Scratch { sums, panel, slab, pad, .. } = scratch;
        let groups = piece.rows.len().div_ceil(LANES);
        let sums = sums.zeroed(LANES * m * groups);
        for first in (0..self.steps.total).step_by(BLOCK) {
            let n = BLOCK.min(self.steps.total - first);
            panel.resize(LANES * n, Step::zeroed());
            slab.resize(LANES * groups * n, Step::zeroed());
            let k = (first * F::K, (n * F::K).min(job.cols - first * F::K));
            for g in 0..groups {
                let row = piece.rows.start + g * LANES;
                for (r, to) in panel.chunks_exact_mut(n).enumerate() {
                    if row + r < piece.rows.end {
                        F::unpack(s, job, row + r, k, pad, to);
                    } else {
                        to.fill(Step::zeroed());
                    }
                }
                let stride = n * size_of::<Step>();
                let tile = Tile::new(bytemuck::cast_slice(panel), stride, stride);
                for step in 0..n {
                    for at in 0..LANES / 4 {
                        let lines = s.load_4(tile, step * size_of::<Step>() + 16 * at);
                        for (lane, line) in (4 * at..).zip(lines) {
                            let to = &mut slab[(lane * groups + g) * n + step];
                            s.store_f(s.as_f(line), &mut to.0);
                        }
                    }
                }
            }
            let x: &[f32] = bytemuck::cast_slice(self.x);
            for (lane, (slab, sums)) in
                slab.chunks_exact(groups * n).zip(sums.chunks_exact_mut(m * groups)).enumerate()
            {
                let at = first * LANES * job.m + (lane * job.m + piece.acts.start) * n;
                sweep_chain::<S, F::Stored>(s, slab, n, &x[at..at + m * n], groups, sums);
            }
        }
        for i in 0..m {
            for g in 0..groups {
                let mut lanes = [s.splat_f(0.0); LANES];
                for (lane, sum) in lanes.iter_mut().enumerate() {
                    *sum = s.load_f(&sums[(lane * m + i) * groups + g]);
                }
                let row = piece.rows.start + g * LANES;
                let rows = row..piece.rows.end.min(row + LANES);
                self.store(s, add_lanes(s, lanes), piece.acts.start + i, rows);
            }
        }
    }

    /// Writes up to sixteen rows of activation `i`, with the bias added.
    #[inline(always)]
    fn store<S: Simd>(&self, s: S, sums: S::F, i: usize, rows: std::ops::Range<usize>) {
        let at = i * self.job.source.rows + rows.start;
        // SAFETY: a piece alone writes its rows for its activations.
        let to = unsafe { self.out.slice_mut(at..at + rows.len()) };
        let mut lanes = [0.0; LANES];
        s.store_f(sums, &mut lanes);
        to.copy_from_slice(&lanes[..to.len()]);
        if let Some(bias) = self.job.bias {
            for (to, bias) in to.iter_mut().zip(&bias[rows]) {
                *to += bias;
            }
        }
    }
}

/// Rows of a piece as they lie, and the activations that each of them meets.
struct Streams<'a, S: Simd, D: Dot<S>> {
    /// `n` steps a row.
    rows: &'a [D::Bytes],
    n: usize,
    x: &'a [Step],
    /// Rows of the sums.
    padded: usize,
}

impl<S: Simd, D: Dot<S>> Streams<'_, S, D> {
    /// The chains of these rows with every activation, `sums[i * padded + row]`.
    #[inline(always)]
    fn rows<const R: usize>(&self, s: S, rows: [usize; R], sums: &mut [[f32; LANES]]) {
        let m = self.x.len().checked_div(self.n).unwrap_or(0);
        let mut i = 0;
        while i < m {
            let done = match (R, m - i) {
                (4, 6..) => self.tile::<R, 6>(s, rows, i, sums),
                (4, 3..) => self.tile::<R, 3>(s, rows, i, sums),
                (_, 2..) => self.tile::<R, 2>(s, rows, i, sums),
                _ => self.tile::<R, 1>(s, rows, i, sums),
            };
            i += done;
        }
    }

    /// `R` rows by `M` activations from `i` on in registers, lanes along k; what comes after these
    /// rows will be needed next. Returns `M`.
    #[inline(always)]
    fn tile<const R: usize, const M: usize>(
        &self,
        s: S,
        rows: [usize; R],
        i: usize,
        sums: &mut [[f32; LANES]],
    ) -> usize {
        let n = self.n;
        let mut w = [&self.rows[..n]; R];
        for r in 0..R {
            w[r] = &self.rows[rows[r] * n..][..n];
        }
        let mut xs = [&self.x[..n]; M];
        for j in 0..M {
            xs[j] = &self.x[(i + j) * n..][..n];
        }
        let mut acc = [[s.splat_f(0.0); M]; R];
        for k in 0..n {
            let mut v = [s.splat_f(0.0); R];
            for r in 0..R {
                prefetch_near(w[r].as_ptr().wrapping_add(k).cast::<u8>().wrapping_add(AHEAD));
                v[r] = D::load(s, &w[r][k]);
            }
            for j in 0..M {
                let x = s.load_f(&xs[j][k].0);
                for r in 0..R {
                    acc[r][j] = D::step(s, acc[r][j], v[r], x);
                }
            }
        }
        for j in 0..M {
            for r in 0..R {
                s.store_f(acc[r][j], &mut sums[(i + j) * self.padded + rows[r]]);
            }
        }
        M
    }
}

/// Adds to `sums[i * groups + g]` the products of `n` steps of one chain of group `g`, lanes being
/// rows, with those of activation `i`.
#[inline(always)]
fn sweep_chain<S: Simd, D: Dot<S>>(
    s: S,
    slab: &[Step],
    n: usize,
    x: &[f32],
    groups: usize,
    sums: &mut [[f32; LANES]],
) {
    let mut g = 0;
    while g < groups {
        let quad = S::MANY_REGISTERS && groups - g >= 4;
        let slab = &slab[g * n..];
        let mut i = 0;
        while i * n < x.len() {
            let (x, sums) = (&x[i * n..], &mut sums[i * groups + g..]);
            i += match (quad, x.len() / n) {
                (true, 6..) => chain_tile::<S, D, 4, CHUNK>(s, slab, n, x, groups, sums),
                (true, 2..) => chain_tile::<S, D, 4, 2>(s, slab, n, x, groups, sums),
                (true, _) => chain_tile::<S, D, 4, 1>(s, slab, n, x, groups, sums),
                (false, 6..) => chain_tile::<S, D, 1, CHUNK>(s, slab, n, x, groups, sums),
                (false, 2..) => chain_tile::<S, D, 1, 2>(s, slab, n, x, groups, sums),
                (false, _) => chain_tile::<S, D, 1, 1>(s, slab, n, x, groups, sums),
            };
        }
        g += if quad { 4 } else { 1 };
    }
}

/// `G` groups by `M` activations in registers. Returns `M`.
#[inline(always)]
fn chain_tile<S: Simd, D: Dot<S>, const G: usize, const M: usize>(
    s: S,
    slab: &[Step],
    n: usize,
    x: &[f32],
    groups: usize,
    sums: &mut [[f32; LANES]],
) -> usize {
    let mut w = [&slab[..n]; G];
    for g in 0..G {
        w[g] = &slab[g * n..][..n];
    }
    let mut xs = [&x[..n]; M];
    for i in 0..M {
        xs[i] = &x[i * n..][..n];
    }
    let mut acc = [[s.splat_f(0.0); M]; G];
    for i in 0..M {
        for g in 0..G {
            acc[g][i] = s.load_f(&sums[i * groups + g]);
        }
    }
    for k in 0..n {
        let mut v = [s.splat_f(0.0); G];
        for g in 0..G {
            v[g] = s.load_f(&w[g][k].0);
        }
        for i in 0..M {
            let x = s.splat_f(xs[i][k]);
            for g in 0..G {
                acc[g][i] = D::step(s, acc[g][i], v[g], x);
            }
        }
    }
    for i in 0..M {
        for g in 0..G {
            s.store_f(acc[g][i], &mut sums[i * groups + g]);
        }
    }
    M
}

/// Asks for the lines of `len` bytes from `start` on to be brought to the second-level cache.
#[inline(always)]
pub(super) fn prefetch(start: *const u8, len: usize) {
    for at in (0..len).step_by(crate::simd::CACHE_LINE) {
        crate::simd::prefetch(start.wrapping_add(at));
    }
}

/// The sum of the chains of 16 rows: of `l` and `l + 8` first, then of these and those 4 further,
/// 2 further, and 1.
#[inline(always)]
fn add_lanes<S: Simd>(s: S, mut lanes: [S::F; LANES]) -> S::F {
    for half in [8, 4, 2, 1] {
        for l in 0..half {
            lanes[l] = s.add(lanes[l], lanes[l + half]);
        }
    }
    lanes[0]
}
