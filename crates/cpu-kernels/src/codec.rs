//! Rows of any element type to and from f32, with the instructions of an [`Isa`].
//!
//! The loops are those of [`blocks`], compiled once more for each instruction set: every one of
//! them gives the same bits.

use crate::simd::{self, Op, Simd};
use crate::{DType, Isa};
use blocks::{BlockError, Target, Work};

impl Target for Isa {
    /// # Panics
    /// If the processor does not have the instructions.
    fn run<W: Work>(self, work: W) -> W::Output {
        simd::dispatch(self, Compiled(work))
    }
}

/// Work that needs no lanes of ours: only what it is compiled for counts.
struct Compiled<W>(W);

impl<W: Work> Op for Compiled<W> {
    type Output = W::Output;
    #[inline(always)]
    fn run<S: Simd>(self, _: S) -> W::Output {
        self.0.run()
    }
}

/// [`blocks::decode`], with the instructions of this process ([`Isa::active`]).
///
/// # Errors
/// If the elements are no whole number of blocks, or take another number of bytes.
pub fn decode(dtype: DType, bytes: &[u8], out: &mut [f32]) -> Result<(), BlockError> {
    blocks::decode_on(Isa::active(), dtype, bytes, out)
}

/// [`blocks::encode`], with the instructions of this process ([`Isa::active`]).
///
/// # Errors
/// If lengths disagree, a row is no whole number of blocks, a value or an importance cannot be
/// encoded, or the type can only be decoded. `out` may be partly written then.
pub fn encode(
    dtype: DType,
    x: &[f32],
    row_len: usize,
    importance: Option<&[f32]>,
    out: &mut [u8],
) -> Result<(), BlockError> {
    blocks::encode_on(Isa::active(), dtype, x, row_len, importance, out)
}
