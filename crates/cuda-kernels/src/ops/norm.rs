//! RMSNorm (Zhang and Sennrich 2019, eq. 4) and LayerNorm (Ba et al. 2016) of f32 rows, with the sum of a
//! residual before.

use super::elementwise::aligned;
use super::int;
use super::quantize::{GROUP, Int8};
use crate::source::NORM;
use crate::{Arg, Buffer, Error, Gpu, Kernel, Launch, Result};

/// A normalisation with its parameters.
#[derive(Clone, Copy, Debug)]
pub struct Norm<'a> {
    /// Which.
    pub kind: NormKind<'a>,
    /// Elements that are normalised together: a row of activations, or a head of one.
    pub width: usize,
    /// Added to the mean square, or to the variance.
    pub eps: f32,
    /// `[width]`, f32.
    pub weight: &'a Buffer,
    /// Where the result is also written as products with blocks take it, for a width that [`can_round`].
    pub rounded: Option<Int8<'a>>,
}

/// Whether rows of this width can be rounded along with their norm; they begin at multiples of 16 bytes then.
pub const fn can_round(width: usize) -> bool {
    width.is_multiple_of(GROUP) && width <= 1024 * EACH
}

/// Kinds of normalisation.
#[derive(Clone, Copy, Debug)]
pub enum NormKind<'a> {
    /// `x / sqrt(mean(x^2) + eps) * (weight_offset + w)`.
    Rms {
        /// Added to the weight: 1 for Gemma, else 0.
        weight_offset: f32,
    },
    /// `(x - mean) / sqrt(var + eps) * w + b`.
    Layer {
        /// `[width]`, f32; zeros if there is none.
        bias: Option<&'a Buffer>,
    },
}

/// `out = norm(x)`, both `[rows, norm.width]`; `out` may be `x`. Rows of activations whose heads are normalised
/// have as many of these rows each as they have heads.
///
/// # Errors
/// [`Error::Length`], [`Error::Alignment`], [`Error::Unsupported`] for a width of 0, and those of a launch.
pub fn norm(gpu: &Gpu, norm: &Norm<'_>, x: &Buffer, out: &Buffer, rows: usize) -> Result<()> {
    launch(gpu, norm, x, None, out, rows)
}

/// `x = x + y`, `out = norm(x)`, all `[rows, norm.width]`, in one pass over memory.
///
/// # Errors
/// As [`norm`].
pub fn add_norm(
    gpu: &Gpu,
    norm: &Norm<'_>,
    x: &Buffer,
    y: &Buffer,
    out: &Buffer,
    rows: usize,
) -> Result<()> {
    launch(gpu, norm, x, Some(y), out, rows)
}

/// The widest that a warp has in registers.
const WARP: usize = 256;
/// Elements of a thread, where a block has a row in registers.
const EACH: usize = 16;

fn launch(
    gpu: &Gpu,
    norm: &Norm<'_>,
    x: &Buffer,
    y: Option<&Buffer>,
    out: &Buffer,
    rows: usize,
) -> Result<()> {
    const OP: &str = "norm";
    let &Norm { kind, width, eps, weight, rounded } = norm;
    if width == 0 {
        return Err(Error::Unsupported { op: OP, reason: "rows of no elements".into() });
    }
    let (bias, offset, names) = match kind {
        NormKind::Rms { weight_offset } => {
            let plain = ["rms_norm_warp", "rms_norm_block", "rms_norm_any"];
            let added = ["add_rms_norm_warp", "add_rms_norm_block", "add_rms_norm_any"];
            (None, weight_offset, if y.is_some() { added } else { plain })
        }
        NormKind::Layer { bias } => {
            let plain = ["layer_norm_warp", "layer_norm_block", "layer_norm_any"];
            let added = ["add_layer_norm_warp", "add_layer_norm_block", "add_layer_norm_any"];
            (bias, 0.0, if y.is_some() { added } else { plain })
        }
    };
    let bytes = 4 * rows * width;
    // Rounding takes the kernels that move four elements at once.
    let at = if rounded.is_some() { 16 } else { 4 };
    let optional = |what, buffer: Option<&Buffer>, bytes| {
        buffer.map_or(Ok(Arg::Ptr(0)), |b| b.arg(OP, what, bytes, at))
    };
    if rounded.is_some() && !can_round(width) {
        let reason = format!("rows of {width} are not rounded along with their norm");
        return Err(Error::Unsupported { op: OP, reason });
    }
    let to = rounded.map(|to| to.args(OP, rows * width)).transpose()?;
    let [q, scales] = to.unwrap_or([Arg::Ptr(0); 2]);
    let args = [
        x.arg(OP, "x", bytes, at)?,
        optional("y", y, bytes)?,
        weight.arg(OP, "weight", 4 * width, at)?,
        optional("bias", bias, 4 * width)?,
        out.arg(OP, "out", bytes, at)?,
        Arg::I64(rows as i64),
        int(OP, width)?.into(),
        eps.into(),
        offset.into(),
        q,
        scales,
    ];
    let buffers = [Some(x), y, Some(weight), bias, Some(out)];
    let wide = width.is_multiple_of(4) && aligned(buffers.into_iter().flatten());
    // Chosen by the width alone, so that a row's sums are the same in any batch.
    let (name, blocks, threads) = match width {
        _ if wide && width <= WARP => (names[0], rows.div_ceil(8), 256),
        _ if wide && width <= 1024 * EACH => {
            (names[1], rows, width.div_ceil(EACH).next_multiple_of(32))
        }
        _ => (names[2], rows, width.next_multiple_of(32).min(1024)),
    };
    let launch = Launch::new(int(OP, blocks)? as u32, threads as u32);
    // SAFETY: a kernel reads and writes `rows` rows of `width` elements, and one of weights and bias, and writes as many
    // bytes with their scales where it is to; the buffers have them. Those that move four elements at once are taken for aligned buffers.
    unsafe { gpu.launch(&Kernel::new(&NORM, name), launch, &args) }
}
