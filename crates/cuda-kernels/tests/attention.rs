//! Attention over pages, against softmax(scale q K^T) V in f64 over what the cache holds, decoded.
//!
//! Slots that no row sees hold what is not a number.

mod common;

use blocks::DType;
use common::{assert_close, normal, on_each, poisoned, random};
use cuda_kernels::ops::attention::{
    AttentionRow, AttentionShape, DecodeKernel, Kernels, PrefillKernel, RowLists, Rows, attention,
    attention_bidirectional, attention_with,
};
use cuda_kernels::{Buffer, Error, Gpu};
use rand::Rng;

fn shape(cache: DType, n_heads: usize, n_kv_heads: usize, head_dim: usize) -> AttentionShape {
    let scale = (head_dim as f32).powf(-0.5);
    AttentionShape { n_heads, n_kv_heads, head_dim, scale, softcap: None, window: None, cache }
}

/// Sequences in pages of random order, with slots for branches behind them.
struct Paged {
    shape: AttentionShape,
    block_size: usize,
    /// Where each sequence's table begins.
    starts: Vec<usize>,
    tables: Vec<i32>,
    branches: Vec<i32>,
    bytes: [Vec<u8>; 2],
    /// `[slots, n_kv_heads * head_dim]`, as decoded.
    decoded: [Vec<f32>; 2],
}

impl Paged {
    fn new(
        shape: AttentionShape,
        block_size: usize,
        lengths: &[usize],
        branches: usize,
        seed: u64,
    ) -> Self {
        let mut random = random(seed);
        let of = |length: &usize| length.div_ceil(block_size);
        let in_use: usize = lengths.iter().map(of).sum();
        let blocks = in_use + branches.div_ceil(block_size) + 2;
        let mut order: Vec<i32> = (0..blocks as i32).collect();
        for i in (1..blocks).rev() {
            order.swap(i, random.next_u32() as usize % (i + 1));
        }
        let (tables, rest) = order.split_at(in_use);
        let slot =
            |page: &[i32], i: usize| page[i / block_size] as usize * block_size + i % block_size;
        let branches: Vec<i32> = (0..branches).rev().map(|i| slot(rest, i) as i32).collect();
        let mut seen: Vec<usize> = branches.iter().map(|&s| s as usize).collect();
        let mut starts = Vec::new();
        let mut start = 0;
        for length in lengths {
            seen.extend((0..*length).map(|i| slot(&tables[start..], i)));
            starts.push(start);
            start += of(length);
        }
        let width = shape.n_kv_heads * shape.head_dim;
        let row = shape.cache.bytes_for(width).unwrap();
        let mut side = || {
            let mut bytes = vec![0xff; blocks * block_size * row];
            let mut decoded = vec![f32::NAN; blocks * block_size * width];
            for &slot in &seen {
                let to = &mut bytes[slot * row..][..row];
                let x = normal(&mut random, width, 1.5);
                blocks::encode(shape.cache, &x, width, None, to).unwrap();
                blocks::decode(shape.cache, to, &mut decoded[slot * width..][..width]).unwrap();
            }
            (bytes, decoded)
        };
        let (k, v) = (side(), side());
        let tables = tables.to_vec();
        Self { shape, block_size, starts, tables, branches, bytes: [k.0, v.0], decoded: [k.1, v.1] }
    }

    fn row(&self, sequence: usize, prefix: usize) -> AttentionRow {
        AttentionRow::new(self.starts[sequence], prefix)
    }

    fn lists(&self, rows: &[AttentionRow], least_span: usize) -> RowLists {
        let (tables, branches) = (&self.tables, &self.branches);
        RowLists::with_least_span(self.block_size, rows, tables, branches, least_span).unwrap()
    }

    fn rows(&self, gpu: &Gpu, rows: &[AttentionRow], least_span: usize) -> Rows {
        self.lists(rows, least_span).upload(gpu).unwrap()
    }

    fn upload(&self, gpu: &Gpu) -> [Buffer; 2] {
        [0, 1].map(|side| gpu.upload(&self.bytes[side]).unwrap())
    }

    fn queries(&self, rows: usize, seed: u64) -> Vec<f32> {
        normal(&mut random(seed), rows * self.shape.n_heads * self.shape.head_dim, 1.0)
    }

    fn reference(&self, q: &[f32], rows: &[AttentionRow]) -> Vec<f64> {
        let slots = rows.iter().map(|row| {
            let table = &self.tables[row.table..];
            let through = |p: usize| {
                table[p / self.block_size] as usize * self.block_size + p % self.block_size
            };
            let all = (0..row.prefix).map(through);
            let all: Vec<usize> =
                all.chain(self.branches[row.branch.clone()].iter().map(|&s| s as usize)).collect();
            let window = self.shape.window.map_or(0, |w| all.len().saturating_sub(w));
            all[row.from.max(window)..].to_vec()
        });
        reference(&self.shape, q, [&self.decoded[0], &self.decoded[1]], slots)
    }

    /// What a kernel gives for rows, with a check that nothing is written behind them.
    fn run(&self, gpu: &Gpu, kernels: Kernels, q: &[f32], rows: &Rows) -> Vec<f32> {
        let [keys, values] = self.upload(gpu);
        let out = poisoned(gpu, q.len() * 4 + 64);
        attention_with(
            gpu,
            kernels,
            &self.shape,
            [&gpu.upload(q).unwrap(), &keys, &values, &out],
            rows,
        )
        .unwrap();
        let got: Vec<f32> = out.download().unwrap();
        assert!(got[q.len()..].iter().all(|x| x.to_bits() == u32::MAX), "written beyond the end");
        got[..q.len()].to_vec()
    }
}

/// `softmax(scale q K^T) V` over the slots that each row sees.
fn reference(
    shape: &AttentionShape,
    q: &[f32],
    [keys, values]: [&[f32]; 2],
    rows: impl Iterator<Item = Vec<usize>>,
) -> Vec<f64> {
    let (dim, heads) = (shape.head_dim, shape.n_heads / shape.n_kv_heads);
    let mut out = Vec::with_capacity(q.len());
    for (q, slots) in q.chunks(shape.n_heads * dim).zip(rows) {
        for (head, q) in q.chunks(dim).enumerate() {
            let at = |x: &[f32], slot: usize, d: usize| {
                f64::from(x[(slot * shape.n_kv_heads + head / heads) * dim + d])
            };
            let score = |&slot: &usize| {
                let product: f64 = (0..dim).map(|d| f64::from(q[d]) * at(keys, slot, d)).sum();
                let score = product * f64::from(shape.scale);
                shape.softcap.map_or(score, |cap| f64::from(cap) * (score / f64::from(cap)).tanh())
            };
            let scores: Vec<f64> = slots.iter().map(score).collect();
            let most = scores.iter().fold(f64::NEG_INFINITY, |a, &b| a.max(b));
            let weights: Vec<f64> = scores.iter().map(|s| (s - most).exp()).collect();
            let total: f64 = weights.iter().sum();
            for d in 0..dim {
                let sum: f64 =
                    slots.iter().zip(&weights).map(|(&slot, w)| w * at(values, slot, d)).sum();
                out.push(sum / total);
            }
        }
    }
    out
}

/// Of the largest element: what `halves` round, where queries and weights are multiplied so, or the int8 to which
/// decoding rounds queries that meet quantized keys.
fn tolerance(cache: DType, halves: bool) -> f64 {
    match (cache, halves) {
        (DType::BF16, true) => 1.5e-2,
        (_, true) => 2e-3,
        (DType::Q8_0 | DType::Q4_0, false) => 1e-3,
        (_, false) => 5e-5,
    }
}

const SINGLE: usize = usize::MAX;

#[test]
fn decoding_agrees_with_the_equation() {
    // Cache, query heads, heads of keys, head_dim, slots a block.
    let cases = [
        (DType::F16, 4, 2, 64, 16),
        (DType::F16, 9, 1, 128, 16),
        (DType::BF16, 3, 1, 80, 5),
        (DType::F32, 2, 2, 128, 16),
        (DType::Q8_0, 4, 1, 128, 16),
        (DType::Q4_0, 2, 2, 96, 7),
        (DType::F16, 2, 1, 8, 1),
    ];
    for (seed, (dtype, heads, kv_heads, dim, block_size)) in (0..).zip(cases) {
        let paged = Paged::new(shape(dtype, heads, kv_heads, dim), block_size, &[19, 300], 4, seed);
        let rows = [
            paged.row(0, 1),
            AttentionRow { branch: 1..4, ..paged.row(0, 18) },
            AttentionRow { from: 7, ..paged.row(1, 297) },
            AttentionRow { branch: 0..2, ..paged.row(1, 0) },
        ];
        let q = paged.queries(rows.len(), seed);
        let want = paged.reference(&q, &rows);
        on_each(|gpu, name| {
            let on = paged.rows(gpu, &rows, SINGLE);
            for decode in DecodeKernel::ALL {
                let got = paged.run(gpu, Kernels { decode, ..Kernels::FASTEST }, &q, &on);
                let what = format!("{name}, {decode:?}, {:?}", paged.shape);
                assert_close(&got, &want, tolerance(dtype, false), &what);
            }
        });
    }
}

#[test]
fn decoding_takes_every_size_of_head() {
    let sizes = [
        (DType::F32, 256),
        (DType::F16, 192),
        (DType::BF16, 256),
        (DType::Q8_0, 32),
        (DType::Q8_0, 160),
        (DType::Q8_0, 256),
        (DType::Q4_0, 64),
        (DType::Q4_0, 224),
        (DType::F32, 24),
    ];
    for (seed, (dtype, dim)) in (10..).zip(sizes) {
        let paged = Paged::new(shape(dtype, 3, 3, dim), 16, &[37], 0, seed);
        let rows = [paged.row(0, 37)];
        let q = paged.queries(1, seed);
        let want = paged.reference(&q, &rows);
        on_each(|gpu, name| {
            let got = paged.run(gpu, Kernels::FASTEST, &q, &paged.rows(gpu, &rows, SINGLE));
            assert_close(
                &got,
                &want,
                tolerance(dtype, false),
                &format!("{name}, {dtype:?}, {dim}"),
            );
        });
    }
}

#[test]
fn prefill_agrees_with_the_equation() {
    let cases = [
        (DType::F16, 4, 2, 64, 16),
        (DType::BF16, 3, 1, 128, 16),
        (DType::F32, 2, 2, 80, 5),
        (DType::Q8_0, 2, 1, 96, 16),
        (DType::Q4_0, 1, 1, 64, 32),
        (DType::F16, 2, 2, 192, 16),
    ];
    for (seed, (dtype, heads, kv_heads, dim, block_size)) in (20..).zip(cases) {
        let paged =
            Paged::new(shape(dtype, heads, kv_heads, dim), block_size, &[70, 3, 101], 0, seed);
        // A whole prompt, a row alone, and the end of a prompt whose beginning is in the cache.
        let first = (1..=70).map(|prefix| paged.row(0, prefix));
        let last = (65..=101).map(|prefix| paged.row(2, prefix));
        let rows: Vec<_> = first.chain([paged.row(1, 3)]).chain(last).collect();
        let q = paged.queries(rows.len(), seed);
        let want = paged.reference(&q, &rows);
        on_each(|gpu, name| {
            let on = paged.rows(gpu, &rows, 32);
            for prefill in PrefillKernel::ALL {
                let got = paged.run(gpu, Kernels { prefill, ..Kernels::FASTEST }, &q, &on);
                let halves = prefill == PrefillKernel::TensorCores;
                let what = format!("{name}, {prefill:?}, {:?}", paged.shape);
                assert_close(&got, &want, tolerance(dtype, halves), &what);
            }
        });
    }
}

#[test]
fn windows_and_caps_are_kept() {
    for (seed, window, softcap) in
        [(30, Some(5), None), (31, Some(70), Some(2.0)), (32, None, Some(0.7))]
    {
        let shape = AttentionShape { window, softcap, ..shape(DType::F16, 2, 1, 64) };
        let paged = Paged::new(shape, 16, &[150], 6, seed);
        let mut rows: Vec<_> = (100..=148).map(|prefix| paged.row(0, prefix)).collect();
        // The window leaves a part of the branch, or begins before it.
        rows.push(AttentionRow { branch: 0..6, ..paged.row(0, 90) });
        rows.push(AttentionRow { branch: 2..5, from: 20, ..paged.row(0, 21) });
        let q = paged.queries(rows.len(), seed);
        let want = paged.reference(&q, &rows);
        on_each(|gpu, name| {
            let of = |least_span, kernels: Kernels| {
                let got = paged.run(gpu, kernels, &q, &paged.rows(gpu, &rows, least_span));
                let halves = least_span == 1 && kernels.prefill == PrefillKernel::TensorCores;
                let what = format!("{name}, {kernels:?}, {:?}, {least_span}", paged.shape);
                assert_close(&got, &want, tolerance(DType::F16, halves), &what);
            };
            of(SINGLE, Kernels::FASTEST);
            for prefill in PrefillKernel::ALL {
                of(1, Kernels { prefill, ..Kernels::FASTEST });
            }
        });
    }
}

#[test]
fn a_row_does_not_depend_on_the_others() {
    let paged = Paged::new(shape(DType::F16, 3, 1, 64), 16, &[90, 530], 0, 40);
    let prompt: Vec<_> = (1..=90).map(|prefix| paged.row(0, prefix)).collect();
    let q = paged.queries(92, 40);
    let width = q.len() / 92;
    on_each(|gpu, name| {
        let run = |prefill: PrefillKernel, rows: &[AttentionRow], at: usize| {
            let q = &q[at * width..][..rows.len() * width];
            let kernels = Kernels { prefill, ..Kernels::FASTEST };
            paged.run(gpu, kernels, q, &paged.rows(gpu, rows, 2))
        };
        for prefill in PrefillKernel::ALL {
            let whole = run(prefill, &prompt, 0);
            // Cut where the tiles of three heads' queries are not.
            let parts = [run(prefill, &prompt[..31], 0), run(prefill, &prompt[31..], 31)].concat();
            assert!(whole == parts, "{name}, {prefill:?}: a prompt in two parts");
        }
        let run = |rows: &[AttentionRow], at: usize| run(PrefillKernel::TensorCores, rows, at);
        let rows = [paged.row(0, 77), paged.row(1, 530)];
        let both = run(&rows, 90);
        let alone = [run(&rows[..1], 90), run(&rows[1..], 91)].concat();
        assert!(both == alone, "{name}: two rows, and each alone");
    });
}

#[test]
fn encoders_see_both_directions() {
    let shape = shape(DType::F32, 4, 2, 48);
    let lengths = [5, 70, 1];
    let mut random = random(50);
    let mut rows = |heads: usize| normal(&mut random, 76 * heads * 48, 1.0);
    let (q, k, v) = (rows(4), rows(2), rows(2));
    let starts = [0, 5, 75];
    let slots =
        lengths.iter().zip(starts).flat_map(|(&n, start)| vec![(start..start + n).collect(); n]);
    let want = reference(&shape, &q, [&k, &v], slots);
    on_each(|gpu, name| {
        let [q, k, v] = [&q, &k, &v].map(|x| gpu.upload(x).unwrap());
        let rows = RowLists::bidirectional(&lengths).unwrap().upload(gpu).unwrap();
        for prefill in PrefillKernel::ALL {
            let out = poisoned(gpu, q.len());
            let kernels = Kernels { prefill, ..Kernels::FASTEST };
            attention_with(gpu, kernels, &shape, [&q, &k, &v, &out], &rows).unwrap();
            let halves = prefill == PrefillKernel::TensorCores;
            let what = format!("{name}, {prefill:?}");
            let got = out.download::<f32>().unwrap();
            assert_close(&got, &want, tolerance(DType::F32, halves), &what);
            if halves {
                let fastest = poisoned(gpu, q.len());
                attention_bidirectional(gpu, &shape, &q, &k, &v, &rows, &fastest).unwrap();
                assert!(fastest.download::<f32>().unwrap() == got, "{what}");
            }
        }
    });
}

#[test]
fn rows_are_rewritten_where_launches_stay() {
    let paged = Paged::new(shape(DType::F16, 2, 1, 64), 16, &[40, 600], 2, 60);
    let q = paged.queries(2, 60);
    on_each(|gpu, name| {
        let before = paged.lists(&[paged.row(0, 3), paged.row(1, 300)], SINGLE);
        let memory = gpu.upload(before.bytes()).unwrap();
        let on = before.at(&memory).unwrap();
        let rows = [AttentionRow { branch: 0..2, ..paged.row(1, 480) }, paged.row(0, 40)];
        let after = paged.lists(&rows, SINGLE);
        assert_eq!(before.kind(), after.kind());
        memory.write(after.bytes()).unwrap();
        let got = paged.run(gpu, Kernels::FASTEST, &q, &on);
        assert_close(&got, &paged.reference(&q, &rows), 5e-5, name);
        let longer = paged.lists(&[paged.row(1, 600), paged.row(0, 40)], SINGLE);
        assert_ne!(longer.kind(), before.kind(), "three pieces");
        let fewer = paged.lists(&rows[..1], SINGLE);
        assert_ne!(fewer.kind(), before.kind(), "one row");
        assert!(fewer.at(&memory).is_err());
    });
}

#[test]
fn what_does_not_fit_is_refused() {
    on_each(|gpu, _| {
        let good = shape(DType::F16, 2, 1, 64);
        let rows = RowLists::new(16, &[AttentionRow::new(0, 20)], &[1, 0], &[]).unwrap();
        let rows = rows.upload(gpu).unwrap();
        let (q, cache) = (gpu.filled(0, 512).unwrap(), gpu.filled(0, 32 * 128).unwrap());
        let run = |shape: &AttentionShape, q: &Buffer, keys: &Buffer| {
            attention(gpu, shape, q, keys, &cache, &rows, &gpu.filled(0, 512).unwrap())
        };
        assert!(run(&good, &q, &cache).is_ok());
        let short = cache.slice(0..32 * 128 - 16);
        assert!(matches!(
            run(&good, &q, &short),
            Err(Error::Length { what: "keys", expected: 4096, .. })
        ));
        assert!(matches!(
            run(&good, &q.slice(0..508), &cache),
            Err(Error::Length { what: "q", .. })
        ));
        assert!(matches!(run(&good, &q, &cache.slice(2..4096)), Err(Error::Length { .. })));
        let wide = gpu.filled(0, 8192).unwrap();
        assert!(matches!(
            run(&good, &q, &wide.slice(2..8192)),
            Err(Error::Alignment { alignment: 16, .. })
        ));
        let refused = [
            AttentionShape { head_dim: 60, ..good.clone() },
            AttentionShape { head_dim: 264, ..good.clone() },
            AttentionShape { n_kv_heads: 3, ..good.clone() },
            AttentionShape { n_kv_heads: 0, ..good.clone() },
            AttentionShape { cache: DType::Q5_0, ..good.clone() },
            AttentionShape { window: Some(0), ..good.clone() },
            AttentionShape { softcap: Some(0.0), ..good.clone() },
            AttentionShape { head_dim: 48, cache: DType::Q8_0, ..good.clone() },
        ];
        for shape in refused {
            assert!(matches!(run(&shape, &q, &cache), Err(Error::Unsupported { .. })), "{shape:?}");
        }
        let new =
            |row: AttentionRow, tables: &[i32]| RowLists::new(16, &[row], tables, &[7]).map(|_| ());
        assert!(new(AttentionRow { branch: 0..1, ..AttentionRow::new(0, 32) }, &[1, 0]).is_ok());
        let seen_nowhere = [
            (AttentionRow::new(0, 0), &[1, 0][..]),
            (AttentionRow::new(0, 33), &[1, 0]),
            (AttentionRow::new(1, 17), &[1, 0]),
            (AttentionRow { from: 20, ..AttentionRow::new(0, 20) }, &[1, 0]),
            (AttentionRow { branch: 0..2, ..AttentionRow::new(0, 20) }, &[1, 0]),
            (AttentionRow::new(0, 20), &[1, -1]),
        ];
        for (row, tables) in seen_nowhere {
            assert!(matches!(new(row.clone(), tables), Err(Error::Unsupported { .. })), "{row:?}");
        }
        assert!(matches!(RowLists::bidirectional(&[3, 0]), Err(Error::Unsupported { .. })));
    });
}
