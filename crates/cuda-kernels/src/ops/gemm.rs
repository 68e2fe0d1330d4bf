//! Matrix products `y = x W^T + bias` of many rows: prefill, and batches of decoding.
//!
//! `x` is f32 `[m, k]`, `W` `[n, k]`, `bias` f32 `[n]`, `y` f32 `[m, n]`, rows one after the other.
//!
//! - [`linear`]: weights of any type, by whatever is fastest there.
//! - [`plain`]: weights of f32, f16 or bf16 by a kernel of choice, from simple to fast, or cuBLASLt.
//! - [`W4Matrix`]: weights of 4 bits in groups of 128.
//! - [`w8a8`]: INT8 on both sides.
//!
//! Products with f16 or bf16 round `x` to the weights' type and sum in f32.

mod halves;
mod linear;
mod w4a16;
mod w8a8;

use blocks::DType;

use self::halves::Halves;
use super::int;
use crate::blas::Half;
use crate::source::GEMM;
use crate::{Arg, Buffer, Error, Gpu, Kernel, Launch, Result};

pub use self::linear::{by_slabs, linear, of_blocks};
pub use self::w4a16::{GROUP, Packed, W4Config, W4Matrix, pack, unpack};
pub use self::w8a8::{quantize_rows, w8a8};

const OP: &str = "gemm";
const THREADS: u32 = 256;

/// `y[m, n] = x[m, k] w[n, k]^T + bias[n]`.
#[derive(Clone, Copy, Debug)]
pub struct Product<'a> {
    /// f32 `[m, k]`.
    pub x: &'a Buffer,
    /// `[n, k]` of some type, rows of whole blocks.
    pub w: &'a Buffer,
    /// f32 `[n]`.
    pub bias: Option<&'a Buffer>,
    /// f32 `[m, n]`.
    pub y: &'a Buffer,
    /// Rows of `x` and `y`.
    pub m: usize,
    /// Rows of `w`, columns of `y`.
    pub n: usize,
    /// Columns of `x` and `w`.
    pub k: usize,
}

/// What does a product of plain numbers, from simple to fast.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Gemm {
    /// A thread an element.
    Naive,
    /// Tiles in shared memory; the one for f32.
    Tiled,
    /// Tensor cores, tiles of 128 by 128; from here on f16 and bf16 alone.
    Mma,
    /// The same with copies under way meanwhile.
    Pipelined,
    /// Pipelined, tiles of 32 by 64.
    FewRows,
    /// NVIDIA's library.
    CublasLt,
}

impl Gemm {
    /// All of them.
    pub const ALL: [Self; 6] =
        [Self::Naive, Self::Tiled, Self::Mma, Self::Pipelined, Self::FewRows, Self::CublasLt];

    /// The fastest for so many rows of halves: cuBLASLt where it is installed, else a kernel of this crate. All
    /// of those give a row the same result.
    pub fn of_halves(gpu: &Gpu, m: usize) -> Self {
        match gpu.blas() {
            Some(_) => Self::CublasLt,
            None if m > 64 => Self::Pipelined,
            None => Self::FewRows,
        }
    }
}

impl Product<'_> {
    /// The sizes as kernels take them, and `x`, `bias` and `y` checked.
    fn check(&self) -> Result<()> {
        let Self { m, n, k, .. } = *self;
        int(OP, m)?;
        int(OP, n)?;
        int(OP, k.saturating_mul(4))?;
        self.x.arg(OP, "x", 4 * m * k, 4)?;
        self.y.arg(OP, "y", 4 * m * n, 4)?;
        self.bias()?;
        Ok(())
    }

    /// The bias, or a null pointer.
    fn bias(&self) -> Result<Arg> {
        bias_arg(self.bias, self.n)
    }
}

fn bias_arg(bias: Option<&Buffer>, n: usize) -> Result<Arg> {
    bias.map_or(Ok(Arg::Ptr(0)), |bias| bias.arg(OP, "bias", 4 * n, 4))
}

fn unsupported<T>(reason: impl Into<String>) -> Result<T> {
    Err(Error::Unsupported { op: OP, reason: reason.into() })
}

/// The type of the halves, for `F16` and `BF16`.
fn half(dtype: DType) -> Option<Half> {
    match dtype {
        DType::F16 => Some(Half::F16),
        DType::BF16 => Some(Half::Bf16),
        _ => None,
    }
}

/// A product with weights of f32, f16 or bf16 by this kernel. The naive and the tiled take `x` as it is,
/// the others round it to the weights' type, and weights may begin anywhere, but those at multiples of 16 bytes
/// with `k` a multiple of 8 are not copied first.
///
/// # Errors
/// [`Error::Length`] and [`Error::Alignment`] for buffers that do not fit; [`Error::Unsupported`] for another type of
/// weights, f32 on tensor cores, cuBLASLt where it is not installed, or sizes beyond 2^29; those of a launch.
pub fn plain(gpu: &Gpu, gemm: Gemm, dtype: DType, product: &Product<'_>) -> Result<()> {
    product.check()?;
    let &Product { w, m, n, k, .. } = product;
    let naive = match gemm {
        Gemm::Naive => true,
        Gemm::Tiled => false,
        _ => {
            let Some(half) = half(dtype) else {
                return unsupported(format!("{gemm:?} of {dtype}"));
            };
            let halves = Halves::round(gpu, gemm, half, (product.x, m, k))?;
            return halves.times(w, product.bias, (product.y, n), n);
        }
    };
    let (name, bytes) = match (dtype, naive) {
        (DType::F32, true) => ("gemm_naive_f32", 4),
        (DType::F16, true) => ("gemm_naive_f16", 2),
        (DType::BF16, true) => ("gemm_naive_bf16", 2),
        (DType::F32, false) => ("gemm_tiled_f32", 4),
        (DType::F16, false) => ("gemm_tiled_f16", 2),
        (DType::BF16, false) => ("gemm_tiled_bf16", 2),
        _ => return unsupported(format!("weights of {dtype}")),
    };
    let (x, w) = (Arg::Ptr(product.x.ptr()), w.arg(OP, "w", bytes * n * k, bytes)?);
    let y = Arg::Ptr(product.y.ptr());
    let sizes = [int(OP, m)?, int(OP, n)?, int(OP, k)?].map(Arg::I32);
    let mut args = vec![x, w, product.bias()?, y, Arg::I64(n as i64)];
    args.extend(sizes);
    let launch = if naive {
        Launch::grid2(n.div_ceil(32) as u32, m.div_ceil(8) as u32, THREADS)
    } else {
        Launch::grid2(m.div_ceil(64) as u32, n.div_ceil(64) as u32, THREADS)
    };
    // SAFETY: the kernel reads [m, k], [n, k] and [n] and writes [m, n], as many as was checked.
    unsafe { gpu.launch(&Kernel::new(&GEMM, name), launch, &args) }
}
