//! Numbers from blocks: to the bits of the crate `blocks`, of bitsandbytes, and of the formulas of GPTQ and AWQ.

mod common;

use blocks::DType;
use common::{normal, on_each, poisoned, random};
use cuda_kernels::ops::dequantize::{
    AbsMax, Code4, Packed4, PackedMatrix, dequantize, dequantize_4bit, dequantize_packed,
    dequantize_rows,
};
use cuda_kernels::{Buffer, Error, Gpu};
use half::{bf16, f16};
use ndarray::{Array0, Array1, Array2};
use ndarray_npy::NpzReader;
use rand::Rng;

const PLAIN: [DType; 3] = [DType::F32, DType::F16, DType::BF16];

/// Bytes of numbers in a plain type, rounded as the crate `half` does.
fn bytes_of(x: &[f32], dtype: DType) -> Vec<u8> {
    match dtype {
        DType::F16 => x.iter().flat_map(|&x| f16::from_f32(x).to_le_bytes()).collect(),
        DType::BF16 => x.iter().flat_map(|&x| bf16::from_f32(x).to_le_bytes()).collect(),
        _ => x.iter().flat_map(|x| x.to_le_bytes()).collect(),
    }
}

/// The numbers of a plain type.
fn numbers(bytes: &[u8], dtype: DType) -> Vec<f32> {
    let mut x = vec![0.0; bytes.len() / dtype.block_bytes()];
    blocks::decode(dtype, bytes, &mut x).unwrap();
    x
}

/// The result has the bits of these numbers in its type (a NaN any), and nothing is written behind.
#[track_caller]
fn assert_bits(out: &Buffer, dtype: DType, want: &[f32], what: &str) {
    let bytes: Vec<u8> = out.download().unwrap();
    let (got, rest) = bytes.split_at(want.len() * dtype.block_bytes());
    let want = bytes_of(want, dtype);
    let width = dtype.block_bytes();
    let is_nan = |bytes: &[u8]| numbers(bytes, dtype)[0].is_nan();
    for (i, (got, want)) in got.chunks(width).zip(want.chunks(width)).enumerate() {
        let same = got == want || is_nan(got) && is_nan(want);
        let number = |bytes| numbers(bytes, dtype)[0];
        assert!(same, "{what}: element {i} is {:e}, not {:e}", number(got), number(want));
    }
    assert!(rest.iter().all(|&byte| byte == 0xff), "{what}: written beyond the end");
}

fn random_bytes(random: &mut impl Rng, n: usize) -> Vec<u8> {
    let mut bytes = vec![0; n];
    random.fill_bytes(&mut bytes);
    bytes
}

fn out_for(gpu: &Gpu, n: usize, dtype: DType) -> Buffer {
    poisoned(gpu, n * dtype.block_bytes() + 64)
}

#[test]
fn every_block_type_decodes_to_the_bits_of_the_reference() {
    for &dtype in DType::ALL.iter().filter(|t| t.is_quantized()) {
        let blocks = if dtype.block_len() == 256 { 5 } else { 37 };
        let n = blocks * dtype.block_len();
        let bytes = random_bytes(&mut random(dtype as u64), blocks * dtype.block_bytes());
        let mut want = vec![0.0; n];
        blocks::decode(dtype, &bytes, &mut want).unwrap();
        on_each(|gpu, name| {
            let from = gpu.upload(&bytes).unwrap();
            for to in PLAIN {
                let out = out_for(gpu, n, to);
                dequantize(gpu, n, (&from, dtype), (&out, to)).unwrap();
                assert_bits(&out, to, &want, &format!("{name}: {dtype} to {to}"));
            }
        });
    }
}

/// More than all threads of the grid take at once.
#[test]
fn a_grid_walks_on() {
    let n = 32 * 7001;
    let bytes = random_bytes(&mut random(1), n / 32 * 18);
    let mut want = vec![0.0; n];
    blocks::decode(DType::Q4_0, &bytes, &mut want).unwrap();
    on_each(|gpu, name| {
        let (from, out) = (gpu.upload(&bytes).unwrap(), out_for(gpu, n, DType::F32));
        dequantize(gpu, n, (&from, DType::Q4_0), (&out, DType::F32)).unwrap();
        assert_bits(&out, DType::F32, &want, name);
    });
}

#[test]
fn rows_of_a_matrix() {
    let (rows, row_len) = (5, 96);
    let bytes = random_bytes(&mut random(2), rows * row_len / 32 * 34);
    let mut want = vec![0.0; rows * row_len];
    blocks::decode(DType::Q8_0, &bytes, &mut want).unwrap();
    on_each(|gpu, name| {
        let from = gpu.upload(&bytes).unwrap();
        for range in [0..5, 1..3, 4..5, 2..2] {
            let out = out_for(gpu, range.len() * row_len, DType::F16);
            let to = (&out, DType::F16);
            dequantize_rows(gpu, row_len, range.clone(), (&from, DType::Q8_0), to).unwrap();
            let want = &want[range.start * row_len..range.end * row_len];
            assert_bits(&out, DType::F16, want, &format!("{name}: {range:?}"));
        }
        let out = out_for(gpu, 96, DType::F32);
        for range in [5..6, 0..usize::MAX] {
            let failed =
                dequantize_rows(gpu, row_len, range, (&from, DType::Q8_0), (&out, DType::F32));
            assert!(matches!(failed, Err(Error::Length { .. })), "{failed:?}");
        }
    });
}

#[test]
fn plain_types_convert_as_the_crate_half_does() {
    for n in [0usize, 1, 7, 8, 4099] {
        let mut random = random(n as u64);
        // Every exponent, infinite and not a number too; and ties of both halves.
        let mut bits: Vec<u32> = (0..n).map(|_| random.next_u32()).collect();
        for (i, bits) in bits.iter_mut().enumerate() {
            match i % 8 {
                3 => *bits &= 0xffff_8000,
                4 => *bits = (*bits & 0x8000_0000) | 0x3800_0000 | (*bits & 0x07ff_f000),
                _ => {}
            }
        }
        let x: Vec<f32> = bits.into_iter().map(f32::from_bits).collect();
        for from_type in PLAIN {
            let bytes = bytes_of(&x, from_type);
            let want = numbers(&bytes, from_type);
            on_each(|gpu, name| {
                let from = gpu.upload(&bytes).unwrap();
                for to in PLAIN {
                    let out = out_for(gpu, n, to);
                    dequantize(gpu, n, (&from, from_type), (&out, to)).unwrap();
                    assert_bits(&out, to, &want, &format!("{name}: {n}, {from_type} to {to}"));
                }
            });
        }
    }
}

#[test]
fn codes_of_four_bits() {
    for (code, n) in [(Code4::Nf4, 2), (Code4::Nf4, 64 * 300 + 34), (Code4::Fp4, 1030)] {
        let mut random = random(n as u64);
        let packed = random_bytes(&mut random, n / 2);
        let count = n.div_ceil(64);
        let absmax: Vec<f32> = normal(&mut random, count, 1.0).iter().map(|x| x.abs()).collect();
        let nested_codes = random_bytes(&mut random, count);
        let map = normal(&mut random, 256, 0.3);
        let (offset, scales) = (0.7f32, normal(&mut random, count.div_ceil(256), 0.2));
        let nested = |b: usize| map[usize::from(nested_codes[b])] * scales[b / 256] + offset;
        let number = |i: usize, scale: f32| {
            let code_of = packed[i / 2] >> (4 * (1 - i % 2)) & 15;
            code.numbers()[usize::from(code_of)] * scale
        };
        let plain_want: Vec<f32> = (0..n).map(|i| number(i, absmax[i / 64])).collect();
        let nested_want: Vec<f32> = (0..n).map(|i| number(i, nested(i / 64))).collect();
        on_each(|gpu, name| {
            let packed = gpu.upload(&packed).unwrap();
            let plain = gpu.upload(&absmax).unwrap();
            let [nested_absmax, map] = [&scales, &map].map(|x| gpu.upload(x).unwrap());
            let (codes, offset) =
                (gpu.upload(&nested_codes).unwrap(), gpu.upload(&[offset]).unwrap());
            let nested = AbsMax::Nested {
                codes: &codes,
                absmax: &nested_absmax,
                map: &map,
                offset: &offset,
            };
            for (scales, want) in [(AbsMax::Plain(&plain), &plain_want), (nested, &nested_want)] {
                for to in PLAIN {
                    let out = out_for(gpu, n, to);
                    dequantize_4bit(gpu, code, n, &packed, scales, (&out, to)).unwrap();
                    assert_bits(&out, to, want, &format!("{name}: {code:?}, {n}, {to}"));
                }
            }
            let out = out_for(gpu, n, DType::F32);
            let run =
                |n, scales| dequantize_4bit(gpu, code, n, &packed, scales, (&out, DType::F32));
            assert!(matches!(run(n - 1, nested), Err(Error::Unsupported { .. })));
            assert!(matches!(run(n + 64, nested), Err(Error::Length { .. })));
            assert!(matches!(
                run(n, AbsMax::Plain(&offset.slice(0..3))),
                Err(Error::Length { .. })
            ));
        });
    }
}

#[test]
fn numbers_of_four_bits_are_those_of_bitsandbytes() {
    let Some(path) = testkit::shared("oracle/nf4.npz") else { return };
    let mut npz = NpzReader::new(std::fs::File::open(path).unwrap()).unwrap();
    for (code, key) in [(Code4::Nf4, "nf4"), (Code4::Fp4, "fp4")] {
        let floats = |npz: &mut NpzReader<_>, what: &str| -> Vec<f32> {
            npz.by_name::<_, _>(&format!("{key}.{what}")).map(|x: Array1<f32>| x.to_vec()).unwrap()
        };
        let bytes = |npz: &mut NpzReader<_>, what: &str| -> Vec<u8> {
            npz.by_name(&format!("{key}.{what}")).map(|x: Array1<u8>| x.to_vec()).unwrap()
        };
        let dequantized = |npz: &mut NpzReader<_>, what: &str| -> Vec<f32> {
            let x: Array2<f32> = npz.by_name(&format!("{key}.{what}.dequantized")).unwrap();
            x.into_iter().collect()
        };
        assert_eq!(floats(&mut npz, "flat.code"), code.numbers());
        let (flat, nested) = (dequantized(&mut npz, "flat"), dequantized(&mut npz, "nested"));
        let (flat_packed, packed) =
            (bytes(&mut npz, "flat.packed"), bytes(&mut npz, "nested.packed"));
        let (absmax, codes) = (floats(&mut npz, "flat.absmax"), bytes(&mut npz, "nested.absmax"));
        let (scales, map) =
            (floats(&mut npz, "nested.nested_absmax"), floats(&mut npz, "nested.nested_code"));
        let offset: Array0<f32> = npz.by_name(&format!("{key}.nested.offset")).unwrap();
        on_each(|gpu, name| {
            let n = flat.len();
            let [absmax, scales, map] = [&absmax, &scales, &map].map(|x| gpu.upload(x).unwrap());
            let [flat_packed, packed, codes] =
                [&flat_packed, &packed, &codes].map(|x| gpu.upload(x).unwrap());
            let offset = gpu.upload(&[offset.clone().into_scalar()]).unwrap();
            let nested_is =
                AbsMax::Nested { codes: &codes, absmax: &scales, map: &map, offset: &offset };
            for (packed, scales, want) in
                [(&flat_packed, AbsMax::Plain(&absmax), &flat), (&packed, nested_is, &nested)]
            {
                let out = out_for(gpu, n, DType::F32);
                dequantize_4bit(gpu, code, n, packed, scales, (&out, DType::F32)).unwrap();
                assert_bits(&out, DType::F32, want, &format!("{name}: {key}"));
            }
        });
    }
}

/// A matrix of levels 0..16 in words, as GPTQ and AWQ pack them.
struct Levels {
    k: usize,
    n: usize,
    level: Vec<u32>,
}

const AWQ_ORDER: [usize; 8] = [0, 2, 4, 6, 1, 3, 5, 7];

impl Levels {
    fn random(random: &mut impl Rng, k: usize, n: usize) -> Self {
        Self { k, n, level: (0..k * n).map(|_| random.next_u32() % 16).collect() }
    }

    fn at(&self, row: usize, column: usize) -> u32 {
        self.level[row * self.n + column]
    }

    /// Eight of a column in a word.
    fn down(&self) -> Vec<u32> {
        let word = |i: usize| {
            let (row, column) = (i / self.n * 8, i % self.n);
            (0..8).fold(0, |word, j| word | self.at(row + j, column) << (4 * j))
        };
        (0..self.k / 8 * self.n).map(word).collect()
    }

    /// Eight of a row in a word, nibble j the one at `order[j]`.
    fn along(&self, order: [usize; 8]) -> Vec<u32> {
        let word = |i: usize| {
            let (row, column) = (i / (self.n / 8), i % (self.n / 8) * 8);
            order
                .iter()
                .enumerate()
                .fold(0, |word, (j, o)| word | self.at(row, column + o) << (4 * j))
        };
        (0..self.k * self.n / 8).map(word).collect()
    }
}

#[test]
fn gptq_and_awq() {
    const IN_ORDER: [usize; 8] = [0, 1, 2, 3, 4, 5, 6, 7];
    for (k, n, group_size) in [(64, 64, 32), (72, 200, 24), (200, 8, 128), (8, 72, 8)] {
        let mut random = random((k * n) as u64);
        let count = usize::div_ceil(k, group_size);
        let (levels, zeros) =
            (Levels::random(&mut random, k, n), Levels::random(&mut random, count, n));
        let scales: Vec<f16> =
            normal(&mut random, count * n, 0.02).into_iter().map(f16::from_f32).collect();
        let mixed: Vec<i32> = (0..k).map(|_| (random.next_u32() as usize % count) as i32).collect();
        let want = |group: &dyn Fn(usize) -> usize, more: u32| -> Vec<f32> {
            let number = |i: usize| {
                let (output, input) = (i / k, i % k);
                let group = group(input);
                let zero = (zeros.at(group, output) + more) % 16;
                let level = levels.at(input, output) as f32 - zero as f32;
                scales[group * n + output].to_f32() * level
            };
            (0..k * n).map(number).collect()
        };
        let in_order = |input: usize| input / group_size;
        on_each(|gpu, name| {
            let scales = gpu.upload(&scales).unwrap();
            let mixed_groups = gpu.upload(&mixed).unwrap();
            let cases = [
                (Packed4::Gptq { version2: false, groups: None }, want(&in_order, 1)),
                (Packed4::Gptq { version2: true, groups: None }, want(&in_order, 0)),
                (
                    Packed4::Gptq { version2: false, groups: Some(&mixed_groups) },
                    want(&|input| mixed[input] as usize, 1),
                ),
                (Packed4::Awq, want(&in_order, 0)),
            ];
            for (format, want) in cases {
                let (words, zeros) = match format {
                    Packed4::Gptq { .. } => (levels.down(), zeros.along(IN_ORDER)),
                    Packed4::Awq => (levels.along(AWQ_ORDER), zeros.along(AWQ_ORDER)),
                };
                let (words, zeros) = (gpu.upload(&words).unwrap(), gpu.upload(&zeros).unwrap());
                let matrix = PackedMatrix {
                    format,
                    k,
                    n,
                    group_size,
                    words: &words,
                    zeros: &zeros,
                    scales: &scales,
                };
                for to in PLAIN {
                    let out = out_for(gpu, k * n, to);
                    dequantize_packed(gpu, &matrix, (&out, to)).unwrap();
                    assert_bits(&out, to, &want, &format!("{name}: {format:?}, {k} x {n}, {to}"));
                }
                let out = out_for(gpu, k * n, DType::F32);
                let run =
                    |matrix: PackedMatrix<'_>, to| dequantize_packed(gpu, &matrix, (&out, to));
                let unsupported = [
                    run(PackedMatrix { k: k + 4, ..matrix }, DType::F32),
                    run(PackedMatrix { group_size: 0, ..matrix }, DType::F32),
                    run(matrix, DType::Q8_0),
                ];
                assert!(unsupported.iter().all(|e| matches!(e, Err(Error::Unsupported { .. }))));
                let short = words.slice(0..words.len() - 4);
                let failed = run(PackedMatrix { words: &short, ..matrix }, DType::F32);
                assert!(matches!(failed, Err(Error::Length { what: "words", .. })));
            }
        });
    }
}

/// A group that a damaged file names is not read from elsewhere.
#[test]
fn groups_beyond_the_last_stay_within() {
    on_each(|gpu, name| {
        let levels = gpu.upload(&[0x1111_1111u32; 8]).unwrap();
        let (zeros, scales) = (gpu.upload(&[0u32]).unwrap(), gpu.upload(&[f16::ONE; 8]).unwrap());
        let groups = gpu.upload(&[0, 1, -1, i32::MAX, i32::MIN, 0, 0, 0]).unwrap();
        let format = Packed4::Gptq { version2: true, groups: Some(&groups) };
        let matrix = PackedMatrix {
            format,
            k: 8,
            n: 8,
            group_size: 8,
            words: &levels,
            zeros: &zeros,
            scales: &scales,
        };
        let out = out_for(gpu, 64, DType::F32);
        dequantize_packed(gpu, &matrix, (&out, DType::F32)).unwrap();
        assert_bits(&out, DType::F32, &[1.0; 64], name);
    });
}

#[test]
fn what_does_not_fit_is_refused() {
    on_each(|gpu, _| {
        let buffer = gpu.filled(0, 1024).unwrap();
        let run = |n, from: &Buffer, from_type, out: &Buffer, out_type| {
            dequantize(gpu, n, (from, from_type), (out, out_type))
        };
        let short = buffer.slice(0..143);
        let failed = run(256, &short, DType::Q4_K, &buffer, DType::F32);
        assert!(matches!(failed, Err(Error::Length { expected: 144, got: 143, .. })), "{failed:?}");
        let failed = run(256, &buffer, DType::Q4_K, &short, DType::F16);
        assert!(matches!(failed, Err(Error::Length { expected: 512, got: 143, .. })), "{failed:?}");
        let failed = run(256, &buffer.slice(8..600), DType::Q4_K, &buffer, DType::F32);
        assert!(matches!(failed, Err(Error::Alignment { alignment: 16, .. })), "{failed:?}");
        let failed = run(32, &buffer.slice(1..600), DType::Q4_0, &buffer, DType::F32);
        assert!(matches!(failed, Err(Error::Alignment { alignment: 2, .. })), "{failed:?}");
        let failed = run(32, &buffer, DType::Q4_0, &buffer.slice(8..600), DType::F32);
        assert!(matches!(failed, Err(Error::Alignment { alignment: 16, .. })), "{failed:?}");
        for (n, from, to) in [
            (100, DType::Q4_K, DType::F32),
            (32, DType::I32, DType::F32),
            (32, DType::Q4_0, DType::Q8_0),
        ] {
            let failed = run(n, &buffer, from, &buffer, to);
            assert!(matches!(failed, Err(Error::Unsupported { .. })), "{failed:?}");
        }
    });
}
