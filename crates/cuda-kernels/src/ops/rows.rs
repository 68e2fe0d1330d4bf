//! Rows picked, added up and ranked; the embedding. Indices are int32 on the device; one that is not in the
//! matrix gives a row of NaN.

use blocks::DType;

use super::dequantize::alignment;
use super::elementwise::{aligned, over_rows};
use super::int;
use crate::source::ROWS;
use crate::{Arg, Buffer, Error, Gpu, Kernel, Launch, Result};

/// `out[i] = x[ids[i]]`: `x` `[rows, cols]` and `out` `[n, cols]` of f32, `ids` `[n]` of int32.
///
/// # Errors
/// [`Error::Length`], [`Error::Alignment`], and those of a launch.
pub fn gather_rows(
    gpu: &Gpu,
    x: &Buffer,
    rows: usize,
    cols: usize,
    ids: &Buffer,
    n: usize,
    out: &Buffer,
) -> Result<()> {
    const OP: &str = "gather_rows";
    let args = [
        x.arg(OP, "x", 4 * rows * cols, 4)?,
        ids.arg(OP, "ids", 4 * n, 4)?,
        out.arg(OP, "out", 4 * n * cols, 4)?,
        int(OP, rows)?.into(),
        int(OP, n)?.into(),
        int(OP, cols)?.into(),
    ];
    let wide = cols.is_multiple_of(4) && aligned([x, out]);
    let (name, each) = if wide { ("gather_rows_4", 4) } else { ("gather_rows_1", 1) };
    // SAFETY: the kernel reads `n` ids and rows of `x` that are there, and writes `n` rows; the buffers have them.
    unsafe { gpu.launch(&Kernel::new(&ROWS, name), over_rows(gpu, n, cols / each), &args) }
}

/// `acc[ids[i]] += weights[i] * y[i]` for `i` ascending: `acc` `[rows, cols]` and `y` `[n, cols]` of f32, `ids` `[n]` of
/// int32, `weights` `[n]` of f32. The same in every run, and the same bits as on the CPU; an id that `acc` does not have is
/// passed over.
///
/// # Errors
/// As [`gather_rows`].
pub fn scatter_add_rows(
    gpu: &Gpu,
    acc: &Buffer,
    rows: usize,
    cols: usize,
    [ids, weights]: [&Buffer; 2],
    n: usize,
    y: &Buffer,
) -> Result<()> {
    const OP: &str = "scatter_add_rows";
    let args = [
        acc.arg(OP, "acc", 4 * rows * cols, 4)?,
        ids.arg(OP, "ids", 4 * n, 4)?,
        weights.arg(OP, "weights", 4 * n, 4)?,
        y.arg(OP, "y", 4 * n * cols, 4)?,
        int(OP, n)?.into(),
        int(OP, cols)?.into(),
    ];
    let wide = cols.is_multiple_of(4) && aligned([acc, y]);
    let name = if wide { "scatter_add_rows_4" } else { "scatter_add_rows_1" };
    let launch = Launch::new(int(OP, rows)? as u32, 256);
    // SAFETY: a block reads and writes one of `rows` rows of `acc` and reads `n` of the others; the buffers have them.
    unsafe { gpu.launch(&Kernel::new(&ROWS, name), launch, &args) }
}

/// Columns `columns` of `x` `[rows, cols]`: `out` is `[rows, columns.len()]`, both f32.
///
/// # Errors
/// As [`gather_rows`]; [`Error::Unsupported`] for columns that are not there.
pub fn slice_cols(
    gpu: &Gpu,
    x: &Buffer,
    rows: usize,
    cols: usize,
    columns: std::ops::Range<usize>,
    out: &Buffer,
) -> Result<()> {
    const OP: &str = "slice_cols";
    if columns.start > columns.end || columns.end > cols {
        return Err(Error::Unsupported {
            op: OP,
            reason: format!("columns {columns:?} of {cols}"),
        });
    }
    let width = columns.len();
    let mut args =
        vec![x.arg(OP, "x", 4 * rows * cols, 4)?, out.arg(OP, "out", 4 * rows * width, 4)?];
    for size in [rows, cols, columns.start, width] {
        args.push(int(OP, size)?.into());
    }
    let fours = [cols, columns.start, width].iter().all(|n| n.is_multiple_of(4));
    let (name, each) =
        if fours && aligned([x, out]) { ("slice_cols_4", 4) } else { ("slice_cols_1", 1) };
    // SAFETY: the kernel reads columns of `rows` rows that are there and writes as many of `width`; the buffers have
    // them.
    unsafe { gpu.launch(&Kernel::new(&ROWS, name), over_rows(gpu, rows, width / each), &args) }
}

/// The widest row that a warp ranks.
const WARP_COLS: usize = 1024;

/// The `k` largest elements of each row of `x` `[rows, cols]`, largest first, of equals the lower column first:
/// `columns` is `[rows, k]` of int32, `values` `[rows, k]` of f32. The order is IEEE 754's totalOrder.
///
/// # Errors
/// As [`gather_rows`]; [`Error::Unsupported`] if a row has fewer than `k`.
pub fn top_k(
    gpu: &Gpu,
    x: &Buffer,
    rows: usize,
    cols: usize,
    k: usize,
    [columns, values]: [&Buffer; 2],
) -> Result<()> {
    const OP: &str = "top_k";
    if k > cols {
        return Err(Error::Unsupported { op: OP, reason: format!("{k} of {cols} columns") });
    }
    let args = [
        x.arg(OP, "x", 4 * rows * cols, 4)?,
        columns.arg(OP, "columns", 4 * rows * k, 4)?,
        values.arg(OP, "values", 4 * rows * k, 4)?,
        int(OP, rows)?.into(),
        int(OP, cols)?.into(),
        int(OP, k)?.into(),
    ];
    let (name, launch) = if cols <= WARP_COLS {
        ("top_k_warp", Launch::new(rows.div_ceil(4) as u32, 128))
    } else {
        ("top_k_block", Launch::new(rows as u32, 1024))
    };
    // SAFETY: the kernel reads `rows` rows of `cols` elements and writes as many of `k`; the buffers have them.
    unsafe { gpu.launch(&Kernel::new(&ROWS, name), launch, &args) }
}

/// Rows to pick from.
#[derive(Clone, Copy, Debug)]
pub struct Table<'a> {
    /// `[rows, cols]` of some type.
    pub bytes: &'a Buffer,
    /// Rows.
    pub rows: usize,
    /// Elements of a row.
    pub cols: usize,
}

/// The kernel of a type, if there is one.
fn embed_kernel(dtype: DType) -> Option<&'static str> {
    macro_rules! names {
        ($($dtype:ident $name:literal),*) => {
            match dtype {
                $(DType::$dtype => concat!("embed_", $name),)*
                _ => return None,
            }
        };
    }
    Some(names!(
        F32 "f32", F16 "f16", BF16 "bf16", Q1_0 "q1_0", Q2_0 "q2_0", Q4_0 "q4_0", Q4_1 "q4_1", Q5_0 "q5_0",
        Q5_1 "q5_1", Q8_0 "q8_0", Q2_K "q2_k", Q3_K "q3_k", Q4_K "q4_k", Q5_K "q5_k", Q6_K "q6_k",
        IQ4_NL "iq4_nl", IQ4_XS "iq4_xs", TQ1_0 "tq1_0", TQ2_0 "tq2_0", MXFP4 "mxfp4", NVFP4 "nvfp4"
    ))
}

/// Whether [`embed`] takes tables of the type: plain floats, and GGML's blocks but IQ1 to IQ3.
pub fn can_embed(dtype: DType) -> bool {
    embed_kernel(dtype).is_some()
}

/// Rows `ids` of a table, decoded: `ids` is `[n]` of int32, `out` `[n, cols]` of f32.
///
/// # Errors
/// As [`gather_rows`]; [`Error::Unsupported`] for a type that is not decoded here, or rows that are no whole number of its
/// blocks.
pub fn embed(
    gpu: &Gpu,
    dtype: DType,
    &Table { bytes: table, rows, cols }: &Table<'_>,
    ids: &Buffer,
    n: usize,
    out: &Buffer,
) -> Result<()> {
    const OP: &str = "embed";
    let unsupported = |reason| Error::Unsupported { op: OP, reason };
    let Some(name) = embed_kernel(dtype) else {
        return Err(unsupported(format!("a table of {dtype}")));
    };
    let Some(row_bytes) = dtype.bytes_for(cols) else {
        return Err(unsupported(format!("rows of {cols} elements of {dtype}")));
    };
    // Of blocks four elements are decoded at once.
    let (out_alignment, each) = if dtype.is_quantized() { (16, 4) } else { (4, 1) };
    let args: [Arg; 6] = [
        table.arg(OP, "table", rows * row_bytes, alignment(dtype))?,
        ids.arg(OP, "ids", 4 * n, 4)?,
        out.arg(OP, "out", 4 * n * cols, out_alignment)?,
        int(OP, rows)?.into(),
        int(OP, n)?.into(),
        int(OP, cols)?.into(),
    ];
    if rows == 0 && n > 0 {
        return Err(unsupported("a table of no rows".into()));
    }
    // SAFETY: the kernel reads `n` ids and rows of the table that are there, and writes `n` rows; the buffers have them.
    unsafe { gpu.launch(&Kernel::new(&ROWS, name), over_rows(gpu, n, cols / each), &args) }
}
