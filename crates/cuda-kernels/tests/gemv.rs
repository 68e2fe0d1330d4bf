//! Products of a few rows with a matrix, against sums in f64 of what `blocks` decodes.

mod common;

use blocks::DType;
use common::{assert_close, normal, on_each, poisoned, random};
use cuda_kernels::ops::gemv::{
    Gemv, MOST_PRODUCTS, Product, Shape, W4, Weight, linear_int8, linear_small, linear_w4a16,
    linears_float, linears_int8, supported, workspace_bytes,
};
use cuda_kernels::ops::quantize::Int8;
use cuda_kernels::{Buffer, Error, Gpu};
use half::{bf16, f16};
use rand::Rng;

const BLOCK_TYPES: [DType; 7] =
    [DType::Q4_0, DType::Q8_0, DType::Q4_K, DType::Q5_K, DType::Q6_K, DType::IQ4_NL, DType::IQ4_XS];

/// Rows of blocks of any bytes, whose scales are small numbers of either sign.
fn any_blocks(random: &mut impl Rng, dtype: DType, elements: usize) -> Vec<u8> {
    let mut bytes = vec![0; dtype.bytes_for(elements).unwrap()];
    random.fill_bytes(&mut bytes);
    let scales: &[usize] = match dtype {
        DType::Q4_K | DType::Q5_K => &[0, 2],
        DType::Q6_K => &[208],
        _ => &[0],
    };
    for block in bytes.chunks_exact_mut(dtype.block_bytes()) {
        for &at in scales {
            let scale = f16::from_f32((random.next_u32() as f32 / u32::MAX as f32 - 0.5) / 64.0);
            block[at..at + 2].copy_from_slice(&scale.to_le_bytes());
        }
    }
    bytes
}

fn floats(dtype: DType, x: &[f32]) -> Vec<u8> {
    match dtype {
        DType::F32 => x.iter().flat_map(|x| x.to_le_bytes()).collect(),
        DType::F16 => x.iter().flat_map(|&x| f16::from_f32(x).to_le_bytes()).collect(),
        _ => x.iter().flat_map(|&x| bf16::from_f32(x).to_le_bytes()).collect(),
    }
}

fn decoded(dtype: DType, bytes: &[u8], elements: usize) -> Vec<f32> {
    let mut out = vec![0.0; elements];
    blocks::decode(dtype, bytes, &mut out).unwrap();
    out
}

fn product(x: &[f64], w: &[f32], bias: Option<&[f32]>, Shape { m, n, k }: Shape) -> Vec<f64> {
    let element = |i: usize, row: usize| -> f64 {
        let sum: f64 =
            x[i * k..][..k].iter().zip(&w[row * k..][..k]).map(|(x, &w)| x * f64::from(w)).sum();
        sum + bias.map_or(0.0, |bias| f64::from(bias[row]))
    };
    (0..m).flat_map(|i| (0..n).map(move |row| (i, row))).map(|(i, row)| element(i, row)).collect()
}

/// Activations as `quantize_activations` rounds them, and the numbers that they then stand for.
struct Rounded {
    q: Vec<i8>,
    scales: Vec<f32>,
    numbers: Vec<f64>,
}

fn round(x: &[f32]) -> Rounded {
    let mut rounded = Rounded { q: Vec::new(), scales: Vec::new(), numbers: Vec::new() };
    for x in x.chunks_exact(32) {
        let scale = x.iter().fold(0.0f32, |most, x| most.max(x.abs())) / 127.0;
        let q: Vec<i8> = x.iter().map(|x| (x / scale).round() as i8).collect();
        let sum: i32 = q.iter().map(|&q| i32::from(q)).sum();
        rounded.numbers.extend(q.iter().map(|&q| f64::from(scale) * f64::from(q)));
        rounded.scales.extend([scale, scale * sum as f32]);
        rounded.q.extend(q);
    }
    rounded
}

/// A result of `m n` floats, and that nothing is written behind them.
fn result(gpu: &Gpu, Shape { m, n, .. }: Shape, run: impl FnOnce(&Buffer)) -> Vec<f32> {
    let y = poisoned(gpu, 4 * m * n + 64);
    run(&y);
    let bits: Vec<u32> = y.download().unwrap();
    assert!(bits[m * n..].iter().all(|&b| b == u32::MAX), "written behind the result");
    bits[..m * n].iter().map(|&b| f32::from_bits(b)).collect()
}

/// Sizes for every way to share rows (the emulator has four multiprocessors), and for rows of blocks that begin at
/// any even address.
fn shapes(block: usize) -> Vec<Shape> {
    let shape = |n, k| Shape { m: 8, n, k };
    if block == 32 {
        vec![shape(1, 32), shape(7, 4512), shape(97, 1056), shape(195, 96)]
    } else {
        vec![shape(1, 256), shape(7, 8448), shape(51, 2304), shape(195, 256)]
    }
}

#[test]
fn block_types_agree_with_sums_in_f64() {
    for dtype in BLOCK_TYPES {
        for (salt, all) in shapes(dtype.block_len()).into_iter().enumerate() {
            let Shape { m, n, k } = all;
            let mut random = random(salt as u64);
            let bytes = any_blocks(&mut random, dtype, n * k);
            let (x, bias) = (normal(&mut random, m * k, 1.0), normal(&mut random, n, 1.0));
            let (w, rounded) = (decoded(dtype, &bytes, n * k), round(&x));
            let tight = product(&rounded.numbers, &w, Some(&bias), all);
            let exact: Vec<f64> = x.iter().map(|&x| f64::from(x)).collect();
            let loose = product(&exact, &w, Some(&bias), all);
            on_each(|gpu, device| {
                let (matrix, bias) = (gpu.upload(&bytes).unwrap(), gpu.upload(&bias).unwrap());
                let (q, scales) =
                    (gpu.upload(&rounded.q).unwrap(), gpu.upload(&rounded.scales).unwrap());
                let weight = Weight { dtype, bytes: &matrix, bias: Some(&bias) };
                let x = Int8 { q: &q, scales: &scales };
                let run = |gemv, m: usize| {
                    let shape = Shape { m, ..all };
                    result(gpu, shape, |y| linear_int8(gpu, gemv, x, &weight, y, shape).unwrap())
                };
                let what = format!("{device}, {dtype}, {all:?}");
                let got = run(Gemv::Ring, m);
                assert_close(&got, &tight, 1e-5, &what);
                if n > 1 {
                    assert_close(&got, &loose, 2e-2, &what);
                }
                for fewer in [1, 2, 3] {
                    let alone = run(Gemv::Ring, fewer);
                    let same = alone.iter().zip(&got).all(|(a, b)| a.to_bits() == b.to_bits());
                    assert!(same, "{what}: {fewer} rows are not as they are among eight");
                }
                if dtype == DType::Q4_0 {
                    for gemv in [Gemv::Thread, Gemv::Warp] {
                        assert_close(
                            &run(gemv, 2),
                            &tight[..2 * n],
                            1e-5,
                            &format!("{what}, {gemv:?}"),
                        );
                    }
                }
            });
        }
    }
}

#[test]
fn float_types_agree_with_sums_in_f64() {
    for dtype in [DType::F32, DType::F16, DType::BF16] {
        for (n, k) in [(1, 8), (7, 2056), (97, 520), (195, 24), (9, 77), (5, 1)] {
            let all = Shape { m: 8, n, k };
            let mut random = random(k as u64);
            let bytes = floats(dtype, &normal(&mut random, n * k, 0.1));
            let x = normal(&mut random, 8 * k, 1.0);
            let exact: Vec<f64> = x.iter().map(|&x| f64::from(x)).collect();
            let want = product(&exact, &decoded(dtype, &bytes, n * k), None, all);
            on_each(|gpu, device| {
                let (matrix, x) = (gpu.upload(&bytes).unwrap(), gpu.upload(&x).unwrap());
                let none = gpu.alloc(0).unwrap();
                let weight = Weight { dtype, bytes: &matrix, bias: None };
                let run = |m| {
                    let shape = Shape { m, ..all };
                    result(gpu, shape, |y| linear_small(gpu, &x, &weight, y, shape, &none).unwrap())
                };
                let (got, what) = (run(8), format!("{device}, {dtype}, {all:?}"));
                assert_close(&got, &want, 1e-5, &what);
                for fewer in [1, 2, 3] {
                    let same = run(fewer).iter().zip(&got).all(|(a, b)| a.to_bits() == b.to_bits());
                    assert!(same, "{what}: {fewer} rows are not as they are among eight");
                }
            });
        }
    }
}

/// Rows of matrices that meet the same x: few and many, none, and more than one launch takes.
const SEVERAL: [&[usize]; 4] = [&[97, 7, 7], &[195, 195], &[5, 0, 64], &[33, 1, 9, 40]];

#[test]
fn several_matrices_give_what_each_gives_alone() {
    for dtype in [DType::Q4_0, DType::Q4_K, DType::Q6_K, DType::F16] {
        for (salt, sizes) in SEVERAL.into_iter().enumerate() {
            let (random, k) = (&mut random(salt as u64), 2304);
            let floats = |random: &mut _, n| floats(dtype, &normal(random, n * k, 0.1));
            let bytes = |&n: &usize| match dtype {
                DType::F16 => floats(random, n),
                _ => any_blocks(random, dtype, n * k),
            };
            let matrices: Vec<Vec<u8>> = sizes.iter().map(bytes).collect();
            let bias = normal(random, 195, 1.0);
            let x = normal(random, 8 * k, 1.0);
            let rounded = round(&x);
            on_each(|gpu, device| {
                let matrices: Vec<Buffer> =
                    matrices.iter().map(|w| gpu.upload(w).unwrap()).collect();
                let (bias, x) = (gpu.upload(&bias).unwrap(), gpu.upload(&x).unwrap());
                let (q, scales) =
                    (gpu.upload(&rounded.q).unwrap(), gpu.upload(&rounded.scales).unwrap());
                let run = |products: &[Product<'_>], m| match dtype {
                    DType::F16 => linears_float(gpu, &x, products, [m, k]),
                    _ => linears_int8(gpu, Int8 { q: &q, scales: &scales }, products, [m, k]),
                };
                for m in [1, 2, 5] {
                    let bias = |i| (i % 2 == 0).then_some(&bias);
                    let weight = |i| Weight { dtype, bytes: &matrices[i], bias: bias(i) };
                    let results = || sizes.iter().map(|n| poisoned(gpu, 4 * m * n + 64));
                    let [together, apart]: [Vec<Buffer>; 2] =
                        [results().collect(), results().collect()];
                    let product = |i, y| Product { weight: weight(i), n: sizes[i], y };
                    let all: Vec<_> =
                        together.iter().enumerate().map(|(i, y)| product(i, y)).collect();
                    gpu.start_profile();
                    run(&all, m).unwrap();
                    let launches = gpu.stop_profile().unwrap().launches();
                    let some = sizes.iter().filter(|&&n| n > 0).count();
                    let most = if m > 4 { 1 } else { MOST_PRODUCTS };
                    assert_eq!(launches, some.div_ceil(most) as u64);
                    for (i, (together, apart)) in together.iter().zip(&apart).enumerate() {
                        run(&[product(i, apart)], m).unwrap();
                        let [together, apart]: [Vec<u32>; 2] =
                            [together, apart].map(|y| y.download().unwrap());
                        assert!(together == apart, "{device}, {dtype}, {m} rows, {i} of {sizes:?}");
                    }
                }
            });
        }
    }
}

#[test]
fn activations_are_rounded_on_the_device() {
    let shape = Shape { m: 3, n: 21, k: 512 };
    let Shape { m, n, k } = shape;
    for dtype in BLOCK_TYPES {
        let mut random = random(5);
        let bytes = any_blocks(&mut random, dtype, n * k);
        let x = normal(&mut random, m * k, 3.0);
        let want = product(&round(&x).numbers, &decoded(dtype, &bytes, n * k), None, shape);
        on_each(|gpu, device| {
            let (matrix, x) = (gpu.upload(&bytes).unwrap(), gpu.upload(&x).unwrap());
            let workspace = poisoned(gpu, workspace_bytes(dtype, m, k));
            let weight = Weight { dtype, bytes: &matrix, bias: None };
            let got = result(gpu, shape, |y| {
                linear_small(gpu, &x, &weight, y, shape, &workspace).unwrap();
            });
            // A tie of the rounding may fall on the other side.
            assert_close(&got, &want, 1e-3, &format!("{device}, {dtype}"));
        });
    }
}

/// The layout that `gemv_w4a16.cu` describes, row by row.
fn strips(q: &[u8], n: usize, k: usize) -> Vec<u32> {
    let mut words = vec![0u32; n.next_multiple_of(32) * k / 8];
    for row in 0..n {
        for column in 0..k {
            let (j, g) = (row % 32 / 8, row % 8);
            let (s, within) = (column % 32 / 16, column % 16);
            let (t, odd, far) = (within % 8 / 2, within % 2, within / 8);
            let block = row / 32 * (k / 32) + column / 32;
            let word = (block * 32 + 4 * g + t) * 4 + 2 * s + j / 2;
            let nibble = j % 2 * 2 + 4 * odd + far;
            words[word] |= u32::from(q[row * k + column]) << (4 * nibble);
        }
    }
    words
}

#[test]
fn four_bits_in_groups_agree_with_sums_in_f64() {
    for (n, k, with_zeros) in
        [(1, 128, false), (45, 1152, true), (400, 128, true), (33, 256, false)]
    {
        let all = Shape { m: 8, n, k };
        let mut random = random(k as u64);
        let (rows, groups) = (n.next_multiple_of(32), k / 128);
        let q: Vec<u8> = (0..n * k).map(|_| (random.next_u32() % 16) as u8).collect();
        let mut zeros = vec![8u8; groups * rows];
        if with_zeros {
            zeros.iter_mut().for_each(|z| *z = (random.next_u32() % 17) as u8);
        }
        let scales: Vec<f16> =
            normal(&mut random, groups * rows, 0.01).into_iter().map(f16::from_f32).collect();
        let (x, bias) = (normal(&mut random, 8 * k, 1.0), normal(&mut random, n, 1.0));
        let number = |i: usize| {
            let at = i % k / 128 * rows + i / k;
            f32::from(scales[at]) * (f32::from(q[i]) - f32::from(zeros[at]))
        };
        let w: Vec<f32> = (0..n * k).map(number).collect();
        let halves: Vec<f64> = x.iter().map(|&x| f16::from_f32(x).to_f64()).collect();
        let want = product(&halves, &w, Some(&bias), all);
        let words = strips(&q, n, k);
        on_each(|gpu, device| {
            let (words, x) = (gpu.upload(&words).unwrap(), gpu.upload(&x).unwrap());
            let scales: Vec<u16> = scales.iter().map(|s| s.to_bits()).collect();
            let (scales, bias) = (gpu.upload(&scales).unwrap(), gpu.upload(&bias).unwrap());
            let zeros = gpu.upload(&zeros).unwrap();
            let weight = W4 { words: &words, scales: &scales, zeros: with_zeros.then_some(&zeros) };
            let run = |m| {
                let shape = Shape { m, ..all };
                result(gpu, shape, |y| {
                    linear_w4a16(gpu, &x, &weight, Some(&bias), y, shape).unwrap()
                })
            };
            let (got, what) = (run(8), format!("{device}, {all:?}"));
            // Tensor cores cut the sums of a product's terms to somewhat less than f32 has.
            assert_close(&got, &want, 3e-5, &what);
            for fewer in [1, 3] {
                let same = run(fewer).iter().zip(&got).all(|(a, b)| a.to_bits() == b.to_bits());
                assert!(same, "{what}: {fewer} rows are not as they are among eight");
            }
        });
    }
}

#[test]
fn what_does_not_fit_is_refused() {
    assert!(
        supported(DType::Q4_K)
            && supported(DType::BF16)
            && !supported(DType::Q2_K)
            && !supported(DType::F64)
    );
    on_each(|gpu, _| {
        let buffer = |bytes| gpu.filled(0, bytes).unwrap();
        let (long, y) = (buffer(4096), buffer(4096));
        let shape = Shape { m: 2, n: 4, k: 64 };
        let small = |dtype, x: &_, w: &_, y: &_, shape, workspace: &_| {
            linear_small(gpu, x, &Weight { dtype, bytes: w, bias: None }, y, shape, workspace)
        };
        let with = |dtype, shape| small(dtype, &long, &long, &y, shape, &long);
        assert!(with(DType::Q4_0, shape).is_ok());
        assert!(matches!(
            with(DType::Q4_0, Shape { m: 9, ..shape }),
            Err(Error::Unsupported { .. })
        ));
        assert!(matches!(
            with(DType::Q4_0, Shape { k: 48, ..shape }),
            Err(Error::Unsupported { .. })
        ));
        assert!(matches!(
            with(DType::Q2_K, Shape { k: 256, ..shape }),
            Err(Error::Unsupported { .. })
        ));
        assert!(matches!(with(DType::F64, shape), Err(Error::Unsupported { .. })));
        let w = long.slice(0..4 * 2 * 18 - 1);
        assert!(matches!(
            small(DType::Q4_0, &long, &w, &y, shape, &long),
            Err(Error::Length { expected: 144, .. })
        ));
        let w = long.slice(2..1024);
        assert!(matches!(
            small(DType::Q4_0, &long, &w, &y, shape, &long),
            Err(Error::Alignment { .. })
        ));
        assert!(matches!(
            small(DType::F16, &long, &w, &y, shape, &long),
            Err(Error::Alignment { .. })
        ));
        let odd = Shape { k: 63, ..shape };
        assert!(small(DType::F16, &long, &w, &y, odd, &long).is_ok());
        let short = long.slice(0..31);
        assert!(matches!(
            small(DType::Q4_0, &long, &long, &short, shape, &long),
            Err(Error::Length { .. })
        ));
        assert!(matches!(
            small(DType::Q4_0, &short, &long, &y, shape, &long),
            Err(Error::Length { .. })
        ));
        assert!(matches!(
            small(DType::Q4_0, &long, &long, &y, shape, &short),
            Err(Error::Length { .. })
        ));
        let x = Int8 { q: &long, scales: &long };
        let weight = Weight { dtype: DType::Q8_0, bytes: &long, bias: None };
        let refused = linear_int8(gpu, Gemv::Warp, x, &weight, &y, shape);
        assert!(matches!(refused, Err(Error::Unsupported { .. })));
        let other = Weight { dtype: DType::Q4_0, ..weight };
        let two = [weight, other].map(|weight| Product { weight, n: 4, y: &y });
        let refused = linears_int8(gpu, x, &two, [2, 64]);
        assert!(matches!(refused, Err(Error::Unsupported { .. })));
        assert!(linears_int8(gpu, x, &[], [2, 64]).is_ok());
        let w4 = W4 { words: &long, scales: &long, zeros: None };
        let refused = linear_w4a16(gpu, &long, &w4, None, &y, shape);
        assert!(matches!(refused, Err(Error::Unsupported { .. })));
        let refused = linear_w4a16(gpu, &long, &w4, None, &y, Shape { k: 512, ..shape });
        assert!(matches!(refused, Err(Error::Length { expected: 8192, .. })));
        let nothing = linear_w4a16(gpu, &long, &w4, None, &y, Shape { m: 0, n: 4, k: 128 });
        assert!(nothing.is_ok());
    });
}
