//! INT8 on both sides: weights with a scale a channel, rows of `x` rounded with a scale each.

use super::halves::{aligned, tiles};
use super::{OP, Product, THREADS, unsupported};
use crate::ops::int;
use crate::source::GEMM_W8A8;
use crate::{Arg, Buffer, Gpu, Kernel, Launch, Result};

/// Beyond this a sum of products of 127 * 127 could overflow.
const MOST_K: usize = 1 << 17;

/// Rounds rows of f32 `[m, k]` to INT8, `q = round(x / scale)` with `scale = max |x| / 127`, ties to even.
/// Gives `q`, `[m, padded]` with zeros behind the `k`, where `padded` is `k` rounded up to 16, and the scales, f32 `[m]`.
///
/// # Errors
/// [`crate::Error::Length`], [`crate::Error::Alignment`], and those of a launch.
pub fn quantize_rows(gpu: &Gpu, x: &Buffer, m: usize, k: usize) -> Result<(Buffer, Buffer)> {
    let padded = k.next_multiple_of(16);
    let (rows, scales) = (gpu.alloc(m * padded)?, gpu.alloc(4 * m)?);
    let args = [
        x.arg(OP, "x", 4 * m * k, 4)?,
        Arg::Ptr(rows.ptr()),
        Arg::Ptr(scales.ptr()),
        int(OP, k)?.into(),
        int(OP, padded)?.into(),
    ];
    let launch = Launch::new(int(OP, m)?.cast_unsigned(), THREADS);
    // SAFETY: the kernel reads [m, k], as checked, and writes [m, padded] and [m], as allocated.
    unsafe { gpu.launch(&Kernel::new(&GEMM_W8A8, "gemm_quantize_rows"), launch, &args) }?;
    Ok((rows, scales))
}

/// A product with weights of INT8 `[n, k]`, each row with a scale, f32 `[n]`; `x` is rounded by
/// [`quantize_rows`]. Weights that do not begin at a multiple of 16 bytes, or whose `k` is none, are copied first.
///
/// # Errors
/// [`crate::Error::Length`], [`crate::Error::Alignment`], [`crate::Error::Unsupported`] for `k` beyond 2^17, and
/// those of a launch.
pub fn w8a8(gpu: &Gpu, product: &Product<'_>, w_scales: &Buffer) -> Result<()> {
    product.check()?;
    let &Product { x, w, y, m, n, k, .. } = product;
    if k > MOST_K {
        return unsupported(format!("INT8 of {k} columns, at most {MOST_K}"));
    }
    let padded = k.next_multiple_of(16);
    let scales = w_scales.arg(OP, "the weights' scales", 4 * n, 4)?;
    let w = aligned(gpu, w, n, k, padded)?;
    let (rows, x_scales) = quantize_rows(gpu, x, m, k)?;
    let (name, launch) = if m > 64 {
        ("gemm_w8a8", tiles((m, 128), (n, 128), 8, 3))
    } else {
        ("gemm_w8a8_few_rows", tiles((m, 32), (n, 64), 4, 4))
    };
    let (x, w, y) = (Arg::Ptr(rows.ptr()), Arg::Ptr(w.ptr()), Arg::Ptr(y.ptr()));
    let mut args =
        vec![x, w, Arg::Ptr(x_scales.ptr()), scales, product.bias()?, y, Arg::I64(n as i64)];
    args.extend([int(OP, m)?, int(OP, n)?, int(OP, padded)?].map(Arg::I32));
    // SAFETY: the kernel reads [m, padded], [n, padded], their scales and [n], and writes [m, n]: as long as was checked or
    // allocated, the first two aligned to 16.
    unsafe { gpu.launch(&Kernel::new(&GEMM_W8A8, name), launch, &args) }
}
