//! Blocks to plain numbers.

use std::ops::Range;

use blocks::{DType, IQ1_GRID, IQ2_S_GRID, IQ2_XS_GRID, IQ2_XXS_GRID, IQ3_S_GRID, IQ3_XXS_GRID};

use super::{blocks, int};
use crate::source::{DEQUANTIZE, DEQUANTIZE_IQ, DEQUANTIZE_PACKED};
use crate::{Arg, Buffer, Error, Gpu, Kernel, Launch, Result};

pub(super) const THREADS: u32 = 256;

/// Chunks of 16 bytes that a thread moves at once (`UNROLL` in the kernels).
const UNROLL: usize = 4;

/// The largest power of two, up to 16, that divides a type's blocks: where a buffer of them must begin.
pub fn alignment(dtype: DType) -> usize {
    1 << dtype.block_bytes().trailing_zeros().min(4)
}

pub(super) fn unsupported(op: &'static str, reason: impl Into<String>) -> Error {
    Error::Unsupported { op, reason: reason.into() }
}

/// The kernel from one type to another.
fn kernel(from: DType, to: DType) -> Option<&'static str> {
    macro_rules! names {
        ($($dtype:ident $name:literal),*) => {
            match (from, to) {
                $((DType::$dtype, DType::F32) => concat!("dequantize_", $name, "_f32"),
                (DType::$dtype, DType::F16) => concat!("dequantize_", $name, "_f16"),
                (DType::$dtype, DType::BF16) => concat!("dequantize_", $name, "_bf16"),)*
                (DType::F32, DType::F16) => "convert_f32_f16",
                (DType::F32, DType::BF16) => "convert_f32_bf16",
                (DType::F16, DType::F32) => "convert_f16_f32",
                (DType::F16, DType::BF16) => "convert_f16_bf16",
                (DType::BF16, DType::F32) => "convert_bf16_f32",
                (DType::BF16, DType::F16) => "convert_bf16_f16",
                _ => return None,
            }
        };
    }
    Some(names!(
        Q1_0 "q1_0", Q2_0 "q2_0", Q4_0 "q4_0", Q4_1 "q4_1", Q5_0 "q5_0", Q5_1 "q5_1", Q8_0 "q8_0",
        Q8_1 "q8_1", Q2_K "q2_k", Q3_K "q3_k", Q4_K "q4_k", Q5_K "q5_k", Q6_K "q6_k", Q8_K "q8_k",
        IQ4_NL "iq4_nl", IQ4_XS "iq4_xs", TQ1_0 "tq1_0", TQ2_0 "tq2_0", MXFP4 "mxfp4", NVFP4 "nvfp4",
        IQ1_S "iq1_s", IQ1_M "iq1_m", IQ2_XXS "iq2_xxs", IQ2_XS "iq2_xs", IQ2_S "iq2_s", IQ3_XXS "iq3_xxs",
        IQ3_S "iq3_s"
    ))
}

/// The code book of a type that has one, as the kernels of `dequantize_iq.cu` read it.
fn code_book(dtype: DType) -> Option<&'static [u8]> {
    Some(match dtype {
        DType::IQ1_S | DType::IQ1_M => bytemuck::cast_slice(&IQ1_GRID),
        DType::IQ2_XXS => IQ2_XXS_GRID.as_flattened(),
        DType::IQ2_XS => IQ2_XS_GRID.as_flattened(),
        DType::IQ2_S => IQ2_S_GRID.as_flattened(),
        DType::IQ3_XXS => IQ3_XXS_GRID.as_flattened(),
        DType::IQ3_S => IQ3_S_GRID.as_flattened(),
        _ => return None,
    })
}

/// Whether [`dequantize`] goes from the one type to the other.
pub fn can_dequantize(from: DType, to: DType) -> bool {
    kernel(from, to).is_some() || from == to && matches!(to, DType::F32 | DType::F16 | DType::BF16)
}

/// `elements` numbers of `from_type` (GGML's block types, F32, F16, BF16) as F32, F16 or BF16. F32
/// has the bits of [`blocks::decode`]; the others are those rounded to nearest, ties to even.
///
/// # Errors
/// [`Error::Unsupported`] for other types and partial blocks, [`Error::Length`] for buffers of fewer bytes,
/// [`Error::Alignment`] for blocks that begin at no multiple of their type's [`alignment`] or plain numbers that
/// begin at no multiple of 16 bytes, and those of a launch.
pub fn dequantize(
    gpu: &Gpu,
    elements: usize,
    (from, from_type): (&Buffer, DType),
    (out, out_type): (&Buffer, DType),
) -> Result<()> {
    const OP: &str = "dequantize";
    if !can_dequantize(from_type, out_type) {
        return Err(unsupported(OP, format!("{from_type} to {out_type}")));
    }
    let bytes = |dtype: DType| {
        let partial = || {
            unsupported(OP, format!("{elements} elements are no whole number of {dtype} blocks"))
        };
        dtype.bytes_for(elements).ok_or_else(partial)
    };
    let (from_bytes, out_bytes) = (bytes(from_type)?, bytes(out_type)?);
    let aligned = if from_type.is_quantized() { alignment(from_type) } else { 16 };
    let from_arg = from.arg(OP, "the blocks", from_bytes, aligned)?;
    let out_arg = out.arg(OP, "the result", out_bytes, 16)?;
    let Some(name) = kernel(from_type, out_type) else {
        return out.copy_from(&from.slice(0..from_bytes));
    };
    let chunks = elements.div_ceil(16 / out_type.block_bytes());
    let grid = blocks(gpu, chunks.div_ceil(UNROLL * THREADS as usize), 8);
    let count = Arg::I64(elements as i64);
    let launch = Launch::new(grid, THREADS);
    if let Some(book) = code_book(from_type) {
        let book = gpu.upload(book)?;
        let args = [from_arg, Arg::Ptr(book.ptr()), out_arg, count];
        // SAFETY: as below; codes of the type are within its code book, whatever the bytes.
        return unsafe { gpu.launch(&Kernel::new(&DEQUANTIZE_IQ, name), launch, &args) };
    }
    let args = [from_arg, out_arg, count];
    // SAFETY: the kernel reads the blocks of the elements and writes the elements; both buffers have them.
    unsafe { gpu.launch(&Kernel::new(&DEQUANTIZE, name), launch, &args) }
}

/// Some rows of a matrix with `row_len` columns, as [`dequantize`] does it; the first goes to the beginning of
/// the result.
///
/// # Errors
/// As [`dequantize`].
pub fn dequantize_rows(
    gpu: &Gpu,
    row_len: usize,
    rows: Range<usize>,
    (from, from_type): (&Buffer, DType),
    (out, out_type): (&Buffer, DType),
) -> Result<()> {
    const OP: &str = "dequantize_rows";
    let partial =
        || unsupported(OP, format!("a row of {row_len} is no whole number of {from_type} blocks"));
    let row_bytes = from_type.bytes_for(row_len).ok_or_else(partial)?;
    let (begin, end) = (rows.start.saturating_mul(row_bytes), rows.end.saturating_mul(row_bytes));
    if end > from.len() || begin > end {
        return Err(Error::Length {
            op: OP,
            what: "the matrix",
            expected: end.max(begin),
            got: from.len(),
        });
    }
    let elements = rows.len() * row_len;
    dequantize(gpu, elements, (&from.slice(begin..end), from_type), (out, out_type))
}

/// A code of 4 bits with one scale for 64 elements, as bitsandbytes has it (Dettmers et al. 2023).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Code4 {
    /// Quantiles of the normal distribution.
    Nf4,
    /// One bit of sign, two of exponent, one of mantissa, up to a factor.
    Fp4,
}

impl Code4 {
    /// The numbers of the codes.
    pub const fn numbers(self) -> &'static [f32; 16] {
        match self {
            Code4::Nf4 => &[
                -1.0,
                -0.696_192_8,
                -0.525_073_05,
                -0.394_917_5,
                -0.284_441_38,
                -0.184_773_43,
                -0.091_050_036,
                0.0,
                0.079_580_3,
                0.160_930_2,
                0.246_112_3,
                0.337_915_24,
                0.440_709_83,
                0.562_617,
                0.722_956_84,
                1.0,
            ],
            Code4::Fp4 => &[
                0.0,
                0.005_208_333_5,
                0.666_666_7,
                1.0,
                0.333_333_34,
                0.5,
                0.166_666_67,
                0.25,
                0.0,
                -0.005_208_333_5,
                -0.666_666_7,
                -1.0,
                -0.333_333_34,
                -0.5,
                -0.166_666_67,
                -0.25,
            ],
        }
    }
}

/// The scales of blocks of 64: f32 each, or themselves quantized.
#[derive(Clone, Copy, Debug)]
pub enum AbsMax<'a> {
    /// The largest magnitude of each block.
    Plain(&'a Buffer),
    /// Double quantization: `map[codes[b]] * absmax[b / 256] + offset`.
    Nested {
        /// A byte a block.
        codes: &'a Buffer,
        /// f32 for each 256 codes.
        absmax: &'a Buffer,
        /// The 256 numbers of the codes, f32.
        map: &'a Buffer,
        /// One f32.
        offset: &'a Buffer,
    },
}

/// Elements that share a scale in [`Code4`].
pub const BLOCK_4BIT: usize = 64;

/// Scales that share one of theirs in double quantization.
pub const BLOCK_ABSMAX: usize = 256;

/// `n` numbers of NF4 or FP4, two codes a byte with the first in the high nibble, as F32, F16 or BF16:
/// `code * scale`.
///
/// # Errors
/// [`Error::Unsupported`] for an odd `n` and other types, [`Error::Length`], [`Error::Alignment`] (codes and
/// result at a multiple of 16 bytes), and those of a launch.
pub fn dequantize_4bit(
    gpu: &Gpu,
    code: Code4,
    n: usize,
    packed: &Buffer,
    absmax: AbsMax<'_>,
    (out, out_type): (&Buffer, DType),
) -> Result<()> {
    const OP: &str = "dequantize_4bit";
    let name = match out_type {
        DType::F32 => "dequantize_4bit_f32",
        DType::F16 => "dequantize_4bit_f16",
        DType::BF16 => "dequantize_4bit_bf16",
        other => return Err(unsupported(OP, format!("to {other}"))),
    };
    if n % 2 == 1 {
        return Err(unsupported(OP, "an odd number of elements"));
    }
    let count = n.div_ceil(BLOCK_4BIT);
    let [scales, codes, map, offset] = match absmax {
        AbsMax::Plain(absmax) => {
            [absmax.arg(OP, "absmax", 4 * count, 4)?, Arg::Ptr(0), Arg::Ptr(0), Arg::Ptr(0)]
        }
        AbsMax::Nested { codes, absmax, map, offset } => [
            absmax.arg(OP, "nested absmax", 4 * count.div_ceil(BLOCK_ABSMAX), 4)?,
            codes.arg(OP, "codes of absmax", count, 1)?,
            map.arg(OP, "the map of absmax", 4 * 256, 4)?,
            offset.arg(OP, "the offset of absmax", 4, 4)?,
        ],
    };
    let packed = packed.arg(OP, "codes", n / 2, 16)?;
    let result = out.arg(OP, "the result", n * out_type.block_bytes(), 16)?;
    let numbers = gpu.upload(code.numbers())?;
    let args =
        [packed, Arg::Ptr(numbers.ptr()), scales, codes, map, offset, result, Arg::I64(n as i64)];
    let grid = blocks(gpu, n.div_ceil(16 / out_type.block_bytes() * UNROLL * THREADS as usize), 8);
    // SAFETY: the kernel reads two codes a byte, the scales of the blocks of 64 and 16 numbers, and writes n.
    unsafe { gpu.launch(&Kernel::new(&DEQUANTIZE_PACKED, name), Launch::new(grid, THREADS), &args) }
}

/// How a matrix of k inputs and n outputs is packed into words of eight 4-bit levels.
#[derive(Clone, Copy, Debug)]
pub enum Packed4<'a> {
    /// AutoGPTQ's and GPTQModel's: words `[k / 8, n]`.
    Gptq {
        /// Whether zeros lie as they are (`checkpoint_format: gptq_v2`) or less one.
        version2: bool,
        /// The group of each input (`g_idx`, i32), where groups are not in order. Numbers beyond the groups
        /// count as the nearest; who loads a file checks them.
        groups: Option<&'a Buffer>,
    },
    /// AWQ's for matrix products: words `[k, n / 8]`, the outputs of a word in the order 0, 2, 4, 6, 1, 3, 5, 7.
    Awq,
}

/// A GPTQ or AWQ matrix of 4 bits as it lies in a file.
#[derive(Clone, Copy, Debug)]
pub struct PackedMatrix<'a> {
    /// How levels lie in words.
    pub format: Packed4<'a>,
    /// Inputs.
    pub k: usize,
    /// Outputs.
    pub n: usize,
    /// Inputs that share scale and zero.
    pub group_size: usize,
    /// i32, eight levels a word (`qweight`).
    pub words: &'a Buffer,
    /// i32 `[groups, n / 8]` (`qzeros`).
    pub zeros: &'a Buffer,
    /// F16 `[groups, n]`.
    pub scales: &'a Buffer,
}

/// The matrix as F32, F16 or BF16 `[n, k]`, row by row: `scale * (level - zero)`.
///
/// # Errors
/// [`Error::Unsupported`] for other types, and for `k`, `n` or groups that are no multiple of 8,
/// [`Error::Length`], [`Error::Alignment`] (the result at a multiple of 16 bytes), and those of a launch.
pub fn dequantize_packed(
    gpu: &Gpu,
    matrix: &PackedMatrix<'_>,
    (out, out_type): (&Buffer, DType),
) -> Result<()> {
    const OP: &str = "dequantize_packed";
    let &PackedMatrix { format, k, n, group_size, words, zeros, scales } = matrix;
    let name = match (format, out_type) {
        (Packed4::Gptq { .. }, DType::F32) => "dequantize_gptq_f32",
        (Packed4::Gptq { .. }, DType::F16) => "dequantize_gptq_f16",
        (Packed4::Gptq { .. }, DType::BF16) => "dequantize_gptq_bf16",
        (Packed4::Awq, DType::F32) => "dequantize_awq_f32",
        (Packed4::Awq, DType::F16) => "dequantize_awq_f16",
        (Packed4::Awq, DType::BF16) => "dequantize_awq_bf16",
        (_, other) => return Err(unsupported(OP, format!("to {other}"))),
    };
    if [k, n, group_size].iter().any(|x| x % 8 != 0) || group_size == 0 {
        return Err(unsupported(
            OP,
            format!("k {k}, n {n} and groups of {group_size}: all must be multiples of 8"),
        ));
    }
    let count = k.div_ceil(group_size);
    let (groups, more) = match format {
        Packed4::Gptq { version2, groups } => {
            let groups = groups.map(|g| g.arg(OP, "groups", 4 * k, 4)).transpose()?;
            (groups.unwrap_or(Arg::Ptr(0)), i32::from(!version2))
        }
        Packed4::Awq => (Arg::Ptr(0), 0),
    };
    let args = [
        words.arg(OP, "words", k * n / 2, 4)?,
        zeros.arg(OP, "zeros", count * n / 2, 4)?,
        scales.arg(OP, "scales", count * n * 2, 2)?,
        groups,
        out.arg(OP, "the result", k * n * out_type.block_bytes(), 16)?,
        int(OP, k)?.into(),
        int(OP, n)?.into(),
        int(OP, group_size)?.into(),
        int(OP, count)?.into(),
        more.into(),
    ];
    let launch = Launch::grid2(k.div_ceil(64) as u32, n.div_ceil(64) as u32, THREADS);
    // SAFETY: the kernel reads k n levels, the scales and zeros of `count` groups and, if there, k groups, and
    // writes k n numbers.
    unsafe { gpu.launch(&Kernel::new(&DEQUANTIZE_PACKED, name), launch, &args) }
}
