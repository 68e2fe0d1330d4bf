//! From rows of f32 logits to tokens, on the device.

use bytemuck::{Pod, Zeroable};

use super::elementwise::aligned;
use super::int;
use crate::source::SAMPLING;
use crate::{Buffer, Error, Gpu, Kernel, Launch, Result};

/// How a row's token is drawn: the steps of the crate `sampling`, in its order, each on what the one before left.
///
/// The same number draws the same token as there, up to rounding: weights are f32 here.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Pod, Zeroable)]
pub struct SampleParams {
    /// The random number, in `0.0..1.0`: the token is the first, by ascending id, at which the cumulative
    /// probability is above it.
    pub uniform: f64,
    /// Divisor of the logits; 0 takes the largest.
    pub temperature: f32,
    /// Keep so many of the largest; 0 keeps all.
    pub top_k: i32,
    /// Keep the fewest of the largest whose probabilities sum to this; 1 keeps all.
    pub top_p: f32,
    /// Keep those at least this fraction as probable as the most probable; 0 keeps all.
    pub min_p: f32,
}

const THREADS: u32 = 1024;

/// The longest row that can be drawn from: its weights sum to less than 2^64 units.
pub const MOST_COLS: usize = 1 << 19;

/// The largest of each row of `logits` `[rows, cols]`, of equals the first: `tokens` is `[rows]`, int32. What is not a number
/// never is the largest; -1 for a row of nothing else.
///
/// # Errors
/// [`Error::Length`], [`Error::Alignment`], [`Error::Unsupported`] for rows of no logits, and those of a launch.
pub fn argmax(gpu: &Gpu, logits: &Buffer, tokens: &Buffer, rows: usize, cols: usize) -> Result<()> {
    const OP: &str = "argmax";
    let args = [
        logits.arg(OP, "logits", 4 * rows * cols, 4)?,
        tokens.arg(OP, "tokens", 4 * rows, 4)?,
        some(OP, cols)?.into(),
    ];
    let launch = Launch::new(int(OP, rows)? as u32, THREADS);
    // SAFETY: the kernel reads `rows` rows of `cols` logits and writes as many tokens, which the buffers have.
    unsafe { gpu.launch(&Kernel::new(&SAMPLING, OP), launch, &args) }
}

/// The logarithms of the probabilities of each row's ids: `out[row, i] = ln softmax(logits[row])[ids[row, i]]`, `logits`
/// `[rows, cols]`, `ids` int32 and `out` f32 `[rows, each]`. NaN for an id that the row does not have.
///
/// # Errors
/// As [`argmax`].
pub fn log_softmax_at(
    gpu: &Gpu,
    logits: &Buffer,
    ids: &Buffer,
    out: &Buffer,
    rows: usize,
    cols: usize,
    each: usize,
) -> Result<()> {
    const OP: &str = "log_softmax_at";
    let quads = if cols.is_multiple_of(4) && aligned([logits]) { cols / 4 } else { 0 };
    let args = [
        logits.arg(OP, "logits", 4 * rows * cols, 4)?,
        ids.arg(OP, "ids", 4 * rows * each, 4)?,
        out.arg(OP, "out", 4 * rows * each, 4)?,
        some(OP, cols)?.into(),
        int(OP, quads)?.into(),
        int(OP, each)?.into(),
    ];
    let launch = Launch::new(int(OP, rows)? as u32, THREADS);
    // SAFETY: the kernel reads `rows` rows of `cols` logits and of `each` ids, and writes as many numbers; the
    // buffers have them.
    unsafe { gpu.launch(&Kernel::new(&SAMPLING, OP), launch, &args) }
}

/// Draws a token of each row of `logits` `[rows, cols]`: `params` are `[rows]` [`SampleParams`], `tokens` `[rows]`, int32. -1 for a
/// row from which none can be drawn: with NaN or +inf, or of nothing but -inf.
///
/// Which parameters are in their ranges is for who makes them to see to; others draw some token.
///
/// # Errors
/// As [`argmax`]; rows have at most [`MOST_COLS`] logits.
pub fn sample(
    gpu: &Gpu,
    logits: &Buffer,
    params: &Buffer,
    tokens: &Buffer,
    rows: usize,
    cols: usize,
) -> Result<()> {
    const OP: &str = "sample";
    if cols > MOST_COLS {
        return Err(Error::Unsupported { op: OP, reason: format!("a row of {cols} logits") });
    }
    let args = [
        logits.arg(OP, "logits", 4 * rows * cols, 4)?,
        params.arg(OP, "params", size_of::<SampleParams>() * rows, 8)?,
        tokens.arg(OP, "tokens", 4 * rows, 4)?,
        some(OP, cols)?.into(),
    ];
    let launch = Launch::new(int(OP, rows)? as u32, THREADS);
    // SAFETY: the kernel reads `rows` rows of `cols` logits and as many parameters, and writes as many tokens;
    // the buffers have them.
    unsafe { gpu.launch(&Kernel::new(&SAMPLING, OP), launch, &args) }
}

fn some(op: &'static str, cols: usize) -> Result<i32> {
    if cols == 0 {
        return Err(Error::Unsupported { op, reason: "rows of no logits".into() });
    }
    int(op, cols)
}
