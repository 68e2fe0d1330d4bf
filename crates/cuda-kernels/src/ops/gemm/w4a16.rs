//! Weights of 4 bits in groups of 128 along `k`: `w = scale * (q - zero)`, `q` and `zero` in 0..16, as GPTQ and
//! AWQ have them.
//!
//! Layout ([`pack`]): 32 columns of the product (rows of `W`) are a strip, 32 of `k` in it a block of 512 bytes;
//! strips lie one after the other, in each its blocks along `k`. In a block lane `l` of a warp has four words: word
//! `w` is of the `k` from `16 * (w / 2)` on and of the columns from `16 * (w % 2)` on. With `g = l / 4` and
//! `t = l % 4`, nibble `p` of it is column `g + 8 * (p % 4 / 2)` and `k` `2 * t + p / 4 + 8 * (p % 2)` of those
//! 16 by 16. Scales and zero points are `[k / 128, columns]`, the columns padded with zeros to whole strips.

use half::f16;

use super::halves::Halves;
use super::linear::slabs;
use super::{Gemm, OP, THREADS, bias_arg, unsupported};
use crate::blas::Half;
use crate::ops::{blocks, int};
use crate::source::GEMM_W4A16;
use crate::{Arg, Buffer, Error, Gpu, Kernel, Launch, Result};

/// Weights that share a scale.
pub const GROUP: usize = 128;

/// Columns of a block of threads.
const COLUMNS: usize = 128;
/// Of `k`, in a step of a block.
const STEP: usize = 2 * GROUP;
/// Tiles of rows in one launch.
const MOST_TILES: usize = 8;
/// Up to so many rows weights are made halves in registers, from there on once for all rows.
const MOST_ROWS: usize = 128;
/// Bytes of halves that are made at once.
const SLAB: usize = 64 << 20;

/// Rows of `W` as they come, and what they mean.
#[derive(Clone, Copy, Debug)]
pub struct Packed<'a> {
    /// Rows of `W`.
    pub n: usize,
    /// Columns of `W`, a multiple of [`GROUP`].
    pub k: usize,
    /// By [`pack`].
    pub words: &'a [u32],
    /// `[n, k / 128]`.
    pub scales: &'a [f16],
    /// `[n, k / 128]`, below 32; 8 everywhere if there are none.
    pub zeros: Option<&'a [u8]>,
}

/// Words of a block: 32 lanes with four each.
const BLOCK_WORDS: usize = 128;

/// Where the nibbles of a block are in `W`: row and column of nibble `p` of word `i` at `8 * i + p`.
fn places() -> Vec<(usize, usize)> {
    let place = |at: usize| {
        let (p, word, lane) = (at % 8, at / 8 % 4, at / 32);
        let row = word % 2 * 16 + lane / 4 + p % 4 / 2 * 8;
        let column = word / 2 * 16 + lane % 4 * 2 + p / 4 + p % 2 * 8;
        (row, column)
    };
    (0..8 * BLOCK_WORDS).map(place).collect()
}

/// The first row and column of each block, as they lie.
fn corners(n: usize, k: usize) -> impl Iterator<Item = (usize, usize)> {
    (0..n.div_ceil(32))
        .flat_map(move |strip| (0..k / 32).map(move |block| (strip * 32, block * 32)))
}

/// Puts `q`, `[n, k]` with one value a byte, below 16, into the layout of the kernels; `k` is a multiple of 32.
///
/// # Panics
/// If `q` is not of that length, or `k` no multiple of 32.
pub fn pack(n: usize, k: usize, q: &[u8]) -> Vec<u32> {
    assert!(q.len() == n * k && k.is_multiple_of(32), "{} values for {n} x {k}", q.len());
    let places = places();
    let mut words = vec![0; n.next_multiple_of(32) * k / 8];
    for (block, (first, begin)) in words.chunks_exact_mut(BLOCK_WORDS).zip(corners(n, k)) {
        for (word, places) in block.iter_mut().zip(places.chunks_exact(8)) {
            for (p, &(row, column)) in places.iter().enumerate() {
                if first + row < n {
                    *word |= u32::from(q[(first + row) * k + begin + column] & 15) << (4 * p);
                }
            }
        }
    }
    words
}

/// The inverse of [`pack`].
///
/// # Panics
/// If there are not as many words as [`pack`] gives.
pub fn unpack(n: usize, k: usize, words: &[u32]) -> Vec<u8> {
    assert!(words.len() == n.next_multiple_of(32) * k / 8, "{} words for {n} x {k}", words.len());
    let places = places();
    let mut q = vec![0; n * k];
    for (block, (first, begin)) in words.chunks_exact(BLOCK_WORDS).zip(corners(n, k)) {
        for (word, places) in block.iter().zip(places.chunks_exact(8)) {
            for (p, &(row, column)) in places.iter().enumerate() {
                if first + row < n {
                    q[(first + row) * k + begin + column] = (word >> (4 * p) & 15) as u8;
                }
            }
        }
    }
    q
}

/// Weights of 4 bits on a device.
#[derive(Clone, Debug)]
pub struct W4Matrix {
    n: usize,
    k: usize,
    words: Buffer,
    scales: Buffer,
    zeros: Option<Buffer>,
    /// How many blocks are done with a tile: zeros between launches.
    done: Buffer,
}

/// How a product is divided.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct W4Config {
    /// Rows of a block: 16, 32 or 64.
    pub rows: usize,
    /// Blocks that share `k`. A row's result depends on this, but not on `rows`.
    pub splits: usize,
}

impl W4Config {
    /// Dynamic shared memory, and the kernel.
    fn kernel(self) -> Option<(u32, &'static str)> {
        let (stages, name) = match self.rows {
            16 => (4, "gemm_w4a16_16"),
            32 => (3, "gemm_w4a16_32"),
            64 => (3, "gemm_w4a16_64"),
            _ => return None,
        };
        let stage = STEP * COLUMNS / 2 + self.rows * STEP * 2 + 3 * 2 * COLUMNS;
        Some((stages * stage as u32, name))
    }

    /// The least rows that take all of `m`, or the most that the device has shared memory for; splits as `n`, `k` and
    /// the device want them.
    pub fn of(gpu: &Gpu, m: usize, n: usize, k: usize) -> Self {
        let has = gpu.properties();
        // As many blocks as multiprocessors, about: more would have more parts to add up.
        let tiles = n.div_ceil(COLUMNS).max(1);
        let wanted = (has.multiprocessors as usize + tiles / 2) / tiles;
        let splits = wanted.clamp(1, k.div_ceil(STEP).max(1));
        let configs = [16, 32, 64].map(|rows| Self { rows, splits });
        let fits = |c: &&Self| c.kernel().is_some_and(|(shared, _)| shared <= has.shared_per_block);
        let mut fitting = configs.iter().filter(fits);
        let most = fitting.clone().next_back().unwrap_or(&configs[0]);
        *fitting.find(|c| c.rows >= m).unwrap_or(most)
    }
}

/// `[n, groups]` to `[groups, padded]`.
fn turned<T: Copy + Default>(n: usize, groups: usize, values: &[T]) -> Vec<T> {
    let padded = n.next_multiple_of(32);
    let mut out = vec![T::default(); groups * padded];
    for row in 0..n {
        for group in 0..groups {
            out[group * padded + row] = values[row * groups + group];
        }
    }
    out
}

/// Groups of a row.
fn groups_of(k: usize) -> Result<usize> {
    if !k.is_multiple_of(GROUP) {
        return unsupported(format!("groups of {GROUP} in rows of {k}"));
    }
    Ok(k / GROUP)
}

/// [`W4Matrix::done`] before the first launch.
fn none_done(gpu: &Gpu, n: usize) -> Result<Buffer> {
    gpu.filled(0, 4 * MOST_TILES * n.div_ceil(COLUMNS))
}

impl W4Matrix {
    /// Copies weights to a device.
    ///
    /// # Errors
    /// [`Error::Unsupported`] for `k` that is no multiple of 128 or zero points beyond 31, [`Error::Length`] for
    /// slices of another length, and those of an allocation.
    pub fn new(gpu: &Gpu, weights: &Packed<'_>) -> Result<Self> {
        let &Packed { n, k, words, scales, zeros } = weights;
        let groups = groups_of(k)?;
        if zeros.is_some_and(|zeros| zeros.iter().any(|&zero| zero > 31)) {
            return unsupported("a zero point beyond 31");
        }
        let groups = n * groups;
        let length = |what, expected, got| {
            if expected == got {
                Ok(())
            } else {
                Err(Error::Length { op: OP, what, expected, got })
            }
        };
        length("packed weights", n.next_multiple_of(32) * k / 2, 4 * words.len())?;
        length("scales of groups", 2 * groups, 2 * scales.len())?;
        length("zero points of groups", groups, zeros.map_or(groups, <[u8]>::len))?;
        Ok(Self {
            n,
            k,
            words: gpu.upload(words)?,
            scales: gpu.upload(&turned(n, k / GROUP, scales))?,
            zeros: zeros.map(|zeros| gpu.upload(&turned(n, k / GROUP, zeros))).transpose()?,
            done: none_done(gpu, n)?,
        })
    }

    /// Quantizes `w`, f32 `[n, k]`, to nearest: of the range of each group and 0 the scale is a fifteenth, rounded to
    /// f16 and at most the largest, and `w` becomes the nearest of 0..=15 steps.
    ///
    /// # Errors
    /// [`Error::Unsupported`] for `k` that is no multiple of 128, [`Error::Length`], [`Error::Alignment`] (a multiple of
    /// 8 bytes), and those of an allocation and a launch.
    pub fn quantize(gpu: &Gpu, n: usize, k: usize, w: &Buffer) -> Result<Self> {
        let groups = groups_of(k)?;
        let from = w.arg(OP, "weights", 4 * n * k, 8)?;
        let padded = n.next_multiple_of(32);
        let (words, scales, zeros) = (
            gpu.alloc(padded * k / 2)?,
            gpu.alloc(2 * groups * padded)?,
            gpu.alloc(groups * padded)?,
        );
        let done = none_done(gpu, n)?;
        if n * k > 0 {
            let [words, scales, zeros] = [&words, &scales, &zeros].map(|b| Arg::Ptr(b.ptr()));
            let args = [from, words, scales, zeros, int(OP, n)?.into(), int(OP, k)?.into()];
            let warps = padded / 32 * groups;
            let launch =
                Launch::new(blocks(gpu, (32 * warps).div_ceil(THREADS as usize), 8), THREADS);
            // SAFETY: the kernel reads n rows of k and writes whole strips of words, scales and zero points.
            unsafe { gpu.launch(&Kernel::new(&GEMM_W4A16, "gemm_w4_encode"), launch, &args) }?;
        }
        Ok(Self { n, k, words, scales, zeros: Some(zeros), done })
    }

    /// Rows and columns of `W`.
    pub fn shape(&self) -> (usize, usize) {
        (self.n, self.k)
    }

    fn zeros(&self) -> Arg {
        Arg::Ptr(self.zeros.as_ref().map_or(0, Buffer::ptr))
    }

    /// `y[m, n] = x[m, k] W^T + bias[n]`, `x` rounded to f16. Up to 128 rows the weights are read as they are, by
    /// [`W4Matrix::few_rows`]; more rows multiply slabs of them that were made f16.
    ///
    /// # Errors
    /// [`Error::Length`], [`Error::Alignment`], and those of a launch.
    pub fn linear(
        &self,
        gpu: &Gpu,
        x: &Buffer,
        bias: Option<&Buffer>,
        y: &Buffer,
        m: usize,
    ) -> Result<()> {
        let &Self { n, k, .. } = self;
        if m <= MOST_ROWS {
            return self.few_rows(gpu, W4Config::of(gpu, m, n, k), (x, m), bias, y);
        }
        y.arg(OP, "y", 4 * m * n, 4)?;
        bias_arg(bias, n)?;
        let halves = Halves::round(gpu, Gemm::of_halves(gpu, m), Half::F16, (x, m, k))?;
        for (first, end) in slabs(SLAB, n, k) {
            let w = self.decode(gpu, first, end)?;
            halves.times_slab(&w, bias, (y, n), first..end)?;
        }
        Ok(())
    }

    /// Rows `first..end` of `W` as f16; `first` is a multiple of 32.
    fn decode(&self, gpu: &Gpu, first: usize, end: usize) -> Result<Buffer> {
        let out = gpu.alloc(2 * (end - first) * self.k)?;
        let pointers = [
            Arg::Ptr(self.words.ptr()),
            Arg::Ptr(self.scales.ptr()),
            self.zeros(),
            Arg::Ptr(out.ptr()),
        ];
        let sizes = [first, end, self.n.next_multiple_of(32), self.k];
        let mut args = pointers.to_vec();
        for size in sizes {
            args.push(int(OP, size)?.into());
        }
        let lanes = (end - first).next_multiple_of(32) * self.k / 32;
        let launch = Launch::new(blocks(gpu, lanes.div_ceil(THREADS as usize), 8), THREADS);
        // SAFETY: the matrix has these rows, and `out` is as long as they are as halves.
        unsafe { gpu.launch(&Kernel::new(&GEMM_W4A16, "gemm_w4_decode"), launch, &args) }?;
        Ok(out)
    }

    /// The same straight from 4 bits, with sums of each group in f32. For a device and a matrix
    /// a row's result is the same whatever `m` is, as long as `splits` is.
    ///
    /// # Errors
    /// [`Error::Length`], [`Error::Alignment`], [`Error::Unsupported`] for another configuration, and those of a
    /// launch.
    pub fn few_rows(
        &self,
        gpu: &Gpu,
        config: W4Config,
        (x, m): (&Buffer, usize),
        bias: Option<&Buffer>,
        y: &Buffer,
    ) -> Result<()> {
        let &Self { n, k, .. } = self;
        let Some((shared, name)) = config.kernel() else {
            return unsupported(format!("{config:?}"));
        };
        let W4Config { rows, splits } = config;
        if splits == 0 || splits > k.div_ceil(STEP).max(1) {
            return unsupported(format!("{splits} splits of {k}"));
        }
        y.arg(OP, "y", 4 * m * n, 4)?;
        let bias = bias_arg(bias, n)?;
        let halves = Halves::round(gpu, Gemm::FewRows, Half::F16, (x, m, k))?;
        let tiles = n.div_ceil(COLUMNS);
        for first in (0..m).step_by(rows * MOST_TILES) {
            let m = (m - first).min(rows * MOST_TILES);
            let row_tiles = m.div_ceil(rows);
            let parts =
                if splits > 1 { tiles * row_tiles * splits * rows * COLUMNS * 4 } else { 0 };
            let parts = gpu.alloc(parts)?;
            let mut args = vec![
                Arg::Ptr(halves.rows().ptr() + (2 * first * k) as u64),
                Arg::Ptr(self.words.ptr()),
                Arg::Ptr(self.scales.ptr()),
                self.zeros(),
                bias,
                Arg::Ptr(y.ptr() + (4 * first * n) as u64),
                Arg::Ptr(parts.ptr()),
                Arg::Ptr(self.done.ptr()),
            ];
            for size in [m, n, k, splits] {
                args.push(int(OP, size)?.into());
            }
            let grid = [tiles, row_tiles, splits].map(|x| x as u32);
            let launch = Launch::grid3(grid[0], grid[1], grid[2], THREADS).with_shared(shared);
            // SAFETY: the kernel reads the rows, the matrix and the bias, writes m rows of y, the parts and a number
            // a tile, all as long as checked or allocated; rows, words, scales and zero points of multiples of 16 bytes
            // each, at multiples of 16.
            unsafe { gpu.launch(&Kernel::new(&GEMM_W4A16, name), launch, &args) }?;
        }
        Ok(())
    }
}
