//! What a block is: the trait, and the little-endian fields that blocks are made of.
//!
//! Every block struct has alignment 1, so that any slice of bytes of the right length is a slice of
//! blocks, wherever it lies in a mapped file.

use crate::{BlockError, DType, float16};
use bytemuck::{Pod, Zeroable};

/// `LEN` consecutive elements of a row, in GGML's layout.
pub trait Block: Pod {
    /// The type of which this is a block.
    const DTYPE: DType;
    /// Elements a block.
    const LEN: usize;

    /// Writes the elements.
    ///
    /// # Panics
    /// If `out` is not `LEN` long.
    fn decode(&self, out: &mut [f32]);
}

/// A block type that can be encoded to.
pub trait Encode: Block {
    /// Encodes one row. Implementations are `#[inline(always)]`, as are those of
    /// [`Block::decode`]: see [`Target`](crate::Target).
    ///
    /// `importance`, where given, holds a weight for each column: what is minimised is then about
    /// `sum importance[i] * (x[i] - decoded[i])^2` (llama.cpp's importance matrix). Values must be
    /// finite and importances finite and not negative; otherwise the bytes mean nothing.
    ///
    /// # Panics
    /// If `x` or `importance` is not `out.len() * LEN` long.
    fn encode_row(x: &[f32], importance: Option<&[f32]>, out: &mut [Self]);
}

/// The bytes as blocks of one type.
///
/// # Errors
/// If they are no whole number of blocks.
pub fn as_blocks<B: Block>(bytes: &[u8]) -> Result<&[B], BlockError> {
    let elements = bytes.len() / size_of::<B>() * B::LEN;
    bytemuck::try_cast_slice(bytes).map_err(|_| BlockError::ByteCount {
        dtype: B::DTYPE,
        elements,
        expected: elements / B::LEN * size_of::<B>(),
        got: bytes.len(),
    })
}

/// A little-endian IEEE half-precision number at any address.
#[repr(transparent)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
pub struct Half(pub [u8; 2]);

impl Half {
    /// The number, widened exactly.
    #[inline(always)]
    pub fn to_f32(self) -> f32 {
        float16::widen(u16::from_le_bytes(self.0))
    }

    /// The nearest half-precision number, ties to even; too large becomes infinite.
    #[inline(always)]
    pub fn from_f32(x: f32) -> Self {
        Self(float16::narrow(x).to_le_bytes())
    }
}

/// A little-endian 16-bit word at any address.
#[repr(transparent)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
pub struct Word(pub [u8; 2]);

impl Word {
    /// The number.
    #[inline(always)]
    pub fn get(self) -> u16 {
        u16::from_le_bytes(self.0)
    }

    /// Stores a number.
    #[inline(always)]
    pub fn new(x: u16) -> Self {
        Self(x.to_le_bytes())
    }
}

/// Ties a struct to its line in the table of types, at compile time.
macro_rules! check_layout {
    ($($block:ty),* $(,)?) => { $(const _: () = {
        let dtype = <$block as $crate::Block>::DTYPE;
        assert!(size_of::<$block>() == dtype.block_bytes(), "size differs from the table");
        assert!(<$block as $crate::Block>::LEN == dtype.block_len(), "length differs from the table");
        assert!(align_of::<$block>() == 1, "a block must lie at any address");
    };)* };
}
pub(crate) use check_layout;
