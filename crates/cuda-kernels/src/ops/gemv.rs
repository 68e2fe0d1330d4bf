//! Products of 1 to 8 rows with a matrix, for decoding: `y = x W^T (+ bias)`, bound by the bytes of `W`.
//!
//! - [`linear_small`]: weights of any [`supported`] type.
//! - [`linears_int8`], [`linears_float`]: several matrices of one type by one launch, those of blocks with activations
//!   that were rounded before.
//! - [`linear_w4a16`]: weights of 4 bits in groups of 128.
//!
//! More rows are cut into pieces, or go to `gemm`. A row's result does not depend on how many there are.

use blocks::DType;

use super::quantize::{GROUP, GROUP_SCALE_BYTES, Int8, quantize_activations};
use super::{blocks, int};
use crate::source::{GEMV, GEMV_FLOAT, GEMV_K, GEMV_W4A16};
use crate::{Arg, Buffer, Error, Gpu, Kernel, Launch, Result};

const OP: &str = "gemv";

/// Rows of `x` that one call takes.
pub const MOST_ROWS: usize = 8;

/// Rows of `x`, columns of `y`, columns of `x`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    /// Rows of `x` and `y`, at most [`MOST_ROWS`].
    pub m: usize,
    /// Rows of the matrix, columns of `y`.
    pub n: usize,
    /// Columns of `x` and of the matrix.
    pub k: usize,
}

/// A matrix `[n, k]` of some type, row after row of whole blocks, and what is added to its products.
#[derive(Clone, Copy, Debug)]
pub struct Weight<'a> {
    /// The type of its elements.
    pub dtype: DType,
    /// As they lie in a GGUF file.
    pub bytes: &'a Buffer,
    /// f32 `[n]`.
    pub bias: Option<&'a Buffer>,
}

/// A matrix that meets the same `x` as others do, and its product.
#[derive(Clone, Copy, Debug)]
pub struct Product<'a> {
    /// `[n, k]`, of the same type as the others.
    pub weight: Weight<'a>,
    /// Its rows.
    pub n: usize,
    /// f32 `[m, n]`.
    pub y: &'a Buffer,
}

/// Products that a launch of at most 4 rows takes; more products are cut into pieces, and for more rows each has a launch
/// of its own.
pub const MOST_PRODUCTS: usize = 3;

/// Which of the kernels for Q4_0, from simple to fast; other types have the last alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Gemv {
    /// A thread has a row.
    Thread,
    /// A warp has a row.
    Warp,
    /// Warps have rings of asynchronous copies.
    Ring,
}

impl Gemv {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Thread, Self::Warp, Self::Ring];
}

/// Threads and warps of a block, and blocks a multiprocessor for one row of `x` and for more, as in `gemv.cuh`.
const THREADS: u32 = 128;
const WARPS: usize = 4;
const WAVES: [usize; 2] = [4, 3];

/// What the host must know of a type's kernels: the beginning of their names, the columns that a warp takes of
/// a row at once, and how many rows it takes, for one or two rows of `x` and for more.
struct Kernels {
    name: [&'static str; 4],
    slab: usize,
    rows: [usize; 2],
    int8: bool,
}

macro_rules! names {
    ($name:literal) => {
        [concat!($name, "_m1"), concat!($name, "_m2"), concat!($name, "_m4"), concat!($name, "_m8")]
    };
}

const fn kernels(dtype: DType) -> Option<Kernels> {
    let (name, slab, rows) = match dtype {
        DType::Q4_0 => (names!("gemv_q4_0"), 1024, [4, 4]),
        DType::Q8_0 => (names!("gemv_q8_0"), 1024, [4, 4]),
        DType::IQ4_NL => (names!("gemv_iq4_nl"), 1024, [4, 4]),
        DType::Q4_K => (names!("gemv_q4_k"), 2048, [4, 2]),
        DType::Q5_K => (names!("gemv_q5_k"), 2048, [4, 2]),
        DType::Q6_K => (names!("gemv_q6_k"), 2048, [2, 2]),
        DType::IQ4_XS => (names!("gemv_iq4_xs"), 2048, [4, 2]),
        DType::F32 => (names!("gemv_float"), 256, [4, 4]),
        DType::F16 => (names!("gemv_f16"), 512, [4, 4]),
        DType::BF16 => (names!("gemv_bf16"), 512, [4, 4]),
        _ => return None,
    };
    Some(Kernels { name, slab, rows, int8: dtype.is_quantized() })
}

/// Whether [`linear_small`] takes weights of this type.
pub const fn supported(dtype: DType) -> bool {
    kernels(dtype).is_some()
}

/// Bytes that [`linear_small`] needs beside its arguments: activations rounded to int8, for block types.
pub fn workspace_bytes(dtype: DType, m: usize, k: usize) -> usize {
    if dtype.is_quantized() { scales_at(m, k) + m * k / GROUP * GROUP_SCALE_BYTES } else { 0 }
}

/// Where the scales begin behind the rounded activations.
fn scales_at(m: usize, k: usize) -> usize {
    (m * k).next_multiple_of(16)
}

fn unsupported<T>(reason: impl Into<String>) -> Result<T> {
    Err(Error::Unsupported { op: OP, reason: reason.into() })
}

impl Shape {
    /// The sizes as kernels take them.
    fn args(self) -> Result<[Arg; 3]> {
        let Self { m, n, k } = self;
        if m > MOST_ROWS {
            return unsupported(format!("{m} rows at once, more than {MOST_ROWS}"));
        }
        Ok([int(OP, m)?.into(), int(OP, n)?.into(), int(OP, k)?.into()])
    }

    /// `bias` (null if there is none) and `y`.
    fn results(self, bias: Option<&Buffer>, y: &Buffer) -> Result<[Arg; 2]> {
        let bias = bias.map_or(Ok(Arg::Ptr(0)), |bias| bias.arg(OP, "bias", 4 * self.n, 4))?;
        Ok([bias, y.arg(OP, "y", 4 * self.m * self.n, 4)?])
    }

    fn is_empty(self) -> bool {
        self.m * self.n == 0
    }
}

impl Kernels {
    /// How many warps share a row: as many as it takes for 12 a multiprocessor to have something to do. A row's sum
    /// depends on it, so that neither `m` nor the other products of a launch have a say.
    fn split(&self, gpu: &Gpu, n: usize, k: usize) -> usize {
        let wanted = 12 * gpu.properties().multiprocessors as usize;
        let enough = |split: usize| {
            n.div_ceil(self.rows[0]) * split >= wanted || 2 * split > k.div_ceil(self.slab)
        };
        [1, 2].into_iter().find(|&split| enough(split)).unwrap_or(WARPS)
    }

    /// The launch of these products, none of which is empty, and what it is given of them.
    fn launch(
        &self,
        gpu: &Gpu,
        products: &[Product<'_>],
        [m, k]: [usize; 2],
        row_bytes: usize,
        alignment: usize,
    ) -> Result<(&'static str, Launch, Vec<Arg>)> {
        let splits = products.iter().map(|product| self.split(gpu, product.n, k));
        let splits: Vec<usize> = splits.collect();
        let rows = self.rows[usize::from(m > 2)];
        let items = products.iter().zip(&splits);
        let items = items.map(|(of, split)| of.n.div_ceil(rows).div_ceil(WARPS / split));
        let items: Vec<usize> = items.collect();
        let room = gpu.properties().multiprocessors as usize * WAVES[usize::from(m > 1)];
        let all: usize = products.iter().map(|product| product.n).sum();
        // Those that are more than there is room for share it by their rows.
        let share = |(product, &items): (&Product<'_>, &usize)| match products {
            [_] => items.min(room),
            _ => items.min((room * product.n / all).max(1)),
        };
        let shares: Vec<usize> = match items.iter().sum::<usize>() <= room {
            true => items,
            false => products.iter().zip(&items).map(share).collect(),
        };
        let (mut args, mut end) = (Vec::new(), 0);
        for ((product, split), share) in products.iter().zip(splits).zip(shares) {
            let &Product { weight, n, y } = product;
            end += share;
            args.push(weight.bytes.arg(
                OP,
                "the matrix",
                n.saturating_mul(row_bytes),
                alignment,
            )?);
            args.extend(Shape { m, n, k }.results(weight.bias, y)?);
            args.extend([int(OP, n)?, int(OP, split)?, int(OP, end)?].map(Arg::from));
        }
        let none =
            [Arg::Ptr(0), Arg::Ptr(0), Arg::Ptr(0), 0.into(), 1.into(), int(OP, end)?.into()];
        for _ in products.len()..MOST_PRODUCTS {
            args.extend(none);
        }
        let name = self.name[m.next_power_of_two().ilog2() as usize];
        Ok((name, Launch::new(end as u32, THREADS), args))
    }
}

/// Calls `each` with the products that are not empty, as many at once as a launch takes.
fn in_launches(
    products: &[Product<'_>],
    [m, k]: [usize; 2],
    each: impl FnMut(&[Product<'_>]) -> Result<()>,
) -> Result<()> {
    for product in products {
        if product.weight.dtype != products[0].weight.dtype {
            return unsupported("matrices of several types at once");
        }
        Shape { m, n: product.n, k }.args()?;
    }
    let some = |product: &&Product<'_>| m * product.n > 0;
    let some: Vec<Product<'_>> = products.iter().filter(some).copied().collect();
    let most = if m <= 4 { MOST_PRODUCTS } else { 1 };
    some.chunks(most).try_for_each(each)
}

/// `y = x W^T (+ bias)`: `x` f32 `[m, k]`, `y` f32 `[m, n]`, `m` at most [`MOST_ROWS`]. Block types meet `x` rounded to int8
/// with a scale for each 32 (as llama.cpp has it), for which `workspace` has [`workspace_bytes`]; f32, f16 and bf16
/// meet it as it is.
///
/// # Errors
/// [`Error::Unsupported`] for another type, partial blocks, or more rows; [`Error::Length`] and [`Error::Alignment`] for
/// buffers that do not fit (the matrix, `x` and the workspace begin at multiples of 16 bytes, rows of floats
/// excepted that are no multiple of 16 bytes themselves); those of a launch.
pub fn linear_small(
    gpu: &Gpu,
    x: &Buffer,
    weight: &Weight<'_>,
    y: &Buffer,
    shape: Shape,
    workspace: &Buffer,
) -> Result<()> {
    let Shape { m, n, k } = shape;
    let product = Product { weight: *weight, n, y };
    if !weight.dtype.is_quantized() {
        return linears_float(gpu, x, &[product], [m, k]);
    }
    let (at, bytes) = (scales_at(m, k), workspace_bytes(weight.dtype, m, k));
    workspace.arg(OP, "the workspace", bytes, 16)?;
    let (q, scales) = (workspace.slice(0..m * k), workspace.slice(at..bytes));
    let rounded = Int8 { q: &q, scales: &scales };
    quantize_activations(gpu, m * k, x, rounded)?;
    linears_int8(gpu, rounded, &[product], [m, k])
}

/// Bytes of a row of `k` elements in blocks that [`linears_int8`] takes.
fn row_bytes(dtype: DType, k: usize) -> Result<usize> {
    if !kernels(dtype).is_some_and(|kernels| kernels.int8) {
        return unsupported(format!("weights of {dtype}"));
    }
    let bytes = dtype.bytes_for(k);
    bytes.map_or_else(|| unsupported(format!("rows of {k} are no whole {dtype} blocks")), Ok)
}

/// Rounded rows as kernels take them.
fn rounded_args(x: Int8<'_>, [m, k]: [usize; 2]) -> Result<[Arg; 2]> {
    let scales = x.scales.arg(OP, "scales of x", m * k / GROUP * GROUP_SCALE_BYTES, 16)?;
    Ok([x.q.arg(OP, "rounded x", m * k, 16)?, scales])
}

/// [`linear_small`] of block types with activations that are rounded already, for each of `products`: `[m, k]` of `x`.
/// The results are those of each alone.
///
/// # Errors
/// As there; [`Error::Unsupported`] also for matrices of several types.
pub fn linears_int8(
    gpu: &Gpu,
    x: Int8<'_>,
    products: &[Product<'_>],
    [m, k]: [usize; 2],
) -> Result<()> {
    let Some(dtype) = products.first().map(|product| product.weight.dtype) else { return Ok(()) };
    let row_bytes = row_bytes(dtype, k)?;
    let Some(kernels) = kernels(dtype) else { return unsupported(format!("weights of {dtype}")) };
    let source = if dtype.block_len() == 256 { &GEMV_K } else { &GEMV };
    in_launches(products, [m, k], |products| {
        let (name, launch, mut args) = kernels.launch(gpu, products, [m, k], row_bytes, 16)?;
        args.extend(rounded_args(x, [m, k])?);
        args.extend([int(OP, m)?, int(OP, k)?].map(Arg::from));
        // SAFETY: the kernel reads n rows of whole blocks of each matrix, m rows of k bytes and their scales, n of the
        // bias, and writes [m, n]; the buffers were checked for these.
        unsafe { gpu.launch(&Kernel::new(source, name), launch, &args) }
    })
}

/// [`linears_int8`] of one matrix, also by a simple kernel.
///
/// # Errors
/// As there; [`Error::Unsupported`] also for a simple kernel of a type other than Q4_0.
pub fn linear_int8(
    gpu: &Gpu,
    gemv: Gemv,
    x: Int8<'_>,
    weight: &Weight<'_>,
    y: &Buffer,
    shape: Shape,
) -> Result<()> {
    let (dtype, Shape { m, n, k }) = (weight.dtype, shape);
    let (name, threads_each) = match gemv {
        Gemv::Ring => {
            let product = Product { weight: *weight, n, y };
            return linears_int8(gpu, x, &[product], [m, k]);
        }
        _ if dtype != DType::Q4_0 => return unsupported(format!("{gemv:?} for {dtype}")),
        Gemv::Thread => ("gemv_q4_0_thread", 1),
        Gemv::Warp => ("gemv_q4_0_warp", 32),
    };
    let sizes = shape.args()?;
    let bytes = row_bytes(dtype, k)?.saturating_mul(n);
    let mut args = vec![weight.bytes.arg(OP, "the matrix", bytes, 16)?];
    args.extend(rounded_args(x, [m, k])?);
    args.extend(shape.results(weight.bias, y)?);
    args.extend(sizes);
    if shape.is_empty() {
        return Ok(());
    }
    let blocks = int(OP, (m * n * threads_each).div_ceil(THREADS as usize))?;
    let launch = Launch::new(blocks as u32, THREADS);
    // SAFETY: as in `linears_int8`.
    unsafe { gpu.launch(&Kernel::new(&GEMV, name), launch, &args) }
}

/// [`linear_small`] of f32, f16 and bf16, which needs no workspace, for each of `products`: `x` is `[m, k]`. The results
/// are those of each alone.
///
/// # Errors
/// As [`linears_int8`].
pub fn linears_float(
    gpu: &Gpu,
    x: &Buffer,
    products: &[Product<'_>],
    [m, k]: [usize; 2],
) -> Result<()> {
    let Some(dtype) = products.first().map(|product| product.weight.dtype) else { return Ok(()) };
    let Some(kernels) = kernels(dtype).filter(|kernels| !kernels.int8) else {
        return unsupported(format!("weights of {dtype}"));
    };
    let size = dtype.block_bytes();
    let whole = (k * size).is_multiple_of(16);
    let x = x.arg(OP, "x", 4 * m * k, if whole { 16 } else { 4 })?;
    // SAFETY: the kernels read [n, k], [m, k] and [n] and write [m, n]; the buffers were checked for these.
    let run = |name, launch, args: &[Arg]| unsafe {
        gpu.launch(&Kernel::new(&GEMV_FLOAT, name), launch, args)
    };
    in_launches(products, [m, k], |products| {
        if whole {
            let (name, launch, mut args) = kernels.launch(gpu, products, [m, k], k * size, 16)?;
            args.push(x);
            args.extend([int(OP, m)?, int(OP, k)?].map(Arg::from));
            return run(name, launch, &args);
        }
        let name = match dtype {
            DType::F32 => "gemv_float_any",
            DType::F16 => "gemv_f16_any",
            _ => "gemv_bf16_any",
        };
        for &Product { weight, n, y } in products {
            let shape = Shape { m, n, k };
            let bytes = n.saturating_mul(k * size);
            let mut args = vec![weight.bytes.arg(OP, "the matrix", bytes, size)?, x];
            args.extend(shape.results(weight.bias, y)?);
            args.extend(shape.args()?);
            let blocks = int(OP, (m * n).div_ceil(WARPS))?;
            run(name, Launch::new(blocks as u32, THREADS), &args)?;
        }
        Ok(())
    })
}

/// Weights of 4 bits in groups of 128 along `k`, `scale * (q - zero)`, as the kernels of `gemm` have them.
#[derive(Clone, Copy, Debug)]
pub struct W4<'a> {
    /// Strips of 32 rows, filled up with zeros to whole ones; see `gemv_w4a16.cu`.
    pub words: &'a Buffer,
    /// f16 `[k / 128, rows of all strips]`.
    pub scales: &'a Buffer,
    /// Bytes of that shape, below 32; 8 everywhere if there are none.
    pub zeros: Option<&'a Buffer>,
}

/// `y = x W^T (+ bias)`: `x` f32 `[m, k]`, rounded to f16 (so that magnitudes beyond 65504 become infinite), `y` f32
/// `[m, n]`, `m` at most [`MOST_ROWS`], `k` a multiple of 128.
///
/// # Errors
/// [`Error::Unsupported`] for another `k` or more rows; [`Error::Length`] and [`Error::Alignment`] for buffers that do not
/// fit (the matrix begins at multiples of 16 bytes, `x` of 8); those of a launch.
pub fn linear_w4a16(
    gpu: &Gpu,
    x: &Buffer,
    weight: &W4<'_>,
    bias: Option<&Buffer>,
    y: &Buffer,
    shape: Shape,
) -> Result<()> {
    let Shape { m, n, k } = shape;
    if k == 0 || !k.is_multiple_of(128) {
        return unsupported(format!("rows of {k} are no whole groups of 128"));
    }
    let sizes = shape.args()?;
    let rows = n.next_multiple_of(32);
    let groups = k / 128 * rows;
    let zeros =
        weight.zeros.map_or(Ok(Arg::Ptr(0)), |zeros| zeros.arg(OP, "zero points", groups, 16))?;
    let mut args = vec![
        x.arg(OP, "x", 4 * m * k, 8)?,
        weight.words.arg(OP, "the matrix", rows * (k / 2), 16)?,
        weight.scales.arg(OP, "scales", 2 * groups, 16)?,
        zeros,
    ];
    args.extend(shape.results(bias, y)?);
    args.extend(sizes);
    if shape.is_empty() {
        return Ok(());
    }
    let waves = (gpu.properties().shared_per_block / W4_SHARED).clamp(1, 3) as usize;
    let launch = Launch::new(blocks(gpu, rows / 32, waves), W4_THREADS).with_shared(W4_SHARED);
    // SAFETY: the kernel reads whole strips, their scales and zero points, [m, k] and [n], and writes [m, n]; the buffers
    // were checked for these.
    unsafe { gpu.launch(&Kernel::new(&GEMV_W4A16, "gemv_w4a16"), launch, &args) }
}

/// Threads of a block; eight rings of three groups, and twice the sums of eight warps, as in `gemv_w4a16.cu`.
const W4_THREADS: u32 = 256;
const W4_SHARED: u32 = 8 * 3 * (2048 + 64 + 32) + 2 * 8 * 256 * 4;
