//! Attention, what is before it (rotary embedding and the writing of the cache), and the embedding: with the
//! heads of Llama 3 8B, 32 of queries and 8 of keys and values, each of 128 elements.

use blocks::DType;
use cuda_kernels::ops::attention::{
    self as attend, AttentionRow, AttentionShape, DecodeKernel, Kernels, PrefillKernel, RowLists,
};
use cuda_kernels::ops::rope::{self as turn, Heads, KvSlots, RopeLayout, Rotation};
use cuda_kernels::ops::rows::{self as pick, Table};
use cuda_kernels::{Gpu, Result};

use super::{Case, Turns};

const HEADS: Heads = Heads { n_heads: 32, n_kv_heads: 8, head_dim: 128 };
const Q_WIDTH: usize = HEADS.n_heads * HEADS.head_dim;
const KV_WIDTH: usize = HEADS.n_kv_heads * HEADS.head_dim;
/// Slots of a block of the cache.
const BLOCK: usize = 16;

fn shape(cache: DType) -> AttentionShape {
    let Heads { n_heads, n_kv_heads, head_dim } = HEADS;
    let scale = (head_dim as f32).powf(-0.5);
    AttentionShape { n_heads, n_kv_heads, head_dim, scale, softcap: None, window: None, cache }
}

/// Bytes of `positions` positions' keys, as many of their values.
fn side(cache: DType, positions: usize) -> usize {
    cache.bytes_for(positions * KV_WIDTH).unwrap_or(0)
}

/// Tables of sequences whose blocks lie far from each other.
fn tables(sequences: usize, positions: usize) -> Vec<i32> {
    let each = positions.div_ceil(BLOCK);
    (0..sequences).flat_map(|s| (0..each).map(move |i| (i * sequences + s) as i32)).collect()
}

/// A step of sequences that each see so many positions, by the last kernel and by those before it.
pub(super) fn decode(gpu: &Gpu, full: bool) -> Result<Vec<Case>> {
    let sizes: &[(usize, usize)] = if full {
        &[(1, 4096), (1, 32768), (8, 4096), (32, 4096), (128, 1024)]
    } else {
        &[(2, 40)]
    };
    let mut cases = Vec::new();
    for cache in [DType::F16, DType::Q8_0] {
        let kernels = (1..).zip(DecodeKernel::ALL);
        let each = kernels.flat_map(|of| sizes.iter().map(move |&size| (of, size)));
        for ((version, kernel), (sequences, positions)) in each {
            let gpu = gpu.clone();
            let tables = tables(sequences, positions);
            let blocks = tables.len() / sequences;
            let rows: Vec<AttentionRow> =
                (0..sequences).map(|s| AttentionRow::new(s * blocks, positions)).collect();
            let rows = RowLists::new(BLOCK, &rows, &tables, &[])?.upload(&gpu)?;
            let side = side(cache, tables.len() * BLOCK);
            let (keys, values) = (Turns::new(&gpu, side, full)?, Turns::new(&gpu, side, full)?);
            let floats = 4 * sequences * Q_WIDTH;
            let (q, out) = (gpu.filled(0x2c, floats)?, gpu.alloc(floats)?);
            let of = format!("{sequences} x {positions} in {cache}");
            let name = format!("version {version} ({kernel:?}) of {of}");
            let bytes = 2 * side + 2 * floats;
            let operations = 4 * sequences * positions * Q_WIDTH;
            cases.push(Case::new(name, bytes, operations, move || {
                let buffers = [&q, keys.next(), values.next(), &out];
                let kernels = Kernels { decode: kernel, ..Kernels::FASTEST };
                attend::attention_with(&gpu, kernels, &shape(cache), buffers, &rows)
            }));
        }
    }
    Ok(cases)
}

/// A prompt, causally, by each kernel.
pub(super) fn prefill(gpu: &Gpu, full: bool) -> Result<Vec<Case>> {
    let sizes: &[usize] = if full { &[512, 2048, 8192] } else { &[40] };
    let mut cases = Vec::new();
    for cache in [DType::F16, DType::Q8_0] {
        let kernels = (1..).zip(PrefillKernel::ALL);
        let each = kernels.flat_map(|of| sizes.iter().map(move |&size| (of, size)));
        for ((version, kernel), positions) in each {
            let gpu = gpu.clone();
            let tables = tables(1, positions);
            let rows: Vec<AttentionRow> =
                (1..=positions).map(|seen| AttentionRow::new(0, seen)).collect();
            let rows = RowLists::new(BLOCK, &rows, &tables, &[])?.upload(&gpu)?;
            let side = side(cache, tables.len() * BLOCK);
            let (keys, values) = (gpu.filled(0x2c, side)?, gpu.filled(0x2c, side)?);
            let floats = 4 * positions * Q_WIDTH;
            let (q, out) = (gpu.filled(0x2c, floats)?, gpu.alloc(floats)?);
            let name = format!("version {version} ({kernel:?}) of {positions} in {cache}");
            // Of each pair of positions, and of each with itself.
            let pairs = positions * (positions + 1) / 2;
            cases.push(Case::new(name, 2 * side + 2 * floats, 4 * pairs * Q_WIDTH, move || {
                let kernels = Kernels { prefill: kernel, ..Kernels::FASTEST };
                let buffers = [&q, &keys, &values, &out];
                attend::attention_with(&gpu, kernels, &shape(cache), buffers, &rows)
            }));
        }
    }
    Ok(cases)
}

/// Queries and keys turned, keys and values written.
pub(super) fn rope(gpu: &Gpu, full: bool) -> Result<Vec<Case>> {
    let mut cases = Vec::new();
    for cache in [DType::F16, DType::Q8_0] {
        for &rows in if full { &[1, 32, 2048][..] } else { &[3] } {
            let gpu = gpu.clone();
            let half = HEADS.head_dim / 2;
            let inputs = [Q_WIDTH, KV_WIDTH, KV_WIDTH].map(|width| 4 * rows * width);
            let [q, k, v] = inputs.map(|bytes| Turns::new(&gpu, bytes, full));
            let (q, k, v) = (q?, k?, v?);
            let angles = gpu.filled(0x2c, 4 * rows * half)?;
            let slots: Vec<i32> = (0..rows as i32).collect();
            let (slots, side) = (gpu.upload(&slots)?, side(cache, rows));
            let (keys, values) = (gpu.filled(0, side)?, gpu.filled(0, side)?);
            let bytes = 2 * inputs[0] + inputs[1] + inputs[2] + 8 * rows * half + 2 * side;
            let operations = 3 * rows * (Q_WIDTH + KV_WIDTH);
            let name = format!("{rows} rows, cache in {cache}");
            cases.push(Case::new(name, bytes, operations, move || {
                let rotation = Rotation {
                    rotary_dim: HEADS.head_dim,
                    layout: RopeLayout::Half,
                    cos: &angles,
                    sin: &angles,
                };
                let cache = KvSlots { dtype: cache, keys: &keys, values: &values };
                let inputs = [q.next(), k.next(), v.next()];
                turn::turn_and_store(&gpu, rows, HEADS, Some(&rotation), inputs, cache, &slots)
            }));
        }
    }
    Ok(cases)
}

pub(super) fn embedding(gpu: &Gpu, full: bool) -> Result<Vec<Case>> {
    let (vocabulary, cols) = if full { (128_256, 4096) } else { (100, 256) };
    let mut cases = Vec::new();
    for dtype in [DType::BF16, DType::Q4_K] {
        let table = gpu.filled(0x2c, dtype.bytes_for(vocabulary * cols).unwrap_or(0))?;
        for &rows in if full { &[1, 32, 2048][..] } else { &[3] } {
            let (gpu, table) = (gpu.clone(), table.clone());
            let ids: Vec<i32> = (0..rows).map(|i| (i * 7919 % vocabulary) as i32).collect();
            let (ids, out) = (gpu.upload(&ids)?, gpu.alloc(4 * rows * cols)?);
            let bytes = dtype.bytes_for(rows * cols).unwrap_or(0) + 4 * rows * cols;
            let name = format!("{rows} rows of {dtype}");
            cases.push(Case::new(name, bytes, rows * cols, move || {
                let table = Table { bytes: &table, rows: vocabulary, cols };
                pick::embed(&gpu, dtype, &table, &ids, rows, &out)
            }));
        }
    }
    Ok(cases)
}
