//! Rows of any type to and from f32: lengths checked here, the work done by the block types.

use crate::round::abs_max;
use crate::*;

/// Evaluates the body with `$b` standing for the block type of a quantized dtype, the types that
/// can be encoded first.
macro_rules! dispatch {
    ($dtype:expr, $b:ident => $encodable:expr, $decode_only:expr, $otherwise:expr) => {
        dispatch!(@ $dtype, $b, $encodable, $decode_only, $otherwise;
            Q1_0 BlockQ1_0, Q2_0 BlockQ2_0,
            Q4_0 BlockQ4_0, Q4_1 BlockQ4_1, Q5_0 BlockQ5_0, Q5_1 BlockQ5_1, Q8_0 BlockQ8_0, Q8_1 BlockQ8_1,
            Q2_K BlockQ2K, Q3_K BlockQ3K, Q4_K BlockQ4K, Q5_K BlockQ5K, Q6_K BlockQ6K, Q8_K BlockQ8K,
            IQ4_NL BlockIq4Nl, IQ4_XS BlockIq4Xs, TQ1_0 BlockTq1_0, TQ2_0 BlockTq2_0,
            MXFP4 BlockMxfp4, NVFP4 BlockNvfp4;
            IQ1_S BlockIq1S, IQ1_M BlockIq1M, IQ2_XXS BlockIq2Xxs, IQ2_XS BlockIq2Xs, IQ2_S BlockIq2S,
            IQ3_XXS BlockIq3Xxs, IQ3_S BlockIq3S)
    };
    (@ $dtype:expr, $b:ident, $encodable:expr, $decode_only:expr, $otherwise:expr;
        $($e:ident $eb:ident),*; $($d:ident $db:ident),*) => {
        match $dtype {
            $(DType::$e => { type $b = $eb; $encodable })*
            $(DType::$d => { type $b = $db; $decode_only })*
            _ => $otherwise,
        }
    };
}

/// Blocks to values.
struct DecodeBlocks<'a, B> {
    blocks: &'a [B],
    out: &'a mut [f32],
}

impl<B: Block> Work for DecodeBlocks<'_, B> {
    type Output = ();
    #[inline(always)]
    fn run(self) {
        for (block, out) in self.blocks.iter().zip(self.out.chunks_exact_mut(B::LEN)) {
            // A copy cannot overlap `out`, which the compiler would have to allow for otherwise.
            let block = *block;
            block.decode(out);
        }
    }
}

/// Rows to blocks.
struct EncodeRows<'a, B> {
    x: &'a [f32],
    row_len: usize,
    importance: Option<&'a [f32]>,
    out: &'a mut [B],
}

impl<B: Encode> Work for EncodeRows<'_, B> {
    type Output = ();
    #[inline(always)]
    fn run(self) {
        let rows = self.out.chunks_exact_mut(self.row_len / B::LEN);
        for (x, out) in self.x.chunks_exact(self.row_len).zip(rows) {
            B::encode_row(x, self.importance, out);
        }
    }
}

/// The bytes that `elements` elements take, which must be as many as there are.
fn check_bytes(dtype: DType, elements: usize, got: usize) -> Result<(), BlockError> {
    match dtype.bytes_for(elements) {
        None => Err(BlockError::PartialBlock { dtype, elements }),
        Some(expected) if expected != got => {
            Err(BlockError::ByteCount { dtype, elements, expected, got })
        }
        Some(_) => Ok(()),
    }
}

/// Decodes `out.len()` elements of any type, to the same bits as libggml.
///
/// Any bytes decode: a scale that is infinite or NaN gives infinite or NaN elements. F64 and
/// integers beyond 24 bits are rounded to the nearest f32.
///
/// # Errors
/// If the elements are no whole number of blocks, or take another number of bytes.
///
/// ```
/// use blocks::{DType, decode};
/// let mut out = [0.0; 32];
/// let mut block = [0x98; 18]; // nibbles 8 and 9: 0 and 1 times the scale
/// block[..2].copy_from_slice(&[0x00, 0x40]); // 2.0
/// decode(DType::Q4_0, &block, &mut out).unwrap();
/// assert_eq!((out[0], out[16]), (0.0, 2.0));
/// ```
pub fn decode(dtype: DType, bytes: &[u8], out: &mut [f32]) -> Result<(), BlockError> {
    decode_on(Baseline, dtype, bytes, out)
}

/// [`decode`] with the instructions of a target, to the same bits.
///
/// # Errors
/// As [`decode`].
pub fn decode_on<T: Target>(
    target: T,
    dtype: DType,
    bytes: &[u8],
    out: &mut [f32],
) -> Result<(), BlockError> {
    check_bytes(dtype, out.len(), bytes.len())?;
    if !dtype.is_quantized() {
        target.run(plain::Decode { dtype, bytes, out });
        return Ok(());
    }
    dispatch!(dtype, B => target.run(DecodeBlocks::<B> { blocks: as_blocks(bytes)?, out }),
        target.run(DecodeBlocks::<B> { blocks: as_blocks(bytes)?, out }),
        unreachable!("every block type is listed"));
    Ok(())
}

/// Whether [`encode`] can produce the type: all but the IQ1, IQ2 and IQ3 ones.
pub const fn can_encode(dtype: DType) -> bool {
    use DType::*;
    !matches!(dtype, IQ1_S | IQ1_M | IQ2_XXS | IQ2_XS | IQ2_S | IQ3_XXS | IQ3_S)
}

/// Encodes rows of `row_len` values to any type but the IQ1..IQ3 family.
///
/// `importance` holds a weight for each column (llama.cpp's importance matrix); Q4_0..Q5_1, the
/// k-quants and IQ4 use it, the others ignore it. The bytes are those of libggml built without
/// fused multiply-add.
///
/// Block types refuse infinite values and NaN, as nothing decodes to them. A block whose scale
/// exceeds 65504 gets an infinite scale, as in libggml. F16, BF16, F32 and F64 take any value;
/// integers round to nearest, ties to even, and saturate.
///
/// # Errors
/// If the lengths disagree, a row is no whole number of blocks, a value or an importance is not
/// one, or the type can only be decoded ([`can_encode`]). `out` may be partly written then.
///
/// ```
/// use blocks::{DType, encode};
/// let x: Vec<f32> = (0..32).map(|i| i as f32 - 16.0).collect();
/// let mut out = [0; 34];
/// encode(DType::Q8_0, &x, 32, None, &mut out).unwrap();
/// assert_eq!(out[2] as i8, -127); // -16, the largest
/// ```
pub fn encode(
    dtype: DType,
    x: &[f32],
    row_len: usize,
    importance: Option<&[f32]>,
    out: &mut [u8],
) -> Result<(), BlockError> {
    encode_on(Baseline, dtype, x, row_len, importance, out)
}

/// [`encode`] with the instructions of a target, to the same bytes.
///
/// # Errors
/// As [`encode`].
pub fn encode_on<T: Target>(
    target: T,
    dtype: DType,
    x: &[f32],
    row_len: usize,
    importance: Option<&[f32]>,
    out: &mut [u8],
) -> Result<(), BlockError> {
    if !can_encode(dtype) {
        return Err(BlockError::NoEncoder { dtype });
    }
    let elements = x.len();
    if elements == 0 {
        return check_bytes(dtype, 0, out.len());
    }
    if row_len == 0 || !elements.is_multiple_of(row_len) {
        return Err(BlockError::PartialRow { row_len, elements });
    }
    if !row_len.is_multiple_of(dtype.block_len()) {
        return Err(BlockError::PartialBlock { dtype, elements: row_len });
    }
    check_bytes(dtype, elements, out.len())?;
    if let Some(importance) = importance {
        if importance.len() != row_len {
            return Err(BlockError::ImportanceCount { expected: row_len, got: importance.len() });
        }
        if let Some(column) = importance.iter().position(|w| !(w.is_finite() && *w >= 0.0)) {
            return Err(BlockError::Importance { column });
        }
    }
    if !plain::is_float(dtype)
        && !target.run(AbsMax(x)).is_finite()
        && let Some(index) = x.iter().position(|v| !v.is_finite())
    {
        return Err(BlockError::NotFinite { dtype, index });
    }
    if !dtype.is_quantized() {
        target.run(plain::Encode { dtype, x, out });
        return Ok(());
    }
    dispatch!(dtype, B => {
        let out = bytemuck::cast_slice_mut(out);
        target.run(EncodeRows::<B> { x, row_len, importance, out });
    }, return Err(BlockError::NoEncoder { dtype: B::DTYPE }),
        unreachable!("every block type is listed"));
    Ok(())
}

/// The largest magnitude of some numbers: infinite or NaN if one of them is, 0 if there are none.
#[derive(Clone, Copy, Debug)]
pub struct AbsMax<'a>(pub &'a [f32]);

impl Work for AbsMax<'_> {
    type Output = f32;
    #[inline(always)]
    fn run(self) -> f32 {
        abs_max(self.0)
    }
}
