//! Dot products along the rows of a weight: sixteen lanes step along k together, and a row's
//! lanes are added up at its end.
//!
//! Rows are read as they lie in a file: nothing is transposed. A lane's sum is one chain of
//! operations over all of k from zero, whatever the blocking; the lanes of an output are added in
//! a fixed order (see [`add_lanes`]). So the cut into blocks, panels and pieces is free, and a
//! row's result depends on nothing else in the batch.
//!
//! Few activations: four rows at a time go by in one stream, with the next four on their way.
//! More: blocks of sixteen rows are unpacked once into the first-level cache and swept by all
//! activations, in register tiles of four rows by six activations.

use super::{DisjointMut, Job, Layout, Piece, Scratch};
use crate::ThreadPool;
use crate::simd::{LANES, Simd, Tile};
use bytemuck::{Pod, Zeroable};

/// What sixteen lanes hold in a step: f32, or pairs of bf16.
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C, align(64))]
pub(crate) struct Step(pub(crate) [f32; LANES]);

/// Steps of k in a block: with sixteen rows and six activations it stays in the first-level cache.
const BLOCK: usize = 32;

/// The most activations that take a weight as it lies.
const FEW: usize = 6;

/// The most activations of a piece: a block of them stays in the second-level cache.
const PIECE_ACTS: usize = 256;

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
    /// Rows unpacked.
    type Unpacked: Dot<S>;
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
pub(super) struct Product<'a> {
    pub(super) job: &'a Job<'a>,
    /// `[block][activation][step]`: see [`Steps`].
    pub(super) x: &'a [Step],
    pub(super) steps: Steps,
    pub(super) out: &'a DisjointMut<'a, f32>,
}

/// How rows of k are cut: `total` steps in blocks of `block`, the last block the shorter.
#[derive(Clone, Copy)]
pub(super) struct Steps {
    k: usize,
    pub(super) total: usize,
    block: usize,
    direct: bool,
}

impl Steps {
    /// For steps of `k` elements, with rows that may be taken as they are `stored`.
    pub(super) fn new(job: &Job<'_>, k: usize, stored: bool) -> Steps {
        let total = job.cols.div_ceil(k);
        let direct = stored
            && job.m <= FEW
            && job.cols.is_multiple_of(k)
            && job.source.layout == Layout::Rows;
        let block = if direct { total } else { BLOCK };
        Steps { k, total, block, direct }
    }

    /// Cuts activations: `fill(row, steps)` writes a row's part from an f32 slice.
    pub(super) fn cut(
        &self,
        pool: &ThreadPool,
        job: &Job<'_>,
        fill: impl Fn(&[f32], &mut [Step]) + Sync,
    ) -> Vec<Step> {
        let mut x = vec![Step::zeroed(); job.m * self.total];
        let out = &DisjointMut::new(&mut x);
        // Some rows a chunk: a row is a microsecond or so.
        const ROWS: usize = 16;
        pool.run(job.m.div_ceil(ROWS), |chunk| {
            for i in chunk * ROWS..job.m.min((chunk + 1) * ROWS) {
                let row = &job.x[i * job.cols..][..job.cols];
                for (block, row) in row.chunks(self.block.max(1) * self.k).enumerate() {
                    let at = self.at(block, i, job.m);
                    // SAFETY: this block of row `i` belongs to this chunk alone.
                    fill(row, unsafe { out.slice_mut(at..at + self.len(block)) });
                }
            }
        });
        x
    }

    fn blocks(&self) -> usize {
        self.total.div_ceil(self.block.max(1))
    }

    /// Steps of a block.
    fn len(&self, block: usize) -> usize {
        self.block.min(self.total - block * self.block)
    }

    /// Where a block of activation `i` of `m` begins.
    fn at(&self, block: usize, i: usize, m: usize) -> usize {
        block * self.block * m + i * self.len(block)
    }
}

impl Product<'_> {
    /// Runs `piece` for each piece of the product.
    pub(super) fn for_pieces(&self, pool: &ThreadPool, piece: impl Fn(Piece) + Sync) {
        if !self.steps.direct {
            return self.job.for_pieces(pool, PIECE_ACTS, piece);
        }
        // Long streams, enough of them that threads finish together.
        let rows = self.job.source.rows;
        let share = (rows / (8 * pool.threads())).clamp(LANES, 256).next_multiple_of(LANES);
        pool.run(rows.div_ceil(share), |i| {
            piece(Piece { rows: i * share..rows.min((i + 1) * share), acts: 0..self.job.m });
        });
    }

    /// One piece, sixteen rows after sixteen rows.
    #[inline(always)]
    pub(super) fn piece<S: Simd, F: Family<S>>(&self, s: S, piece: &Piece) {
        let (job, steps) = (self.job, self.steps);
        let m = piece.acts.len();
        let mut own = Scratch::take();
        let Scratch { sums, panel, pad, .. } = &mut *own;
        for row in piece.rows.clone().step_by(LANES) {
            let rows = LANES.min(piece.rows.end - row);
            sums.clear();
            sums.resize(m * LANES, [0.0; LANES]);
            for block in 0..steps.blocks() {
                let n = steps.len(block);
                let x = &self.x[steps.at(block, piece.acts.start, job.m)..][..m * n];
                if steps.direct {
                    let stride = job.source.stride;
                    let bytes = &job.source.bytes[row * stride..][..rows * stride];
                    sweep::<S, F::Stored, true>(s, bytemuck::cast_slice(bytes), n, x, sums);
                } else {
                    panel.resize(rows * n, Step::zeroed());
                    let k0 = block * BLOCK * F::K;
                    let k = (k0, (n * F::K).min(job.cols - k0));
                    for (r, to) in panel.chunks_exact_mut(n).enumerate() {
                        F::unpack(s, job, row + r, k, pad, to);
                    }
                    let lines = bytemuck::cast_slice(panel);
                    sweep::<S, F::Unpacked, false>(s, lines, n, x, sums);
                }
            }
            for (i, sums) in piece.acts.clone().zip(sums.as_chunks::<LANES>().0) {
                let at = i * job.source.rows + row;
                // SAFETY: this piece alone writes its rows for its activations.
                let to = unsafe { self.out.slice_mut(at..at + rows) };
                let mut sum = [0.0; LANES];
                s.store_f(add_lanes(s, sums), &mut sum);
                to.copy_from_slice(&sum[..rows]);
                if let Some(bias) = job.bias {
                    for (to, bias) in to.iter_mut().zip(&bias[row..row + rows]) {
                        *to += bias;
                    }
                }
            }
        }
        own.give_back();
    }
}

/// Adds to `sums[i][r]` the products of `n` steps of row `r`, of up to 16 in `rows`, with activation
/// `i`. `STREAM`: what comes after these rows will be needed next.
#[inline(always)]
fn sweep<S: Simd, D: Dot<S>, const STREAM: bool>(
    s: S,
    rows: &[D::Bytes],
    n: usize,
    x: &[Step],
    sums: &mut [[f32; LANES]],
) {
    if n == 0 {
        return;
    }
    for (x, sums) in x.chunks(FEW * n).zip(sums.chunks_mut(FEW * LANES)) {
        let mut r = 0;
        while r * n < rows.len() {
            let (rows, sums) = (&rows[r * n..], &mut sums[r..]);
            let quad = rows.len() >= 4 * n;
            r += match (S::MANY_REGISTERS, quad, x.len() / n) {
                (true, true, 6) => tile::<S, D, STREAM, 4, 6>(s, rows, n, x, sums),
                (true, true, 5) => tile::<S, D, STREAM, 4, 5>(s, rows, n, x, sums),
                (true, true, 4) => tile::<S, D, STREAM, 4, 4>(s, rows, n, x, sums),
                (true, true, 3) => tile::<S, D, STREAM, 4, 3>(s, rows, n, x, sums),
                (_, true, 2) => tile::<S, D, STREAM, 4, 2>(s, rows, n, x, sums),
                (_, true, 1) => tile::<S, D, STREAM, 4, 1>(s, rows, n, x, sums),
                (_, _, m) => {
                    // Few registers, or few rows.
                    let step = if rows.len() >= 2 * n { 2 } else { 1 };
                    let mut i = 0;
                    while i < m {
                        let (x, sums) = (&x[i * n..], &mut sums[i * LANES..]);
                        i += 2.min(m - i);
                        match (step, x.len() / n) {
                            (2, 1) => tile::<S, D, STREAM, 2, 1>(s, rows, n, x, sums),
                            (2, _) => tile::<S, D, STREAM, 2, 2>(s, rows, n, x, sums),
                            (_, 1) => tile::<S, D, STREAM, 1, 1>(s, rows, n, x, sums),
                            (_, _) => tile::<S, D, STREAM, 1, 2>(s, rows, n, x, sums),
                        };
                    }
                    step
                }
            };
        }
    }
}

/// `R` rows by `M` activations in registers. Returns `R`.
#[inline(always)]
fn tile<S: Simd, D: Dot<S>, const STREAM: bool, const R: usize, const M: usize>(
    s: S,
    rows: &[D::Bytes],
    n: usize,
    x: &[Step],
    sums: &mut [[f32; LANES]],
) -> usize {
    let mut w = [&rows[..n]; R];
    for r in 0..R {
        w[r] = &rows[r * n..][..n];
    }
    let mut xs = [&x[..n]; M];
    for i in 0..M {
        xs[i] = &x[i * n..][..n];
    }
    let mut acc = [[s.splat_f(0.0); M]; R];
    for i in 0..M {
        for r in 0..R {
            acc[r][i] = s.load_f(&sums[i * LANES + r]);
        }
    }
    let next = rows.as_ptr().wrapping_add(R * n).cast::<u8>();
    for k in 0..n {
        if STREAM {
            prefetch(next.wrapping_add(k * R * size_of::<D::Bytes>()), R * size_of::<D::Bytes>());
        }
        let mut v = [s.splat_f(0.0); R];
        for r in 0..R {
            v[r] = D::load(s, &w[r][k]);
        }
        for i in 0..M {
            let x = s.load_f(&xs[i][k].0);
            for r in 0..R {
                acc[r][i] = D::step(s, acc[r][i], v[r], x);
            }
        }
    }
    for i in 0..M {
        for r in 0..R {
            s.store_f(acc[r][i], &mut sums[i * LANES + r]);
        }
    }
    R
}

/// Asks for the lines of `len` bytes from `start` on to be brought to the second-level cache.
#[inline(always)]
pub(super) fn prefetch(start: *const u8, len: usize) {
    #[cfg(target_arch = "x86_64")]
    for at in (0..len).step_by(64) {
        use std::arch::x86_64::{_MM_HINT_T1, _mm_prefetch};
        // SAFETY: a prefetch is a hint: it reads nothing and faults at no address.
        unsafe { _mm_prefetch::<_MM_HINT_T1>(start.wrapping_add(at).cast()) };
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = (start, len);
}

/// The sum of the lanes of each of 16 rows: of `l` and `l + 8` first, then of these and those 4
/// further, 2 further, and 1.
#[inline(always)]
fn add_lanes<S: Simd>(s: S, sums: &[[f32; LANES]; LANES]) -> S::F {
    let tile = Tile::new(bytemuck::cast_slice(sums), size_of_val(&sums[0]), size_of_val(&sums[0]));
    let mut lanes = [s.splat_f(0.0); LANES];
    for (i, lanes) in lanes.chunks_exact_mut(4).enumerate() {
        let lines = s.load_4(tile, 16 * i);
        for (lane, line) in lanes.iter_mut().zip(lines) {
            *lane = s.as_f(line);
        }
    }
    for half in [8, 4, 2, 1] {
        for l in 0..half {
            lanes[l] = s.add(lanes[l], lanes[l + half]);
        }
    }
    lanes[0]
}
