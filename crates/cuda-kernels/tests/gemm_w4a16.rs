//! Products with weights of 4 bits against f64.

mod common;

use common::{assert_close, normal, on_each, poisoned, random};
use cuda_kernels::ops::gemm::{GROUP, Packed, W4Config, W4Matrix, pack, unpack};
use cuda_kernels::{Buffer, Error};
use half::f16;
use rand::Rng;

/// Weights at random.
struct Weights {
    n: usize,
    k: usize,
    q: Vec<u8>,
    scales: Vec<f16>,
    zeros: Option<Vec<u8>>,
}

impl Weights {
    fn random(n: usize, k: usize, zeros: bool) -> Self {
        let mut random = random((n * k) as u64 + u64::from(zeros));
        let groups = n * k / GROUP;
        Self {
            n,
            k,
            q: (0..n * k).map(|_| (random.next_u32() & 15) as u8).collect(),
            scales: (0..groups).map(|i| f16::from_f32(0.01 + (i % 7) as f32 * 0.01)).collect(),
            zeros: zeros.then(|| (0..groups).map(|_| (random.next_u32() % 17) as u8).collect()),
        }
    }

    /// Of `w` `[n, k]` in plain Rust: see [`W4Matrix::quantize`].
    fn nearest(n: usize, k: usize, w: &[f32]) -> Self {
        let (mut q, mut scales, mut zeros) = (Vec::new(), Vec::new(), Vec::new());
        for group in w.chunks_exact(GROUP) {
            let low = group.iter().fold(0.0f32, |m, &w| m.min(w));
            let high = group.iter().fold(0.0f32, |m, &w| m.max(w));
            let scale = f16::from_f32(((high - low) / 15.0).min(65504.0));
            let inverse = if scale == f16::ZERO { 0.0 } else { 1.0 / scale.to_f32() };
            let zero = (-low * inverse).min(15.0).round_ties_even();
            let level = |w: &f32| (w * inverse).clamp(-zero, 15.0 - zero).round_ties_even() + zero;
            q.extend(group.iter().map(|w| level(w) as u8));
            scales.push(scale);
            zeros.push(zero as u8);
        }
        Self { n, k, q, scales, zeros: Some(zeros) }
    }

    fn upload(&self, gpu: &cuda_kernels::Gpu) -> W4Matrix {
        let &Self { n, k, .. } = self;
        let words = pack(n, k, &self.q);
        let (scales, zeros) = (&self.scales[..], self.zeros.as_deref());
        W4Matrix::new(gpu, &Packed { n, k, words: &words, scales, zeros }).unwrap()
    }

    /// `scale * (q - zero)`.
    fn value(&self, at: usize) -> f64 {
        let group = at / GROUP; // k is whole groups
        let zero = self.zeros.as_ref().map_or(8, |zeros| zeros[group]);
        self.scales[group].to_f64() * (f64::from(self.q[at]) - f64::from(zero))
    }

    /// `x W^T + bias` of `x` rounded to f16.
    fn product(&self, x: &[f32], bias: Option<&[f32]>, weight: impl Fn(f64) -> f64) -> Vec<f64> {
        let w: Vec<f64> = (0..self.n * self.k).map(|at| weight(self.value(at))).collect();
        let x: Vec<f64> = x.iter().map(|&x| f16::from_f32(x).to_f64()).collect();
        let dot = |x: &[f64], w: &[f64]| -> f64 { x.iter().zip(w).map(|(x, w)| x * w).sum() };
        let rows = x.chunks_exact(self.k);
        let bias = |j: usize| bias.map_or(0.0, |bias| f64::from(bias[j]));
        rows.flat_map(|x| w.chunks_exact(self.k).enumerate().map(move |(j, w)| (x, j, w)))
            .map(|(x, j, w)| dot(x, w) + bias(j))
            .collect()
    }
}

#[test]
fn packing_has_an_inverse() {
    for (n, k) in [(1, 32), (32, 32), (33, 64), (70, 160)] {
        let q = Weights::random(n, k, false).q;
        let words = pack(n, k, &q);
        assert_eq!(unpack(n, k, &words), q);
        assert_eq!(words.len(), n.div_ceil(32) * 32 * k / 8);
    }
    // The place of single values, as the layout says.
    let at = |row: usize, column: usize| {
        let mut q = vec![0; 64 * 64];
        q[row * 64 + column] = 15;
        let words = pack(64, 64, &q);
        let i = words.iter().position(|&word| word != 0).unwrap();
        (i / 128, i / 4 % 32, i % 4, words[i].trailing_zeros() / 4)
    };
    // (block, lane, word, nibble)
    assert_eq!(at(0, 0), (0, 0, 0, 0));
    assert_eq!(at(0, 1), (0, 0, 0, 4));
    assert_eq!(at(0, 8), (0, 0, 0, 1));
    assert_eq!(at(8, 0), (0, 0, 0, 2));
    assert_eq!(at(16, 0), (0, 0, 1, 0));
    assert_eq!(at(0, 16), (0, 0, 2, 0));
    assert_eq!(at(3, 6), (0, 15, 0, 0));
    assert_eq!(at(0, 32), (1, 0, 0, 0));
    assert_eq!(at(32, 0), (2, 0, 0, 0));
}

#[test]
fn products_are_those_of_f64() {
    // One group; an odd number of groups; columns beyond a tile; rows beyond the tiles of a launch.
    for (m, n, k, zeros) in [
        (1, 1, 128, false),
        (20, 72, 384, true),
        (17, 133, 256, true),
        (3, 40, 1152, false),
        (130, 32, 128, true),
    ] {
        let weights = Weights::random(n, k, zeros);
        let mut random = random(m as u64);
        let x = normal(&mut random, m * k, 1.0);
        let bias = (m != 20).then(|| normal(&mut random, n, 1.0));
        let want = weights.product(&x, bias.as_deref(), |w| w);
        on_each(|gpu, device| {
            let matrix = weights.upload(gpu);
            let x = gpu.upload(&x).unwrap();
            let bias = bias.as_ref().map(|bias| gpu.upload(bias).unwrap());
            for rows in [16, 32, 64] {
                for splits in [1, 2, 5] {
                    if splits > k.div_ceil(256) {
                        continue;
                    }
                    let what = format!("{device}: {m} {n} {k}, {rows} rows, {splits} splits");
                    let y = poisoned(gpu, 4 * m * n + 64);
                    let config = W4Config { rows, splits };
                    matrix.few_rows(gpu, config, (&x, m), bias.as_ref(), &y).unwrap();
                    let got: Vec<f32> = y.download().unwrap();
                    assert_close(&got[..m * n], &want, 1e-6 * (k as f64).sqrt(), &what);
                    assert!(
                        got[m * n..].iter().all(|y| y.to_bits() == u32::MAX),
                        "{what}: beyond the end"
                    );
                }
            }
        });
    }
}

#[test]
fn a_row_is_the_same_in_any_batch_and_tile() {
    let (m, n, k) = (40, 48, 512);
    let weights = Weights::random(n, k, true);
    let x = normal(&mut random(3), m * k, 1.0);
    on_each(|gpu, device| {
        let matrix = weights.upload(gpu);
        let x = gpu.upload(&x).unwrap();
        let rows_from = |rows, from: usize, count: usize| -> Vec<u32> {
            let y = poisoned(gpu, 4 * count * n);
            let x = x.slice(4 * from * k..4 * (from + count) * k);
            matrix.few_rows(gpu, W4Config { rows, splits: 2 }, (&x, count), None, &y).unwrap();
            y.download().unwrap()
        };
        let all = rows_from(16, 0, m);
        for rows in [16, 32, 64] {
            for (from, count) in [(0, 40), (0, 1), (7, 25)] {
                let want = &all[from * n..(from + count) * n];
                assert_eq!(
                    rows_from(rows, from, count),
                    want,
                    "{device}: {rows}, {count} from {from}"
                );
            }
        }
    });
}

/// Rows of x with a single one take the weights out again, to the bit.
#[test]
fn quantized_to_nearest_as_in_plain_rust() {
    for (n, k) in [(1, 128), (33, 256), (70, 384)] {
        let mut random = random((n + k) as u64);
        let mut w = normal(&mut random, n * k, 0.05);
        for (i, group) in w.chunks_exact_mut(GROUP).enumerate() {
            let places = group.iter_mut().enumerate();
            match i % 11 {
                0 => group.fill(0.0),
                1 => group.fill(-0.3),
                2 => group.fill(0.3),
                // Halves of a step, and a zero point between two integers.
                3 => places.for_each(|(i, w)| *w = (i % 31) as f32 * 0.5 - 4.0),
                4 => places.for_each(|(i, w)| *w = (i % 2) as f32 * 15.0 - 2.5),
                // Scales below and above those of f16, and among its least.
                5 => group.iter_mut().for_each(|w| *w *= 1e-12),
                6 => group.iter_mut().for_each(|w| *w *= 3e38),
                7 => group.iter_mut().for_each(|w| *w *= 1e-5),
                8 => group[77] = 9.0,
                9 => group[5] = -9.0,
                _ => {}
            }
        }
        let want = Weights::nearest(n, k, &w);
        let mut x = vec![0.0; k * k];
        x.iter_mut().step_by(k + 1).for_each(|x| *x = 1.0);
        on_each(|gpu, device| {
            let [x, w] = [&x, &w].map(|x| gpu.upload(x).unwrap());
            let taken = |matrix: &W4Matrix| -> Vec<f32> {
                let y = poisoned(gpu, 4 * k * n);
                let config = W4Config { rows: 64, splits: 1 };
                matrix.few_rows(gpu, config, (&x, k), None, &y).unwrap();
                y.download().unwrap()
            };
            let matrix = W4Matrix::quantize(gpu, n, k, &w).unwrap();
            assert_eq!(matrix.shape(), (n, k));
            let got = taken(&matrix);
            assert_eq!(got, taken(&want.upload(gpu)), "{device}: {n} x {k}");
            for (i, got) in got.iter().enumerate() {
                let value = want.value(i % n * k + i / n);
                assert_eq!(f64::from(*got), value, "{device}: {n} x {k}, {i}");
            }
        });
    }
}

#[test]
fn more_rows_than_a_launch_has_are_several() {
    let (m, n, k) = (150, 8, 128);
    let weights = Weights::random(n, k, false);
    let x = normal(&mut random(4), m * k, 1.0);
    let (want, rounded) = (weights.product(&x, None, |w| w), |w| f16::from_f64(w).to_f64());
    let want_rounded = weights.product(&x, None, rounded);
    on_each(|gpu, device| {
        let (matrix, x) = (weights.upload(gpu), gpu.upload(&x).unwrap());
        let y = poisoned(gpu, 4 * m * n);
        matrix.few_rows(gpu, W4Config { rows: 16, splits: 1 }, (&x, m), None, &y).unwrap();
        assert_close(&y.download::<f32>().unwrap(), &want, 1e-5, device);
        let y = poisoned(gpu, 4 * m * n);
        matrix.linear(gpu, &x, None, &y, m).unwrap();
        assert_close(&y.download::<f32>().unwrap(), &want_rounded, 1e-5, device);
    });
}

#[test]
fn linear_takes_any_number_of_rows() {
    let (n, k) = (70, 384);
    let weights = Weights::random(n, k, true);
    for m in [1, 33, 129] {
        let mut random = random(m as u64);
        let (x, bias) = (normal(&mut random, m * k, 1.0), normal(&mut random, n, 1.0));
        let want = weights.product(&x, Some(&bias), |w| w);
        on_each(|gpu, device| {
            let (x, bias) = (gpu.upload(&x).unwrap(), gpu.upload(&bias).unwrap());
            let y = poisoned(gpu, 4 * m * n);
            weights.upload(gpu).linear(gpu, &x, Some(&bias), &y, m).unwrap();
            // Weights of many rows are rounded to f16.
            assert_close(&y.download::<f32>().unwrap(), &want, 5e-4, &format!("{device}, {m}"));
        });
    }
}

#[test]
fn configurations_fit_the_device_and_not_the_rows() {
    on_each(|gpu, _| {
        for (n, k) in [(1, 128), (100, 4096), (4096, 4096), (100_000, 128)] {
            let splits = W4Config::of(gpu, 1, n, k).splits;
            for m in [1, 16, 17, 32, 64, 128] {
                let config = W4Config::of(gpu, m, n, k);
                assert_eq!(config.splits, splits);
                assert_eq!(config.rows, m.next_power_of_two().clamp(16, 64));
            }
        }
    });
}

#[test]
fn what_does_not_fit_is_refused() {
    on_each(|gpu, _| {
        let weights = Weights::random(8, 256, false);
        let words = pack(8, 256, &weights.q);
        let good = Packed { n: 8, k: 256, words: &words, scales: &weights.scales, zeros: None };
        let refused = |packed: Packed<'_>| W4Matrix::new(gpu, &packed).unwrap_err();
        assert!(matches!(refused(Packed { k: 192, ..good }), Error::Unsupported { .. }));
        assert!(matches!(refused(Packed { words: &words[1..], ..good }), Error::Length { .. }));
        assert!(matches!(
            refused(Packed { scales: &weights.scales[1..], ..good }),
            Error::Length { .. }
        ));
        assert!(matches!(refused(Packed { zeros: Some(&[8; 15]), ..good }), Error::Length { .. }));
        assert!(matches!(
            refused(Packed { zeros: Some(&[32; 16]), ..good }),
            Error::Unsupported { .. }
        ));
        let plain = gpu.filled(0, 4 * 8 * 256).unwrap();
        let made = |k, w: &Buffer| W4Matrix::quantize(gpu, 8, k, w);
        assert!(matches!(made(192, &plain), Err(Error::Unsupported { .. })));
        assert!(matches!(made(384, &plain), Err(Error::Length { .. })));
        let odd = made(128, &plain.slice(4..8192));
        assert!(matches!(odd, Err(Error::Alignment { alignment: 8, .. })));
        let matrix = W4Matrix::new(gpu, &good).unwrap();
        let (x, y) = (gpu.filled(0, 4 * 256).unwrap(), gpu.filled(0, 4 * 8).unwrap());
        let run =
            |rows, splits, m| matrix.few_rows(gpu, W4Config { rows, splits }, (&x, m), None, &y);
        assert!(run(16, 1, 1).is_ok() && run(16, 1, 0).is_ok());
        assert!(matches!(run(48, 1, 1), Err(Error::Unsupported { .. })));
        assert!(matches!(run(16, 0, 1), Err(Error::Unsupported { .. })));
        assert!(matches!(run(16, 2, 1), Err(Error::Unsupported { .. })));
        assert!(matches!(run(16, 1, 2), Err(Error::Length { .. })));
        assert!(matches!(
            matrix.linear(gpu, &x, Some(&y.slice(4..32)), &y, 1),
            Err(Error::Length { .. })
        ));
    });
}
