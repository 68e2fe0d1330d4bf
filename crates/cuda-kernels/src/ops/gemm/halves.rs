//! Products of f16 and bf16: rows rounded once, then multiplied with one matrix or with slabs of it.

use std::ops::Range;

use super::{Gemm, OP, THREADS, bias_arg, unsupported};
use crate::blas::{BlasProduct, Half};
use crate::ops::{blocks, int};
use crate::source::GEMM;
use crate::{Arg, Buffer, Gpu, Kernel, Launch, Result};

/// Rows of halves, `[m, padded]`, ready for products.
pub(super) struct Halves<'a> {
    gpu: &'a Gpu,
    gemm: Gemm,
    half: Half,
    rows: Buffer,
    m: usize,
    k: usize,
    padded: usize,
}

/// A kernel of `tile_product`: its name's middle, its tile, warps and stages.
struct Tile {
    names: [&'static str; 2],
    rows: usize,
    columns: usize,
    warps: u32,
    stages: u32,
}

impl Tile {
    fn of(gemm: Gemm) -> Option<Self> {
        let large = |names, stages| Tile { names, rows: 128, columns: 128, warps: 8, stages };
        match gemm {
            Gemm::Mma => Some(large(["gemm_mma_f16", "gemm_mma_bf16"], 1)),
            Gemm::Pipelined => Some(large(["gemm_pipelined_f16", "gemm_pipelined_bf16"], 3)),
            Gemm::FewRows => {
                let names = ["gemm_few_rows_f16", "gemm_few_rows_bf16"];
                Some(Tile { names, rows: 32, columns: 64, warps: 4, stages: 4 })
            }
            Gemm::Naive | Gemm::Tiled | Gemm::CublasLt => None,
        }
    }
}

/// The launch of a kernel of `tile_product`: a block a tile, with 128 bytes of each of its rows a stage.
pub(super) fn tiles(
    (m, rows): (usize, usize),
    (n, columns): (usize, usize),
    warps: u32,
    stages: u32,
) -> Launch {
    let shared = stages * ((rows + columns) * 128) as u32;
    Launch::grid2(m.div_ceil(rows) as u32, n.div_ceil(columns) as u32, warps * 32)
        .with_shared(shared)
}

/// Rows whose bytes are no multiple of 16, or that do not begin at one, in rows of `padded` bytes; others
/// as they are.
pub(super) fn aligned(
    gpu: &Gpu,
    w: &Buffer,
    rows: usize,
    bytes: usize,
    padded: usize,
) -> Result<Buffer> {
    let from = w.arg(OP, "w", rows * bytes, 1)?;
    if bytes == padded && w.ptr().is_multiple_of(16) {
        return Ok(w.clone());
    }
    let to = gpu.alloc(rows * padded)?;
    let args = [
        from,
        Arg::Ptr(to.ptr()),
        Arg::I64(rows as i64),
        int(OP, bytes)?.into(),
        int(OP, padded)?.into(),
    ];
    let launch = Launch::new(blocks(gpu, (rows * padded).div_ceil(THREADS as usize), 8), THREADS);
    // SAFETY: the kernel reads rows * bytes, as checked, and writes rows * padded, as allocated.
    unsafe { gpu.launch(&Kernel::new(&GEMM, "gemm_pad_rows"), launch, &args) }?;
    Ok(to)
}

/// `x` f32 `[m, k]`, anywhere, to `[m, padded]`.
fn round(
    gpu: &Gpu,
    half: Half,
    x: &Buffer,
    (m, k, padded): (usize, usize, usize),
) -> Result<Buffer> {
    let rounded = gpu.alloc(2 * m * padded)?;
    let from = x.arg(OP, "x", 4 * m * k, 4)?;
    let args = [
        from,
        Arg::Ptr(rounded.ptr()),
        Arg::I64(m as i64),
        int(OP, k)?.into(),
        int(OP, padded)?.into(),
    ];
    let name = match half {
        Half::F16 => "gemm_round_f16",
        Half::Bf16 => "gemm_round_bf16",
    };
    let launch = Launch::new(blocks(gpu, (m * padded / 8).div_ceil(THREADS as usize), 8), THREADS);
    // SAFETY: the kernel reads [m, k], as checked, and writes [m, padded], as allocated.
    unsafe { gpu.launch(&Kernel::new(&GEMM, name), launch, &args) }?;
    Ok(rounded)
}

impl<'a> Halves<'a> {
    /// Rounds `x`, f32 `[m, k]`, for products by a kernel on tensor cores or cuBLASLt.
    ///
    /// # Errors
    /// Those of [`super::plain`].
    pub(super) fn round(
        gpu: &'a Gpu,
        gemm: Gemm,
        half: Half,
        (x, m, k): (&Buffer, usize, usize),
    ) -> Result<Self> {
        let padded = k.next_multiple_of(8);
        Ok(Self { gpu, gemm, half, rows: round(gpu, half, x, (m, k, padded))?, m, k, padded })
    }

    /// The rows themselves, `[m, padded]`.
    pub(super) fn rows(&self) -> &Buffer {
        &self.rows
    }

    /// Multiplies with `w` of the same type, `[n, k]`, into the first `n` of each `stride` elements of `y`.
    ///
    /// # Errors
    /// Those of [`super::plain`].
    pub(super) fn times(
        &self,
        w: &Buffer,
        bias: Option<&Buffer>,
        (y, stride): (&Buffer, usize),
        n: usize,
    ) -> Result<()> {
        let &Self { gpu, m, k, padded, .. } = self;
        let elements = if m * n == 0 { 0 } else { (m - 1) * stride + n };
        let to = y.arg(OP, "y", 4 * elements, 4)?;
        let bias_at = bias_arg(bias, n)?;
        let w = aligned(gpu, w, n, 2 * k, 2 * padded)?;
        if self.gemm == Gemm::CublasLt {
            let Some(blas) = gpu.blas() else { return unsupported("cuBLASLt is not installed") };
            let fits = bias.is_none_or(|bias| bias.ptr().is_multiple_of(16));
            if fits && m * n * k > 0 {
                let workspace = gpu.alloc(blas.workspace())?;
                let product = BlasProduct {
                    half: self.half,
                    m,
                    n,
                    k: padded,
                    x: self.rows.ptr(),
                    w: w.ptr(),
                    bias: bias.map(Buffer::ptr),
                    y: y.ptr(),
                    stride,
                    workspace: workspace.ptr(),
                };
                // SAFETY: all are as long as was checked or allocated; the pool gives the workspace to what is
                // launched later alone.
                let done = gpu.pool.work("cuBLASLt", |_| unsafe { blas.multiply(&product) })?;
                if done {
                    return Ok(());
                }
            }
        }
        let tile = Tile::of(self.gemm).or_else(|| Tile::of(Gemm::own(m))).expect("a kernel");
        let name = match self.half {
            Half::F16 => tile.names[0],
            Half::Bf16 => tile.names[1],
        };
        let sizes = [int(OP, m)?, int(OP, n)?, int(OP, padded)?].map(Arg::I32);
        let mut args = vec![
            Arg::Ptr(self.rows.ptr()),
            Arg::Ptr(w.ptr()),
            bias_at,
            to,
            Arg::I64(stride as i64),
        ];
        args.extend(sizes);
        let launch = tiles((m, tile.rows), (n, tile.columns), tile.warps, tile.stages);
        // SAFETY: the kernel reads [m, padded], [n, padded] and [n], and writes n of each stride of m rows: as long as
        // was checked or allocated, the first two aligned to 16.
        unsafe { gpu.launch(&Kernel::new(&GEMM, name), launch, &args) }
    }
    /// Multiplies with rows `columns` of a larger `W`, into those columns of `y`, whose rows are `stride` long.
    ///
    /// # Errors
    /// Those of [`super::plain`].
    pub(super) fn times_slab(
        &self,
        w: &Buffer,
        bias: Option<&Buffer>,
        (y, stride): (&Buffer, usize),
        columns: Range<usize>,
    ) -> Result<()> {
        let Range { start, end } = columns;
        bias_arg(bias, end)?;
        y.arg(OP, "y", 4 * end, 4)?;
        let bias = bias.map(|bias| bias.slice(4 * start..4 * end));
        self.times(w, bias.as_ref(), (&y.slice(4 * start..y.len()), stride), end - start)
    }
}
