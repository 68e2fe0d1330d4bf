//! INT8 vectors added, against the formula in f64.

mod common;

use common::{on_each, poisoned, random};
use cuda_kernels::Error;
use cuda_kernels::ops::vector_add::{Affine, VectorAdd, quantized_vector_add};
use rand::Rng;

#[test]
fn sums_are_those_of_the_formula() {
    let a_is = Affine { scale: 0.05, zero_point: 3 };
    let b_is = Affine { scale: 0.02, zero_point: -7 };
    let out_is = Affine { scale: 0.06, zero_point: 1 };
    for n in [1usize, 15, 16, 4096, 10_007] {
        let mut random = random(n as u64);
        let mut bytes = || -> Vec<i8> { (0..n).map(|_| random.next_u32() as i8).collect() };
        let (a, b) = (bytes(), bytes());
        let want = |i: usize| {
            let number =
                |q: i8, is: Affine| f64::from(is.scale) * f64::from(i32::from(q) - is.zero_point);
            let sum = (number(a[i], a_is) + number(b[i], b_is)) / f64::from(out_is.scale);
            sum + f64::from(out_is.zero_point)
        };
        on_each(|gpu, name| {
            for kernel in VectorAdd::ALL {
                let (x, y) = (gpu.upload(&a).unwrap(), gpu.upload(&b).unwrap());
                let out = poisoned(gpu, n + 16);
                let result = (&out, out_is);
                quantized_vector_add(gpu, kernel, n, (&x, a_is), (&y, b_is), result).unwrap();
                let got: Vec<i8> = out.download().unwrap();
                for (i, &q) in got[..n].iter().enumerate() {
                    // Half a step, and what f32 makes of the sum.
                    let error = (f64::from(q) - want(i).clamp(-128.0, 127.0)).abs();
                    assert!(error <= 0.5001, "{name}, {kernel:?}: {n}, {i}: {q}, not {}", want(i));
                }
                assert!(
                    got[n..].iter().all(|&q| q == -1),
                    "{name}, {kernel:?}: written beyond {n}"
                );
            }
        });
    }
}

#[test]
fn buffers_that_do_not_fit_are_refused() {
    on_each(|gpu, _| {
        let unit = Affine { scale: 1.0, zero_point: 0 };
        let (long, short) = (gpu.filled(0, 64).unwrap(), gpu.filled(0, 31).unwrap());
        let add = |a: &_, out: &_| {
            quantized_vector_add(gpu, VectorAdd::Wide, 32, (a, unit), (&long, unit), (out, unit))
        };
        assert!(matches!(add(&short, &long), Err(Error::Length { expected: 32, got: 31, .. })));
        assert!(matches!(
            add(&long.slice(8..64), &long),
            Err(Error::Alignment { alignment: 16, .. })
        ));
        assert!(add(&long, &long.slice(16..64)).is_ok());
    });
}
