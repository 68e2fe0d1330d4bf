//! Eight or more activations at once by AMX's tiles.
//!
//! A tile of 16 activations by 64 of k times a tile of 64 of k by 16 weight rows adds to 16 x 16
//! sums in 16 cycles, eight times what the dot products of AVX-512 do; the lines of an unpacked
//! group are such a tile of weights as they lie. What is left to do is the cost: sums leave the
//! tiles through memory.
//!
//! Where scales are integers, each weight byte is multiplied by its scale first and the product
//! split into two bytes: two products of tiles sum all 256 of k, and their sums are put together
//! once. Else the sums of each 32 of k are scaled apart.

mod few;

use super::activations::ActivationBlock;
use super::sweep::add_block;
use super::{Format, Int8Group, Int8Piece, SPAN, Scales, unpack};
use crate::amx::{TileConfig, tile};
use crate::matmul::{Job, Piece, Scratch};
use crate::simd::{LANES, Line, Op, Simd, prefetch};
use std::arch::asm;
use std::arch::x86_64::*;
use std::marker::PhantomData;

/// Memory that tiles go through.
#[derive(Clone)]
#[repr(align(64))]
pub(crate) struct TileBuffers {
    /// A group's weights as signed or unsigned bytes: upper parts of the products with the scales,
    /// then lower parts. Or, where scales stay apart, bytes of one span, and of [another](few).
    planes: [[Line; SPAN / 4]; 2],
    /// Sums of 16 activations (a line each) by 16 rows: four of one block and four of the next, or eight of one.
    sums: [FourSums; 2],
}

impl Default for TileBuffers {
    fn default() -> Self {
        TileBuffers { planes: [[[0; 64]; SPAN / 4]; 2], sums: [[[[0; 64]; LANES]; 4]; 2] }
    }
}

/// Sums of 16 activations by 16 rows, as tiles leave them.
type FourSums = [[Line; LANES]; 4];

/// Registers 0 to 3 hold sums, 4 and 5 activations, 6 and 7 weights.
const ALL_OF_K: TileConfig = TileConfig::new([(16, 64); 8]);
/// With 32 of k in the tiles that are multiplied.
const PER_32: TileConfig =
    TileConfig::new([(16, 64), (16, 64), (16, 64), (16, 64), (16, 32), (16, 32), (8, 64), (8, 64)]);

/// Weight rows of a piece: those that a span of activations meets while it is in the second-level
/// cache, where tiles make short work of each.
pub(super) const ROWS: usize = 256;

/// Whether tiles multiply a format: they sum 32 of k, or 256.
pub(super) const fn fit<F: Format>() -> bool {
    matches!(F::SCALES, Scales::Integer) || F::SUB == 32
}

/// A piece that goes through tiles.
pub(super) struct TiledPiece<'a, F> {
    pub(super) work: Int8Piece<'a>,
    pub(super) format: PhantomData<F>,
}

impl<F: Format> Op for TiledPiece<'_, F> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        run::<S, F>(s, &self.work);
    }
}

/// One thread's piece. Few activations stay in the second-level cache for all of k: each group of
/// rows is a stream of memory then, from its first byte to its last. Of many, 256 of k stay there while
/// all groups of rows go by.
#[inline(always)]
fn run<S: Simd, F: Format>(s: S, work: &Int8Piece<'_>) {
    assert!(S::TILES && fit::<F>());
    let Int8Piece { job, acts, piece, out } = work;
    let config = if F::SCALES == Scales::Integer { &ALL_OF_K } else { &PER_32 };
    // SAFETY: `S::TILES` and a value of `S` prove that the process may use AMX.
    let _registers = unsafe { config.load() };
    let tiles = Tiles::<S, F> { s, format: PhantomData };
    let n = piece.acts.len().next_multiple_of(LANES);
    if n <= FEW && few::fits::<F>(job) {
        return few::run(&tiles, work);
    }
    let mut own = Scratch::take();
    let scratch = &mut *own;
    let groups = piece.rows.len().div_ceil(LANES);
    let spans = job.cols.div_ceil(SPAN);
    let sums = scratch.sums.zeroed(groups * n);
    let few = n <= FEW;
    let place = |i: usize| if few { (i / spans, i % spans) } else { (i % groups, i / groups) };
    let mut last: Option<Block<'_>> = None;
    for i in 0..groups * spans {
        let (g, span) = place(i);
        let group = &mut scratch.int8[i % 2];
        let (row, at, bytes) = span_of_rows::<F>(job, piece, (g, span));
        // What comes next is on its way meanwhile: weights, and of many activations this group's
        // share of those of the next span. A few lines at a time: a core has room for few requests, and
        // waits when there is none.
        let ahead = job.lines(match i + 1 < groups * spans {
            true => span_of_rows::<F>(job, piece, place(i + 1)),
            // Addresses that are not there would be looked for.
            false => (row, at, bytes),
        });
        let (first, ahead) = ahead.split_at(ahead.len() / 3);
        let (second, third) = ahead.split_at(ahead.len() / 2);
        prefetch_lines(first);
        let tile = job.tile(piece, row, (at, bytes), &mut scratch.pad);
        unpack::<F>(job.isa, tile, group);
        tiles.planes(group, &mut scratch.tiles.planes, second);
        prefetch_lines(third);
        let next = match few || span + 1 == spans {
            true => &[],
            false => &acts.span(span + 1)[piece.acts.start..][g * n / groups..(g + 1) * n / groups],
        };
        let mut next = next.chunks(next.len().div_ceil(n.div_ceil(at_once::<F>())).max(1));
        let subs = SPAN.min(job.cols - span * SPAN) / F::SUB;
        let acts = &acts.span(span)[piece.acts.start..][..n];
        for (c, acts) in acts.chunks(at_once::<F>()).enumerate() {
            next.next().unwrap_or_default().iter().for_each(ActivationBlock::prefetch);
            let half = last.map_or(0, |last| 1 - last.half);
            let block = Block { slot: i % 2, half, subs, acts, at: g * n + c * at_once::<F>() };
            let (groups, buffers) = (&scratch.int8, &mut scratch.tiles);
            tiles.advance(buffers, groups, sums, last, Some(block));
            last = Some(block);
        }
    }
    tiles.advance(&mut scratch.tiles, &scratch.int8, sums, last, None);
    job.store_groups(s, piece, sums, n, out);
    own.give_back();
}

/// Activations of which all of k stay in the second-level cache.
const FEW: usize = 2 * LANES;

/// The first row of group `g` of a piece, and where in its rows span `span` lies.
#[inline(always)]
fn span_of_rows<F: Format>(
    job: &Job<'_>,
    piece: &Piece,
    (g, span): (usize, usize),
) -> (usize, usize, usize) {
    let (len, size) = (F::DTYPE.block_len(), F::DTYPE.block_bytes());
    let k0 = span * SPAN;
    (piece.rows.start + g * LANES, k0 / len * size, SPAN.min(job.cols - k0) / len * size)
}

#[inline(always)]
fn prefetch_lines(lines: &[Line]) {
    for line in lines {
        prefetch(line.as_ptr());
    }
}

/// Asks for part `i` of `parts` of some lines.
#[inline(always)]
fn prefetch_part(lines: &[Line], i: usize, parts: usize) {
    prefetch_lines(&lines[i * lines.len() / parts..(i + 1) * lines.len() / parts]);
}

/// Activations that go through the tiles together.
const fn at_once<F: Format>() -> usize {
    if matches!(F::SCALES, Scales::Integer) { 2 * LANES } else { LANES }
}

/// A group of rows and up to [`at_once`] activations of a span that meet.
#[derive(Clone, Copy)]
struct Block<'a> {
    /// Where the group lies unpacked.
    slot: usize,
    /// Which four of the tiles' sums it leaves, if it leaves four.
    half: usize,
    /// Sub-blocks of the span.
    subs: usize,
    acts: &'a [ActivationBlock],
    /// Where their sums begin.
    at: usize,
}

/// What is left to do with a block of `M` times 16 activations that has been through the tiles.
struct Rest<'a, const M: usize> {
    group: &'a Int8Group,
    tiles: &'a FourSums,
    acts: &'a [[ActivationBlock; LANES]; M],
    sums: &'a mut [[[f32; LANES]; LANES]; M],
}

/// Multiplies signed activations by signed or, where `$unsigned`, unsigned weights.
macro_rules! tile_product {
    ($unsigned:expr, $sum:literal, $left:literal, $right:literal) => {
        if $unsigned {
            tile!("tdpbsud" $sum, $left, $right)
        } else {
            tile!("tdpbssd" $sum, $left, $right)
        }
    };
}

/// What this thread's tile registers, configured for a format, do.
struct Tiles<S, F> {
    s: S,
    format: PhantomData<F>,
}

impl<S: Simd, F: Format> Tiles<S, F> {
    /// Makes of a group's bytes what tiles multiply. Asks for the lines `ahead` meanwhile.
    #[inline(always)]
    fn planes(&self, group: &Int8Group, planes: &mut [[Line; SPAN / 4]; 2], ahead: &[Line]) {
        match F::SCALES {
            Scales::Integer => self.multiply_scales(group, planes, ahead),
            Scales::PerBlock32 => self.subtract_offset(group, &mut planes[0], ahead),
        }
    }

    /// Sends `block`, whose planes they are, through the tiles, and meanwhile does what is left to do
    /// with the block before it, `last`: tiles and vector units work at the same time, and what tiles
    /// store is not loaded at once.
    #[inline(always)]
    fn advance(
        &self,
        buffers: &mut TileBuffers,
        groups: &[Int8Group],
        sums: &mut [[f32; LANES]],
        last: Option<Block<'_>>,
        block: Option<Block<'_>>,
    ) {
        if F::SCALES == Scales::Integer {
            return match last.or(block).map_or(0, |block| block.acts.len()) {
                LANES => self.advance_whole::<1>(buffers, groups, sums, last, block),
                _ => self.advance_whole::<2>(buffers, groups, sums, last, block),
            };
        }
        let mut totals = [self.s.splat_f(0.0); LANES];
        for quarter in 0..QUARTERS {
            if let Some(Block { slot, subs, acts, at, .. }) = last {
                let (group, sums) = (&groups[slot], &mut sums[at..][..acts.len()]);
                let tiles = buffers.sums.as_flattened();
                self.add_per_32(group, subs, tiles, quarter, acts, sums, &mut totals);
            }
            if let Some(Block { acts, .. }) = block {
                let TileBuffers { planes, sums } = buffers;
                // SAFETY: the registers are configured as `PER_32`, and there are 16 activations.
                unsafe { multiply_2_times_32(quarter, acts, &planes[0], sums) };
            }
        }
    }

    /// [`advance`](Self::advance) of a format with integer scales, where `last` (or `block`, if that is the
    /// first) has `M` times 16 activations.
    #[inline(always)]
    fn advance_whole<const M: usize>(
        &self,
        buffers: &mut TileBuffers,
        groups: &[Int8Group],
        sums: &mut [[f32; LANES]],
        last: Option<Block<'_>>,
        block: Option<Block<'_>>,
    ) {
        let TileBuffers { planes, sums: [even, odd] } = buffers;
        // `block` leaves its sums in its half, `last` left them in the other one.
        let to_even = block.map_or_else(|| last.is_some_and(|l| l.half == 1), |b| b.half == 0);
        let (to, from) = if to_even { (even, &*odd) } else { (odd, &*even) };
        let mut rest = last.map(|Block { slot, acts, at, .. }| Rest {
            group: &groups[slot],
            tiles: from,
            acts: acts.as_chunks().0.try_into().expect("as many as `M` says"),
            sums: sums[at..][..acts.len()].as_chunks_mut().0.try_into().expect("the same"),
        });
        match block.map(|block| block.acts) {
            Some(acts) if acts.len() == M * LANES => {
                self.multiply_whole::<M>(planes, acts, to, &mut rest);
            }
            block => {
                for i in 0..LANES {
                    self.add_line::<M>(&mut rest, i);
                }
                match block {
                    None => {}
                    Some(acts) if acts.len() == LANES => {
                        self.multiply_whole::<1>(planes, acts, to, &mut None);
                    }
                    Some(acts) => self.multiply_whole::<2>(planes, acts, to, &mut None),
                }
            }
        }
    }

    /// All 256 of k of `M` times 16 activations, by the upper plane to sums 0 and 2, by the lower to 1
    /// and 3; what is left to do of the block before goes between, where the vector units wait.
    #[inline(always)]
    fn multiply_whole<const M: usize>(
        &self,
        planes: &[[Line; SPAN / 4]; 2],
        acts: &[ActivationBlock],
        to: &mut FourSums,
        rest: &mut Option<Rest<'_, M>>,
    ) {
        const LINE: usize = size_of::<Line>();
        assert!(acts.len() == M * LANES && (1..=2).contains(&M));
        let [upper, lower] = planes.each_ref().map(|plane| plane.as_ptr().cast::<u8>());
        let left = acts.as_ptr().cast::<u8>();
        let to = to.as_mut_ptr();
        macro_rules! quarter {
            ($k:literal) => {
                let left = left.add($k * 64);
                let (upper, lower) = (upper.add($k * LANES * LINE), lower.add($k * LANES * LINE));
                self.add_line(rest, 4 * $k);
                tile!(load 4, left, STRIDE);
                tile!(load 6, upper, LINE);
                tile_product!(F::SMALL, 0, 4, 6);
                self.add_line(rest, 4 * $k + 1);
                tile!(load 7, lower, LINE);
                tile_product!(F::SMALL, 1, 4, 7);
                self.add_line(rest, 4 * $k + 2);
                if M > 1 {
                    tile!(load 5, left.add(LANES * STRIDE), STRIDE);
                    tile_product!(F::SMALL, 2, 5, 6);
                }
                self.add_line(rest, 4 * $k + 3);
                if M > 1 {
                    tile_product!(F::SMALL, 3, 5, 7);
                }
            };
        }
        // SAFETY: the registers are configured as `ALL_OF_K`: a tile of activations is 64 bytes of 16
        // that are `STRIDE` apart and begin with 256, a tile of weights 16 lines of a plane.
        unsafe {
            tile!(zero 0);
            tile!(zero 1);
            if M > 1 {
                tile!(zero 2);
                tile!(zero 3);
            }
            quarter!(0);
            quarter!(1);
            quarter!(2);
            quarter!(3);
            tile!(store 0, to, LINE);
            tile!(store 1, to.add(1), LINE);
            if M > 1 {
                tile!(store 2, to.add(2), LINE);
                tile!(store 3, to.add(3), LINE);
            }
        }
    }

    /// Puts line `i` of the sums of both planes together, and adds it, scaled, to its sums.
    #[inline(always)]
    fn add_line<const M: usize>(&self, rest: &mut Option<Rest<'_, M>>, i: usize) {
        let s = self.s;
        let Some(Rest { group, tiles, acts, sums }) = rest else { return };
        for t in 0..M {
            let upper = s.load_i(&tiles[2 * t][i]);
            let lower = s.load_i(&tiles[2 * t + 1][i]);
            let total = s.add_i(s.shl(upper, lower_bits::<F>()), lower);
            let sum = &mut sums[t][i];
            let after = add_block::<S, F>(s, group, total, &acts[t][i], s.load_f(sum));
            s.store_f(after, sum);
        }
    }

    /// Adds two of eight sums of 32 of k for 16 activations, of which there are `subs`, to `totals`,
    /// and in the end these to `sums`.
    #[inline(always)]
    #[expect(clippy::too_many_arguments, reason = "inlined: the totals stay in registers")]
    fn add_per_32(
        &self,
        group: &Int8Group,
        subs: usize,
        tiles: &[[Line; LANES]],
        quarter: usize,
        acts: &[ActivationBlock],
        sums: &mut [[f32; LANES]],
        totals: &mut [S::F; LANES],
    ) {
        let s = self.s;
        let (acts, sums) = (&acts[..LANES], &mut sums[..LANES]);
        if quarter == 0 {
            *totals = [s.splat_f(0.0); LANES];
        }
        for sub in 2 * quarter..subs.min(2 * quarter + 2) {
            let weight = s.as_f(s.load_i(&group.scales[sub]));
            for j in 0..LANES {
                let scale = s.mul(weight, s.splat_f(acts[j].scale[sub]));
                totals[j] = s.fma(s.to_f(s.load_i(&tiles[sub][j])), scale, totals[j]);
            }
            if F::MIN {
                let min = s.as_f(s.load_i(&group.mins[sub]));
                for j in 0..LANES {
                    totals[j] = s.fma(min, s.splat_f(acts[j].sum[sub]), totals[j]);
                }
            }
        }
        if quarter == QUARTERS - 1 {
            for j in 0..LANES {
                s.store_f(s.add(totals[j], s.load_f(&sums[j])), &mut sums[j]);
            }
        }
    }

    /// Weight bytes as signed ones.
    #[inline(always)]
    fn subtract_offset(&self, group: &Int8Group, plane: &mut [Line; SPAN / 4], ahead: &[Line]) {
        const PARTS: usize = 16;
        let parts = group.lines.chunks_exact(SPAN / 4 / PARTS);
        let outs = plane.chunks_exact_mut(SPAN / 4 / PARTS);
        for (i, (lines, out)) in parts.zip(outs).enumerate() {
            prefetch_part(ahead, i, PARTS);
            // SAFETY: `S::TILES` and a value of `S` prove AVX-512.
            unsafe {
                let offset = _mm512_set1_epi8(F::OFFSET as i8);
                for (line, out) in lines.iter().zip(out) {
                    let w = _mm512_loadu_si512(line.as_ptr().cast());
                    _mm512_storeu_si512(out.as_mut_ptr().cast(), _mm512_sub_epi8(w, offset));
                }
            }
        }
    }

    /// Products of weight bytes with the scales of their sub-blocks, as `upper << bits | lower`.
    #[inline(always)]
    fn multiply_scales(
        &self,
        group: &Int8Group,
        planes: &mut [[Line; SPAN / 4]; 2],
        ahead: &[Line],
    ) {
        let s = self.s;
        let lines = F::SUB / 4;
        let [upper, lower] = planes;
        for sub in 0..SPAN / F::SUB {
            prefetch_part(ahead, sub, SPAN / F::SUB);
            let scale = s.load_i(&group.scales[sub]);
            if F::SMALL {
                // The scale in both halves of a lane.
                let scale = s.or(scale, s.shl(scale, 16));
                let low = s.and(scale, s.splat_i(0x0007_0007));
                let high = s.shr(s.and(scale, s.splat_i(0x0038_0038)), lower_bits::<F>());
                let mut scales: [Line; 2] = [[0; 64]; 2];
                s.store_i(high, &mut scales[0]);
                s.store_i(low, &mut scales[1]);
                for i in sub * lines..(sub + 1) * lines {
                    // SAFETY: `S::TILES` and a value of `S` prove AVX-512.
                    unsafe { split_small(&group.lines[i], &scales, &mut upper[i], &mut lower[i]) };
                }
            } else {
                let mut scales: Line = [0; 64];
                s.store_i(scale, &mut scales);
                for i in sub * lines..(sub + 1) * lines {
                    // SAFETY: `S::TILES` and a value of `S` prove AVX-512.
                    unsafe {
                        split::<F>(&group.lines[i], &scales, &mut upper[i], &mut lower[i]);
                    }
                }
            }
        }
    }
}

/// Bits of the lower part of a product.
#[inline(always)]
const fn lower_bits<F: Format>() -> u32 {
    if F::SMALL { 3 } else { 6 }
}

/// Four weight bytes a lane times the upper and the lower part of the lane's scale, each in both its
/// halves: bytes of at most 31 times 7 stay bytes, so that two at once are multiplied as 16 bits,
/// which takes a quarter of the time of 32.
///
/// # Safety
/// The processor has AVX-512 F and BW.
#[inline(always)]
unsafe fn split_small(line: &Line, [high, low]: &[Line; 2], upper: &mut Line, lower: &mut Line) {
    // SAFETY: the caller's promise; 64 bytes are readable or writable each.
    unsafe {
        let w = _mm512_loadu_si512(line.as_ptr().cast());
        let high = _mm512_loadu_si512(high.as_ptr().cast());
        let low = _mm512_loadu_si512(low.as_ptr().cast());
        _mm512_storeu_si512(upper.as_mut_ptr().cast(), _mm512_mullo_epi16(w, high));
        _mm512_storeu_si512(lower.as_mut_ptr().cast(), _mm512_mullo_epi16(w, low));
    }
}

/// Four weight bytes a lane, less the offset, times the lane's scale: within -8192..8192, so that
/// the upper parts are signed bytes and the lower ones 6 bits.
///
/// # Safety
/// The processor has AVX-512 F and BW.
#[inline(always)]
unsafe fn split<F: Format>(line: &Line, scales: &Line, upper: &mut Line, lower: &mut Line) {
    // SAFETY: the caller's promise; 64 bytes are readable or writable each.
    unsafe {
        let w = _mm512_loadu_si512(line.as_ptr().cast());
        let scale = _mm512_loadu_si512(scales.as_ptr().cast());
        // The scale in both halves of a lane.
        let scale = _mm512_or_si512(
            _mm512_and_si512(scale, _mm512_set1_epi32(0xffff)),
            _mm512_slli_epi32::<16>(scale),
        );
        let byte = _mm512_set1_epi16(0xff);
        let offset = _mm512_set1_epi16(F::OFFSET as i16);
        let even = _mm512_sub_epi16(_mm512_and_si512(w, byte), offset);
        let odd = _mm512_sub_epi16(_mm512_srli_epi16::<8>(w), offset);
        let (even, odd) = (_mm512_mullo_epi16(even, scale), _mm512_mullo_epi16(odd, scale));
        let low = _mm512_set1_epi16(63);
        let low = _mm512_or_si512(
            _mm512_and_si512(even, low),
            _mm512_slli_epi16::<8>(_mm512_and_si512(odd, low)),
        );
        let high = _mm512_or_si512(
            _mm512_and_si512(_mm512_srai_epi16::<6>(even), byte),
            _mm512_slli_epi16::<8>(_mm512_srai_epi16::<6>(odd)),
        );
        _mm512_storeu_si512(upper.as_mut_ptr().cast(), high);
        _mm512_storeu_si512(lower.as_mut_ptr().cast(), low);
    }
}

/// Bytes between the activations of one span.
const STRIDE: usize = size_of::<ActivationBlock>();

/// Parts in which sixteen activations go through the tiles, 64 of k each.
const QUARTERS: usize = SPAN / 64;

/// Multiplies twice 32 of k of 16 activations, and stores the sums of each.
///
/// # Safety
/// Tile registers are configured as `PER_32`, and there are 16 activations.
#[inline(always)]
unsafe fn multiply_2_times_32(
    quarter: usize,
    acts: &[ActivationBlock],
    plane: &[Line; SPAN / 4],
    sums: &mut [FourSums; 2],
) {
    debug_assert_eq!(acts.len(), LANES);
    let a = acts.as_ptr().cast::<u8>().wrapping_add(64 * quarter);
    let w = plane[16 * quarter..][..16].as_ptr();
    let c = sums.as_flattened_mut()[2 * quarter..][..2].as_mut_ptr();
    // SAFETY: the caller's promise. Rows of activations are `STRIDE` apart and begin with 256
    // bytes; a tile of weights is 8 lines; two tiles of sums are written.
    unsafe {
        asm!(
            "tilezero tmm0",
            "tileloadd tmm4, [{a} + {stride}]",
            "tileloadd tmm6, [{w} + {line}]",
            "tdpbssd tmm0, tmm4, tmm6",
            "tilezero tmm1",
            "tileloadd tmm5, [{a} + {stride} + 32]",
            "tileloadd tmm7, [{w} + {line} + 512]",
            "tdpbssd tmm1, tmm5, tmm7",
            "tilestored [{c} + {line}], tmm0",
            "tilestored [{c} + {line} + 1024], tmm1",
            a = in(reg) a,
            w = in(reg) w,
            c = in(reg) c,
            stride = in(reg) STRIDE,
            line = in(reg) size_of::<Line>(),
            options(nostack),
        );
    }
}
