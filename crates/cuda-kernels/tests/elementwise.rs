//! Operations on each element and softmax, against their formulas in f64.

mod common;

use common::{assert_close, normal, on_each, poisoned, random};
use cuda_kernels::ops::elementwise::*;
use cuda_kernels::ops::quantize::{Int8, quantize_activations};
use cuda_kernels::{Buffer, Error, Gpu};

/// By a series whose terms are all positive.
fn erf(x: f64) -> f64 {
    let (mut term, mut sum) = (x, x);
    for n in 1..300 {
        term *= 2.0 * x * x / f64::from(2 * n + 1);
        sum += term;
    }
    sum * std::f64::consts::FRAC_2_SQRT_PI * (-x * x).exp()
}

fn exact(f: Activation, x: f64) -> f64 {
    match f {
        Activation::Silu => x / (1.0 + (-x).exp()),
        Activation::GeluErf => x * 0.5 * (1.0 + erf(x * std::f64::consts::FRAC_1_SQRT_2)),
        Activation::GeluTanh => {
            let u = (2.0 / std::f64::consts::PI).sqrt() * (x + 0.044715 * x.powi(3));
            x * 0.5 * (1.0 + u.tanh())
        }
        Activation::GeluQuick => x / (1.0 + (-1.702 * x).exp()),
        Activation::Relu => x.max(0.0),
        Activation::ReluSquared => x.max(0.0).powi(2),
    }
}

/// Uploads numbers behind which there is more that must not change, `shift` elements from alignment.
fn upload(gpu: &Gpu, x: &[f32], shift: usize) -> Buffer {
    let all = [&vec![7.0; shift], x, &[7.0; 5]].concat();
    let buffer = gpu.upload(&all).unwrap();
    buffer.slice(4 * shift..buffer.len())
}

#[track_caller]
fn download(buffer: &Buffer, n: usize) -> Vec<f32> {
    let all: Vec<f32> = buffer.download().unwrap();
    assert_eq!(all[n..], [7.0; 5], "beyond the end");
    all[..n].to_vec()
}

#[test]
fn sums_products_and_caps() {
    for (n, shift) in [(1usize, 0), (7, 0), (64, 1), (5003, 0)] {
        let random = &mut random(n as u64);
        let (x, y) = (normal(random, n, 2.0), normal(random, n, 2.0));
        on_each(|gpu, name| {
            let run = |f: &dyn Fn(&Buffer)| {
                let buffer = upload(gpu, &x, shift);
                f(&buffer);
                download(&buffer, n)
            };
            let want = |f: &dyn Fn(f32, f32) -> f32| -> Vec<f32> {
                x.iter().zip(&y).map(|(&x, &y)| f(x, y)).collect()
            };
            let b = upload(gpu, &y, shift);
            assert_eq!(run(&|a| add(gpu, a, &b, n).unwrap()), want(&|x, y| x + y), "{name}: {n}");
            assert_eq!(run(&|a| mul(gpu, a, &b, n).unwrap()), want(&|x, y| x * y), "{name}: {n}");
            assert_eq!(
                run(&|a| scale(gpu, a, n, 0.3).unwrap()),
                want(&|x, _| x * 0.3),
                "{name}: {n}"
            );
            let capped = run(&|a| softcap(gpu, a, n, 3.0).unwrap());
            let exact: Vec<f64> = x.iter().map(|&x| 3.0 * (f64::from(x) / 3.0).tanh()).collect();
            assert_close(&capped, &exact, 1e-6, name);
        });
    }
}

#[test]
fn activations_alone_and_gated() {
    let (rows, width) = (5, 401);
    let x: Vec<f32> = (0..rows * width).map(|i| (i as f32 - 1000.0) * 0.0173).collect();
    let up = normal(&mut random(1), x.len(), 1.0);
    on_each(|gpu, name| {
        for f in Activation::ALL {
            let near = |got: f32, want: f64, x: f32| {
                let error = (f64::from(got) - want).abs();
                assert!(error <= 3e-6 * want.abs() + 1e-9, "{name}: {f:?}({x}): {got}, not {want}");
            };
            for shift in [0, 1] {
                let alone = upload(gpu, &x, shift);
                activation(gpu, f, &alone, x.len()).unwrap();
                let alone = download(&alone, x.len());
                let gate = upload(gpu, &x, shift);
                gated(gpu, f, &gate, &upload(gpu, &up, 0), x.len()).unwrap();
                let gate = download(&gate, x.len());
                for (i, &x) in x.iter().enumerate() {
                    let want = exact(f, f64::from(x));
                    near(alone[i], want, x);
                    near(gate[i], want * f64::from(up[i]), x);
                }
            }
            let broken = upload(gpu, &[f32::NAN; 5], 0);
            activation(gpu, f, &broken, 5).unwrap();
            assert!(download(&broken, 5).iter().all(|x| x.is_nan()), "{name}: {f:?} of NaN");
        }
    });
}

#[test]
fn gated_products_are_rounded_as_they_are_apart() {
    on_each(|gpu, name| {
        for n in [32, 96, 5024] {
            let random = &mut random(n as u64);
            let (gate, up) = (normal(random, n, 2.0), gpu.upload(&normal(random, n, 1.0)).unwrap());
            for f in Activation::ALL {
                let [together, apart] =
                    [(); 2].map(|()| (poisoned(gpu, n + 8), poisoned(gpu, n / 4 + 8)));
                let [x, y] = [upload(gpu, &gate, 0), upload(gpu, &gate, 0)];
                let to = Int8 { q: &together.0, scales: &together.1 };
                gated_rounded(gpu, f, &x, &up, to, n).unwrap();
                gated(gpu, f, &y, &up, n).unwrap();
                let to = Int8 { q: &apart.0, scales: &apart.1 };
                quantize_activations(gpu, n, &y, to).unwrap();
                let pairs = [(&x, &y), (&together.0, &apart.0), (&together.1, &apart.1)];
                for (a, b) in pairs {
                    let [a, b]: [Vec<u8>; 2] = [a, b].map(|x| x.download().unwrap());
                    assert!(a == b, "{name}: {n} elements, {f:?}");
                }
            }
        }
    });
}

#[test]
fn one_row_added_to_each() {
    on_each(|gpu, name| {
        for (rows, cols) in [(1, 1), (3, 10), (2, 1028), (70, 4)] {
            let random = &mut random(cols as u64);
            let (x, y) = (normal(random, rows * cols, 1.0), normal(random, cols, 1.0));
            let sums = upload(gpu, &x, 0);
            add_row(gpu, &sums, &gpu.upload(&y).unwrap(), rows, cols).unwrap();
            let want: Vec<f32> = x.iter().enumerate().map(|(i, x)| x + y[i % cols]).collect();
            assert_eq!(download(&sums, rows * cols), want, "{name}");
        }
    });
}

fn softmax_of(row: &[f32]) -> Vec<f64> {
    let max = row.iter().fold(f64::NEG_INFINITY, |m, &x| m.max(f64::from(x)));
    let exp: Vec<f64> = row.iter().map(|&x| (f64::from(x) - max).exp()).collect();
    let sum: f64 = exp.iter().sum();
    exp.iter().map(|e| e / sum).collect()
}

#[test]
fn softmax_of_short_and_long_rows() {
    for (rows, cols) in [(1usize, 1usize), (5, 8), (9, 130), (2, 1024), (2, 1025), (2, 9000)] {
        // Beyond what exp can: only differences count.
        let mut x = normal(&mut random(cols as u64), rows * cols, 8.0);
        x.iter_mut().step_by(7).skip(1).for_each(|x| *x = f32::NEG_INFINITY);
        x.iter_mut().for_each(|x| *x -= 1000.0);
        let want: Vec<f64> = x.chunks_exact(cols).flat_map(softmax_of).collect();
        on_each(|gpu, name| {
            let p = upload(gpu, &x, 0);
            softmax(gpu, &p, rows, cols).unwrap();
            let p = download(&p, rows * cols);
            // `x - max` is rounded: up to 4e-6 for a difference of 60.
            assert_close(&p, &want, 5e-6, &format!("{name}: {rows} rows of {cols}"));
            let last = upload(gpu, &x[(rows - 1) * cols..], 0);
            softmax(gpu, &last, 1, cols).unwrap();
            assert_eq!(download(&last, cols), p[(rows - 1) * cols..], "{name}: a row alone");
        });
    }
}

#[test]
fn softmax_of_what_has_none() {
    on_each(|gpu, name| {
        for cols in [6, 1030] {
            for (first, others) in [
                (f32::NAN, 0.0),
                (f32::INFINITY, 0.0),
                (f32::NEG_INFINITY, f32::NEG_INFINITY),
                (f32::NAN, f32::NEG_INFINITY),
            ] {
                let mut x = vec![others; cols];
                x[0] = first;
                let p = upload(gpu, &x, 0);
                softmax(gpu, &p, 1, cols).unwrap();
                let p = download(&p, cols);
                assert!(p.iter().all(|p| p.is_nan()), "{name}: {first} among {others}: {p:?}");
            }
            let mut x = vec![f32::NEG_INFINITY; cols];
            (x[1], x[cols - 1]) = (1e30, 1e30);
            let p = upload(gpu, &x, 0);
            softmax(gpu, &p, 1, cols).unwrap();
            let p = download(&p, cols);
            assert_eq!((p[0], p[1], p[2], p[cols - 1]), (0.0, 0.5, 0.0, 0.5), "{name}");
        }
    });
}

#[test]
fn rows_become_shares() {
    on_each(|gpu, name| {
        for (rows, cols) in [(1, 1), (6, 8), (3, 100)] {
            let x: Vec<f32> = (0..rows * cols).map(|i| (i % 13 + 1) as f32).collect();
            let shares = upload(gpu, &x, 0);
            normalise_rows(gpu, &shares, rows, cols).unwrap();
            let share = |row: &[f32]| -> Vec<f32> {
                row.iter().map(|x| x / row.iter().sum::<f32>()).collect()
            };
            let want: Vec<f32> = x.chunks_exact(cols).flat_map(share).collect();
            assert_eq!(download(&shares, rows * cols), want, "{name}");
        }
    });
}

#[test]
fn what_does_not_fit_is_refused() {
    on_each(|gpu, _| {
        let (long, short) = (poisoned(gpu, 4 * 64), poisoned(gpu, 4 * 64 - 1));
        let length =
            |result| assert!(matches!(result, Err(Error::Length { expected: 256, got: 255, .. })));
        length(add(gpu, &short, &long, 64));
        length(mul(gpu, &long, &short, 64));
        length(scale(gpu, &short, 64, 2.0));
        length(softcap(gpu, &short, 64, 2.0));
        length(activation(gpu, Activation::Relu, &short, 64));
        length(gated(gpu, Activation::Relu, &long, &short, 64));
        let to = Int8 { q: &long, scales: &long };
        length(gated_rounded(gpu, Activation::Relu, &short, &long, to, 64));
        length(gated_rounded(gpu, Activation::Relu, &long, &short, to, 64));
        let part = gated_rounded(gpu, Activation::Relu, &long, &long, to, 48);
        assert!(matches!(part, Err(Error::Unsupported { .. })));
        length(add_row(gpu, &short, &long, 2, 32));
        length(add_row(gpu, &long, &short, 1, 64));
        length(softmax(gpu, &short, 2, 32));
        length(normalise_rows(gpu, &short, 2, 32));
        let result = add(gpu, &long.slice(1..256), &long, 8);
        assert!(matches!(result, Err(Error::Alignment { alignment: 4, .. })));
        assert!(softmax(gpu, &long, 0, 64).is_ok() && add(gpu, &long, &long, 0).is_ok());
    });
}
