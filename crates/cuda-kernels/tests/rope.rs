//! Rotation, and the writing of keys and values: the same bits as plain f32 and the crate `blocks`.

mod common;

use blocks::DType;
use common::{normal, on_each, poisoned, random};
use cuda_kernels::ops::rope::*;
use cuda_kernels::{Buffer, Error};
use rand::seq::SliceRandom;

const LAYOUTS: [RopeLayout; 2] = [RopeLayout::Interleaved, RopeLayout::Half];

/// Turns heads in f32, operation by operation.
fn turn(
    x: &mut [f32],
    width: usize,
    head_dim: usize,
    half: usize,
    layout: RopeLayout,
    cos: &[f32],
    sin: &[f32],
) {
    for (r, row) in x.chunks_exact_mut(width).enumerate() {
        for head in row.chunks_exact_mut(head_dim) {
            for i in 0..half {
                let (a, b) = match layout {
                    RopeLayout::Interleaved => (2 * i, 2 * i + 1),
                    RopeLayout::Half => (i, i + half),
                };
                let (c, s) = (cos[r * half + i], sin[r * half + i]);
                (head[a], head[b]) = (head[a] * c - head[b] * s, head[a] * s + head[b] * c);
            }
        }
    }
}

fn tables(rows: usize, half: usize) -> (Vec<f32>, Vec<f32>) {
    let angles = (0..rows * half).map(|i| i as f32 * 0.731);
    angles.map(|a| (a.cos() * 1.1, a.sin() * 1.1)).unzip()
}

#[test]
fn heads_turn() {
    // (heads, head_dim, rotary_dim)
    for (heads, head_dim, rotary_dim) in
        [(3, 8, 8), (5, 64, 64), (2, 80, 32), (3, 20, 12), (3, 5, 4), (2, 16, 0)]
    {
        let (rows, half, width) = (7, rotary_dim / 2, heads * head_dim);
        let (cos, sin) = tables(rows, half);
        let x = normal(&mut random(head_dim as u64), rows * width, 1.0);
        for layout in LAYOUTS {
            let mut want = x.clone();
            turn(&mut want, width, head_dim, half, layout, &cos, &sin);
            on_each(|gpu, name| {
                let tables = (gpu.upload(&cos).unwrap(), gpu.upload(&sin).unwrap());
                let rotation = Rotation { rotary_dim, layout, cos: &tables.0, sin: &tables.1 };
                // Aligned to 16, and not; behind the rows there is more.
                for shift in [0, 1] {
                    let all = [&vec![7.0; shift], &x[..], &[7.0; 4]].concat();
                    let buffer = gpu.upload(&all).unwrap();
                    let at = buffer.slice(4 * shift..buffer.len());
                    rope(gpu, &at, rows, heads, head_dim, &rotation).unwrap();
                    let got: Vec<f32> = at.download().unwrap();
                    assert_eq!(
                        got[..x.len()],
                        want,
                        "{name}: {heads} of {head_dim}, {rotary_dim} {layout:?}"
                    );
                    assert_eq!(got[x.len()..], [7.0; 4]);
                }
            });
        }
    }
}

const CACHES: [DType; 5] = [DType::F32, DType::F16, DType::BF16, DType::Q8_0, DType::Q4_0];

struct Case {
    heads: Heads,
    rotary_dim: Option<usize>,
    rows: usize,
}

/// What lies in the slots, poison included, if `x` is stored there.
fn slots_with(dtype: DType, x: &[f32], width: usize, slots: &[i32], n_slots: usize) -> Vec<u8> {
    let slot_bytes = dtype.bytes_for(width).unwrap();
    let mut all = vec![0xff; slot_bytes * n_slots];
    for (row, &slot) in x.chunks_exact(width).zip(slots) {
        if let Some(to) =
            usize::try_from(slot).ok().and_then(|s| all.chunks_exact_mut(slot_bytes).nth(s))
        {
            blocks::encode(dtype, row, width, None, to).unwrap();
        }
    }
    all
}

fn check(case: &Case, dtype: DType, layout: RopeLayout) {
    let &Case { heads, rotary_dim, rows } = case;
    let Heads { n_heads, n_kv_heads, head_dim } = heads;
    let (q_width, width, half) =
        (n_heads * head_dim, n_kv_heads * head_dim, rotary_dim.unwrap_or(0) / 2);
    let random = &mut random((head_dim * 8 + n_kv_heads) as u64);
    let (q, mut k) = (normal(random, rows * q_width, 1.0), normal(random, rows * width, 1.0));
    let mut v = normal(random, rows * width, 1.0);
    // Blocks of zeros, of numbers whose scale has no reciprocal, and with two of the largest magnitude.
    v[..32].fill(0.0);
    k[width..width + 32].fill(1e-44);
    v[32..64].iter_mut().step_by(3).for_each(|x| *x = -5.0);
    v[32..64].iter_mut().skip(1).step_by(3).for_each(|x| *x = 5.0);
    let (cos, sin) = tables(rows, half);
    let (mut q_want, mut k_want) = (q.clone(), k.clone());
    turn(&mut q_want, q_width, head_dim, half, layout, &cos, &sin);
    turn(&mut k_want, width, head_dim, half, layout, &cos, &sin);
    let n_slots = rows + 3;
    let mut slots: Vec<i32> = (0..n_slots as i32).collect();
    slots.shuffle(random);
    slots.truncate(rows);
    // Two rows that only fill the batch.
    (slots[0], slots[rows - 1]) = (-1, n_slots as i32);
    let keys_want = slots_with(dtype, &k_want, width, &slots, n_slots);
    let values_want = slots_with(dtype, &v, width, &slots, n_slots);
    on_each(|gpu, name| {
        let what = format!("{name}: {heads:?}, {rotary_dim:?} {layout:?}, {dtype}");
        let up = |x: &[f32]| gpu.upload(x).unwrap();
        let (queries, angles) = (up(&q), (up(&cos), up(&sin)));
        let bytes = keys_want.len();
        let all = [poisoned(gpu, bytes + 16), poisoned(gpu, bytes + 16)];
        let [keys, values] = [0, 1].map(|i: usize| all[i].slice(0..bytes));
        let rotation = rotary_dim.map(|rotary_dim| Rotation {
            rotary_dim,
            layout,
            cos: &angles.0,
            sin: &angles.1,
        });
        let cache = KvSlots { dtype, keys: &keys, values: &values };
        let inputs = [&queries, &up(&k), &up(&v)];
        let at = gpu.upload(&slots).unwrap();
        turn_and_store(gpu, rows, heads, rotation.as_ref(), inputs, cache, &at).unwrap();
        assert_eq!(queries.download::<f32>().unwrap(), q_want, "{what}: queries");
        assert_eq!(inputs[1].download::<f32>().unwrap(), k, "{what}: keys are not written back");
        for (all, want) in all.iter().zip([&keys_want, &values_want]) {
            let got: Vec<u8> = all.download().unwrap();
            assert!(got[..bytes] == want[..], "{what}: slots {slots:?}");
            assert_eq!(got[bytes..], [0xff; 16], "{what}: beyond the end");
        }
    });
}

#[test]
fn slots_have_the_bytes_of_the_crate_blocks() {
    let heads = |n_heads, n_kv_heads, head_dim| Heads { n_heads, n_kv_heads, head_dim };
    let cases = [
        Case { heads: heads(4, 2, 64), rotary_dim: Some(64), rows: 5 },
        // Blocks across heads, four elements at once and one by one.
        Case { heads: heads(5, 4, 40), rotary_dim: Some(16), rows: 4 },
        Case { heads: heads(3, 2, 80), rotary_dim: Some(20), rows: 4 },
        Case { heads: heads(2, 1, 96), rotary_dim: None, rows: 3 },
    ];
    for case in &cases {
        for dtype in CACHES {
            for layout in LAYOUTS {
                check(case, dtype, layout);
            }
        }
    }
}

#[test]
fn what_a_block_cannot_hold_shows() {
    let heads = Heads { n_heads: 1, n_kv_heads: 1, head_dim: 64 };
    on_each(|gpu, name| {
        for dtype in [DType::Q8_0, DType::Q4_0] {
            for broken in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
                let mut v = vec![1.0f32; 64];
                v[7] = broken;
                let v = gpu.upload(&v).unwrap();
                let bytes = dtype.bytes_for(64).unwrap();
                let [keys, values] = [poisoned(gpu, bytes), poisoned(gpu, bytes)];
                let cache = KvSlots { dtype, keys: &keys, values: &values };
                let slots = gpu.upload(&[0i32]).unwrap();
                turn_and_store(gpu, 1, heads, None, [&v, &v, &v], cache, &slots).unwrap();
                let mut decoded = vec![0.0; 64];
                blocks::decode(dtype, &values.download::<u8>().unwrap(), &mut decoded).unwrap();
                assert!(
                    decoded[..32].iter().all(|x| x.is_nan()),
                    "{name}: {dtype}, {broken}: {decoded:?}"
                );
                assert!(decoded[32..].iter().all(|x| (x - 1.0).abs() < 1e-3), "{name}: {dtype}");
            }
        }
    });
}

#[test]
fn what_does_not_fit_is_refused() {
    on_each(|gpu, _| {
        let bytes = |n| poisoned(gpu, n);
        let (long, short): (Buffer, Buffer) = (bytes(4 * 64), bytes(4 * 64 - 1));
        let heads = Heads { n_heads: 1, n_kv_heads: 1, head_dim: 32 };
        let turns =
            |rotary_dim, cos, sin| Rotation { rotary_dim, layout: RopeLayout::Half, cos, sin };
        let length =
            |result| assert!(matches!(result, Err(Error::Length { expected: 256, got: 255, .. })));
        length(rope(gpu, &short, 2, 1, 32, &turns(32, &long, &long)));
        length(rope(gpu, &long, 4, 1, 32, &turns(32, &short, &long)));
        length(rope(gpu, &long, 4, 1, 32, &turns(32, &long, &short)));
        let unsupported = |result| assert!(matches!(result, Err(Error::Unsupported { .. })));
        unsupported(rope(gpu, &long, 1, 1, 32, &turns(31, &long, &long)));
        unsupported(rope(gpu, &long, 1, 1, 32, &turns(34, &long, &long)));
        let store = |inputs: [&Buffer; 3], dtype, heads, slots: &Buffer| {
            let cache = KvSlots { dtype, keys: &long, values: &long };
            turn_and_store(gpu, 2, heads, None, inputs, cache, slots)
        };
        length(store([&short, &long, &long], DType::F16, heads, &long));
        length(store([&long, &short, &long], DType::F16, heads, &long));
        length(store([&long, &long, &short], DType::F16, heads, &long));
        let result = store([&long; 3], DType::F16, heads, &bytes(7));
        assert!(matches!(result, Err(Error::Length { expected: 8, got: 7, .. })));
        unsupported(store([&long; 3], DType::Q4_K, heads, &long));
        unsupported(store([&long; 3], DType::Q8_0, Heads { head_dim: 16, ..heads }, &long));
        assert!(store([&long; 3], DType::Q8_0, heads, &gpu.upload(&[-1i32, -1]).unwrap()).is_ok());
    });
}
