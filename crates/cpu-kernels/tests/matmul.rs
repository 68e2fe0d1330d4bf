//! Every path against products in f64 of `blocks`' decoded weights.

use blocks::DType;
use cpu_kernels::matmul::{
    Activations, Layout, Weight, can_interleave, interleave, interleaved_bytes, matmul, matmul_bias,
};
use cpu_kernels::{Isa, KernelError, ThreadPool};
use proptest::prelude::*;
use proptest::test_runner::TestRunner;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

/// Types with an integer kernel.
const INT8: &[DType] = &[
    DType::Q4_0,
    DType::Q4_1,
    DType::Q5_0,
    DType::Q5_1,
    DType::Q8_0,
    DType::IQ4_NL,
    DType::IQ4_XS,
    DType::MXFP4,
    DType::TQ2_0,
    DType::Q2_K,
    DType::Q3_K,
    DType::Q4_K,
    DType::Q5_K,
    DType::Q6_K,
    DType::Q1_0,
    DType::Q2_0,
    DType::IQ1_S,
    DType::IQ1_M,
    DType::IQ2_XXS,
    DType::IQ2_XS,
    DType::IQ2_S,
    DType::IQ3_XXS,
    DType::IQ3_S,
    DType::TQ1_0,
    DType::NVFP4,
];

/// Types that go through decoding.
const DECODED: &[DType] = &[DType::Q8_1, DType::Q8_K];

const PLAIN: &[DType] = &[DType::F32, DType::F16, DType::BF16];

fn scale_per_32(dtype: DType) -> bool {
    dtype.block_len() < 256
}

/// Random blocks, every bit pattern possible that decodes to numbers of ordinary size.
fn random_bytes(rng: &mut StdRng, dtype: DType, elements: usize) -> Vec<u8> {
    let mut bytes = vec![0; dtype.bytes_for(elements).unwrap()];
    let mut decoded = vec![0.0; dtype.block_len()];
    for block in bytes.chunks_mut(dtype.block_bytes()) {
        loop {
            rng.fill(block);
            blocks::decode(dtype, block, &mut decoded).unwrap();
            let top = decoded.iter().fold(0.0f32, |a, b| if a >= b.abs() { a } else { b.abs() });
            if decoded.iter().all(|v| v.is_finite()) && (1e-4..1e4).contains(&top) {
                break;
            }
        }
    }
    bytes
}

fn random_activations(rng: &mut StdRng, n: usize) -> Vec<f32> {
    (0..n).map(|_| rng.random_range(-2.0..2.0f32) * rng.random_range(0.0..1.0f32)).collect()
}

/// Activations as the integer kernels see them.
fn rounded(x: &[f32], step: usize) -> Vec<f64> {
    let mut out = Vec::new();
    for x in x.chunks(step) {
        let top = x.iter().fold(0.0f32, |a, b| a.max(b.abs()));
        let inverse = 127.0 / top;
        let scale = top / 127.0;
        out.extend(x.iter().map(|x| {
            let q = if top == 0.0 { 0.0 } else { (x * inverse).round_ties_even() };
            f64::from(q) * f64::from(scale)
        }));
    }
    out
}

/// Whether numbers are multiplied as bf16.
fn takes_bf16(dtype: DType, act: Activations) -> bool {
    dtype == DType::BF16 && act != Activations::F32
        || dtype == DType::F16 && act == Activations::Bf16
}

fn to_bf16(x: &mut [f32]) {
    x.iter_mut().for_each(|x| *x = half::bf16::from_f32(*x).to_f32());
}

#[derive(Debug)]
struct Case {
    dtype: DType,
    rows: usize,
    cols: usize,
    m: usize,
    act: Activations,
    seed: u64,
}

fn check_case(c: &Case) {
    let mut rng = StdRng::seed_from_u64(c.seed);
    let bytes = random_bytes(&mut rng, c.dtype, c.rows * c.cols);
    let x = random_activations(&mut rng, c.m * c.cols);
    let bias: Vec<f32> = (0..c.rows).map(|j| j as f32 * 0.25 - 1.0).collect();
    let w =
        Weight { dtype: c.dtype, rows: c.rows, cols: c.cols, bytes: &bytes, layout: Layout::Rows };
    let mut weights = vec![0.0; c.rows * c.cols];
    blocks::decode(c.dtype, &bytes, &mut weights).unwrap();

    let integer = c.act != Activations::F32 && INT8.contains(&c.dtype);
    let pairs = takes_bf16(c.dtype, c.act);
    let mut taken = x.clone();
    if pairs {
        to_bf16(&mut taken);
        to_bf16(&mut weights);
    }
    let step = if scale_per_32(c.dtype) { 32 } else { 256 };
    let mut want = Vec::new();
    for x in taken.chunks(c.cols) {
        let x: Vec<f64> =
            if integer { rounded(x, step) } else { x.iter().map(|&x| f64::from(x)).collect() };
        for (w, bias) in weights.chunks(c.cols).zip(&bias) {
            let dot: f64 = w.iter().zip(&x).map(|(&w, x)| f64::from(w) * x).sum();
            // Scales, mins and offsets are rounded apart: errors follow the largest weight of
            // a block.
            let size: f64 = w
                .chunks(c.dtype.block_len().min(32))
                .zip(x.chunks(c.dtype.block_len().min(32)))
                .map(|(w, x)| {
                    let top = w.iter().fold(0.0f32, |a, b| a.max(b.abs()));
                    f64::from(top) * x.iter().map(|x| x.abs()).sum::<f64>()
                })
                .sum();
            want.push((dot + f64::from(*bias), 4e-6 * size + 1e-6));
        }
    }

    let (one, many) = (ThreadPool::new(1), ThreadPool::new(3));
    let mut interleaved = Vec::new();
    if can_interleave(c.dtype, c.cols) {
        interleaved.resize(interleaved_bytes(c.dtype, c.rows, c.cols).unwrap(), 0);
        interleave(&many, &w, &mut interleaved).unwrap();
    }
    let mut same = Vec::new();
    for isa in Isa::supported() {
        let label = format!("{isa} {} {}x{} m {} {:?}", c.dtype, c.rows, c.cols, c.m, c.act);
        let mut out = vec![f32::NAN; c.m * c.rows];
        matmul_bias(&many, isa, &w, Some(&bias), &x, c.act, &mut out).unwrap();
        if !interleaved.is_empty() {
            let w = Weight { bytes: &interleaved, layout: Layout::Interleaved, ..w };
            let mut other = vec![f32::NAN; c.m * c.rows];
            matmul_bias(&many, isa, &w, Some(&bias), &x, c.act, &mut other).unwrap();
            assert_eq!(out, other, "{label}: rows apart and interleaved");
        }
        match isa {
            Isa::Avx2 | Isa::Avx512 => same.clone_from(&out),
            Isa::Avx2Vnni => assert_eq!(out, same, "{label}: with AVX-VNNI and without"),
            Isa::Amx if !pairs => assert_eq!(out, same, "{label}: with tiles and without"),
            _ => {}
        }
        for (i, (&got, &(want, tolerance))) in out.iter().zip(&want).enumerate() {
            let error = (f64::from(got) - want).abs();
            assert!(
                error <= tolerance,
                "{label} [{i}]: {got}, {want}, error {error:e} > {tolerance:e}"
            );
        }
        for (x, together) in x.chunks(c.cols).zip(out.chunks(c.rows)) {
            let mut alone = vec![0.0; c.rows];
            matmul_bias(&one, isa, &w, Some(&bias), x, c.act, &mut alone).unwrap();
            assert_eq!(alone, together, "{label}: alone and in a batch");
        }
    }
}

/// Checks `cases` random shapes of each type.
fn check_random_cases(dtypes: &[DType], cases: u32) {
    let act = prop::sample::select(Activations::ALL);
    let shape = (1..80usize, 1..600usize, 1..52usize, act, any::<u64>());
    for &dtype in dtypes {
        let case = shape.clone().prop_map(|(rows, cols, m, act, seed)| {
            let cols = cols.next_multiple_of(dtype.block_len());
            Case { dtype, rows, cols, m, act, seed }
        });
        let mut runner = TestRunner::new(ProptestConfig::with_cases(cases));
        runner
            .run(&case, |case| {
                check_case(&case);
                Ok(())
            })
            .unwrap();
    }
}

#[test]
fn plain_types() {
    check_random_cases(PLAIN, 16);
}

#[test]
fn integer_types() {
    check_random_cases(INT8, 4);
}

#[test]
fn decoded_types() {
    check_random_cases(DECODED, 4);
}

#[test]
fn every_type_once() {
    for (i, &dtype) in PLAIN.iter().chain(INT8).chain(DECODED).enumerate() {
        for (&act, m) in Activations::ALL.iter().flat_map(|act| [5, 9].map(|m| (act, m))) {
            check_case(&Case { dtype, rows: 67, cols: 768, m, act, seed: i as u64 });
        }
    }
}

#[test]
fn many_rows_and_activations() {
    // More than one span of activations and panels of every size.
    for &dtype in [DType::F16].iter().chain(INT8) {
        check_case(&Case { dtype, rows: 130, cols: 256, m: 300, act: Activations::Int8, seed: 7 });
    }
}

#[test]
fn interleaved_bf16_is_as_rows_are() {
    // Odd groups of rows and of activations, several blocks of k, pieces that begin anywhere.
    let cases =
        [(83, 800, 33), (300, 544, 600), (37, 32, 1), (37, 320, 16), (16, 96, 17), (260, 64, 7)];
    for (rows, cols, m) in cases {
        let mut rng = StdRng::seed_from_u64(9);
        let bytes = random_bytes(&mut rng, DType::BF16, rows * cols);
        let w = Weight { dtype: DType::BF16, rows, cols, bytes: &bytes, layout: Layout::Rows };
        let mut repacked = vec![0; interleaved_bytes(DType::BF16, rows, cols).unwrap()];
        interleave(&ThreadPool::new(1), &w, &mut repacked).unwrap();
        let packed = Weight { bytes: &repacked, layout: Layout::Interleaved, ..w };
        let x = random_activations(&mut rng, m * cols);
        let bias: Vec<f32> = (0..rows).map(|j| j as f32 * 0.25 - 1.0).collect();
        for (isa, bias) in Isa::supported().flat_map(|isa| [(isa, None), (isa, Some(&bias[..]))]) {
            let of = |w, threads| {
                let mut out = vec![f32::NAN; m * rows];
                let pool = ThreadPool::new(threads);
                matmul_bias(&pool, isa, w, bias, &x, Activations::Int8, &mut out).unwrap();
                out
            };
            let want = of(&w, 1);
            for threads in [1, 3] {
                assert_eq!(of(&packed, threads), want, "{isa}: {rows} x {cols}, {m} rows");
            }
        }
    }
}

#[test]
fn plain_rows_alone_in_batches_and_with_any_threads() {
    // Parts of a row of blocks that do not fill a step or a tile, and batches that fill none, one or
    // several groups of activations.
    let mut rng = StdRng::seed_from_u64(5);
    for &dtype in PLAIN {
        for (rows, cols) in [(64, 1024), (37, 1024), (96, 544), (19, 40), (50, 37)] {
            let bytes = random_bytes(&mut rng, dtype, rows * cols);
            let w = Weight { dtype, rows, cols, bytes: &bytes, layout: Layout::Rows };
            let x = random_activations(&mut rng, 33 * cols);
            for (isa, &act) in
                Isa::supported().flat_map(|isa| Activations::ALL.iter().map(move |a| (isa, a)))
            {
                let mut want = vec![0.0; 33 * rows];
                for (x, out) in x.chunks(cols).zip(want.chunks_mut(rows)) {
                    matmul(&ThreadPool::new(1), isa, &w, x, act, out).unwrap();
                }
                for threads in [1, 2, 3] {
                    let pool = ThreadPool::new(threads);
                    for m in [2, 6, 7, 16, 32, 33] {
                        let mut out = vec![0.0; m * rows];
                        matmul(&pool, isa, &w, &x[..m * cols], act, &mut out).unwrap();
                        assert!(
                            out == want[..m * rows],
                            "{isa} {dtype} {rows}x{cols} {act:?}: {m} together, {threads} threads"
                        );
                    }
                }
            }
        }
    }
}

#[test]
fn rounding_to_bf16_is_to_the_nearest_and_to_even() {
    let one =
        [half::bf16::ONE.to_bits().to_le_bytes()[0], half::bf16::ONE.to_bits().to_le_bytes()[1]];
    let w = Weight { dtype: DType::BF16, rows: 1, cols: 1, bytes: &one, layout: Layout::Rows };
    let (below, tie, above) = (0x3f80_7fff, 0x3f80_8000, 0x3f81_8000);
    let cases = [(below, 0x3f80), (tie, 0x3f80), (tie + 1, 0x3f81), (above, 0x3f82)];
    for isa in Isa::supported() {
        for (x, want) in cases {
            let mut out = [0.0];
            let x = [f32::from_bits(x)];
            matmul(&ThreadPool::new(1), isa, &w, &x, Activations::Int8, &mut out).unwrap();
            assert_eq!(out[0].to_bits(), want << 16, "{isa} {x:?}");
        }
        for nan in [f32::NAN, f32::from_bits(0xffff_ffff), f32::from_bits(0x7f80_0001)] {
            let mut out = [0.0];
            matmul(&ThreadPool::new(1), isa, &w, &[nan], Activations::Int8, &mut out).unwrap();
            assert!(out[0].is_nan(), "{isa}");
        }
    }
}

#[test]
fn extreme_integers_do_not_overflow() {
    // All weights at the end of their range, all activations at +-127.
    for &dtype in INT8 {
        let (rows, cols) = (16, 512);
        for byte in [0x00, 0x7f, 0x80, 0xff] {
            let mut bytes = vec![byte; dtype.bytes_for(rows * cols).unwrap()];
            // Any f16 field becomes 1.0 or so where the pattern would be NaN.
            if byte == 0xff || byte == 0x7f {
                let mut rng = StdRng::seed_from_u64(1);
                let scales = random_bytes(&mut rng, dtype, rows * cols);
                let size = dtype.block_bytes();
                for (b, s) in bytes.chunks_mut(size).zip(scales.chunks(size)) {
                    for i in (0..4).chain(size - 4..size) {
                        b[i] = s[i];
                    }
                }
            }
            let mut weights = vec![0.0; rows * cols];
            blocks::decode(dtype, &bytes, &mut weights).unwrap();
            if weights.iter().any(|w| !w.is_finite() || w.abs() > 1e6) {
                continue;
            }
            // Both signs, and each alone, so that nothing cancels.
            let signs: [fn(usize) -> bool; 3] = [|k| k % 3 == 0, |_| true, |_| false];
            let w = Weight { dtype, rows, cols, bytes: &bytes, layout: Layout::Rows };
            for (isa, positive) in Isa::supported().flat_map(|isa| signs.map(|sign| (isa, sign))) {
                let x = (0..cols).map(|k| if positive(k) { 127.0 } else { -127.0 });
                // Sixteen of them, so that tiles take part.
                let x = x.collect::<Vec<f32>>().repeat(16);
                let mut out = vec![0.0; 16 * rows];
                matmul(&ThreadPool::new(1), isa, &w, &x, Activations::Int8, &mut out).unwrap();
                for (w, out) in weights.chunks(cols).cycle().zip(&out) {
                    let terms = w.iter().zip(&x).map(|(w, x)| f64::from(*w) * f64::from(*x));
                    let (want, size) = terms.fold((0.0, 0.0), |(a, b), t| (a + t, b + t.abs()));
                    assert!((f64::from(*out) - want).abs() <= 1e-5 * size, "{isa} {dtype} {byte}");
                }
            }
        }
    }
}

#[test]
fn what_is_not_finite_stays_so() {
    let (rows, cols) = (3, 64);
    let mut rng = StdRng::seed_from_u64(3);
    let bytes = random_bytes(&mut rng, DType::Q8_0, rows * cols);
    let w = Weight { dtype: DType::Q8_0, rows, cols, bytes: &bytes, layout: Layout::Rows };
    for bad in [f32::NAN, f32::INFINITY] {
        let mut x = vec![0.5; 2 * cols];
        x[cols + 3] = bad;
        for isa in Isa::supported() {
            for &act in Activations::ALL {
                let mut out = vec![0.0; 2 * rows];
                matmul(&ThreadPool::new(1), isa, &w, &x, act, &mut out).unwrap();
                assert!(out[..rows].iter().all(|v| v.is_finite()));
                assert!(out[rows..].iter().all(|v| !v.is_finite()), "{isa} {act:?} {out:?}");
            }
        }
    }
}

#[test]
fn wrong_shapes_are_errors() {
    let pool = ThreadPool::new(1);
    let bytes = [0u8; 34];
    let run = |dtype, rows, cols, x: usize, out: usize| {
        let w = Weight { dtype, rows, cols, bytes: &bytes, layout: Layout::Rows };
        let (x, mut out) = (vec![0.0; x], vec![0.0; out]);
        matmul(&pool, Isa::Portable, &w, &x, Activations::Int8, &mut out)
    };
    assert_eq!(run(DType::Q8_0, 1, 32, 64, 2), Ok(()));
    assert_eq!(run(DType::Q8_0, 1, 32, 0, 0), Ok(()));
    let partial = KernelError::PartialBlock { dtype: DType::Q8_0, cols: 33 };
    assert_eq!(run(DType::Q8_0, 1, 33, 33, 1), Err(partial));
    assert!(matches!(run(DType::Q8_0, 2, 32, 32, 2), Err(KernelError::Length { .. })));
    assert!(matches!(run(DType::Q8_0, 1, 32, 33, 1), Err(KernelError::Rows { .. })));
    assert!(matches!(run(DType::Q8_0, 1, 32, 32, 2), Err(KernelError::Length { .. })));
    assert!(matches!(run(DType::Q8_0, usize::MAX, 32, 32, 2), Err(KernelError::Length { .. })));
    assert!(matches!(run(DType::I8, 1, 34, 34, 1), Err(KernelError::UnsupportedDType { .. })));
}
