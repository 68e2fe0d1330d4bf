//! Matrix products against f64.

mod common;

use blocks::DType;
use common::{assert_close, normal, on_each, poisoned, random};
use cuda_kernels::ops::gemm::{Gemm, Product, plain, quantize_rows, w8a8};
use cuda_kernels::{Buffer, Error, Gpu};
use half::{bf16, f16};
use rand::Rng;

/// `x w^T + bias` in f64.
fn reference(
    x: &[f64],
    w: &[f64],
    bias: Option<&[f32]>,
    (m, n, k): (usize, usize, usize),
) -> Vec<f64> {
    let element = |i: usize, j: usize| -> f64 {
        let sum: f64 = (0..k).map(|at| x[i * k + at] * w[j * k + at]).sum();
        sum + bias.map_or(0.0, |bias| f64::from(bias[j]))
    };
    (0..m * n).map(|at| element(at / n, at % n)).collect()
}

fn wide(x: &[f32]) -> Vec<f64> {
    x.iter().map(|&x| f64::from(x)).collect()
}

/// Numbers as a type holds them, and its bytes.
fn stored(dtype: DType, x: &[f32]) -> (Vec<f64>, Vec<u8>) {
    match dtype {
        DType::F32 => (wide(x), bytemuck::cast_slice(x).to_vec()),
        DType::F16 => {
            let halves: Vec<f16> = x.iter().map(|&x| f16::from_f32(x)).collect();
            (halves.iter().map(|x| x.to_f64()).collect(), bytemuck::cast_slice(&halves).to_vec())
        }
        DType::BF16 => {
            let halves: Vec<bf16> = x.iter().map(|&x| bf16::from_f32(x)).collect();
            (halves.iter().map(|x| x.to_f64()).collect(), bytemuck::cast_slice(&halves).to_vec())
        }
        _ => unreachable!(),
    }
}

/// The first `len` numbers of a result, behind which nothing was written.
#[track_caller]
fn written(y: &Buffer, len: usize, what: &str) -> Vec<f32> {
    let mut all: Vec<f32> = y.download().unwrap();
    assert!(all[len..].iter().all(|x| x.to_bits() == u32::MAX), "{what}: written beyond the end");
    all.truncate(len);
    all
}

/// Whether a kernel takes these weights here.
fn takes(gpu: &Gpu, gemm: Gemm, dtype: DType) -> bool {
    match gemm {
        Gemm::Naive | Gemm::Tiled => true,
        Gemm::CublasLt => dtype != DType::F32 && Gemm::of_halves(gpu, 1) == gemm,
        _ => dtype != DType::F32,
    }
}

#[test]
fn plain_products_are_those_of_f64() {
    // Sizes about those of tiles; rows of k that begin anywhere.
    for (m, n, k) in [(1, 1, 1), (5, 66, 72), (33, 65, 40), (130, 131, 200), (17, 70, 67)] {
        let mut random = random((m * n * k) as u64);
        let (x, w) = (normal(&mut random, m * k, 1.0), normal(&mut random, n * k, 0.5));
        let bias = (m != 33).then(|| normal(&mut random, n, 1.0));
        for dtype in [DType::F32, DType::F16, DType::BF16] {
            let (w_is, w) = stored(dtype, &w);
            let unrounded = reference(&wide(&x), &w_is, bias.as_deref(), (m, n, k));
            let rounded = reference(&stored(dtype, &x).0, &w_is, bias.as_deref(), (m, n, k));
            on_each(|gpu, device| {
                let (x, w) = (gpu.upload(&x).unwrap(), gpu.upload(&w).unwrap());
                let bias = bias.as_ref().map(|bias| gpu.upload(bias).unwrap());
                for gemm in Gemm::ALL.into_iter().filter(|&gemm| takes(gpu, gemm, dtype)) {
                    let y = poisoned(gpu, 4 * m * n + 64);
                    let product = Product { x: &x, w: &w, bias: bias.as_ref(), y: &y, m, n, k };
                    plain(gpu, gemm, dtype, &product).unwrap();
                    let what = format!("{device}, {gemm:?}, {dtype}, {m} {n} {k}");
                    let want = if matches!(gemm, Gemm::Naive | Gemm::Tiled) {
                        &unrounded
                    } else {
                        &rounded
                    };
                    // Sums of f32 in order.
                    assert_close(
                        &written(&y, m * n, &what),
                        want,
                        1e-6 * (k as f64).sqrt().max(4.0),
                        &what,
                    );
                }
            });
        }
    }
}

#[test]
fn a_row_is_the_same_in_any_batch() {
    let (n, k) = (40, 136);
    let mut random = random(7);
    let (x, w) = (normal(&mut random, 70 * k, 1.0), normal(&mut random, n * k, 0.5));
    let (_, w) = stored(DType::F16, &w);
    on_each(|gpu, device| {
        let (x, w) = (gpu.upload(&x).unwrap(), gpu.upload(&w).unwrap());
        let rows = |gemm, from: usize, m: usize| -> Vec<u32> {
            let y = poisoned(gpu, 4 * m * n);
            let x = x.slice(4 * from * k..4 * (from + m) * k);
            let product = Product { x: &x, w: &w, bias: None, y: &y, m, n, k };
            plain(gpu, gemm, DType::F16, &product).unwrap();
            y.download().unwrap()
        };
        let all = rows(Gemm::Pipelined, 0, 70);
        for gemm in [Gemm::Mma, Gemm::Pipelined, Gemm::FewRows] {
            for (from, m) in [(0, 1), (3, 20), (69, 1)] {
                let want = &all[from * n..(from + m) * n];
                assert_eq!(rows(gemm, from, m), want, "{device}, {gemm:?}: {m} rows from {from}");
            }
        }
    });
}

#[test]
fn weights_that_begin_anywhere_are_copied() {
    let (m, n, k) = (3, 9, 16);
    let mut random = random(8);
    let (x, w) = (normal(&mut random, m * k, 1.0), normal(&mut random, n * k, 0.5));
    let (w_is, w) = stored(DType::BF16, &w);
    let want = reference(&stored(DType::BF16, &x).0, &w_is, None, (m, n, k));
    on_each(|gpu, device| {
        let w = gpu.upload(&[&[0xff; 2], &w[..]].concat()).unwrap();
        let x = gpu.upload(&[&[f32::NAN], &x[..]].concat()).unwrap();
        let (y, all) = (poisoned(gpu, 4 * m * n + 4), 4 * m * n + 4);
        let (x, w, y) = (x.slice(4..x.len()), w.slice(2..w.len()), y.slice(4..all));
        let product = Product { x: &x, w: &w, bias: None, y: &y, m, n, k };
        plain(gpu, Gemm::FewRows, DType::BF16, &product).unwrap();
        assert_close(&y.download::<f32>().unwrap(), &want, 1e-5, device);
    });
}

#[test]
fn int8_products_are_exact_but_for_the_rounding_of_x() {
    for (m, n, k) in [(1, 3, 16), (35, 70, 144), (70, 130, 50)] {
        let mut random = random((m + n + k) as u64);
        let mut x = normal(&mut random, m * k, 2.0);
        x[..k.min(8)].fill(0.0);
        let w: Vec<i8> = (0..n * k).map(|_| random.next_u32() as i8).collect();
        let w_scales: Vec<f32> = (0..n).map(|i| 0.01 + i as f32 * 1e-3).collect();
        let bias = normal(&mut random, n, 1.0);
        on_each(|gpu, device| {
            let what = format!("{device}, {m} {n} {k}");
            let (x_at, w_at) = (gpu.upload(&x).unwrap(), gpu.upload(&w).unwrap());
            let (q, scales) = quantize_rows(gpu, &x_at, m, k).unwrap();
            let (q, scales): (Vec<i8>, Vec<f32>) =
                (q.download().unwrap(), scales.download().unwrap());
            let padded = k.next_multiple_of(16);
            let mut x_is = Vec::new();
            for i in 0..m {
                let most = x[i * k..][..k].iter().fold(0.0f32, |most, x| most.max(x.abs()));
                assert_eq!(scales[i], most / 127.0, "{what}: row {i}");
                for at in 0..padded {
                    let got = f64::from(q[i * padded + at]);
                    let want = if at < k { f64::from(x[i * k + at]) } else { 0.0 };
                    let scale = f64::from(scales[i]);
                    assert!((got * scale - want).abs() <= 0.5001 * scale, "{what}: {i}, {at}");
                    if at < k {
                        x_is.push(got * scale);
                    }
                }
            }
            let w_is: Vec<f64> = w
                .iter()
                .enumerate()
                .map(|(at, &q)| f64::from(q) * f64::from(w_scales[at / k]))
                .collect();
            let want = reference(&x_is, &w_is, Some(&bias), (m, n, k));
            let (scales, bias) = (gpu.upload(&w_scales).unwrap(), gpu.upload(&bias).unwrap());
            let y = poisoned(gpu, 4 * m * n + 64);
            let product = Product { x: &x_at, w: &w_at, bias: Some(&bias), y: &y, m, n, k };
            w8a8(gpu, &product, &scales).unwrap();
            assert_close(&written(&y, m * n, &what), &want, 3e-7, &what);
        });
    }
}

#[test]
fn a_row_of_zeros_is_zeros() {
    on_each(|gpu, device| {
        let (x, w) = (gpu.filled(0, 4 * 32).unwrap(), gpu.filled(1, 2 * 32).unwrap());
        let (scales, y) = (gpu.upload(&[1.0f32; 2]).unwrap(), poisoned(gpu, 8));
        w8a8(gpu, &Product { x: &x, w: &w, bias: None, y: &y, m: 1, n: 2, k: 32 }, &scales)
            .unwrap();
        assert_eq!(y.download::<f32>().unwrap(), [0.0; 2], "{device}");
    });
}

#[test]
fn what_does_not_fit_is_refused() {
    on_each(|gpu, _| {
        let (long, short) = (gpu.filled(0, 4 * 64).unwrap(), gpu.filled(0, 4 * 63).unwrap());
        let (half, row, odd) =
            (short.slice(0..127), short.slice(0..28), gpu.filled(0, 4 * 64 + 2).unwrap());
        let odd = odd.slice(2..odd.len());
        let product = |x, w, bias, y| Product { x, w, bias, y, m: 8, n: 8, k: 8 };
        let good = product(&long, &long, Some(&long), &long);
        for gemm in [Gemm::Naive, Gemm::Tiled, Gemm::Mma, Gemm::FewRows] {
            let run = |dtype, product| plain(gpu, gemm, dtype, &product);
            let length = |result| matches!(result, Err(Error::Length { .. }));
            let unsupported = |result| matches!(result, Err(Error::Unsupported { .. }));
            assert!(run(DType::F16, good).is_ok());
            assert!(length(run(DType::F16, product(&short, &long, None, &long))));
            assert!(length(run(DType::F16, product(&long, &half, None, &long))));
            assert!(length(run(DType::F16, product(&long, &long, None, &short))));
            assert!(length(run(DType::F16, product(&long, &long, Some(&row), &long))));
            assert!(unsupported(run(DType::I32, good)));
            assert_eq!(run(DType::F32, good).is_ok(), matches!(gemm, Gemm::Naive | Gemm::Tiled));
            let misaligned = run(DType::F16, product(&long, &long, None, &odd));
            assert!(matches!(misaligned, Err(Error::Alignment { .. })));
        }
        if Gemm::of_halves(gpu, 1) != Gemm::CublasLt {
            assert!(matches!(
                plain(gpu, Gemm::CublasLt, DType::F16, &good),
                Err(Error::Unsupported { .. })
            ));
        }
        let wide = Product { k: (1 << 17) + 1, m: 0, n: 0, ..good };
        assert!(matches!(w8a8(gpu, &wide, &long), Err(Error::Unsupported { .. })));
        assert!(matches!(w8a8(gpu, &good, &long.slice(0..28)), Err(Error::Length { .. })));
        // Nothing to do.
        plain(gpu, Gemm::Pipelined, DType::F16, &Product { m: 0, ..good }).unwrap();
        plain(gpu, Gemm::Pipelined, DType::F16, &Product { n: 0, ..good }).unwrap();
    });
}
