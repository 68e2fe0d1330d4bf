//! Plain numbers to blocks.

use blocks::DType;

use super::dequantize::{BLOCK_4BIT, BLOCK_ABSMAX, Code4, THREADS, alignment, unsupported};
use super::{blocks, int};
use crate::source::{QUANTIZE, QUANTIZE_K, Source};
use crate::{Arg, Buffer, Gpu, Kernel, Launch, Result};

/// Elements of an activation that share a scale.
pub const GROUP: usize = 32;

/// Bytes beside each [`GROUP`] of activations: the scale, and its product with the sum of the bytes, f32 both.
pub const GROUP_SCALE_BYTES: usize = 8;

/// A grid of blocks of [`THREADS`] whose threads have `per_thread` elements each at a time.
fn grid(gpu: &Gpu, elements: usize, per_thread: usize) -> Launch {
    Launch::new(blocks(gpu, elements.div_ceil(per_thread * THREADS as usize), 8), THREADS)
}

/// Where activations are as bytes in groups of [`GROUP`], as [`quantize_activations`] makes them.
#[derive(Clone, Copy, Debug)]
pub struct Int8<'a> {
    /// i8 `[m, k]`.
    pub q: &'a Buffer,
    /// `[m, k / 32]`: the scale, and that times the sum of the 32, f32 both.
    pub scales: &'a Buffer,
}

impl Int8<'_> {
    /// Both as kernels take them that write so many elements.
    pub(crate) fn args(&self, op: &'static str, elements: usize) -> Result<[Arg; 2]> {
        if !elements.is_multiple_of(GROUP) {
            let reason = format!("{elements} elements are no whole groups of {GROUP}");
            return Err(unsupported(op, reason));
        }
        let scales = self.scales.arg(op, "scales", elements / GROUP * GROUP_SCALE_BYTES, 8)?;
        Ok([self.q.arg(op, "bytes", elements, 4)?, scales])
    }
}

/// Whether [`quantize`] makes the type.
pub const fn can_quantize(dtype: DType) -> bool {
    kernel(dtype).is_some()
}

/// The kernel that makes the type, and the elements of a thread.
const fn kernel(dtype: DType) -> Option<(Kernel, usize)> {
    let (source, name, per_thread): (&Source, _, _) = match dtype {
        DType::Q4_0 => (&QUANTIZE, "quantize_q4_0", 8),
        DType::Q4_1 => (&QUANTIZE, "quantize_q4_1", 8),
        DType::Q5_0 => (&QUANTIZE, "quantize_q5_0", 8),
        DType::Q5_1 => (&QUANTIZE, "quantize_q5_1", 8),
        DType::Q8_0 => (&QUANTIZE, "quantize_q8_0", 8),
        DType::Q8_1 => (&QUANTIZE, "quantize_q8_1", 8),
        DType::IQ4_NL => (&QUANTIZE, "quantize_iq4_nl", 2),
        DType::Q2_K => (&QUANTIZE_K, "quantize_q2_k", 16),
        DType::Q3_K => (&QUANTIZE_K, "quantize_q3_k", 16),
        DType::Q4_K => (&QUANTIZE_K, "quantize_q4_k", 32),
        DType::Q5_K => (&QUANTIZE_K, "quantize_q5_k", 32),
        DType::Q6_K => (&QUANTIZE_K, "quantize_q6_k", 16),
        _ => return None,
    };
    Some((Kernel::new(source, name), per_thread))
}

/// `elements` f32 to blocks of 32 or 256, to the bytes of [`blocks::encode`] without importances. Elements are finite;
/// otherwise their block's bytes mean nothing.
///
/// # Errors
/// [`crate::Error::Unsupported`] for another type and partial blocks, [`crate::Error::Length`] for buffers of fewer
/// bytes, [`crate::Error::Alignment`] for numbers that begin at no multiple of 16 bytes or blocks at none of their
/// type's [`alignment`], and those of a launch.
pub fn quantize(
    gpu: &Gpu,
    elements: usize,
    x: &Buffer,
    (out, dtype): (&Buffer, DType),
) -> Result<()> {
    const OP: &str = "quantize";
    let (kernel, per_thread) =
        kernel(dtype).ok_or_else(|| unsupported(OP, format!("to {dtype}")))?;
    let partial =
        || unsupported(OP, format!("{elements} elements are no whole number of {dtype} blocks"));
    let bytes = dtype.bytes_for(elements).ok_or_else(partial)?;
    let x = x.arg(OP, "the numbers", 4 * elements, 16)?;
    let out = out.arg(OP, "the blocks", bytes, alignment(dtype))?;
    if elements == 0 {
        return Ok(());
    }
    let args = [x, out, Arg::I64((elements / dtype.block_len()) as i64)];
    // SAFETY: the kernel reads the elements and writes their blocks; the buffers have them.
    unsafe { gpu.launch(&kernel, grid(gpu, elements, per_thread), &args) }
}

/// `elements` f32 to bytes in groups of 32 for products with blocks, the largest magnitude of a group to 127. Rows are
/// whole groups.
///
/// # Errors
/// [`crate::Error::Unsupported`] for a partial group, [`crate::Error::Length`], [`crate::Error::Alignment`] (`x` at a multiple
/// of 16 bytes, the bytes of 4, the scales of 8), and those of a launch.
pub fn quantize_activations(gpu: &Gpu, elements: usize, x: &Buffer, out: Int8<'_>) -> Result<()> {
    const OP: &str = "quantize_activations";
    let [q, scales] = out.args(OP, elements)?;
    let x = x.arg(OP, "activations", 4 * elements, 16)?;
    let args = [x, q, scales, Arg::I64((elements / GROUP) as i64)];
    if elements == 0 {
        return Ok(());
    }
    let kernel = Kernel::new(&QUANTIZE, "quantize_activations");
    // SAFETY: the kernel reads the elements and writes as many bytes and their groups' scales.
    unsafe { gpu.launch(&kernel, grid(gpu, elements, 4), &args) }
}

/// Rows of `k` f32 to bytes with one scale each, `x = scale * q` (W8A8): `q` i8 `[rows, k]`, `scales` f32 `[rows]`,
/// the largest magnitude of a row / 127.
///
/// # Errors
/// [`crate::Error::Unsupported`] for a `k` that is no multiple of 4, [`crate::Error::Length`], [`crate::Error::Alignment`] (`x` at
/// a multiple of 16 bytes, the others of 4), and those of a launch.
pub fn quantize_rows(
    gpu: &Gpu,
    rows: usize,
    k: usize,
    x: &Buffer,
    q: &Buffer,
    scales: &Buffer,
) -> Result<()> {
    const OP: &str = "quantize_rows";
    if !k.is_multiple_of(4) {
        return Err(unsupported(OP, format!("rows of {k}, no multiple of 4")));
    }
    let args = [
        x.arg(OP, "activations", 4 * rows * k, 16)?,
        q.arg(OP, "bytes", rows * k, 4)?,
        scales.arg(OP, "scales", 4 * rows, 4)?,
        int(OP, rows)?.into(),
        int(OP, k)?.into(),
    ];
    let launch = Launch::new(int(OP, rows)? as u32, THREADS);
    // SAFETY: the kernel reads rows k elements and writes as many bytes and the rows' scales.
    unsafe { gpu.launch(&Kernel::new(&QUANTIZE, "quantize_rows"), launch, &args) }
}

impl Code4 {
    /// The codes in the order of their numbers. Of FP4's two zeros, 0 comes before 8: bitsandbytes gives 8 to
    /// positive numbers that become zero.
    const fn order(self) -> [u8; 16] {
        match self {
            Code4::Nf4 => [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15],
            Code4::Fp4 => [11, 10, 13, 12, 15, 14, 9, 0, 8, 1, 6, 7, 4, 5, 2, 3],
        }
    }
}

/// `n` f32 to NF4 or FP4 in blocks of 64, to the bytes of bitsandbytes: `packed` has two codes a byte, the first
/// in the high nibble, `absmax` the largest magnitude of each block, f32.
///
/// # Errors
/// [`crate::Error::Unsupported`] for an odd `n`, [`crate::Error::Length`], [`crate::Error::Alignment`] (`x` at a multiple of 16
/// bytes, `packed` of 2, `absmax` of 4), and those of a launch.
pub fn quantize_4bit(
    gpu: &Gpu,
    code: Code4,
    n: usize,
    x: &Buffer,
    packed: &Buffer,
    absmax: &Buffer,
) -> Result<()> {
    const OP: &str = "quantize_4bit";
    if n % 2 == 1 {
        return Err(unsupported(OP, "an odd number of elements"));
    }
    let (order, numbers) = (code.order(), code.numbers());
    let number = |i: usize| numbers[usize::from(order[i])];
    let midpoints: [f32; 15] = std::array::from_fn(|i| (number(i) + number(i + 1)) / 2.0);
    let nibbles = (0..16).fold(0u64, |word, i| word | u64::from(order[i]) << (4 * i));
    let x = x.arg(OP, "the numbers", 4 * n, 16)?;
    let packed = packed.arg(OP, "codes", n / 2, 2)?;
    let absmax = absmax.arg(OP, "absmax", 4 * n.div_ceil(BLOCK_4BIT), 4)?;
    let midpoints = gpu.upload(&midpoints)?;
    let args = [
        x,
        Arg::Ptr(midpoints.ptr()),
        packed,
        absmax,
        Arg::I64(n as i64),
        Arg::I64(nibbles as i64),
    ];
    // SAFETY: the kernel reads n numbers and 15 midpoints and writes two codes a byte and the blocks' scales.
    unsafe { gpu.launch(&Kernel::new(&QUANTIZE, "quantize_4bit"), grid(gpu, n, 4), &args) }
}

/// What double quantization makes of the scales of `count` blocks.
#[derive(Clone, Debug)]
pub struct NestedAbsMax {
    /// A byte a block.
    pub codes: Buffer,
    /// f32 for each 256 codes.
    pub absmax: Buffer,
    /// The 256 numbers of the codes, f32.
    pub map: Buffer,
    /// The mean of the scales, one f32.
    pub offset: Buffer,
}

/// Double quantization (Dettmers et al. 2023, section 3): the scales of `count` blocks less their mean, in
/// blocks of 256, by the nearest of the numbers of [`dynamic_map`].
///
/// # Errors
/// [`crate::Error::Length`], [`crate::Error::Alignment`] (a multiple of 4 bytes), [`crate::Error::OutOfMemory`], and those of a
/// launch.
pub fn quantize_absmax(gpu: &Gpu, count: usize, absmax: &Buffer) -> Result<NestedAbsMax> {
    const OP: &str = "quantize_absmax";
    let scales = absmax.arg(OP, "absmax", 4 * count, 4)?;
    let nested = count.div_ceil(BLOCK_ABSMAX);
    let made = NestedAbsMax {
        codes: gpu.alloc(count)?,
        absmax: gpu.alloc(4 * nested)?,
        map: gpu.upload(&dynamic_map())?,
        offset: gpu.alloc(4)?,
    };
    let ptr = |buffer: &Buffer| Arg::Ptr(buffer.ptr());
    let args = [scales, ptr(&made.offset), Arg::I64(count as i64)];
    // SAFETY: the kernel reads `count` numbers and writes one.
    unsafe { gpu.launch(&Kernel::new(&QUANTIZE, "absmax_mean"), Launch::new(1, 1024), &args) }?;
    let (map, offset, codes) = (ptr(&made.map), ptr(&made.offset), ptr(&made.codes));
    let args = [scales, map, offset, codes, ptr(&made.absmax), Arg::I64(count as i64)];
    let launch = Launch::new(int(OP, nested)? as u32, BLOCK_ABSMAX as u32);
    // SAFETY: the kernel reads `count` numbers, the map and the offset, and writes as many bytes and a number
    // for each 256.
    unsafe { gpu.launch(&Kernel::new(&QUANTIZE, "quantize_absmax"), launch, &args) }?;
    Ok(made)
}

/// The 256 numbers, ascending, of bitsandbytes' signed 8-bit code of dynamic exponent (Dettmers 2016, "8-bit
/// approximations for parallelism in deep learning"): for each power of ten from 10^-6 to 1 the midpoints of 1, 2,
/// 4, .., 64 even parts of 0.1..1, with both signs; 0 and 1. Its digits are those of the f32 arithmetic that
/// bitsandbytes makes them with.
///
/// ```
/// let map = cuda_kernels::ops::quantize::dynamic_map();
/// assert_eq!([map[0], map[127], map[255]], [-0.992_968_74, 0.0, 1.0]);
/// ```
pub fn dynamic_map() -> [f32; 256] {
    let mut map = [0.0f32; 256];
    map[1] = 1.0;
    let mut filled = 2;
    for exponent in 0..7 {
        let parts = 1usize << exponent;
        let step = (1.0f32 - 0.1) / parts as f32;
        // From the nearer end, as torch.linspace does it.
        let bound = |i: usize| match i {
            i if i < parts.div_ceil(2) => step.mul_add(i as f32, 0.1),
            i => (-step).mul_add((parts - i) as f32, 1.0),
        };
        for i in 0..parts {
            let power = 10f64.powi(exponent - 6) as f32;
            let number = power * ((bound(i) + bound(i + 1)) / 2.0);
            map[filled..filled + 2].copy_from_slice(&[number, -number]);
            filled += 2;
        }
    }
    map.sort_by(f32::total_cmp);
    map
}
