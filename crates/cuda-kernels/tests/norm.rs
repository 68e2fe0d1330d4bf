//! Norms of rows and heads, against their formulas in f64.

mod common;

use common::{assert_close, normal, on_each, poisoned, random};
use cuda_kernels::ops::norm::{Norm, NormKind, add_norm, can_round, norm};
use cuda_kernels::ops::quantize::{Int8, quantize_activations};
use cuda_kernels::{Buffer, Error, Gpu};

const EPS: f32 = 1e-5;

/// `bias` only for LayerNorm: `None` is RMSNorm with `offset`.
fn reference(x: &[f32], weight: &[f32], offset: f32, bias: Option<&[f32]>) -> Vec<f64> {
    let n = weight.len() as f64;
    let row = |row: &[f32]| -> Vec<f64> {
        let row: Vec<f64> = row.iter().map(|&x| f64::from(x)).collect();
        let mean = if bias.is_some() { row.iter().sum::<f64>() / n } else { 0.0 };
        let square = row.iter().map(|x| (x - mean) * (x - mean)).sum::<f64>() / n;
        let scale = 1.0 / (square + f64::from(EPS)).sqrt();
        let one = |i: usize| {
            let b = bias.map_or(0.0, |b| f64::from(b[i]));
            (row[i] - mean) * scale * (f64::from(offset) + f64::from(weight[i])) + b
        };
        (0..row.len()).map(one).collect()
    };
    x.chunks_exact(weight.len()).flat_map(row).collect()
}

fn downloaded(buffer: &Buffer) -> Vec<f32> {
    buffer.download().unwrap()
}

/// Elements behind the end, where nothing may be written.
const BEHIND: usize = 4;

fn check(gpu: &Gpu, name: &str, width: usize, rows: usize) {
    let random = &mut random(width as u64);
    let mut draw = |n: usize, mean: f32| -> Vec<f32> {
        normal(random, n, 1.0).into_iter().map(|x| x + mean).collect()
    };
    let (x, y) = (draw(rows * width, 3.0), draw(rows * width, 1.0));
    let (weight, bias) = (draw(width, 0.5), draw(width, 0.0));
    let sum: Vec<f32> = x.iter().zip(&y).map(|(x, y)| x + y).collect();
    let upload = |v: &[f32]| gpu.upload(v).unwrap();
    let (w, b, zero) = (upload(&weight), upload(&bias), vec![0.0; width]);
    let kinds = [
        (NormKind::Rms { weight_offset: 0.0 }, 0.0, None),
        (NormKind::Rms { weight_offset: 1.0 }, 1.0, None),
        (NormKind::Layer { bias: None }, 0.0, Some(&zero[..])),
        (NormKind::Layer { bias: Some(&b) }, 0.0, Some(&bias[..])),
    ];
    for (kind, offset, bias) in kinds {
        let what = format!("{name}: {rows} rows of {width}, {kind:?}");
        let with = Norm { kind, width, eps: EPS, weight: &w, rounded: None };
        let out = poisoned(gpu, 4 * (rows * width + BEHIND));
        norm(gpu, &with, &upload(&x), &out, rows).unwrap();
        let got = downloaded(&out);
        assert_close(&got[..rows * width], &reference(&x, &weight, offset, bias), 2e-6, &what);
        assert!(got[rows * width..].iter().all(|x| x.is_nan()), "{what}: beyond the end");

        // One row alone, and in place, is bit for bit that of the batch.
        let alone = upload(&x[(rows - 1) * width..]);
        norm(gpu, &with, &alone, &alone, 1).unwrap();
        assert_eq!(downloaded(&alone), got[(rows - 1) * width..rows * width], "{what}: alone");

        let (both, out) = (upload(&x), poisoned(gpu, 4 * (rows * width + BEHIND)));
        add_norm(gpu, &with, &both, &upload(&y), &out, rows).unwrap();
        assert_eq!(downloaded(&both), sum, "{what}: the sum");
        let got = downloaded(&out);
        assert_close(&got[..rows * width], &reference(&sum, &weight, offset, bias), 2e-6, &what);
        assert!(got[rows * width..].iter().all(|x| x.is_nan()), "{what}: beyond the end");
    }
}

#[test]
fn rows_and_heads_of_any_width() {
    on_each(|gpu, name| {
        for (width, rows) in
            [(1, 3), (4, 9), (63, 2), (128, 11), (256, 8), (260, 3), (1003, 2), (4096, 2)]
        {
            check(gpu, name, width, rows);
        }
    });
}

#[test]
fn rows_that_no_block_has_in_registers() {
    on_each(|gpu, name| {
        for width in [16_384, 16_388] {
            check(gpu, name, width, 1);
        }
    });
}

#[test]
fn norms_are_rounded_as_they_are_apart() {
    on_each(|gpu, name| {
        for (width, rows) in [(32, 3), (256, 9), (288, 2), (4096, 1)] {
            assert!(can_round(width));
            let random = &mut random(width as u64);
            let n = rows * width;
            let [x, y] = [(); 2].map(|()| gpu.upload(&normal(random, n, 1.0)).unwrap());
            let weight = gpu.upload(&normal(random, width, 1.0)).unwrap();
            for kind in [NormKind::Rms { weight_offset: 0.0 }, NormKind::Layer { bias: None }] {
                let [together, apart] =
                    [(); 2].map(|()| (poisoned(gpu, n + 8), poisoned(gpu, n / 4 + 8)));
                let out = poisoned(gpu, 4 * n);
                let rounded = Some(Int8 { q: &together.0, scales: &together.1 });
                let with = Norm { kind, width, eps: EPS, weight: &weight, rounded };
                add_norm(gpu, &with, &x, &y, &out, rows).unwrap();
                let to = Int8 { q: &apart.0, scales: &apart.1 };
                quantize_activations(gpu, n, &out, to).unwrap();
                for (a, b) in [(&together.0, &apart.0), (&together.1, &apart.1)] {
                    let [a, b]: [Vec<u8>; 2] = [a, b].map(|x| x.download().unwrap());
                    assert!(a == b, "{name}: {rows} rows of {width}, {kind:?}");
                }
            }
        }
        let buffer = poisoned(gpu, 4 * 16_416);
        let rounded = Some(Int8 { q: &buffer, scales: &buffer });
        for width in [48, 16_416] {
            let kind = NormKind::Rms { weight_offset: 0.0 };
            let with = Norm { kind, width, eps: EPS, weight: &buffer, rounded };
            let refused = norm(gpu, &with, &buffer, &buffer, 1);
            assert!(matches!(refused, Err(Error::Unsupported { .. })));
        }
    });
}

#[test]
fn memory_that_is_not_aligned_is_taken_element_by_element() {
    on_each(|gpu, name| {
        let (width, rows) = (64, 3);
        let x = normal(&mut random(7), 1 + rows * width, 1.0);
        let weight = vec![1.0f32; width];
        let w = gpu.upload(&weight).unwrap();
        let kind = NormKind::Rms { weight_offset: 0.0 };
        let with = Norm { kind, width, eps: EPS, weight: &w, rounded: None };
        let all = gpu.upload(&x).unwrap();
        let out = poisoned(gpu, 4 * rows * width);
        norm(gpu, &with, &all.slice(4..all.len()), &out, rows).unwrap();
        assert_close(&downloaded(&out), &reference(&x[1..], &weight, 0.0, None), 2e-6, name);
    });
}

#[test]
fn what_does_not_fit_is_refused() {
    on_each(|gpu, _| {
        let (long, short) = (poisoned(gpu, 4 * 64), poisoned(gpu, 4 * 64 - 1));
        let kind = NormKind::Layer { bias: Some(&short) };
        let with = |width, weight| Norm {
            kind: NormKind::Rms { weight_offset: 0.0 },
            width,
            eps: EPS,
            weight,
            rounded: None,
        };
        let length =
            |result| assert!(matches!(result, Err(Error::Length { expected: 256, got: 255, .. })));
        length(norm(gpu, &with(32, &long), &short, &long, 2));
        length(norm(gpu, &with(32, &long), &long, &short, 2));
        length(norm(gpu, &with(64, &short), &long, &long, 1));
        length(norm(gpu, &Norm { kind, ..with(64, &long) }, &long, &long, 1));
        length(add_norm(gpu, &with(32, &long), &long, &short, &long, 2));
        let at_two = long.slice(2..64);
        let result = norm(gpu, &with(8, &long), &at_two, &long, 1);
        assert!(matches!(result, Err(Error::Alignment { alignment: 4, .. })));
        assert!(matches!(
            norm(gpu, &with(0, &long), &long, &long, 1),
            Err(Error::Unsupported { .. })
        ));
        assert!(norm(gpu, &with(64, &long), &long, &long, 0).is_ok());
    });
}
