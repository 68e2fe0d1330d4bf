//! What every device has to pass: operations against plain f64 formulas, at shapes that fill nothing evenly.
#![allow(dead_code)]

use tensor::kv::{ContiguousKvCache, KvCache, KvError, KvLayout, SeqId, SlotKvCache, Span};
use tensor::{
    Activation, AttentionRow, AttentionSpec, Compute, DType, Device, Rope, RopeLayout, Tensor,
};

/// Makes a test of each case of the suite, for the place that the function gives, if there is one.
macro_rules! suite {
    ($place:path) => {
        common::suite!($place: linear, linear_with_blocks, embedding, norms, sums_and_gates, softmax, rotary,
            attention_over_caches, a_branch, both_directions, shapes_that_do_not_fit);
    };
    ($place:path: $($case:ident),*) => {
        $(#[test]
        fn $case() {
            if let Some(place) = $place() {
                common::$case(&place);
            }
        })*
    };
}
pub(crate) use suite;

/// Where operations run, and how far off results may be.
pub(crate) struct Place {
    pub(crate) compute: Compute,
    /// Of sums in f32, beside 1e-5 of the processor's.
    pub(crate) slack: f64,
}

impl Place {
    fn there(&self, t: &Tensor) -> Tensor {
        t.to_device(&self.compute.device()).unwrap()
    }

    fn matrix(&self, rows: usize, cols: usize, seed: u32) -> Tensor {
        self.there(&matrix(rows, cols, seed))
    }

    fn close(&self, got: &Tensor, want: &[f64], tolerance: f64) {
        close(&here(got), want, tolerance * self.slack);
    }
}

/// Its elements, wherever it lies.
fn here(t: &Tensor) -> Vec<f32> {
    t.to_device(&Device::Cpu).unwrap().as_f32().unwrap().to_vec()
}

fn f64s(t: &Tensor) -> Vec<f64> {
    here(t).into_iter().map(f64::from).collect()
}

/// Deterministic elements in -1..1.
pub(crate) fn noise(n: usize, seed: u32) -> Vec<f32> {
    let mut state = seed.wrapping_mul(2_654_435_761).wrapping_add(12345);
    (0..n)
        .map(|_| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 8) as f32 / (1 << 23) as f32 - 1.0
        })
        .collect()
}

pub(crate) fn matrix(rows: usize, cols: usize, seed: u32) -> Tensor {
    Tensor::from_vec([rows, cols], noise(rows * cols, seed)).unwrap()
}

pub(crate) fn close(got: &[f32], want: &[f64], tolerance: f64) {
    assert_eq!(got.len(), want.len());
    for (i, (g, w)) in got.iter().zip(want).enumerate() {
        assert!((f64::from(*g) - w).abs() <= tolerance * (1.0 + w.abs()), "{i}: {g} {w}");
    }
}

/// `x W^T` in f64.
pub(crate) fn product(x: &[f32], w: &[f32], k: usize) -> Vec<f64> {
    let dot =
        |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum();
    x.chunks(k).flat_map(|x| w.chunks(k).map(move |w| dot(x, w))).collect()
}

/// Attention of one row over keys and values `[n, kv_heads * dim]`, in f64.
pub(crate) fn attend(q: &[f32], k: &[f64], v: &[f64], spec: &AttentionSpec) -> Vec<f64> {
    let (dim, width) = (spec.head_dim, spec.n_kv_heads * spec.head_dim);
    let n = k.len() / width;
    let from = spec.window.map_or(0, |w| n.saturating_sub(w));
    let mut out = Vec::new();
    for h in 0..spec.n_heads {
        let at = h / (spec.n_heads / spec.n_kv_heads) * dim;
        let q = &q[h * dim..(h + 1) * dim];
        let scores: Vec<f64> = (from..n)
            .map(|p| {
                let k = &k[p * width + at..][..dim];
                let s = q.iter().zip(k).map(|(a, b)| f64::from(*a) * b).sum::<f64>()
                    * f64::from(spec.scale);
                spec.softcap.map_or(s, |c| f64::from(c) * (s / f64::from(c)).tanh())
            })
            .collect();
        let max = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let weights: Vec<f64> = scores.iter().map(|s| (s - max).exp()).collect();
        let sum: f64 = weights.iter().sum();
        for d in 0..dim {
            let dot =
                weights.iter().zip(from..).map(|(w, p)| w * v[p * width + at + d]).sum::<f64>();
            out.push(dot / sum);
        }
    }
    out
}

pub(crate) fn chain(seq: SeqId, upto: std::ops::Range<usize>) -> Vec<AttentionRow> {
    upto.map(|i| AttentionRow { seq, prefix: i + 1, branch: Vec::new() }).collect()
}

pub(crate) fn linear(at: &Place) {
    for (m, n, k) in [(1, 1, 1), (1, 39, 299), (3, 17, 64), (8, 5, 300), (19, 33, 130)] {
        linear_of(at, [m, n, k], 1);
    }
}

/// `[m, k]` times the transpose of `[n, k]`, with a bias.
pub(crate) fn linear_of(at: &Place, [m, n, k]: [usize; 3], seed: u32) {
    let (x, w, b) = (matrix(m, k, seed), matrix(n, k, seed ^ 1), matrix(1, n, seed ^ 2));
    let y = at.compute.linear(&at.there(&x), &at.there(&w), Some(&at.there(&b))).unwrap();
    let mut want = product(&here(&x), &here(&w), k);
    for row in want.chunks_mut(n) {
        row.iter_mut().zip(here(&b)).for_each(|(y, b)| *y += f64::from(b));
    }
    at.close(&y, &want, 1e-5);
}

/// Activations may be rounded to int8: a hundredth of what a result's terms come to.
pub(crate) fn linear_with_blocks(at: &Place) {
    let k = 512;
    for dtype in
        [DType::F16, DType::BF16, DType::Q8_0, DType::Q4_0, DType::Q4_K, DType::Q5_K, DType::Q6_K]
    {
        for (m, n) in [(1, 33), (5, 20), (40, 17)] {
            let (x, w) = (matrix(m, k, 4), matrix(n, k, 5).to_dtype(dtype).unwrap());
            let y = at.compute.linear(&at.there(&x), &at.compute.place(&w).unwrap(), None).unwrap();
            let want = product(&here(&x), &here(&w.to_f32().unwrap()), k);
            let terms = (want.iter().map(|y| y * y).sum::<f64>() / want.len() as f64).sqrt();
            for (got, want) in here(&y).iter().zip(&want) {
                let error = (f64::from(*got) - want).abs();
                assert!(
                    error <= 0.02 * terms + 1e-6,
                    "{dtype}, {m} rows: {got} {want}, of {terms}"
                );
            }
        }
    }
}

pub(crate) fn embedding(at: &Place) {
    let table = matrix(7, 64, 3).to_dtype(DType::Q8_0).unwrap();
    let there = at.compute.place(&table).unwrap();
    let rows = at.compute.embedding(&there, &[6, 0, 6]).unwrap();
    let all = here(&table.to_f32().unwrap());
    assert_eq!(here(&rows), [&all[6 * 64..], &all[..64], &all[6 * 64..]].concat());
    assert!(at.compute.embedding(&there, &[7]).is_err());
}

pub(crate) fn norms(at: &Place) {
    let (x, w, b) = (at.matrix(3, 40, 5), at.matrix(1, 40, 6), at.matrix(1, 40, 7));
    let (xs, ws, bs) = (f64s(&x), f64s(&w), f64s(&b));
    let (mut rms, mut layer) = (Vec::new(), Vec::new());
    for row in xs.chunks(40) {
        let mean = row.iter().sum::<f64>() / 40.0;
        let square = row.iter().map(|v| v * v).sum::<f64>() / 40.0;
        for (i, v) in row.iter().enumerate() {
            rms.push(v / (square + 1e-5).sqrt() * (1.0 + ws[i]));
            let var = square - mean * mean;
            layer.push((v - mean) / (var + 1e-5).sqrt() * ws[i] + bs[i]);
        }
    }
    at.close(&at.compute.rms_norm(&x, &w, 1e-5, 1.0).unwrap(), &rms, 1e-5);
    at.close(&at.compute.layer_norm(&x, &w, Some(&b), 1e-5).unwrap(), &layer, 1e-5);
    // With the sum of a residual before it.
    let zero = at.there(&Tensor::from_vec([3, 40], vec![0.0; 120]).unwrap());
    let (sum, normed) = at.compute.add_rms_norm(x.clone(), &zero, &w, 1e-5, 1.0).unwrap();
    assert_eq!(here(&sum), here(&x));
    at.close(&normed, &rms, 1e-5);
    let (_, normed) = at.compute.add_layer_norm(x.clone(), &zero, &w, Some(&b), 1e-5).unwrap();
    at.close(&normed, &layer, 1e-5);
    // A shorter weight normalises each head.
    let head = at.matrix(1, 10, 8);
    let heads = at.compute.rms_norm(&x, &head, 1e-5, 0.0).unwrap();
    let split = at.compute.rms_norm(&x.reshape([12, 10]).unwrap(), &head, 1e-5, 0.0).unwrap();
    assert_eq!(here(&heads), here(&split));
    assert!(at.compute.rms_norm(&x, &at.matrix(1, 7, 9), 1e-5, 0.0).is_err());
}

pub(crate) fn sums_and_gates(at: &Place) {
    let (x, y, row) = (at.matrix(5, 37, 1), at.matrix(5, 37, 2), at.matrix(1, 37, 3));
    let (xs, ys, rows) = (f64s(&x), f64s(&y), f64s(&row));
    let each = |f: &dyn Fn(usize) -> f64| (0..xs.len()).map(f).collect::<Vec<f64>>();
    let c = &at.compute;
    at.close(&c.add(x.clone(), &y).unwrap(), &each(&|i| xs[i] + ys[i]), 1e-6);
    at.close(&c.add(x.clone(), &row).unwrap(), &each(&|i| xs[i] + rows[i % 37]), 1e-6);
    at.close(&c.mul(x.clone(), &y).unwrap(), &each(&|i| xs[i] * ys[i]), 1e-6);
    at.close(&c.scale(x.clone(), 3.5).unwrap(), &each(&|i| 3.5 * xs[i]), 1e-6);
    at.close(&c.softcap(x.clone(), 0.5).unwrap(), &each(&|i| 0.5 * (xs[i] / 0.5).tanh()), 1e-5);
    let silu = |x: f64| x / (1.0 + (-x).exp());
    let gelu = |x: f64| {
        let u = (2.0 / std::f64::consts::PI).sqrt() * (x + 0.044715 * x.powi(3));
        x * 0.5 * (1.0 + u.tanh())
    };
    for (f, formula) in
        [(Activation::Silu, &silu as &dyn Fn(f64) -> f64), (Activation::GeluTanh, &gelu)]
    {
        at.close(&c.activation(x.clone(), f).unwrap(), &each(&|i| formula(xs[i])), 1e-5);
        at.close(&c.gated(x.clone(), &y, f).unwrap(), &each(&|i| formula(xs[i]) * ys[i]), 1e-5);
    }
    // What was shared is as it was.
    assert_eq!(f64s(&x), xs);
}

pub(crate) fn softmax(at: &Place) {
    let x = at.matrix(4, 101, 1);
    let mut want = Vec::new();
    for row in f64s(&x).chunks(101) {
        let sum: f64 = row.iter().map(|x| x.exp()).sum();
        want.extend(row.iter().map(|x| x.exp() / sum));
    }
    at.close(&at.compute.softmax(x).unwrap(), &want, 1e-6);
}

pub(crate) fn rotary(at: &Place) {
    let (dim, heads, inv_freq) = (8, 2, [1.0, 0.1, 0.01]);
    let positions = [0u32, 3, 1000];
    let x = at.matrix(3, heads * dim, 4);
    for layout in [RopeLayout::Interleaved, RopeLayout::Half] {
        let rope = Rope::new(&positions, &inv_freq, 1.5, layout);
        let y = at.compute.rope(x.clone(), dim, &rope).unwrap();
        let mut want = f64s(&x);
        for (row, &p) in want.chunks_mut(heads * dim).zip(&positions) {
            for head in row.chunks_mut(dim) {
                for (i, f) in inv_freq.iter().map(|f| f64::from(*f)).enumerate() {
                    let (a, b) = match layout {
                        RopeLayout::Interleaved => (2 * i, 2 * i + 1),
                        _ => (i, i + 3),
                    };
                    let (sin, cos) = (f64::from(p) * f).sin_cos();
                    let (u, v) = (head[a], head[b]);
                    head[a] = 1.5 * (u * cos - v * sin);
                    head[b] = 1.5 * (v * cos + u * sin);
                }
            }
        }
        close(&here(&y), &want, 1e-4);
    }
}

/// A cache there as models have it, with these keys and values, written as a step writes them.
fn cache_of(at: &Place, layout: &KvLayout, seq: SeqId, k: &Tensor, v: &Tensor) -> Box<dyn KvCache> {
    let n = k.rows();
    let mut cache: Box<dyn KvCache> = match at.compute.device() {
        Device::Cpu => Box::new(ContiguousKvCache::new(layout.clone(), n).unwrap()),
        device => Box::new(SlotKvCache::new(layout.clone(), n, device).unwrap()),
    };
    cache.reserve(seq, n).unwrap();
    let q = at.matrix(n, layout.head_dim, 9);
    let spans = [Span { rows: 0..n, seq, slot: 0 }];
    let qkv = [q, at.there(k), at.there(v)];
    at.compute.turn_and_store(qkv, None, &mut *cache, 0, &spans).unwrap();
    cache
}

/// A row of queries in a prompt, and what attention gives for it.
pub(crate) struct Attended<'a> {
    pub(crate) spec: &'a AttentionSpec,
    pub(crate) cache: &'a dyn KvCache,
    /// Alone, there.
    pub(crate) q: Tensor,
    pub(crate) row: &'a [AttentionRow],
    /// By the formula.
    pub(crate) want: Vec<f64>,
    /// Of the row among all of the prompt.
    pub(crate) got: &'a [f32],
}

/// Shows rows of prompts over every kind of cache.
pub(crate) fn over_caches(at: &Place, check: &mut dyn FnMut(Attended<'_>)) {
    let (n, seq) = (150, SeqId(7));
    for (heads, kv_heads, dim, window, softcap) in [
        (4, 2, 32, None, None),
        (6, 2, 24, Some(20), None),
        (2, 2, 64, None, Some(5.0)),
        (3, 1, 8, Some(70), Some(2.0)),
    ] {
        let spec = AttentionSpec {
            n_heads: heads,
            n_kv_heads: kv_heads,
            head_dim: dim,
            scale: 0.7,
            softcap,
            window,
        };
        let (width, kv_width) = (heads * dim, kv_heads * dim);
        let (q, k, v) = (matrix(n, width, 1), matrix(n, kv_width, 2), matrix(n, kv_width, 3));
        for dtype in [DType::F32, DType::F16, DType::BF16, DType::Q8_0] {
            let layout = KvLayout { layers: 1, n_kv_heads: kv_heads, head_dim: dim, dtype };
            if layout.check() == Err(KvError::PartialBlock { dtype, head_dim: dim }) {
                assert!(!dim.is_multiple_of(32));
                continue;
            }
            let cache = &*cache_of(at, &layout, seq, &k, &v);
            let stored = |t: &Tensor| f64s(&t.to_dtype(dtype).unwrap().to_f32().unwrap());
            let (ks, vs) = (stored(&k), stored(&v));
            let rows = chain(seq, 0..n);
            let all = here(&at.compute.attention(&at.there(&q), &spec, cache, 0, &rows).unwrap());
            for i in [0, 1, 63, 64, 65, n - 1] {
                let (seen, elements) = ((i + 1) * kv_width, i * width..(i + 1) * width);
                let q = q.slice_rows(i..i + 1).unwrap();
                let want = attend(&here(&q), &ks[..seen], &vs[..seen], &spec);
                let (row, got) = (&rows[i..i + 1], &all[elements]);
                check(Attended { spec: &spec, cache, q: at.there(&q), row, want, got });
            }
        }
    }
}

pub(crate) fn attention_over_caches(at: &Place) {
    over_caches(at, &mut |Attended { spec, cache, q, row, want, got }| {
        // Over Q8_0 keys the query may be rounded to int8 as well.
        let rounded = cache.layout().dtype == DType::Q8_0;
        let tolerance = if rounded { 1e-2 } else { 2e-5 * at.slack };
        close(got, &want, tolerance);
        let alone = at.compute.attention(&q, spec, cache, 0, row).unwrap();
        close(&here(&alone), &want, tolerance);
    });
}

pub(crate) fn a_branch(at: &Place) {
    let spec = AttentionSpec {
        n_heads: 2,
        n_kv_heads: 1,
        head_dim: 16,
        scale: 0.25,
        softcap: None,
        window: None,
    };
    let layout = KvLayout { layers: 1, n_kv_heads: 1, head_dim: 16, dtype: DType::F32 };
    let (k, v, q) = (matrix(6, 16, 1), matrix(6, 16, 2), at.matrix(1, 32, 3));
    let seq = SeqId(0);
    let filled = |slots: &[usize]| {
        let of = |t: &Tensor| {
            let rows = slots.iter().flat_map(|&i| here(t)[i * 16..(i + 1) * 16].to_vec()).collect();
            Tensor::from_vec([slots.len(), 16], rows).unwrap()
        };
        cache_of(at, &layout, seq, &of(&k), &of(&v))
    };
    let tree = filled(&[0, 1, 2, 3, 4, 5]);
    let row = AttentionRow { seq, prefix: 2, branch: vec![3, 5] };
    let branched = at.compute.attention(&q, &spec, &*tree, 0, &[row]).unwrap();
    let line = filled(&[0, 1, 3, 5]);
    let line = at.compute.attention(&q, &spec, &*line, 0, &chain(seq, 3..4)).unwrap();
    close(&here(&branched), &f64s(&line), 1e-6);
}

pub(crate) fn both_directions(at: &Place) {
    let spec = AttentionSpec {
        n_heads: 2,
        n_kv_heads: 2,
        head_dim: 8,
        scale: 0.5,
        softcap: None,
        window: None,
    };
    let (q, k, v) = (at.matrix(7, 16, 1), at.matrix(7, 16, 2), at.matrix(7, 16, 3));
    let both = at.compute.attention_bidirectional(&q, &k, &v, &spec, &[4, 3]).unwrap();
    let (qs, ks, vs, both) = (here(&q), f64s(&k), f64s(&v), here(&both));
    for rows in [0..4, 4..7] {
        let at_16 = 16 * rows.start..16 * rows.end;
        let (ks, vs) = (&ks[at_16.clone()], &vs[at_16.clone()]);
        let want: Vec<f64> =
            qs[at_16.clone()].chunks(16).flat_map(|q| attend(q, ks, vs, &spec)).collect();
        close(&both[at_16], &want, 1e-5 * at.slack);
    }
    assert!(at.compute.attention_bidirectional(&q, &k, &v, &spec, &[4, 4]).is_err());
}

pub(crate) fn shapes_that_do_not_fit(at: &Place) {
    let (c, matrix) = (&at.compute, |rows, cols| at.matrix(rows, cols, 1));
    let x = matrix(2, 4);
    assert!(c.linear(&x, &matrix(3, 5), None).is_err());
    assert!(c.linear(&x, &matrix(3, 4), Some(&matrix(1, 2))).is_err());
    assert!(c.add(x.clone(), &matrix(1, 3)).is_err());
    assert!(c.mul(x.clone(), &matrix(1, 4)).is_err());
    assert!(c.gated(x.clone(), &matrix(2, 3), Activation::Silu).is_err());
    assert!(c.rope(x.clone(), 3, &Rope::new(&[0, 1], &[1.0], 1.0, RopeLayout::Half)).is_err());
    assert!(c.rope(x, 4, &Rope::new(&[0], &[1.0], 1.0, RopeLayout::Half)).is_err());
}
