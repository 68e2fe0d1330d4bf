//! Products with weights in GGML's blocks against what `blocks` decodes, in f64.

mod common;

use blocks::DType;
use common::{assert_close, normal, on_each, poisoned, random};
use cuda_kernels::Error;
use cuda_kernels::ops::gemm::{Product, by_slabs, linear, of_blocks};
use half::f16;

const WITH_KERNELS: [DType; 8] = [
    DType::Q4_0,
    DType::Q4_1,
    DType::Q5_0,
    DType::Q8_0,
    DType::Q3_K,
    DType::Q4_K,
    DType::Q5_K,
    DType::Q6_K,
];

/// A product and its result in f64 of `x` and weights rounded to f16.
struct Case {
    m: usize,
    n: usize,
    k: usize,
    x: Vec<f32>,
    w: Vec<u8>,
    bias: Vec<f32>,
    want: Vec<f64>,
}

impl Case {
    fn random(dtype: DType, (m, n, k): (usize, usize, usize)) -> Self {
        let mut random = random((m + n + k) as u64);
        let (x, bias) = (normal(&mut random, m * k, 1.0), normal(&mut random, n, 1.0));
        let numbers = normal(&mut random, n * k, 0.5);
        let mut w = vec![0; dtype.bytes_for(n * k).unwrap()];
        blocks::encode(dtype, &numbers, k, None, &mut w).unwrap();
        let mut decoded = vec![0.0; n * k];
        blocks::decode(dtype, &w, &mut decoded).unwrap();
        let halves =
            |x: &[f32]| -> Vec<f64> { x.iter().map(|&x| f16::from_f32(x).to_f64()).collect() };
        let (x_is, w_is) = (halves(&x), halves(&decoded));
        let dot = |i: usize, j: usize| -> f64 {
            let (x, w) = (&x_is[i * k..][..k], &w_is[j * k..][..k]);
            x.iter().zip(w).map(|(x, w)| x * w).sum()
        };
        let want = (0..m * n).map(|at| dot(at / n, at % n) + f64::from(bias[at % n])).collect();
        Self { m, n, k, x, w, bias, want }
    }

    /// Checks every element that a product gives, and that nothing behind is written.
    fn check(&self, what: &str, product: impl Fn(&cuda_kernels::Gpu, &Product<'_>)) {
        on_each(|gpu, device| {
            let &Self { m, n, k, .. } = self;
            let [x, bias] = [&self.x, &self.bias].map(|x| gpu.upload(x).unwrap());
            let (w, y) = (gpu.upload(&self.w).unwrap(), poisoned(gpu, 4 * m * n + 64));
            product(gpu, &Product { x: &x, w: &w, bias: Some(&bias), y: &y, m, n, k });
            let got: Vec<f32> = y.download().unwrap();
            let what = format!("{device}, {what}: {m} {n} {k}");
            assert_close(&got[..m * n], &self.want, 1e-6 * (k as f64).sqrt(), &what);
            assert!(got[m * n..].iter().all(|y| y.to_bits() == u32::MAX), "{what}: beyond the end");
        });
    }
}

#[test]
fn blocks_are_multiplied_as_halves() {
    for dtype in WITH_KERNELS {
        for (m, n, k) in [(3, 70, 512), (40, 33, 256)] {
            let case = Case::random(dtype, (m, n, k));
            for splits in [1, 3] {
                let what = format!("{dtype}, {splits} splits");
                case.check(&what, |gpu, product| of_blocks(gpu, dtype, splits, product).unwrap());
            }
        }
    }
    // Half a step.
    let case = Case::random(DType::Q4_0, (2, 5, 96));
    case.check("half a step", |gpu, product| of_blocks(gpu, DType::Q4_0, 1, product).unwrap());
}

#[test]
fn slabs_and_the_whole_are_the_same() {
    for (dtype, n) in [(DType::Q4_K, 130), (DType::IQ4_NL, 257), (DType::Q8_0, 5)] {
        let case = Case::random(dtype, (9, n, 256));
        case.check(&format!("{dtype} in slabs"), |gpu, product| {
            by_slabs(gpu, dtype, 1, product).unwrap()
        });
    }
}

#[test]
fn linear_takes_any_type_and_number_of_rows() {
    for (dtype, m) in [(DType::Q4_K, 1), (DType::Q6_K, 65), (DType::TQ2_0, 2)] {
        let case = Case::random(dtype, (m, 30, 256));
        case.check(&format!("linear of {dtype}"), |gpu, product| {
            linear(gpu, dtype, product).unwrap()
        });
    }
}

#[test]
fn a_row_is_the_same_in_any_batch() {
    let (m, n, k) = (50, 20, 256);
    let case = Case::random(DType::Q5_K, (m, n, k));
    on_each(|gpu, device| {
        let (x, w) = (gpu.upload(&case.x).unwrap(), gpu.upload(&case.w).unwrap());
        let rows = |from: usize, m: usize| -> Vec<u32> {
            let (x, y) = (x.slice(4 * from * k..4 * (from + m) * k), poisoned(gpu, 4 * m * n));
            let product = Product { x: &x, w: &w, bias: None, y: &y, m, n, k };
            of_blocks(gpu, DType::Q5_K, 2, &product).unwrap();
            y.download().unwrap()
        };
        let all = rows(0, m);
        for (from, m) in [(0, 1), (5, 32), (49, 1)] {
            assert_eq!(rows(from, m), &all[from * n..(from + m) * n], "{device}: {m} from {from}");
        }
    });
}

#[test]
fn what_does_not_fit_is_refused() {
    on_each(|gpu, _| {
        let some = gpu.filled(0, 1 << 16).unwrap();
        let product = |k, w| Product { x: &some, w, bias: None, y: &some, m: 2, n: 8, k };
        let good = product(256, &some);
        let unsupported = |result| matches!(result, Err(Error::Unsupported { .. }));
        assert!(linear(gpu, DType::Q4_K, &good).is_ok());
        assert!(unsupported(linear(gpu, DType::I32, &good)));
        assert!(unsupported(linear(gpu, DType::IQ2_XS, &good)));
        assert!(unsupported(linear(gpu, DType::Q4_K, &product(128, &some))));
        assert!(unsupported(of_blocks(gpu, DType::IQ4_NL, 1, &good)));
        assert!(unsupported(of_blocks(gpu, DType::Q4_K, 0, &good)));
        assert!(unsupported(of_blocks(gpu, DType::Q4_K, 5, &good)));
        let short = some.slice(0..8 * 144 - 1);
        assert!(matches!(
            linear(gpu, DType::Q4_K, &product(256, &short)),
            Err(Error::Length { .. })
        ));
        let odd = some.slice(8..1 << 15);
        assert!(matches!(
            linear(gpu, DType::Q4_K, &product(256, &odd)),
            Err(Error::Alignment { .. })
        ));
    });
}
