//! Whole tensors: threads, sources, importances, progress, cancellation, errors.

use std::ops::ControlFlow;
use std::sync::Mutex;

use blocks::{BlockError, DType};
use proptest::prelude::*;
use quant_core::*;

/// Values with some structure, the same for the same seed.
fn values(n: usize, seed: u32) -> Vec<f32> {
    let noise = |i: u32| i.wrapping_add(seed).wrapping_mul(2_654_435_761) >> 8;
    (0..n as u32).map(|i| noise(i) as f32 / (1 << 23) as f32 - 1.0).collect()
}

proptest! {
    /// The bytes do not depend on the threads, nor on whether the source is expanded.
    #[test]
    fn threads_and_sources_agree(rows in 1..40usize, blocks in 1..4usize, threads in 1..5usize, seed: u32) {
        let cols = 256 * blocks;
        let x = values(rows * cols, seed);
        let bytes: Vec<u8> = x.iter().flat_map(|v| v.to_le_bytes()).collect();
        for dtype in [DType::Q4_0, DType::Q6_K, DType::F16] {
            let whole = quantize_tensor(Source::Values(&x), rows, cols, dtype, None, Work::threads(1)).expect("encodes");
            let split = quantize_tensor(Source::Bytes(DType::F32, &bytes), rows, cols, dtype, None, Work::threads(threads));
            prop_assert_eq!(&whole, &split.expect("encodes"));
            let y = dequantize_tensor(Source::Bytes(dtype, &whole), rows, cols, Work::threads(threads)).expect("decodes");
            let stats = compare(Source::Values(&x), Source::Bytes(dtype, &whole), rows, cols, Work::threads(threads));
            prop_assert_eq!(stats.expect("compares").max_abs(), ErrorStats::of(&x, &y).max_abs());
        }
    }
}

#[test]
fn sums_do_not_depend_on_the_threads() {
    let (rows, cols) = (2000, 512);
    let (x, y) = (values(rows * cols, 1), values(rows * cols, 2));
    let stats = |threads| {
        compare(Source::Values(&x), Source::Values(&y), rows, cols, Work::threads(threads))
            .expect("compares")
    };
    assert_eq!(stats(1), stats(3));
    let whole = ErrorStats::of(&x, &y).mse();
    assert!((stats(1).mse() - whole).abs() < 1e-9 * whole);
}

#[test]
fn experts_have_importances_of_their_own() {
    let (experts, rows, cols) = (3, 300, 256);
    let x = values(experts * rows * cols, 3);
    let importance: Vec<f32> = values(experts * cols, 4).iter().map(|v| v.abs() + 0.01).collect();
    let all = quantize_tensor(
        Source::Values(&x),
        experts * rows,
        cols,
        DType::Q4_K,
        Some(&importance),
        Work::threads(2),
    );
    let mut each = Vec::new();
    for (x, importance) in x.chunks(rows * cols).zip(importance.chunks(cols)) {
        each.extend(
            quantize_tensor(
                Source::Values(x),
                rows,
                cols,
                DType::Q4_K,
                Some(importance),
                Work::threads(1),
            )
            .expect("encodes"),
        );
    }
    assert_eq!(all.expect("encodes"), each);
    let error = quantize_tensor(
        Source::Values(&x),
        experts * rows,
        cols,
        DType::Q4_K,
        Some(&importance[1..]),
        Work::default(),
    );
    assert_eq!(error, Err(QuantError::ImportanceCount { rows: 900, cols: 256, got: 767 }));
}

#[test]
fn importances_lower_the_weighted_error() {
    let (rows, cols) = (64, 256);
    let x = values(rows * cols, 5);
    let importance: Vec<f32> = (0..cols).map(|i| if i % 8 == 0 { 100.0 } else { 0.1 }).collect();
    let loss = |importance: Option<&[f32]>, weights: &[f32]| {
        let bytes = quantize_tensor(
            Source::Values(&x),
            rows,
            cols,
            DType::Q4_K,
            importance,
            Work::default(),
        )
        .expect("encodes");
        let y = dequantize_tensor(Source::Bytes(DType::Q4_K, &bytes), rows, cols, Work::default())
            .expect("decodes");
        x.iter()
            .zip(&y)
            .enumerate()
            .map(|(i, (x, y))| f64::from(weights[i % cols] * (x - y) * (x - y)))
            .sum::<f64>()
    };
    assert!(loss(Some(&importance), &importance) < 0.9 * loss(None, &importance));
}

#[test]
fn progress_is_reported_and_can_cancel() {
    let (rows, cols) = (4000, 256);
    let x = values(rows * cols, 6);
    let seen = Mutex::new(Vec::new());
    let record = |p: Progress| {
        seen.lock().expect("not poisoned").push(p);
        ControlFlow::Continue(())
    };
    quantize_tensor(
        Source::Values(&x),
        rows,
        cols,
        DType::Q8_0,
        None,
        Work::threads(2).report(&record),
    )
    .expect("encodes");
    let seen = seen.into_inner().expect("not poisoned");
    assert!(seen.len() > 1 && seen.iter().all(|p| p.of == rows && p.rows <= rows), "{seen:?}");
    assert_eq!(seen.iter().map(|p| p.rows).max(), Some(rows));
    let cancel = |_| ControlFlow::Break(());
    let cancelled = quantize_tensor(
        Source::Values(&x),
        rows,
        cols,
        DType::Q8_0,
        None,
        Work::threads(2).report(&cancel),
    );
    assert_eq!(cancelled, Err(QuantError::Cancelled));
}

#[test]
fn errors_say_where() {
    let (rows, cols) = (3000, 256);
    let mut x = values(rows * cols, 7);
    let quantize = |x: &[f32], cols, dtype| {
        quantize_tensor(Source::Values(x), rows, cols, dtype, None, Work::threads(2))
    };
    x[2500 * cols + 7] = 1e7;
    let overflow = QuantError::Overflow { dtype: DType::Q4_0, row: 2500, col: 7, value: 1e7 };
    assert_eq!(quantize(&x, cols, DType::Q4_0), Err(overflow));
    assert_eq!(
        quantize(&x, cols, DType::F16),
        Err(QuantError::Overflow { dtype: DType::F16, row: 2500, col: 7, value: 1e7 })
    );
    assert!(quantize(&x, cols, DType::BF16).is_ok());
    x[2500 * cols + 7] = 0.0;
    x[2600 * cols + 9] = f32::NAN;
    x[2700 * cols + 11] = f32::NAN;
    assert_eq!(
        quantize(&x, cols, DType::Q8_0),
        Err(QuantError::NotFinite { dtype: DType::Q8_0, row: 2600, col: 9 })
    );
    assert_eq!(
        quantize(&x, cols, DType::IQ2_S),
        Err(BlockError::NoEncoder { dtype: DType::IQ2_S }.into())
    );
    assert_eq!(
        quantize(&x, 255, DType::Q8_0),
        Err(QuantError::ValueCount { rows, cols: 255, expected: 765_000, got: 768_000 })
    );
    assert_eq!(
        quantize_tensor(Source::Values(&x), rows * 2, 128, DType::Q4_K, None, Work::default()),
        Err(BlockError::PartialBlock { dtype: DType::Q4_K, elements: 128 }.into())
    );
    let huge =
        quantize_tensor(Source::Values(&x), usize::MAX, 2, DType::F32, None, Work::default());
    assert_eq!(huge, Err(QuantError::TooLarge { rows: usize::MAX, cols: 2, dtype: DType::F32 }));
    let short = dequantize_tensor(Source::Bytes(DType::Q8_0, &[0; 33]), 1, 32, Work::default());
    assert!(matches!(
        short,
        Err(QuantError::Block(BlockError::ByteCount { expected: 34, got: 33, .. }))
    ));
}

#[test]
fn empty_and_equal_types() {
    assert_eq!(
        quantize_tensor(Source::Values(&[]), 0, 256, DType::Q4_K, None, Work::default()),
        Ok(vec![])
    );
    assert_eq!(dequantize_tensor(Source::Values(&[]), 5, 0, Work::default()), Ok(vec![]));
    // What has the type is copied, even if it could not be encoded.
    let bytes: Vec<u8> = (0..66 * 4).map(|i| i as u8).collect();
    let copy = quantize_tensor(
        Source::Bytes(DType::IQ2_XXS, &bytes),
        4,
        256,
        DType::IQ2_XXS,
        None,
        Work::default(),
    );
    assert_eq!(copy, Ok(bytes));
}
