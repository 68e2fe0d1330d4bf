//! Products with weights of any type, and those with GGML's blocks.

use blocks::DType;

use super::halves::Halves;
use super::{Gemm, OP, Product, THREADS, half, plain, unsupported};
use crate::blas::Half;
use crate::ops::dequantize::{alignment, can_dequantize, dequantize_rows};
use crate::ops::{blocks, int};
use crate::source::GEMM_BLOCKS;
use crate::{Arg, Buffer, Gpu, Kernel, Launch, Result};

/// Up to so many rows blocks become halves on their way to the tensor cores, from there on once for all rows.
const MOST_ROWS: usize = 64;
/// Columns of a block of threads.
const COLUMNS: usize = 64;
/// Of `k`, in a step of a block.
const STEP: usize = 64;
/// Bytes of halves that are made at once: enough columns to fill a device, and little of its memory.
const SLAB: usize = 64 << 20;

/// `y = x W^T + bias` with weights of `dtype`, by what is fastest for so many rows.
///
/// - f32: in f32.
/// - f16 and bf16: on tensor cores, `x` rounded to the same.
/// - GGML's blocks: as f16, rounded from what they decode to, `x` too. Up to 64 rows [`of_blocks`]
///   where the type has a kernel; otherwise slabs of `W` are decoded to memory first.
///
/// # Errors
/// Those of [`plain`] and of [`dequantize_rows`]; [`crate::Error::Unsupported`] for types that that does not take.
pub fn linear(gpu: &Gpu, dtype: DType, product: &Product<'_>) -> Result<()> {
    if dtype == DType::F32 {
        return plain(gpu, Gemm::Tiled, dtype, product);
    }
    if half(dtype).is_some() {
        return plain(gpu, Gemm::of_halves(gpu, product.m), dtype, product);
    }
    if product.m <= MOST_ROWS && names(dtype).is_some() {
        return of_blocks(gpu, dtype, splits(gpu, product.n, product.k), product);
    }
    by_slabs(gpu, dtype, SLAB, product)
}

/// The same by slabs of at most so many bytes of halves (at least 128 rows of `W`), for any number of rows of `x`.
///
/// # Errors
/// As [`linear`].
pub fn by_slabs(gpu: &Gpu, dtype: DType, slab: usize, product: &Product<'_>) -> Result<()> {
    product.check()?;
    let &Product { x, w, bias, y, m, n, k } = product;
    if !can_dequantize(dtype, DType::F16) {
        return unsupported(format!("weights of {dtype}"));
    }
    let halves = Halves::round(gpu, Gemm::of_halves(gpu, m), Half::F16, (x, m, k))?;
    for (first, end) in slabs(slab, n, k) {
        let decoded = gpu.alloc(2 * (end - first) * k)?;
        dequantize_rows(gpu, k, first..end, (w, dtype), (&decoded, DType::F16))?;
        halves.times_slab(&decoded, bias, (y, n), first..end)?;
    }
    Ok(())
}

/// Ranges of `n` rows of `k` halves, of at most `bytes` but at least 128 rows each.
pub(super) fn slabs(bytes: usize, n: usize, k: usize) -> impl Iterator<Item = (usize, usize)> {
    let rows = (bytes / (2 * k).max(1)).next_multiple_of(128).max(128);
    (0..n).step_by(rows).map(move |first| (first, (first + rows).min(n)))
}

/// The kernels with tiles of 32 and of 64 rows.
fn names(dtype: DType) -> Option<[&'static str; 2]> {
    macro_rules! names {
        ($($dtype:ident $name:literal),*) => {
            match dtype {
                $(DType::$dtype => [concat!("gemm_", $name, "_f16_32"), concat!("gemm_", $name, "_f16_64")],)*
                _ => return None,
            }
        };
    }
    Some(names!(
        Q4_0 "q4_0", Q4_1 "q4_1", Q5_0 "q5_0", Q8_0 "q8_0", Q3_K "q3_k", Q4_K "q4_k", Q5_K "q5_k", Q6_K "q6_k"
    ))
}

/// Into how many parts [`linear`] divides `k`: some four blocks of threads a multiprocessor, of four steps at least.
fn splits(gpu: &Gpu, n: usize, k: usize) -> usize {
    let wanted = 4 * gpu.properties().multiprocessors as usize / n.div_ceil(COLUMNS).max(1);
    wanted.clamp(1, (k / (4 * STEP)).max(1))
}

/// A product with weights in blocks that become halves on their way: Q4_0, Q4_1, Q5_0, Q8_0, Q3_K, Q4_K, Q5_K or Q6_K. Blocks
/// of threads share `k` in `splits` parts; a row's result depends on that, but not on `m`.
///
/// # Errors
/// [`crate::Error::Length`] and [`crate::Error::Alignment`], [`crate::Error::Unsupported`] for another type, rows of no whole
/// blocks or more splits than 64s of `k`, and those of a launch.
pub fn of_blocks(gpu: &Gpu, dtype: DType, splits: usize, product: &Product<'_>) -> Result<()> {
    product.check()?;
    let &Product { x, w, bias, y, m, n, k } = product;
    let Some(names) = names(dtype) else { return unsupported(format!("blocks of {dtype}")) };
    let Some(row) = dtype.bytes_for(k) else {
        return unsupported(format!("a row of {k} is no whole number of {dtype} blocks"));
    };
    if splits == 0 || splits > k.div_ceil(STEP).max(1) {
        return unsupported(format!("{splits} splits of {k}"));
    }
    let w = w.arg(OP, "w", n * row, alignment(dtype))?;
    let rows = Halves::round(gpu, Gemm::FewRows, Half::F16, (x, m, k))?;
    let parts = if splits > 1 { Some(gpu.alloc(4 * splits * m * n)?) } else { None };
    let to = parts.as_ref().unwrap_or(y);
    let added = if splits > 1 { Arg::Ptr(0) } else { product.bias()? };
    let mut args =
        vec![Arg::Ptr(rows.rows().ptr()), w, added, Arg::Ptr(to.ptr()), Arg::I64(n as i64)];
    for size in [m, n, k, splits] {
        args.push(int(OP, size)?.into());
    }
    let (tile, name) = if m > 32 { (64, names[1]) } else { (32, names[0]) };
    let grid = [m.div_ceil(tile), n.div_ceil(COLUMNS), splits].map(|x| x as u32);
    let launch =
        Launch::grid3(grid[0], grid[1], grid[2], 128).with_shared((3 * tile as u32 + 2 * 64) * 128);
    // SAFETY: the kernel reads [m, k] halves, n rows of blocks and [n], and writes [splits, m, n]: as long as checked or
    // allocated, the halves aligned to 16 and the blocks as their type wants.
    unsafe { gpu.launch(&Kernel::new(&GEMM_BLOCKS, name), launch, &args) }?;
    parts.map_or(Ok(()), |parts| add_parts(gpu, (&parts, splits), bias, y, (m, n)))
}

/// `y[m, n]` = the sum of `[parts, m, n]` in their order + `bias[n]`.
fn add_parts(
    gpu: &Gpu,
    (from, parts): (&Buffer, usize),
    bias: Option<&Buffer>,
    y: &Buffer,
    (m, n): (usize, usize),
) -> Result<()> {
    let from = from.arg(OP, "parts", 4 * parts * m * n, 4)?;
    let (bias, y) = (super::bias_arg(bias, n)?, y.arg(OP, "y", 4 * m * n, 4)?);
    let args =
        [from, bias, y, Arg::I64((m * n) as i64), int(OP, n)?.into(), int(OP, parts)?.into()];
    let launch = Launch::new(blocks(gpu, (m * n).div_ceil(THREADS as usize), 8), THREADS);
    // SAFETY: the kernel reads [parts, m, n] and [n] and writes [m, n], as long as checked.
    unsafe { gpu.launch(&Kernel::new(&GEMM_BLOCKS, "gemm_add_parts"), launch, &args) }
}
