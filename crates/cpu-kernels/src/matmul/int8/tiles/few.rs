//! Few activations with interleaved weights that have a scale for each 32 of k.
//!
//! Each weight meets one or two tiles of activations, so that unpacking takes as long as multiplying. The two
//! go side by side: while a span of 256 of k of sixteen rows goes through the tiles, the next is unpacked, quarter by
//! quarter, and lines of the one after it are on their way.

use super::{
    Block, FEW, QUARTERS, TileBuffers, Tiles, multiply_2_times_32, prefetch_part, span_of_rows,
};
use crate::matmul::int8::{CHUNK_LINES, Format, Int8Piece, SPAN, Scales};
use crate::matmul::{Job, Layout, Scratch};
use crate::simd::{LANES, Line, Simd, Sixteen, Stream};

/// Whether a product can go this way.
pub(super) fn fits<F: Format>(job: &Job<'_>) -> bool {
    // A span is whole words, so that each begins with one.
    let words = (SPAN / F::DTYPE.block_len() * F::DTYPE.block_bytes()).is_multiple_of(4);
    F::DIRECT
        && F::SCALES == Scales::PerBlock32
        && words
        && job.source.layout == Layout::Interleaved
}

/// One thread's piece, group of rows after group of rows.
#[inline(always)]
pub(super) fn run<S: Simd, F: Format>(tiles: &Tiles<S, F>, work: &Int8Piece<'_>) {
    const { assert!(QUARTERS * 4 * CHUNK_LINES == SPAN) };
    let s = tiles.s;
    let Int8Piece { job, acts, piece, out } = work;
    let n = piece.acts.len().next_multiple_of(LANES);
    assert!(n <= FEW);
    let mut own = Scratch::take();
    let Scratch { int8: groups, tiles: TileBuffers { planes, sums: products }, sums, .. } =
        &mut *own;
    let n_groups = piece.rows.len().div_ceil(LANES);
    let spans = job.cols.div_ceil(SPAN);
    let total = n_groups * spans;
    let sums = sums.zeroed(n_groups * n);
    let place = |i: usize| (i / spans, i % spans);
    // The lines of span `i` of all; what the thread probably takes next lies behind them.
    let lines = |i: usize| -> (&[Line], usize) {
        let mut piece = piece.clone();
        if i >= total {
            piece.rows.start = piece.next;
        }
        let (row, at, bytes) = span_of_rows::<F>(job, &piece, place(i % total));
        match row < job.source.rows {
            true => (job.lines((row, at, bytes)), bytes),
            false => (&[], 0),
        }
    };
    let stream = |i: usize| {
        let (lines, bytes) = lines(i);
        Stream::<'_, false>::new(lines, bytes)
    };
    F::scales(s, stream(0), &mut groups[0]);
    for quarter in 0..QUARTERS {
        tiles.unpack(stream(0), quarter, &mut planes[0]);
    }
    let mut totals = [s.splat_f(0.0); LANES];
    let mut last: Option<Block<'_>> = None;
    for i in 0..total {
        let (g, span) = place(i);
        let subs = SPAN.min(job.cols - span * SPAN) / F::SUB;
        let (next, ahead) = (stream((i + 1).min(total - 1)), lines(i + 2).0);
        let [even, odd] = &mut *planes;
        let (plane, next_plane) = if i % 2 == 0 { (&*even, odd) } else { (&*odd, even) };
        let acts = &acts.span(span)[piece.acts.start..][..n];
        for (c, acts) in acts.chunks_exact(LANES).enumerate() {
            if c == 0 {
                F::scales(s, next, &mut groups[(i + 1) % 3]);
            }
            for quarter in 0..QUARTERS {
                if let Some(Block { slot, subs, acts, at, .. }) = last {
                    let (tiled, sums) = (products.as_flattened(), &mut sums[at..][..LANES]);
                    tiles.add_per_32(&groups[slot], subs, tiled, quarter, acts, sums, &mut totals);
                }
                // SAFETY: the registers are configured as `PER_32`, and there are 16 activations.
                unsafe { multiply_2_times_32(quarter, acts, plane, products) };
                if c == 0 {
                    prefetch_part(ahead, quarter, QUARTERS);
                    tiles.unpack(next, quarter, next_plane);
                }
            }
            last = Some(Block { slot: i % 3, half: 0, subs, acts, at: g * n + c * LANES });
        }
    }
    if let Some(Block { slot, subs, acts, at, .. }) = last {
        for quarter in 0..QUARTERS {
            let (tiled, sums) = (products.as_flattened(), &mut sums[at..][..LANES]);
            tiles.add_per_32(&groups[slot], subs, tiled, quarter, acts, sums, &mut totals);
        }
    }
    job.store_groups(s, piece, sums, n, out);
    own.give_back();
}

impl<S: Simd, F: Format> Tiles<S, F> {
    /// Signed bytes of a quarter of a span, if it is there.
    #[inline(always)]
    fn unpack(&self, from: Stream<'_, false>, quarter: usize, plane: &mut [Line; SPAN / 4]) {
        let s = self.s;
        let elements = from.len() / F::DTYPE.block_bytes() * F::DTYPE.block_len();
        if quarter * 4 * CHUNK_LINES >= elements {
            return;
        }
        let offset = s.splat_i(i32::from_ne_bytes([F::OFFSET as u8; 4]));
        let lines = F::chunk(s, from, quarter);
        for (line, to) in lines.into_iter().zip(&mut plane[quarter * CHUNK_LINES..]) {
            s.store_i(s.sub_bytes(line, offset), to);
        }
    }
}
