//! Products of weights with activations: `out[i][j] = sum_k W[j][k] x[i][k] + bias[j]`.
//!
//! A weight is cut into panels of up to 64 rows (four groups of 16, a lane each) by 256 columns
//! or more. A panel is unpacked once into the caches, rows interleaved, and swept by all activation
//! rows; a step multiplies 16 weight rows by one broadcast activation. Few activations may meet
//! rows as they lie instead. Each output is one chain of operations over k, or sixteen that are
//! added up at the end, in an order that depends on the format alone: a row's result is the same
//! alone, in a batch, and for any number of threads, and prefill and decode share their arithmetic.
//!
//! Three families: `float` for f32 products (plain types, and any block type by decoding), `bf16`
//! for 16-bit weights times activations rounded to bf16, and `int8` for block types times
//! activations rounded to int8.

mod activations;
mod bf16;
pub(crate) mod float;
mod int8;
mod interleave;
mod output;
mod rows;
mod run;
mod scratch;
mod source;

use crate::error::check_len;
use crate::simd::{self, Simd};
use crate::{Isa, KernelError, ThreadPool};
pub use activations::{Activations, UnknownActivations};
use blocks::DType;
pub(crate) use float::{check_dtype, decode};
pub use interleave::{
    INTERLEAVED_VERSION, can_interleave, gains_from_interleaving, interleave, interleave_all,
    interleaved_bytes,
};
pub(crate) use output::DisjointMut;
pub use run::{Product, matmuls};
pub(crate) use scratch::Scratch;
pub(crate) use source::Source;

/// A matrix `[rows, cols]`, row after row, each row a whole number of blocks.
#[derive(Clone, Copy, Debug)]
pub struct Weight<'a> {
    /// Type of the elements.
    pub dtype: DType,
    /// Output features.
    pub rows: usize,
    /// Input features.
    pub cols: usize,
    /// `rows` times `dtype.bytes_for(cols)` bytes, of any alignment; in groups of 16 rows if they
    /// are interleaved, the last filled up with zeros.
    pub bytes: &'a [u8],
    /// How the rows lie.
    pub layout: Layout,
}

/// How the rows of a weight lie in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub enum Layout {
    /// One after the other, as in a file.
    #[default]
    Rows,
    /// In groups of 16, interleaved by words of four bytes: word `w` of row `r` of a group is word
    /// `16 w + r` of the group. One stream of memory feeds sixteen lanes; [`interleave`] makes it.
    Interleaved,
}

impl<'a> Weight<'a> {
    /// Bytes of a row; checks that the row is whole blocks and the matrix is all there.
    pub(crate) fn row_bytes(&self) -> Result<usize, KernelError> {
        let &Weight { dtype, rows, cols, bytes, layout } = self;
        let row = dtype.bytes_for(cols).ok_or(KernelError::PartialBlock { dtype, cols })?;
        let stored = match layout {
            Layout::Rows => rows,
            Layout::Interleaved => {
                interleave::check(dtype, cols)?;
                rows.next_multiple_of(simd::LANES)
            }
        };
        check_len("weight bytes", stored.saturating_mul(row), bytes.len())?;
        Ok(row)
    }

    /// The rows, once the weight has been checked.
    pub(crate) fn source(&self) -> Result<Source<'a>, KernelError> {
        let &Weight { rows, bytes, layout, .. } = self;
        Ok(Source { bytes, stride: self.row_bytes()?, rows, layout })
    }
}

/// `out[i][j] = sum_k w[j][k] x[i][k]` for `x: [m, cols]`, `out: [m, rows]`.
///
/// Sums in f32, in a few chains along k (products of floats) or exactly in integers over each sub-block
/// and in f32 over sub-blocks (int8 products).
///
/// # Errors
/// Lengths that do not agree, an element type that is no weight, an `isa` that the processor
/// lacks.
pub fn matmul(
    pool: &ThreadPool,
    isa: Isa,
    w: &Weight<'_>,
    x: &[f32],
    act: Activations,
    out: &mut [f32],
) -> Result<(), KernelError> {
    matmul_bias(pool, isa, w, None, x, act, out)
}

/// [`matmul`] plus `bias[j]`.
///
/// # Errors
/// Those of [`matmul`], and a `bias` that does not have `rows` elements.
pub fn matmul_bias(
    pool: &ThreadPool,
    isa: Isa,
    w: &Weight<'_>,
    bias: Option<&[f32]>,
    x: &[f32],
    act: Activations,
    out: &mut [f32],
) -> Result<(), KernelError> {
    matmuls(pool, isa, [Product { weight: *w, bias, out }], x, act)
}

/// A product whose shapes have been checked.
pub(crate) struct Job<'a> {
    isa: Isa,
    dtype: DType,
    source: Source<'a>,
    cols: usize,
    x: &'a [f32],
    m: usize,
    bias: Option<&'a [f32]>,
}

/// Groups of 16 rows in the largest panel.
pub(crate) const PANEL_GROUPS: usize = 4;

/// Weight rows of the largest panel.
const PANEL_ROWS: usize = PANEL_GROUPS * simd::LANES;

/// One thread's piece of a product: rows `rows` of the weight with activations `acts`.
#[derive(Clone)]
struct Piece {
    rows: std::ops::Range<usize>,
    acts: std::ops::Range<usize>,
    /// The row where the piece begins that the same thread probably takes next.
    next: usize,
}

impl Job<'_> {
    /// Bytes `at..at + len` of 16 rows of the weight, with those that come after them in these
    /// rows, or else at the start of the next panel's, on their way: a panel walks along more rows
    /// than the processor foresees by itself. With many activations there is time anyway.
    #[inline(always)]
    fn tile<'a>(
        &'a self,
        piece: &Piece,
        row: usize,
        (at, len): (usize, usize),
        pad: &'a mut Vec<u8>,
    ) -> simd::Tile<'a> {
        let tile = self.source.tile(row, at, len, pad);
        if piece.acts.len() <= 16 && self.source.layout == Layout::Rows {
            let stride = self.source.stride;
            let next_panel = piece.rows.len() * stride - at;
            tile.prefetch(if at + 2 * len <= stride { len } else { next_panel });
        }
        tile
    }

    /// The lines of bytes `at..at + len` of the 16 rows from `row` on, if rows are interleaved: else
    /// none.
    #[cfg(target_arch = "x86_64")]
    #[inline(always)]
    fn lines(&self, (row, at, len): (usize, usize, usize)) -> &[simd::Line] {
        match self.source.layout {
            Layout::Interleaved => &self.source.lines(row, at)[..len.div_ceil(4)],
            Layout::Rows => &[],
        }
    }

    /// Stores a piece's sums, `sums[g * n + i]` being 16 rows of group `g` for activation `i`, with
    /// the bias added. An activation's rows are written one after the other: the next one's lie far
    /// away.
    #[inline(always)]
    fn store_groups<S: Simd>(
        &self,
        s: S,
        piece: &Piece,
        sums: &[[f32; simd::LANES]],
        n: usize,
        out: &DisjointMut<'_, f32>,
    ) {
        let bias = self.bias.map(|bias| &bias[piece.rows.clone()]);
        for (i, act) in piece.acts.clone().enumerate() {
            let start = act * self.source.rows;
            // SAFETY: a piece alone writes its rows for its activations.
            let to = unsafe { out.slice_mut(start + piece.rows.start..start + piece.rows.end) };
            let sums = sums[i..].iter().step_by(n);
            for (to, sums) in to.chunks_mut(simd::LANES).zip(sums) {
                match <&mut [f32; simd::LANES]>::try_from(&mut *to) {
                    Ok(to) => s.store_f(s.load_f(sums), to),
                    Err(_) => to.copy_from_slice(&sums[..to.len()]),
                }
            }
            if let Some(bias) = bias {
                for (to, bias) in to.iter_mut().zip(bias) {
                    *to += bias;
                }
            }
        }
    }

    /// Stores a piece's sums, `sums[i * PANEL_GROUPS + g]` being 16 rows of group `g` for
    /// activation `i`, with the bias added.
    fn store(&self, piece: &Piece, sums: &[[f32; simd::LANES]], out: &DisjointMut<'_, f32>) {
        let n = piece.rows.len();
        for (i, sums) in piece.acts.clone().zip(sums.chunks(PANEL_GROUPS)) {
            let start = i * self.source.rows + piece.rows.start;
            // SAFETY: a piece alone writes its rows for its activations.
            let to = unsafe { out.slice_mut(start..start + n) };
            let sums = sums.as_flattened();
            match self.bias {
                None => to.copy_from_slice(&sums[..n]),
                Some(bias) => {
                    let bias = &bias[piece.rows.clone()];
                    for ((to, sum), bias) in to.iter_mut().zip(sums).zip(bias) {
                        *to = sum + bias;
                    }
                }
            }
        }
    }
}
