//! Operations on each element of f32 activations, in place; softmax of rows.

use super::quantize::Int8;
use super::{blocks, int};
use crate::source::{ELEMENTWISE, SOFTMAX};
use crate::{Arg, Buffer, Gpu, Kernel, Launch, Result, Source};

/// A function of one number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Activation {
    /// `x / (1 + e^-x)`
    Silu,
    /// `x (1 + erf(x / sqrt 2)) / 2`
    GeluErf,
    /// `x (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3))) / 2`
    GeluTanh,
    /// `x / (1 + e^(-1.702 x))`
    GeluQuick,
    /// `max(x, 0)`
    Relu,
    /// `max(x, 0)^2`
    ReluSquared,
}

impl Activation {
    /// All of them.
    pub const ALL: [Self; 6] =
        [Self::Silu, Self::GeluErf, Self::GeluTanh, Self::GeluQuick, Self::Relu, Self::ReluSquared];

    /// Its kernels: of each element, gated, and gated with the result rounded too.
    const fn kernels(self) -> [&'static str; 3] {
        match self {
            Self::Silu => ["silu", "silu_gated", "silu_gated_rounded"],
            Self::GeluErf => ["gelu_erf", "gelu_erf_gated", "gelu_erf_gated_rounded"],
            Self::GeluTanh => ["gelu_tanh", "gelu_tanh_gated", "gelu_tanh_gated_rounded"],
            Self::GeluQuick => ["gelu_quick", "gelu_quick_gated", "gelu_quick_gated_rounded"],
            Self::Relu => ["relu", "relu_gated", "relu_gated_rounded"],
            Self::ReluSquared => {
                ["relu_squared", "relu_squared_gated", "relu_squared_gated_rounded"]
            }
        }
    }
}

const THREADS: usize = 256;

/// Whether all begin at multiples of 16 bytes, so that four floats can move at once.
pub(crate) fn aligned<'a>(buffers: impl IntoIterator<Item = &'a Buffer>) -> bool {
    buffers.into_iter().all(|b| b.ptr().is_multiple_of(16))
}

/// `x = x + y`, `n` elements.
///
/// # Errors
/// [`crate::Error::Length`], [`crate::Error::Alignment`], and those of a launch.
pub fn add(gpu: &Gpu, x: &Buffer, y: &Buffer, n: usize) -> Result<()> {
    each(gpu, "add", x, Some(y), n, None)
}

/// `x = x * y`, `n` elements.
///
/// # Errors
/// As [`add`].
pub fn mul(gpu: &Gpu, x: &Buffer, y: &Buffer, n: usize) -> Result<()> {
    each(gpu, "mul", x, Some(y), n, None)
}

/// `x = factor * x`, `n` elements.
///
/// # Errors
/// As [`add`].
pub fn scale(gpu: &Gpu, x: &Buffer, n: usize, factor: f32) -> Result<()> {
    each(gpu, "scale", x, None, n, Some(factor))
}

/// `x = cap * tanh(x / cap)`, `n` elements (Gemma 2).
///
/// # Errors
/// As [`add`].
pub fn softcap(gpu: &Gpu, x: &Buffer, n: usize, cap: f32) -> Result<()> {
    each(gpu, "softcap", x, None, n, Some(cap))
}

/// `x = f(x)`, `n` elements.
///
/// # Errors
/// As [`add`].
pub fn activation(gpu: &Gpu, f: Activation, x: &Buffer, n: usize) -> Result<()> {
    each(gpu, f.kernels()[0], x, None, n, None)
}

/// `gate = f(gate) * up`, `n` elements (Shazeer 2020).
///
/// # Errors
/// As [`add`].
pub fn gated(gpu: &Gpu, f: Activation, gate: &Buffer, up: &Buffer, n: usize) -> Result<()> {
    each(gpu, f.kernels()[1], gate, Some(up), n, None)
}

/// [`gated`] of a multiple of 32 elements, and the result as bytes for the product that follows.
///
/// # Errors
/// As [`add`] (numbers begin at multiples of 16 bytes, bytes of 4, scales of 8), and [`crate::Error::Unsupported`] for
/// another number of elements.
pub fn gated_rounded(
    gpu: &Gpu,
    f: Activation,
    gate: &Buffer,
    up: &Buffer,
    out: Int8<'_>,
    n: usize,
) -> Result<()> {
    let op = f.kernels()[2];
    let [q, scales] = out.args(op, n)?;
    let (gate, up) = (gate.arg(op, "gate", 4 * n, 16)?, up.arg(op, "up", 4 * n, 16)?);
    let args = [gate, up, q, scales, Arg::I64((n / 4) as i64)];
    let launch = Launch::new(blocks(gpu, n.div_ceil(4 * THREADS), 8), THREADS as u32);
    // SAFETY: the kernel reads and writes `n` elements of the gate, reads those of `up`, and writes as many bytes and
    // their scales; the buffers have them.
    unsafe { gpu.launch(&Kernel::new(&ELEMENTWISE, op), launch, &args) }
}

fn each(
    gpu: &Gpu,
    op: &'static str,
    x: &Buffer,
    y: Option<&Buffer>,
    n: usize,
    number: Option<f32>,
) -> Result<()> {
    let mut args = vec![x.arg(op, "x", 4 * n, 4)?];
    if let Some(y) = y {
        args.push(y.arg(op, "y", 4 * n, 4)?);
    }
    let quads = if aligned([Some(x), y].into_iter().flatten()) { n / 4 } else { 0 };
    args.extend([Arg::I64(n as i64), Arg::I64(quads as i64)]);
    args.extend(number.map(Arg::F32));
    let threads = if quads > 0 { n.div_ceil(4) } else { n };
    let launch = Launch::new(blocks(gpu, threads.div_ceil(THREADS), 8), THREADS as u32);
    // SAFETY: the kernel reads and writes `n` elements of each buffer, which have them, four at once only
    // where they are aligned.
    unsafe { gpu.launch(&Kernel::new(&ELEMENTWISE, op), launch, &args) }
}

/// A grid that walks over the columns of rows: `per_row` threads' work a row.
pub(crate) fn over_rows(gpu: &Gpu, rows: usize, per_row: usize) -> Launch {
    let x = per_row.div_ceil(THREADS).max(1);
    // A grid's second dimension ends at 65535.
    let y = (blocks(gpu, rows.saturating_mul(x), 8) as usize).div_ceil(x).min(rows).min(65_535);
    Launch::grid2(x as u32, y as u32, THREADS as u32)
}

/// `x[row] = x[row] + y` for each row of `x` `[rows, cols]`; `y` is `[cols]`.
///
/// # Errors
/// As [`add`].
pub fn add_row(gpu: &Gpu, x: &Buffer, y: &Buffer, rows: usize, cols: usize) -> Result<()> {
    const OP: &str = "add_row";
    let quads = if cols.is_multiple_of(4) && aligned([x, y]) { cols / 4 } else { 0 };
    let args = [
        x.arg(OP, "x", 4 * rows * cols, 4)?,
        y.arg(OP, "y", 4 * cols, 4)?,
        int(OP, rows)?.into(),
        int(OP, cols)?.into(),
        int(OP, quads)?.into(),
    ];
    let launch = over_rows(gpu, rows, if quads > 0 { quads } else { cols });
    // SAFETY: the kernel reads and writes `rows` rows of `cols` elements, and reads one, which the buffers have.
    unsafe { gpu.launch(&Kernel::new(&ELEMENTWISE, OP), launch, &args) }
}

/// The widest row that a warp has in registers.
const WARP_COLS: usize = 1024;

/// Softmax of each row of `x` `[rows, cols]`, in place. A row of nothing but -inf, or with NaN or +inf, becomes NaN.
///
/// # Errors
/// As [`add`].
pub fn softmax(gpu: &Gpu, x: &Buffer, rows: usize, cols: usize) -> Result<()> {
    const OP: &str = "softmax";
    let x_arg = x.arg(OP, "x", 4 * rows * cols, 4)?;
    let width = int(OP, cols)?;
    if cols <= WARP_COLS {
        return four_rows_a_block(gpu, OP, &SOFTMAX, "softmax_warp", x_arg, rows, cols);
    }
    let quads = if cols.is_multiple_of(4) && aligned([x]) { width / 4 } else { 0 };
    let launch = Launch::new(int(OP, rows)? as u32, 1024);
    // SAFETY: the kernel reads and writes `rows` rows of `cols` elements, which the buffer has.
    unsafe {
        let args = [x_arg, width.into(), quads.into()];
        gpu.launch(&Kernel::new(&SOFTMAX, "softmax_block"), launch, &args)
    }
}

/// Each row of `x` `[rows, cols]` divided by its sum, in place.
///
/// # Errors
/// As [`add`].
pub fn normalise_rows(gpu: &Gpu, x: &Buffer, rows: usize, cols: usize) -> Result<()> {
    const OP: &str = "normalise_rows";
    let x = x.arg(OP, "x", 4 * rows * cols, 4)?;
    four_rows_a_block(gpu, OP, &SOFTMAX, OP, x, rows, cols)
}

/// A warp a row.
fn four_rows_a_block(
    gpu: &Gpu,
    op: &'static str,
    source: &'static Source,
    name: &'static str,
    x: Arg,
    rows: usize,
    cols: usize,
) -> Result<()> {
    let args = [x, int(op, rows)?.into(), int(op, cols)?.into()];
    let launch = Launch::new(rows.div_ceil(4) as u32, 128);
    // SAFETY: the kernels read and write `rows` rows of `cols` elements, which the callers have looked for.
    unsafe { gpu.launch(&Kernel::new(source, name), launch, &args) }
}
