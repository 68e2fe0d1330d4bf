//! Products of bf16 by AMX's tiles with interleaved weights.
//!
//! What [`interleave`](crate::matmul::interleave) makes of bf16, pairs of k of sixteen rows in a line,
//! is the right factor as the tiles want it: nothing is unpacked. The left one is activations, rounded,
//! and sums come out an activation a line, as they are stored. Each output has the bits that
//! [`tiles`](super::tiles) gives it: the same sums of the same products, with the factors exchanged.

use super::super::run::Limits;
use super::super::{DisjointMut, Job, Layout, Piece, Scratch};
use super::groups::{self, BLOCK, Group, MANY, shape};
use super::{K, Round};
use crate::ThreadPool;
use crate::amx::{TileConfig, tile};
use crate::matmul::rows::Step;
use crate::simd::{self, CACHE_LINE, LANES, Op, Simd, dispatch, dispatch_tiles};
use blocks::DType;
use bytemuck::Zeroable;
use std::ops::Range;

/// Groups of rows that go by together where activations are few: one stream alone does not keep memory
/// busy.
const STREAMS: usize = 4;

/// Steps between what is multiplied and what is asked for, where activations are few.
const AHEAD: usize = 4;

/// Bytes of a line, and of a tile of weights.
const LINE: usize = size_of::<Step>();
const TILE: usize = LANES * LINE;

/// Whether tiles multiply a product's weights as they lie.
pub(in crate::matmul) fn fits(job: &Job<'_>) -> bool {
    job.source.layout == Layout::Interleaved
        && job.dtype == DType::BF16
        && job.cols.is_multiple_of(K)
}

/// Whether each weight is of use but once.
fn few(job: &Job<'_>) -> bool {
    job.m <= LANES
}

/// The pieces that such a product can be cut into.
pub(in crate::matmul) fn limits(job: &Job<'_>) -> Limits {
    match few(job) {
        true => Limits::streams(STREAMS * LANES),
        false => MANY,
    }
}

/// Rounds the activations of a product: `[group][step][activation][k]`, groups of 16 or of all there are.
pub(in crate::matmul) fn pack(pool: &ThreadPool, job: &Job<'_>, to: &mut Vec<Step>) {
    groups::pack(pool, job, to, |group| dispatch(job.isa, Rounded(group)));
}

/// Rounds a group; activations that are missing become zeros.
struct Rounded<'a>(Group<'a>);

impl Op for Rounded<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Group { job, acts, width, to } = self.0;
        for line in 0..width {
            let to = to[line..].iter_mut().step_by(width);
            if acts.start + line < acts.end {
                let row = &job.x[(acts.start + line) * job.cols..][..job.cols];
                for (row, to) in row.as_chunks::<K>().0.iter().zip(to) {
                    Round { row, to: std::slice::from_mut(to) }.run(s);
                }
            } else {
                to.for_each(|to| *to = Step::zeroed());
            }
        }
    }
}

/// A piece of the product with activations that [`pack`] made.
pub(in crate::matmul) fn run(job: &Job<'_>, x: &[Step], piece: Piece, out: &DisjointMut<'_, f32>) {
    dispatch_tiles(InterleavedPiece { job, x, piece, out });
}

struct InterleavedPiece<'a> {
    job: &'a Job<'a>,
    x: &'a [Step],
    piece: Piece,
    out: &'a DisjointMut<'a, f32>,
}

impl Op for InterleavedPiece<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let InterleavedPiece { job, x, piece, .. } = &self;
        let [width, steps] = shape(job);
        let acts = (width as u8, LINE as u16);
        let weights = (16, LINE as u16);
        let config = TileConfig::new([acts, acts, acts, acts, acts, acts, weights, weights]);
        assert!(S::TILES);
        // SAFETY: `S::TILES` and a value of `S` prove that the process may use AMX.
        let _registers = unsafe { config.load() };
        let mut own = Scratch::take();
        let rows = piece.rows.len().div_ceil(LANES);
        let groups = piece.acts.start / LANES..piece.acts.end.div_ceil(LANES);
        let all = Factors {
            weights: job.source.bytes,
            row_group: steps * LANES * LINE,
            x: &x[groups.start * width * steps..groups.end * width * steps],
            act_group: steps * width,
            width,
        };
        let sums = own.sums.zeroed(rows.next_multiple_of(2) * groups.len() * LANES);
        if few(job) {
            self.stream(&all, steps, sums);
        } else {
            self.blocks(&all, (rows, groups.len()), steps, sums);
        }
        self.store(s, groups, sums);
        own.give_back();
    }
}

impl InterleavedPiece<'_> {
    /// Few activations: each weight is of use but once, and goes by in [`STREAMS`] streams.
    #[inline(always)]
    fn stream(&self, all: &Factors<'_>, steps: usize, sums: &mut [[f32; LANES]]) {
        let Piece { rows, next, .. } = &self.piece;
        let last = self.job.source.rows.div_ceil(LANES).saturating_sub(STREAMS);
        for row in rows.clone().step_by(STREAMS * LANES) {
            let first = row / LANES;
            let n = STREAMS.min(rows.end.div_ceil(LANES) - first);
            let after = match first + STREAMS < rows.end.div_ceil(LANES) {
                true => first + STREAMS,
                false => next / LANES,
            };
            let sums = &mut sums[(first - rows.start / LANES) * LANES..];
            // SAFETY: registers are configured for the width of the activations.
            unsafe {
                match n {
                    STREAMS => all.stream::<STREAMS>(first, after.min(last), steps, sums),
                    3 => all.stream::<3>(first, first, steps, sums),
                    2 => all.stream::<2>(first, first, steps, sums),
                    _ => all.stream::<1>(first, first, steps, sums),
                }
            }
        }
    }

    /// Many: a block of two groups of rows meets all of them.
    #[inline(always)]
    fn blocks(
        &self,
        all: &Factors<'_>,
        (rows, groups): (usize, usize),
        steps: usize,
        sums: &mut [[f32; LANES]],
    ) {
        let first = self.piece.rows.start / LANES;
        let pairs = rows.div_ceil(2);
        let total = self.job.source.rows.div_ceil(LANES);
        let place = |i: usize| {
            let k = i / pairs * BLOCK;
            Block { row: first + i % pairs * 2, k: k..steps.min(k + BLOCK) }
        };
        let blocks = pairs * steps.div_ceil(BLOCK);
        for i in 0..blocks {
            let block = place(i);
            let next = match i + 1 < blocks {
                true => place(i + 1),
                false => Block { row: self.piece.next / LANES, k: 0..steps.min(BLOCK) },
            };
            // Nothing is asked for that is not there.
            let next = Some(next).filter(|next| next.row + 2 <= total);
            let sums = &mut sums[i % pairs * groups * 2 * LANES..][..groups * 2 * LANES];
            for g in (0..groups).step_by(2) {
                let share = Share { block: next.as_ref(), i: g / 2, of: groups.div_ceil(2) };
                let sums = &mut sums[g * 2 * LANES..];
                // SAFETY: registers are configured for the width of the activations.
                unsafe {
                    match (block.row + 2 <= first + rows, g + 2 <= groups) {
                        (true, true) => all.multiply::<2, 2>(&block, g, &share, sums),
                        (true, false) => all.multiply::<2, 1>(&block, g, &share, sums),
                        (false, true) => all.multiply::<1, 2>(&block, g, &share, sums),
                        (false, false) => all.multiply::<1, 1>(&block, g, &share, sums),
                    }
                }
            }
        }
    }

    /// Stores sums with the bias added. Of many activations whole lines without a bias go past the caches, which
    /// would fetch them first: they rarely stay there until the next operation reads them.
    #[inline(always)]
    fn store<S: Simd>(&self, s: S, groups: Range<usize>, sums: &[[f32; LANES]]) {
        let InterleavedPiece { job, piece: Piece { rows, acts, .. }, out, .. } = self;
        let few = few(job);
        for act in acts.clone() {
            let (g, line) = (act / LANES - groups.start, act % LANES);
            let start = act * job.source.rows;
            // SAFETY: this piece alone writes its rows for its activations.
            let to = unsafe { out.slice_mut(start + rows.start..start + rows.end) };
            for (i, to) in to.chunks_mut(LANES).enumerate() {
                let sum = match few {
                    true => &sums[i * LANES + line],
                    false => &sums[((i / 2 * groups.len() + g) * LANES + line) * 2 + i % 2],
                };
                match (<&mut [f32; LANES]>::try_from(&mut *to), job.bias) {
                    (Ok(to), None) if !few => s.store_past(s.load_f(sum), to),
                    (Ok(to), None) => s.store_f(s.load_f(sum), to),
                    (_, None) => to.copy_from_slice(&sum[..to.len()]),
                    (_, Some(bias)) => {
                        let bias = &bias[rows.start + i * LANES..];
                        for ((to, sum), bias) in to.iter_mut().zip(sum).zip(bias) {
                            *to = sum + bias;
                        }
                    }
                }
            }
        }
        s.fence();
    }
}

/// Two groups of rows over some steps of k.
struct Block {
    /// The first group.
    row: usize,
    k: Range<usize>,
}

/// Part `i` of `of` of what is asked for while something else is multiplied.
struct Share<'a> {
    block: Option<&'a Block>,
    i: usize,
    of: usize,
}

/// The weights and a piece's activations.
struct Factors<'a> {
    weights: &'a [u8],
    /// Bytes of a group of rows.
    row_group: usize,
    x: &'a [Step],
    /// Lines of a group of activations.
    act_group: usize,
    /// Activations of a group.
    width: usize,
}

impl Factors<'_> {
    /// Sums of `N` groups of rows from `first` on with all activations, `[group of rows][activation]`.
    /// Groups from `after` on come next.
    ///
    /// # Safety
    /// Tile registers 0 to 5 are configured as `width` lines of 64 bytes, 6 and 7 as 16.
    #[inline(always)]
    unsafe fn stream<const N: usize>(
        &self,
        first: usize,
        after: usize,
        steps: usize,
        sums: &mut [[f32; LANES]],
    ) {
        let &Factors { weights, row_group, x, width, .. } = self;
        assert!((1..=STREAMS).contains(&N) && row_group == steps * TILE);
        assert!((first + N) * row_group <= weights.len() && x.len() >= steps * width);
        assert!(sums.len() >= N * LANES && width <= LANES);
        let left = x.as_ptr().cast::<u8>();
        let right = weights.as_ptr().wrapping_add(first * row_group);
        let after = weights.as_ptr().wrapping_add(after * row_group);
        let to = sums.as_mut_ptr();
        // SAFETY: the caller's promise, and as asserted.
        unsafe {
            tile!(zero 0);
            tile!(zero 1);
            tile!(zero 2);
            tile!(zero 3);
            for k in 0..steps {
                let ask = |i: usize| {
                    let ahead = match k + AHEAD < steps {
                        true => right.wrapping_add(i * row_group + (k + AHEAD) * TILE),
                        false => after.wrapping_add(i * row_group + (k + AHEAD - steps) * TILE),
                    };
                    for line in 0..LANES {
                        simd::prefetch(ahead.wrapping_add(line * CACHE_LINE));
                    }
                };
                let (left, right) = (left.add(k * width * LINE), right.add(k * TILE));
                tile!(load 4, left, LINE);
                ask(0);
                tile!(load 6, right, LINE);
                tile!("tdpbf16ps" 0, 4, 6);
                if N > 1 {
                    ask(1);
                    tile!(load 7, right.add(row_group), LINE);
                    tile!("tdpbf16ps" 1, 4, 7);
                }
                if N > 2 {
                    ask(2);
                    tile!(load 6, right.add(2 * row_group), LINE);
                    tile!("tdpbf16ps" 2, 4, 6);
                }
                if N > 3 {
                    ask(3);
                    tile!(load 7, right.add(3 * row_group), LINE);
                    tile!("tdpbf16ps" 3, 4, 7);
                }
            }
            tile!(store 0, to, LINE);
            if N > 1 {
                tile!(store 1, to.add(LANES), LINE);
            }
            if N > 2 {
                tile!(store 2, to.add(2 * LANES), LINE);
            }
            if N > 3 {
                tile!(store 3, to.add(3 * LANES), LINE);
            }
        }
    }

    /// Adds the products of `R` groups of rows of a block with `M` groups of activations from `g` on to
    /// `sums[(i * 16 + act) * 2 + r]`, of group `i` with group `r` of rows.
    ///
    /// # Safety
    /// Tile registers are configured as 16 lines of 64 bytes.
    #[inline(always)]
    unsafe fn multiply<const R: usize, const M: usize>(
        &self,
        block: &Block,
        g: usize,
        share: &Share<'_>,
        sums: &mut [[f32; LANES]],
    ) {
        let &Factors { weights, row_group, x, act_group, width } = self;
        let Block { row, k } = block;
        assert!((1..=2).contains(&R) && (1..=2).contains(&M) && width == LANES);
        assert!((row + R) * row_group <= weights.len() && k.end * TILE <= row_group);
        assert!((g + M) * act_group <= x.len() && k.end * LANES <= act_group);
        assert!(sums.len() >= M * 2 * LANES);
        let left = x.as_ptr().wrapping_add(g * act_group).cast::<u8>();
        let right = weights.as_ptr().wrapping_add(row * row_group);
        let to = sums.as_mut_ptr();
        let sum = |i: usize, r: usize| to.wrapping_add(i * 2 * LANES + r);
        let second = act_group * LINE;
        // Lines that are asked for at each step: those of a block, two groups of rows, in all.
        let per_step = (2 * LANES).div_ceil(share.of);
        let (next, lines) = match share.block {
            Some(Block { row, k }) => {
                (weights.as_ptr().wrapping_add(row * row_group + k.start * TILE), k.len() * LANES)
            }
            None => (weights.as_ptr(), 0),
        };
        let mut line = share.i * k.len() * per_step;
        let mut ask = |n: usize| {
            for _ in 0..n {
                if line < 2 * lines {
                    let group = if line < lines { 0 } else { row_group - lines * CACHE_LINE };
                    simd::prefetch(next.wrapping_add(group + line * CACHE_LINE));
                }
                line += 1;
            }
        };
        // SAFETY: the caller's promise, and as asserted.
        unsafe {
            tile!(load 0, sum(0, 0), 2 * LINE);
            if R > 1 {
                tile!(load 1, sum(0, 1), 2 * LINE);
            }
            if M > 1 {
                tile!(load 2, sum(1, 0), 2 * LINE);
                if R > 1 {
                    tile!(load 3, sum(1, 1), 2 * LINE);
                }
            }
            for k in k.clone() {
                let (left, right) = (left.add(k * TILE), right.add(k * TILE));
                ask(per_step / 2);
                tile!(load 6, right, LINE);
                tile!(load 4, left, LINE);
                tile!("tdpbf16ps" 0, 4, 6);
                if R > 1 {
                    tile!(load 7, right.add(row_group), LINE);
                    tile!("tdpbf16ps" 1, 4, 7);
                }
                ask(per_step - per_step / 2);
                if M > 1 {
                    tile!(load 5, left.add(second), LINE);
                    tile!("tdpbf16ps" 2, 5, 6);
                    if R > 1 {
                        tile!("tdpbf16ps" 3, 5, 7);
                    }
                }
            }
            tile!(store 0, sum(0, 0), 2 * LINE);
            if R > 1 {
                tile!(store 1, sum(0, 1), 2 * LINE);
            }
            if M > 1 {
                tile!(store 2, sum(1, 0), 2 * LINE);
                if R > 1 {
                    tile!(store 3, sum(1, 1), 2 * LINE);
                }
            }
        }
    }
}
