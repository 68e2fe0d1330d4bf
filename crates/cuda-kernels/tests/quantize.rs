//! Blocks from numbers: to the bytes of the crate `blocks` and of bitsandbytes.

mod common;

use blocks::DType;
use common::{assert_close, normal, on_each, poisoned, random};
use cuda_kernels::ops::dequantize::{AbsMax, Code4, dequantize_4bit};
use cuda_kernels::ops::quantize::{
    Int8, can_quantize, dynamic_map, quantize, quantize_4bit, quantize_absmax,
    quantize_activations, quantize_rows,
};
use cuda_kernels::{Buffer, Error};
use ndarray::{Array0, Array1, Array2};
use ndarray_npy::NpzReader;
use rand::Rng;

const TYPES: [DType; 7] =
    [DType::Q4_0, DType::Q4_1, DType::Q5_0, DType::Q5_1, DType::Q8_0, DType::Q8_1, DType::IQ4_NL];

const K_QUANTS: [DType; 5] = [DType::Q2_K, DType::Q3_K, DType::Q4_K, DType::Q5_K, DType::Q6_K];

/// Blocks of 32 that are hard for an encoder.
fn hard(random: &mut impl Rng, blocks: usize) -> Vec<f32> {
    (0..blocks).flat_map(|block| hard_block(random, block)).collect()
}

/// Blocks of 256 that are hard for an encoder, among random ones.
fn hard_256(random: &mut impl Rng, blocks: usize) -> Vec<f32> {
    let mut x = Vec::new();
    for block in 0..blocks {
        match block % 4 {
            // One kind, so that nothing else decides on the scales of the scales; and all kinds.
            0 => (0..8).for_each(|i| x.extend(hard_block(random, block / 4 + 16 * i))),
            1 => (0..8).for_each(|i| x.extend(hard_block(random, 8 * (block / 4) + i))),
            // Many equal numbers, and levels between two others.
            2 => {
                let step = [0.5, 0.1, 1e-20][block / 4 % 3];
                let level = |_| (random.next_u32() % 9) as f32 * step - step * (block % 8) as f32;
                x.extend((0..256).map(level));
            }
            _ => x.extend(normal(random, 256, 0.05).iter().map(|x| x + 4.0 * x * x)),
        }
    }
    x
}

/// The block of that number, of 16 kinds.
fn hard_block(random: &mut impl Rng, block: usize) -> Vec<f32> {
    let noise = normal(random, 32, 0.05);
    let of = |f: &dyn Fn(usize) -> f32| -> Vec<f32> { (0..32).map(f).collect() };
    match block % 16 {
        0 => of(&|_| 0.0),
        1 => of(&|i| if i % 3 == 0 { -0.0 } else { 0.0 }),
        // The first of equal magnitudes decides on the sign.
        2 => of(&|i| [0.25, -1.0, 1.0, 0.5][i % 4]),
        3 => of(&|i| [0.25, 1.0, -1.0, 0.5][i % 4]),
        // Ties: halves of a step.
        4 => of(&|i| i as f32 * 0.5 - 8.0),
        5 => of(&|i| if i == 9 { 127.0 } else { i as f32 - 15.5 }),
        // A minimum that is a zero with a sign.
        6 => of(&|i| if i == 3 { -0.0 } else { i as f32 * 0.1 }),
        7 => of(&|i| -(i as f32)),
        // Scales that are subnormal, whose reciprocal overflows, and infinite in a half.
        8 => noise.iter().map(|x| x * 1e-36).collect(),
        9 => of(&|i| f32::from_bits(i as u32)),
        10 => noise.iter().map(|x| x * 1e12).collect(),
        11 => of(&|i| if i == 31 { 3e38 } else { -1e38 }),
        12 => of(&|i| if i == 30 { 20.0 } else { noise[i] }),
        13 => of(&|_| -0.75),
        // Beside halves of a step, where a product fused with a sum becomes another level.
        14 | 15 => {
            let steps = [8, 15, 16, 31, 127][block / 16 % 5];
            let most = noise[0] * 20.0;
            let half_step = |i: usize| most * ((4 * i + block) % steps) as f32 + most * 0.5;
            of(&|i| [most, 0.0].get(i).copied().unwrap_or_else(|| half_step(i) / steps as f32))
        }
        _ => noise,
    }
}

/// The device's blocks of these numbers are those of the reference.
fn assert_bytes(x: &[f32], dtype: DType) {
    let mut want = vec![0; dtype.bytes_for(x.len()).unwrap()];
    blocks::encode(dtype, x, x.len(), None, &mut want).unwrap();
    on_each(|gpu, name| {
        let (from, out) = (gpu.upload(x).unwrap(), poisoned(gpu, want.len() + 64));
        quantize(gpu, x.len(), &from, (&out, dtype)).unwrap();
        let got: Vec<u8> = out.download().unwrap();
        let (got, rest) = got.split_at(want.len());
        let size = dtype.block_bytes();
        for (i, (got, want)) in got.chunks(size).zip(want.chunks(size)).enumerate() {
            let x = &x[dtype.block_len() * i..][..dtype.block_len()];
            assert_eq!(got, want, "{name}: {dtype}, block {i} of {x:?}");
        }
        assert!(rest.iter().all(|&byte| byte == 0xff), "{name}: {dtype}: beyond the end");
    });
}

#[test]
fn blocks_have_the_bytes_of_the_reference() {
    for dtype in DType::ALL {
        let made = TYPES.contains(dtype) || K_QUANTS.contains(dtype);
        assert_eq!(can_quantize(*dtype), made, "{dtype}");
    }
    // Odd; and more than a grid of the emulator takes at once, but for the slow one.
    for (count, types) in [(1, &TYPES[..]), (83, &TYPES[..]), (2500, &TYPES[..2])] {
        let x = hard(&mut random(count as u64), count);
        types.iter().for_each(|&dtype| assert_bytes(&x, dtype));
    }
}

#[test]
fn k_quants_have_the_bytes_of_the_reference() {
    for (count, types) in [(1, &K_QUANTS[..]), (131, &K_QUANTS[..]), (601, &K_QUANTS[1..2])] {
        let x = hard_256(&mut random(count as u64), count);
        types.iter().for_each(|&dtype| assert_bytes(&x, dtype));
    }
}

#[test]
fn activations_in_groups() {
    let x = hard(&mut random(3), 1100);
    let (n, groups) = (x.len(), x.len() / 32);
    on_each(|gpu, name| {
        let from = gpu.upload(&x).unwrap();
        let (q, scales) = (poisoned(gpu, n + 32), poisoned(gpu, 8 * groups + 32));
        quantize_activations(gpu, n, &from, Int8 { q: &q, scales: &scales }).unwrap();
        let (q, scales): (Vec<i8>, Vec<f32>) = (q.download().unwrap(), scales.download().unwrap());
        for (g, x) in x.chunks(32).enumerate() {
            let most = x.iter().fold(0.0f32, |m, x| m.max(x.abs()));
            let scale = most / 127.0;
            let inverse = if scale == 0.0 { 0.0 } else { 1.0 / scale };
            let of_group = &q[32 * g..32 * (g + 1)];
            let sum: i32 = of_group.iter().map(|&q| i32::from(q)).sum();
            assert_eq!(scales[2 * g..2 * g + 2], [scale, scale * sum as f32], "{name}: group {g}");
            if inverse.is_finite() {
                let want: Vec<i8> = x.iter().map(|x| (x * inverse).round() as i8).collect();
                assert_eq!(of_group, want, "{name}: group {g}");
            }
        }
        assert!(
            q[n..].iter().all(|&q| q == -1) && scales[2 * groups..].iter().all(|s| s.is_nan()),
            "{name}"
        );
        let to = Int8 { q: &from, scales: &from };
        let failed = quantize_activations(gpu, 48, &from, to);
        assert!(matches!(failed, Err(Error::Unsupported { .. })), "{failed:?}");
        let failed =
            quantize_activations(gpu, 64, &from, Int8 { scales: &from.slice(0..15), ..to });
        assert!(
            matches!(failed, Err(Error::Length { what: "scales", expected: 16, .. })),
            "{failed:?}"
        );
    });
}

#[test]
fn rows_with_one_scale() {
    for (rows, k) in [(1, 4), (3, 1028), (5, 2600)] {
        let mut x = normal(&mut random(k as u64), rows * k, 2.0);
        x[..k].fill(0.0);
        on_each(|gpu, name| {
            let from = gpu.upload(&x).unwrap();
            let (q, scales) = (poisoned(gpu, rows * k + 32), poisoned(gpu, 4 * rows + 32));
            quantize_rows(gpu, rows, k, &from, &q, &scales).unwrap();
            let (q, scales): (Vec<i8>, Vec<f32>) =
                (q.download().unwrap(), scales.download().unwrap());
            for (row, x) in x.chunks(k).enumerate() {
                let most = x.iter().fold(0.0f32, |m, x| m.max(x.abs()));
                assert_eq!(scales[row], most / 127.0, "{name}: row {row}");
                let inverse = if most > 0.0 { 127.0 / most } else { 0.0 };
                let want: Vec<i8> =
                    x.iter().map(|x| (x * inverse).round_ties_even() as i8).collect();
                assert_eq!(q[row * k..(row + 1) * k], want, "{name}: row {row}");
            }
            assert!(q[rows * k..].iter().all(|&q| q == -1), "{name}: beyond the end");
            assert!(scales[rows..].iter().all(|s| s.is_nan()), "{name}: beyond the end");
            let failed = quantize_rows(gpu, 1, 6, &from, &q_buffer(&from), &from);
            assert!(matches!(failed, Err(Error::Unsupported { .. })), "{failed:?}");
        });
    }
}

fn q_buffer(of: &Buffer) -> Buffer {
    of.gpu().alloc(of.len()).unwrap()
}

/// The codes that f64 finds nearest; where two are, either.
#[test]
fn codes_of_four_bits_are_the_nearest() {
    for (code, n) in [(Code4::Nf4, 2), (Code4::Nf4, 64 * 40 + 34), (Code4::Fp4, 66)] {
        let mut x = normal(&mut random(n as u64), n, 0.05);
        x[n / 2..].iter_mut().step_by(2).for_each(|x| *x *= 8.0);
        on_each(|gpu, name| {
            let from = gpu.upload(&x).unwrap();
            let count = n.div_ceil(64);
            let (packed, absmax) = (poisoned(gpu, n / 2 + 32), poisoned(gpu, 4 * count + 32));
            quantize_4bit(gpu, code, n, &from, &packed, &absmax).unwrap();
            let (codes, scales): (Vec<u8>, Vec<f32>) =
                (packed.download().unwrap(), absmax.download().unwrap());
            for (b, x) in x.chunks(64).enumerate() {
                assert_eq!(
                    scales[b],
                    x.iter().fold(0.0f32, |m, x| m.max(x.abs())),
                    "{name}: block {b}"
                );
            }
            for (i, &x) in x.iter().enumerate() {
                let got = usize::from(codes[i / 2] >> (4 * (1 - i % 2)) & 15);
                let scaled = f64::from(x) / f64::from(scales[i / 64]);
                let distance = |number: f32| (f64::from(number) - scaled).abs();
                let least = code.numbers().iter().fold(f64::MAX, |m, &x| m.min(distance(x)));
                let error = distance(code.numbers()[got]);
                assert!(
                    error <= least + 2e-7,
                    "{name}: {code:?}, element {i}: {error} over {least}"
                );
            }
            assert!(codes[n / 2..].iter().all(|&byte| byte == 0xff), "{name}: beyond the end");
            assert!(scales[count..].iter().all(|s| s.is_nan()), "{name}: beyond the end");
            let failed = quantize_4bit(gpu, code, n + 1, &from, &packed, &absmax);
            assert!(matches!(failed, Err(Error::Unsupported { .. })), "{failed:?}");
            let failed = quantize_4bit(gpu, code, n + 2, &from, &packed, &absmax);
            assert!(matches!(failed, Err(Error::Length { what: "the numbers", .. })), "{failed:?}");
        });
    }
}

#[test]
fn bytes_are_those_of_bitsandbytes() {
    let Some(path) = testkit::shared("oracle/nf4.npz") else { return };
    let mut npz = NpzReader::new(std::fs::File::open(path).unwrap()).unwrap();
    let x: Array2<f32> = npz.by_name("x").unwrap();
    let x: Vec<f32> = x.into_iter().collect();
    for (code, key) in [(Code4::Nf4, "nf4"), (Code4::Fp4, "fp4")] {
        let name_of = |what: &str| format!("{key}.{what}");
        let packed_want: Array1<u8> = npz.by_name(&name_of("flat.packed")).unwrap();
        let absmax_want: Array1<f32> = npz.by_name(&name_of("flat.absmax")).unwrap();
        let codes_want: Array1<u8> = npz.by_name(&name_of("nested.absmax")).unwrap();
        let map_want: Array1<f32> = npz.by_name(&name_of("nested.nested_code")).unwrap();
        let scales_want: Array1<f32> = npz.by_name(&name_of("nested.nested_absmax")).unwrap();
        let offset_want: Array0<f32> = npz.by_name(&name_of("nested.offset")).unwrap();
        let want: Array2<f32> = npz.by_name(&name_of("nested.dequantized")).unwrap();
        let want: Vec<f64> = want.iter().map(|&x| f64::from(x)).collect();
        assert_eq!(dynamic_map()[..], map_want.to_vec());
        on_each(|gpu, name| {
            let (n, count) = (x.len(), absmax_want.len());
            let from = gpu.upload(&x).unwrap();
            let (packed, absmax) = (poisoned(gpu, n / 2), poisoned(gpu, 4 * count));
            quantize_4bit(gpu, code, n, &from, &packed, &absmax).unwrap();
            assert_eq!(packed.download::<u8>().unwrap(), packed_want.to_vec(), "{name}: {key}");
            assert_eq!(absmax.download::<f32>().unwrap(), absmax_want.to_vec(), "{name}: {key}");
            let nested = quantize_absmax(gpu, count, &absmax).unwrap();
            // The mean is summed up in another order.
            let offset = nested.offset.download::<f32>().unwrap();
            assert_close(&offset, &[f64::from(*offset_want.first().unwrap())], 1e-6, name);
            let scales: Vec<f64> = scales_want.iter().map(|&x| f64::from(x)).collect();
            assert_close(&nested.absmax.download::<f32>().unwrap(), &scales, 1e-6, name);
            let codes = nested.codes.download::<u8>().unwrap();
            let apart = codes.iter().zip(&codes_want).filter(|(a, b)| a != b).count();
            assert!(apart <= 1, "{name}: {apart} of {count} codes differ");
            assert!(
                codes.iter().zip(&codes_want).all(|(a, b)| a.abs_diff(*b) <= 1),
                "{name}: {key}"
            );
            let out = poisoned(gpu, 4 * n);
            let scales = AbsMax::Nested {
                codes: &nested.codes,
                absmax: &nested.absmax,
                map: &nested.map,
                offset: &nested.offset,
            };
            dequantize_4bit(gpu, code, n, &packed, scales, (&out, DType::F32)).unwrap();
            assert_close(&out.download::<f32>().unwrap(), &want, 2e-3, name);
        });
    }
}

#[test]
fn double_quantization_is_off_by_no_more_than_a_step() {
    for count in [1usize, 255, 257, 1300] {
        let mut absmax = normal(&mut random(count as u64), count, 0.1);
        absmax.iter_mut().for_each(|x| *x = x.abs() + 0.01);
        let mean = absmax.iter().map(|&x| f64::from(x)).sum::<f64>() / count as f64;
        on_each(|gpu, name| {
            let from = gpu.upload(&absmax).unwrap();
            let nested = quantize_absmax(gpu, count, &from).unwrap();
            let offset = nested.offset.download::<f32>().unwrap()[0];
            assert_close(&[offset], &[mean], 1e-6, name);
            let (codes, scales): (Vec<u8>, Vec<f32>) =
                (nested.codes.download().unwrap(), nested.absmax.download().unwrap());
            let map = dynamic_map();
            for (i, &x) in absmax.iter().enumerate() {
                let x = x - offset;
                let block = &absmax[i / 256 * 256..count.min((i / 256 + 1) * 256)];
                let most = block.iter().fold(0.0f32, |m, x| m.max((x - offset).abs()));
                assert_eq!(scales[i / 256], most, "{name}: {count}");
                let scaled = if most > 0.0 { f64::from(x) / f64::from(most) } else { 0.0 };
                let distance = |number: f32| (f64::from(number) - scaled).abs();
                let least = map.iter().fold(f64::MAX, |m, &x| m.min(distance(x)));
                let error = distance(map[usize::from(codes[i])]);
                assert!(error <= least + 2e-7, "{name}: {count}, {i}: {error} over {least}");
            }
        });
    }
}

#[test]
fn what_does_not_fit_is_refused() {
    on_each(|gpu, _| {
        let buffer = gpu.filled(0, 512).unwrap();
        let run = |n, x: &Buffer, out: &Buffer, dtype| quantize(gpu, n, x, (out, dtype));
        let other = gpu.alloc(512).unwrap();
        let failed = run(64, &buffer.slice(0..255), &other, DType::Q8_0);
        assert!(matches!(failed, Err(Error::Length { expected: 256, got: 255, .. })), "{failed:?}");
        let failed = run(64, &buffer, &other.slice(0..67), DType::Q8_0);
        assert!(matches!(failed, Err(Error::Length { expected: 68, got: 67, .. })), "{failed:?}");
        let failed = run(32, &buffer.slice(4..500), &other, DType::Q8_0);
        assert!(matches!(failed, Err(Error::Alignment { alignment: 16, .. })), "{failed:?}");
        let failed = run(32, &buffer, &other.slice(1..500), DType::Q8_0);
        assert!(matches!(failed, Err(Error::Alignment { alignment: 2, .. })), "{failed:?}");
        for (n, dtype) in
            [(33, DType::Q8_0), (32, DType::Q4_K), (256, DType::Q8_K), (32, DType::F16)]
        {
            assert!(
                matches!(run(n, &buffer, &other, dtype), Err(Error::Unsupported { .. })),
                "{dtype}"
            );
        }
        assert!(run(0, &buffer, &other, DType::Q8_0).is_ok());
    });
}
