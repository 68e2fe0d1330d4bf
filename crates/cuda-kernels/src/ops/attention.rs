//! Attention over paged caches: `out = softmax(scale q K^T) V` (Vaswani et al. 2017, eq. 1), query heads sharing
//! key-value heads in groups.
//!
//! [`attention`] gives single rows to the decode kernels, which split a row's positions over blocks, and runs of
//! rows of a sequence to the prefill kernel, after FlashAttention-2 (Dao 2023). A row's result depends neither
//! on the other rows nor on the device, but on which of the two computes it.

mod rows;

use blocks::DType;

use rows::PIECE;
pub use rows::{AttentionRow, RowLists, Rows, RowsKind};

use super::int;
use crate::source::{ATTENTION_DECODE, ATTENTION_PREFILL};
use crate::{Arg, Buffer, Error, Gpu, Kernel, Launch, Result};

const OP: &str = "attention";
const THREADS: u32 = 128;

/// The shape of an attention, and how scores are formed.
#[derive(Clone, Debug, PartialEq)]
pub struct AttentionShape {
    /// Query heads.
    pub n_heads: usize,
    /// Key-value heads; query head `h` reads head `h / (n_heads / n_kv_heads)`.
    pub n_kv_heads: usize,
    /// Elements of a head: a multiple of 8, of 32 in a quantized cache, to 256.
    pub head_dim: usize,
    /// Scores are multiplied by this, usually `head_dim^-0.5`.
    pub scale: f32,
    /// Scores are capped softly to this (Gemma 2): `cap * tanh(score / cap)`.
    pub softcap: Option<f32>,
    /// A row sees at most this many positions, its own included (Mistral, Gemma).
    pub window: Option<usize>,
    /// Type of keys and values: F16, BF16, F32, Q8_0 or Q4_0.
    pub cache: DType,
}

/// Which of the kernels decodes, from simple to fast.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DecodeKernel {
    /// A block a row and query head.
    PerHead,
    /// A block a row and key-value head: the query heads share what is read.
    Grouped,
    /// And the positions are split over blocks.
    Split,
}

impl DecodeKernel {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::PerHead, Self::Grouped, Self::Split];
}

/// Which of the kernels takes runs of rows, from simple to fast.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PrefillKernel {
    /// A warp a row and query head.
    PerRow,
    /// Tiles of rows and keys in shared memory, in floats.
    Tiled,
    /// Tiles that tensor cores multiply, in halves.
    TensorCores,
}

impl PrefillKernel {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::PerRow, Self::Tiled, Self::TensorCores];
}

/// The kernels of an attention.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Kernels {
    /// Of single rows.
    pub decode: DecodeKernel,
    /// Of runs of rows.
    pub prefill: PrefillKernel,
}

impl Kernels {
    /// What [`attention`] takes.
    pub const FASTEST: Self =
        Self { decode: DecodeKernel::Split, prefill: PrefillKernel::TensorCores };
}

/// Names of a cache's type in the kernels.
struct Cache {
    /// As the kernels number it.
    number: i32,
    decode: [&'static str; 4],
    prefill: [&'static str; 3],
}

macro_rules! cache {
    ($number:literal, $decode:literal, $prefill:literal) => {
        Cache {
            number: $number,
            decode: [
                concat!("attention_decode_", $decode, "_64"),
                concat!("attention_decode_", $decode, "_128"),
                concat!("attention_decode_", $decode, "_192"),
                concat!("attention_decode_", $decode, "_256"),
            ],
            prefill: [
                concat!("attention_prefill_", $prefill, "_64"),
                concat!("attention_prefill_", $prefill, "_128"),
                concat!("attention_prefill_", $prefill, "_256"),
            ],
        }
    };
}

impl AttentionShape {
    fn cache(&self) -> Result<Cache> {
        Ok(match self.cache {
            DType::F16 => cache!(0, "f16", "f16"),
            DType::BF16 => cache!(1, "bf16", "bf16"),
            DType::F32 => cache!(2, "f32", "converted"),
            DType::Q8_0 => cache!(3, "q8_0", "converted"),
            DType::Q4_0 => cache!(4, "q4_0", "converted"),
            other => return Err(unsupported(format!("a cache of {other:?}"))),
        })
    }

    fn check(&self) -> Result<()> {
        let &Self { n_heads, n_kv_heads, head_dim, cache, .. } = self;
        if n_kv_heads == 0 || n_heads == 0 || !n_heads.is_multiple_of(n_kv_heads) {
            return Err(unsupported(format!("{n_heads} query heads for {n_kv_heads} of keys")));
        }
        let unit = cache.block_len().max(8);
        if head_dim == 0 || head_dim > 256 || !head_dim.is_multiple_of(unit) {
            return Err(unsupported(format!("heads of {head_dim}, no multiple of {unit} to 256")));
        }
        if self.softcap.is_some_and(|cap| cap.is_nan() || cap <= 0.0) || self.window == Some(0) {
            return Err(unsupported("a cap or window of nothing"));
        }
        Ok(())
    }

    /// The last arguments of all kernels.
    fn scores(&self, block_size: usize) -> Result<[Arg; 4]> {
        // No window is beyond what rows can see.
        let window = self.window.map_or(0, |w| i32::try_from(w).unwrap_or(i32::MAX));
        let softcap = self.softcap.unwrap_or(0.0);
        Ok([int(OP, block_size)?.into(), window.into(), self.scale.into(), softcap.into()])
    }

    fn heads(&self) -> Result<[Arg; 3]> {
        let Self { n_heads, n_kv_heads, head_dim, .. } = *self;
        Ok([int(OP, n_heads)?.into(), int(OP, n_kv_heads)?.into(), int(OP, head_dim)?.into()])
    }
}

fn unsupported(reason: impl Into<String>) -> Error {
    Error::Unsupported { op: OP, reason: reason.into() }
}

/// A call's buffers, checked: q, keys, values, out.
struct Checked([Arg; 4]);

fn check(
    shape: &AttentionShape,
    [q, keys, values, out]: [&Buffer; 4],
    rows: &Rows,
) -> Result<Checked> {
    shape.check()?;
    let floats = rows.plan.rows * shape.n_heads * shape.head_dim * 4;
    let slot =
        shape.cache.block_bytes() * (shape.head_dim / shape.cache.block_len()) * shape.n_kv_heads;
    let cache = rows.slots.saturating_mul(slot);
    // Kernels count the heads of all slots in an int.
    int(OP, rows.slots.saturating_mul(shape.n_kv_heads))?;
    Ok(Checked([
        q.arg(OP, "q", floats, 16)?,
        keys.arg(OP, "keys", cache, 16)?,
        values.arg(OP, "values", cache, 16)?,
        out.arg(OP, "out", floats, 16)?,
    ]))
}

/// Causal attention of `q` `[rows, n_heads * head_dim]` of f32 over one layer of a cache, `keys` and `values`
/// `[slots, n_kv_heads * head_dim]`, into `out` as `q`. The rows' own keys and values are in the cache already.
///
/// Products take f16, or bf16 of a bf16 cache, and add up in f32. Decoding splits q, the weights and f32 caches into two
/// halves each, so that only quantized caches are rounded (to f16, once decoded); prefill rounds them all.
///
/// # Errors
/// [`Error::Unsupported`] for shapes that the kernels do not take, [`Error::Length`] and [`Error::Alignment`] (16
/// bytes) of buffers, [`Error::OutOfMemory`] for the parts of split rows, and those of a launch.
pub fn attention(
    gpu: &Gpu,
    shape: &AttentionShape,
    q: &Buffer,
    keys: &Buffer,
    values: &Buffer,
    rows: &Rows,
    out: &Buffer,
) -> Result<()> {
    attention_with(gpu, Kernels::FASTEST, shape, [q, keys, values, out], rows)
}

/// [`attention`] by these kernels: to compare them.
///
/// # Errors
/// As [`attention`].
pub fn attention_with(
    gpu: &Gpu,
    kernels: Kernels,
    shape: &AttentionShape,
    buffers: [&Buffer; 4],
    rows: &Rows,
) -> Result<()> {
    let checked = check(shape, buffers, rows)?;
    prefill(gpu, kernels.prefill, shape, &checked, rows)?;
    decode(gpu, kernels.decode, shape, &checked, rows)
}

/// Attention without a cache, in both directions: every row of `q`, `k`, `v` (f32 `[rows, heads * head_dim]`, several
/// sequences behind each other, `rows` from [`RowLists::bidirectional`]) sees all rows of its own sequence. The
/// shape's window and type of cache are not looked at.
///
/// # Errors
/// As [`attention`].
pub fn attention_bidirectional(
    gpu: &Gpu,
    shape: &AttentionShape,
    q: &Buffer,
    k: &Buffer,
    v: &Buffer,
    rows: &Rows,
    out: &Buffer,
) -> Result<()> {
    let shape = AttentionShape { window: None, cache: DType::F32, ..shape.clone() };
    attention(gpu, &shape, q, k, v, rows, out)
}

fn prefill(
    gpu: &Gpu,
    kernel: PrefillKernel,
    shape: &AttentionShape,
    &Checked([q, keys, values, out]): &Checked,
    rows: &Rows,
) -> Result<()> {
    if rows.plan.spans.is_empty() {
        return Ok(());
    }
    let cache = shape.cache()?;
    let size = shape.head_dim.div_ceil(64).next_power_of_two().ilog2() as usize;
    let dim = 64 << size;
    // Rows of a tile, bytes of shared memory that are asked for, and those that a kernel has anyhow.
    let (name, tile, shared, fixed) = match kernel {
        PrefillKernel::PerRow => ("attention_prefill_per_row", 4, 0, 0),
        PrefillKernel::Tiled => (TILED[size], 32, 96 * (dim + 4) * 4, 0),
        PrefillKernel::TensorCores => {
            let tile = if dim == 256 { 64 } else { 128 };
            (cache.prefill[size], tile as usize, (tile + 2 * KEYS) * 2 * dim, 2 * KEYS * 4)
        }
    };
    room(gpu, shared + fixed)?;
    let heads = shape.n_heads / shape.n_kv_heads;
    let tiles = rows.plan.spans.iter().map(|rows| (rows * heads).div_ceil(tile)).sum();
    let lists = [rows.tables.arg(OP, "tables", 0, 4)?, rows.spans.arg(OP, "spans", 0, 4)?];
    let mut args = vec![q, keys, values, lists[0], lists[1], out];
    args.extend([Arg::I32(int(OP, rows.plan.spans.len())?), Arg::I32(cache.number)]);
    args.extend(shape.heads()?);
    args.extend(shape.scores(rows.block_size)?);
    let launch =
        Launch::grid2(int(OP, tiles)? as u32, shape.n_kv_heads as u32, THREADS).with_shared(shared);
    // SAFETY: the buffers have the rows, and the slots that tables name; the kernel was made for this head.
    unsafe { gpu.launch(&Kernel::new(&ATTENTION_PREFILL, name), launch, &args) }
}

/// For heads up to 64, 128 and 256.
const TILED: [&str; 3] =
    ["attention_prefill_tiled_64", "attention_prefill_tiled_128", "attention_prefill_tiled_256"];

/// Keys of a tile of the prefill kernel for tensor cores.
const KEYS: u32 = 64;

fn decode(
    gpu: &Gpu,
    kernel: DecodeKernel,
    shape: &AttentionShape,
    &Checked([q, keys, values, out]): &Checked,
    rows: &Rows,
) -> Result<()> {
    let plan = &rows.plan;
    if plan.singles == 0 {
        return Ok(());
    }
    let cache = shape.cache()?;
    let lists = [&rows.tables, &rows.singles, &rows.branches].map(|list| list.ptr());
    let lists = lists.map(Arg::Ptr);
    let mut args = vec![q, keys, values, lists[0], lists[1], lists[2], out];
    if kernel == DecodeKernel::PerHead {
        args.push(cache.number.into());
        args.extend(shape.heads()?);
        args.extend(shape.scores(rows.block_size)?);
        let launch = Launch::grid2(int(OP, plan.singles)? as u32, shape.n_heads as u32, THREADS);
        let kernel = Kernel::new(&ATTENTION_DECODE, "attention_decode_per_head");
        // SAFETY: the buffers have the rows, and the slots that tables and branches name.
        return unsafe { gpu.launch(&kernel, launch, &args) };
    }
    let (piece, most) = match kernel {
        DecodeKernel::Split => (PIECE as i32, plan.most_pieces),
        _ => (i32::MAX, 1),
    };
    let groups = shape.head_dim.div_ceil(64);
    let head = 64 * groups / shape.cache.block_len() * shape.cache.block_bytes();
    let shared = 128 * (head / 16 * 16 + 16).max(64 * groups) as u32;
    let fixed = (PIECE * 4 + 2048 * groups + 256) as u32;
    room(gpu, shared + fixed)?;
    // The parts of rows that are split, none if no row is.
    let parts = if most > 1 { plan.pieces * shape.n_heads } else { 0 };
    let (stats, partial) = (gpu.alloc(parts * 8)?, gpu.alloc(parts * shape.head_dim * 4)?);
    let (stats, partial) = (Arg::Ptr(stats.ptr()), Arg::Ptr(partial.ptr()));
    args.extend([stats, partial, piece.into()]);
    args.extend(shape.heads()?);
    args.extend(shape.scores(rows.block_size)?);
    let tiles = (shape.n_heads / shape.n_kv_heads).div_ceil(8);
    let x = int(OP, plan.singles * shape.n_kv_heads * tiles)? as u32;
    let launch = Launch::grid2(x, int(OP, most)? as u32, THREADS).with_shared(shared);
    // SAFETY: as above, and the parts have room for every piece.
    unsafe {
        gpu.launch(&Kernel::new(&ATTENTION_DECODE, cache.decode[groups - 1]), launch, &args)
    }?;
    if most == 1 {
        return Ok(());
    }
    let [n_heads, _, head_dim] = shape.heads()?;
    let [_, window, ..] = shape.scores(rows.block_size)?;
    let args = [stats, partial, lists[1], out, piece.into(), n_heads, head_dim, window];
    let launch = Launch::grid2(int(OP, plan.singles)? as u32, shape.n_heads as u32, THREADS);
    let kernel = Kernel::new(&ATTENTION_DECODE, "attention_decode_combine");
    // SAFETY: as above.
    unsafe { gpu.launch(&kernel, launch, &args) }
}

/// Whether a block can have so much shared memory.
fn room(gpu: &Gpu, shared: u32) -> Result<()> {
    let most = gpu.properties().shared_per_block;
    if shared > most {
        return Err(unsupported(format!("{shared} bytes of shared memory, the device has {most}")));
    }
    Ok(())
}
