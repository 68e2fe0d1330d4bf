//! Rotary position embedding (Su et al. 2021), and with it the writing of keys and values to a cache.

use blocks::DType;

use super::elementwise::aligned;
use super::{blocks as grid, int};
use crate::source::ROPE;
use crate::{Arg, Buffer, Error, Gpu, Kernel, Launch, Result};

/// Which elements are turned together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RopeLayout {
    /// Elements `2i` and `2i + 1`: Llama's weights in GGUF files.
    Interleaved,
    /// Elements `i` and `i + rotary_dim / 2`: NeoX, and Hugging Face's weights.
    Half,
}

/// How the heads of some rows turn.
#[derive(Clone, Copy, Debug)]
pub struct Rotation<'a> {
    /// Elements of each head that turn, the first ones: an even number.
    pub rotary_dim: usize,
    /// Which of them turn together.
    pub layout: RopeLayout,
    /// `[rows, rotary_dim / 2]`, f32.
    pub cos: &'a Buffer,
    /// `[rows, rotary_dim / 2]`, f32.
    pub sin: &'a Buffer,
}

/// The heads of a row of queries, and of keys or values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Heads {
    /// Query heads.
    pub n_heads: usize,
    /// Key-value heads.
    pub n_kv_heads: usize,
    /// Elements of a head.
    pub head_dim: usize,
}

/// Keys and values of a layer, each `[slots, n_kv_heads * head_dim]`.
#[derive(Clone, Copy, Debug)]
pub struct KvSlots<'a> {
    /// F32, F16, BF16, Q8_0 or Q4_0.
    pub dtype: DType,
    /// All keys.
    pub keys: &'a Buffer,
    /// All values.
    pub values: &'a Buffer,
}

const THREADS: usize = 256;
/// Most that a kernel counts up to, which leaves room for a step of its grid.
const MOST: usize = 1 << 30;

/// Turns each head of `x` `[rows, heads * head_dim]` by its row's angles, in place.
///
/// # Errors
/// [`Error::Length`], [`Error::Alignment`], [`Error::Unsupported`] for heads that do not fit, and those of a launch.
pub fn rope(
    gpu: &Gpu,
    x: &Buffer,
    rows: usize,
    heads: usize,
    head_dim: usize,
    rotation: &Rotation<'_>,
) -> Result<()> {
    const OP: &str = "rope";
    let angles = rotation.angles(OP, rows, head_dim)?;
    let (half, width) = (rotation.rotary_dim / 2, heads * head_dim);
    let wide = wide(head_dim, half) && aligned([x, rotation.cos, rotation.sin]);
    let (name, each) = if wide { ("rope_4", 4) } else { ("rope_1", 1) };
    let work = limited(OP, rows * heads * half)? / each;
    let x = x.arg(OP, "x", 4 * rows * width, 4)?;
    if work == 0 {
        return Ok(());
    }
    let sizes = [rows, width, head_dim, half].map(|n| int(OP, n).map(Arg::from));
    let mut args = vec![x, angles[0], angles[1]];
    args.extend(sizes.into_iter().collect::<Result<Vec<_>>>()?);
    args.push(rotation.layout.arg());
    let launch = Launch::new(grid(gpu, work.div_ceil(THREADS), 8), THREADS as u32);
    // SAFETY: the kernel reads and writes `rows` rows of `x` and reads as many of angles, which the buffers have.
    unsafe { gpu.launch(&Kernel::new(&ROPE, name), launch, &args) }
}

/// Turns the queries of `rows` rows in place, if there is a rotation, and writes their keys, turned, and
/// their values to the cache: those of row `r` to slot `slots[r]`. In one pass; keys are not written back.
///
/// `q` is `[rows, n_heads * head_dim]`, `k` and `v` are `[rows, n_kv_heads * head_dim]`, f32; `slots` is `[rows]`, int32. The bytes
/// in the cache are those of `blocks::encode`; elements of a block type that are infinite or no numbers, which it
/// cannot hold, make their whole block no numbers. A row whose slot is negative, or beyond the cache, is
/// turned and not written.
///
/// # Errors
/// [`Error::Length`], [`Error::Alignment`], [`Error::Unsupported`] for heads that do not fit and for types that a
/// cache does not have, and those of a launch.
pub fn turn_and_store(
    gpu: &Gpu,
    rows: usize,
    heads: Heads,
    rotation: Option<&Rotation<'_>>,
    [q, k, v]: [&Buffer; 3],
    cache: KvSlots<'_>,
    slots: &Buffer,
) -> Result<()> {
    const OP: &str = "turn_and_store";
    let Heads { n_heads, n_kv_heads, head_dim } = heads;
    let (q_width, width) = (n_heads * head_dim, n_kv_heads * head_dim);
    let names = match cache.dtype {
        DType::F32 => ["turn_and_store_f32_4", "turn_and_store_f32_1"],
        DType::F16 => ["turn_and_store_f16_4", "turn_and_store_f16_1"],
        DType::BF16 => ["turn_and_store_bf16_4", "turn_and_store_bf16_1"],
        DType::Q8_0 => ["turn_and_store_q8_0_4", "turn_and_store_q8_0_1"],
        DType::Q4_0 => ["turn_and_store_q4_0_4", "turn_and_store_q4_0_1"],
        other => return unsupported(OP, format!("a cache of {other}")),
    };
    let Some(slot_bytes) = cache.dtype.bytes_for(width).filter(|&bytes| bytes > 0) else {
        let reason = format!("slots of {width} elements of {}", cache.dtype);
        return unsupported(OP, reason);
    };
    let n_slots = cache.keys.len().min(cache.values.len()) / slot_bytes;
    let (half, angles, layout) = match rotation {
        Some(r) => (r.rotary_dim / 2, r.angles(OP, rows, head_dim)?, r.layout),
        None => (0, [Arg::Ptr(0); 2], RopeLayout::Half),
    };
    let tables = rotation.map(|r| [r.cos, r.sin]);
    let buffers = [q, k, v, cache.keys, cache.values].into_iter();
    let wide = wide(head_dim, half) && aligned(buffers.chain(tables.into_iter().flatten()));
    let (name, each) = if wide { (names[0], 4) } else { (names[1], 1) };
    let lanes = 32 * each;
    let units = rows * ((n_heads * half).div_ceil(lanes) + 2 * width.div_ceil(lanes));
    let mut args = vec![
        q.arg(OP, "q", 4 * rows * q_width, 4)?,
        k.arg(OP, "k", 4 * rows * width, 4)?,
        v.arg(OP, "v", 4 * rows * width, 4)?,
        angles[0],
        angles[1],
        slots.arg(OP, "slots", 4 * rows, 4)?,
        cache.keys.arg(OP, "keys", 0, if cache.dtype == DType::F32 { 4 } else { 2 })?,
        cache.values.arg(OP, "values", 0, if cache.dtype == DType::F32 { 4 } else { 2 })?,
    ];
    for size in [rows, q_width, width, n_slots, head_dim, half] {
        args.push(int(OP, size)?.into());
    }
    args.push(layout.arg());
    let warps = THREADS / 32;
    let blocks = grid(gpu, limited(OP, units)?.div_ceil(warps), 8);
    // SAFETY: the kernel reads `rows` rows of all inputs, which the buffers have, and writes the queries and
    // slots below `n_slots`, which lie in the cache.
    unsafe { gpu.launch(&Kernel::new(&ROPE, name), Launch::new(blocks, THREADS as u32), &args) }
}

impl Rotation<'_> {
    /// Both tables as arguments, if they and the heads fit.
    fn angles(&self, op: &'static str, rows: usize, head_dim: usize) -> Result<[Arg; 2]> {
        let n = self.rotary_dim;
        if !n.is_multiple_of(2) || n > head_dim {
            return unsupported(op, format!("{n} of a head's {head_dim} elements turned in pairs"));
        }
        let bytes = 4 * rows * (n / 2);
        Ok([self.cos.arg(op, "cosines", bytes, 4)?, self.sin.arg(op, "sines", bytes, 4)?])
    }
}

impl RopeLayout {
    fn arg(self) -> Arg {
        Arg::I32((self == Self::Interleaved).into())
    }
}

/// Whether four elements that lie together are all turned in the same way, or not at all.
fn wide(head_dim: usize, half: usize) -> bool {
    head_dim.is_multiple_of(4) && half.is_multiple_of(4)
}

fn limited(op: &'static str, work: usize) -> Result<usize> {
    if work <= MOST { Ok(work) } else { unsupported(op, format!("{work} pieces of work at once")) }
}

fn unsupported<T>(op: &'static str, reason: String) -> Result<T> {
    Err(Error::Unsupported { op, reason })
}
