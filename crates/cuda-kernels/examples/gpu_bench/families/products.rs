//! Products with weights.

use blocks::DType;
use cuda_kernels::ops::ceilings::{cublaslt_bf16_rate, mma_bf16_rate};
use cuda_kernels::ops::gemm::{self as many, Gemm, Packed, W4Config, W4Matrix};
use cuda_kernels::ops::gemv::{
    Gemv, Shape, W4, Weight, linear_int8, linear_small, linear_w4a16, workspace_bytes,
};
use cuda_kernels::ops::quantize::Int8;
use cuda_kernels::{Gpu, Result};

use super::{Case, Turns};

/// Rows and columns of weights.
fn sizes(full: bool) -> (usize, usize) {
    if full { (14336, 4096) } else { (64, 256) }
}

/// Of activations and results.
fn both(m: usize, n: usize, k: usize) -> usize {
    4 * m * (n + k)
}

pub(super) fn mma(gpu: &Gpu, full: bool) -> Result<Option<f64>> {
    mma_bf16_rate(gpu, if full { 4096 } else { 2 }).map(Some)
}

pub(super) fn cublaslt(gpu: &Gpu, full: bool) -> Result<Option<f64>> {
    cublaslt_bf16_rate(gpu, if full { [8192, 28672, 8192] } else { [16; 3] })
}

pub(super) fn gemv(gpu: &Gpu, full: bool) -> Result<Vec<Case>> {
    use DType::{BF16, F16, Q4_0, Q4_K, Q5_K, Q6_K, Q8_0};
    let (n, k) = sizes(full);
    let mut cases = Vec::new();
    for m in [1, 8] {
        let shape = Shape { m, n, k };
        for dtype in [Q4_0, Q8_0, Q4_K, Q5_K, Q6_K, F16, BF16] {
            let gpu = gpu.clone();
            let bytes = dtype.bytes_for(n * k).unwrap_or(0);
            let (w, x, y) = (
                Turns::new(&gpu, bytes, full)?,
                gpu.filled(0x2c, 4 * m * k)?,
                gpu.alloc(4 * m * n)?,
            );
            let workspace = gpu.alloc(workspace_bytes(dtype, m, k))?;
            let name = format!("{dtype} of {n} x {k} and {m}");
            cases.push(Case::new(name, bytes + both(m, n, k), 2 * m * n * k, move || {
                let weight = Weight { dtype, bytes: w.next(), bias: None };
                linear_small(&gpu, &x, &weight, &y, shape, &workspace)
            }));
        }
        for (version, gemv) in (1..).zip(Gemv::ALL) {
            let gpu = gpu.clone();
            let bytes = Q4_0.bytes_for(n * k).unwrap_or(0);
            let (w, y) = (Turns::new(&gpu, bytes, full)?, gpu.alloc(4 * m * n)?);
            let (q, scales) = (gpu.filled(0x2c, m * k)?, gpu.filled(0x2c, m * k / 4)?);
            let name = format!("Q4_0 version {version} ({gemv:?}) of {n} x {k} and {m}");
            cases.push(Case::new(name, bytes + both(m, n, k), 2 * m * n * k, move || {
                let weight = Weight { dtype: Q4_0, bytes: w.next(), bias: None };
                linear_int8(&gpu, gemv, Int8 { q: &q, scales: &scales }, &weight, &y, shape)
            }));
        }
        let gpu = gpu.clone();
        let (bytes, groups) = (n * k / 2, n * k / 128);
        let (words, x, y) =
            (Turns::new(&gpu, bytes, full)?, gpu.filled(0x2c, 4 * m * k)?, gpu.alloc(4 * m * n)?);
        let scales = gpu.filled(0x2c, 2 * groups)?;
        let name = format!("4-bit groups of {n} x {k} and {m}");
        cases.push(Case::new(name, bytes + 2 * groups + both(m, n, k), 2 * m * n * k, move || {
            let weight = W4 { words: words.next(), scales: &scales, zeros: None };
            linear_w4a16(&gpu, &x, &weight, None, &y, shape)
        }));
    }
    Ok(cases)
}

/// A product `m` rows at a time of weights that have so many bytes.
fn case(
    gpu: &Gpu,
    name: String,
    (m, weight_bytes, full): (usize, usize, bool),
    product: impl Fn(&Gpu, &many::Product<'_>) -> Result<()> + 'static,
) -> Result<Case> {
    let ((n, k), gpu) = (sizes(full), gpu.clone());
    let (w, x, y) = (
        Turns::new(&gpu, weight_bytes, full)?,
        gpu.filled(0x2c, 4 * m * k)?,
        gpu.alloc(4 * m * n)?,
    );
    Ok(Case::new(
        format!("{name} and {m}"),
        weight_bytes + both(m, n, k),
        2 * m * n * k,
        move || product(&gpu, &many::Product { x: &x, w: w.next(), bias: None, y: &y, m, n, k }),
    ))
}

fn rows(full: bool) -> &'static [usize] {
    if full { &[16, 32, 128, 4096] } else { &[3] }
}

pub(super) fn gemm(gpu: &Gpu, full: bool) -> Result<Vec<Case>> {
    let (n, k) = sizes(full);
    let mut cases = Vec::new();
    for &m in rows(full) {
        for gemm in Gemm::ALL {
            // The simple ones are for one comparison; the library may not be there.
            let simple = matches!(gemm, Gemm::Naive | Gemm::Tiled);
            if simple && m > 128 || gemm == Gemm::CublasLt && cublaslt(gpu, false)?.is_none() {
                continue;
            }
            let name = format!("{gemm:?} BF16 of {n} x {k}").to_lowercase();
            let product =
                move |gpu: &Gpu, p: &many::Product<'_>| many::plain(gpu, gemm, DType::BF16, p);
            cases.push(case(gpu, name, (m, 2 * n * k, full), product)?);
        }
    }
    Ok(cases)
}

pub(super) fn gemm_w4a16(gpu: &Gpu, full: bool) -> Result<Vec<Case>> {
    let (n, k) = sizes(full);
    let (words, scales) =
        (vec![0x2c2c_2c2c; n * k / 8], vec![half::f16::from_f32(0.07); n * k / many::GROUP]);
    let packed = Packed { n, k, words: &words, scales: &scales, zeros: None };
    // Of 29 MB each: these take turns, too.
    let count = if full { 18 } else { 1 };
    let mut cases = Vec::new();
    for &m in rows(full) {
        let gpu = gpu.clone();
        let matrices =
            (0..count).map(|_| W4Matrix::new(&gpu, &packed)).collect::<Result<Vec<_>>>()?;
        let (x, y) = (gpu.filled(0x2c, 4 * m * k)?, gpu.alloc(4 * m * n)?);
        let next = std::cell::Cell::new(0);
        let (bytes, config) = (n * k / 2 + 2 * n * k / many::GROUP, W4Config::of(&gpu, m, n, k));
        let name = format!("{n} x {k} and {m} (splits {})", config.splits);
        cases.push(Case::new(name, bytes + both(m, n, k), 2 * m * n * k, move || {
            let i = next.replace((next.get() + 1) % count);
            matrices[i].linear(&gpu, &x, None, &y, m)
        }));
    }
    Ok(cases)
}

pub(super) fn gemm_w8a8(gpu: &Gpu, full: bool) -> Result<Vec<Case>> {
    let (n, k) = sizes(full);
    let one = |&m: &usize| {
        let scales = gpu.filled(0x2c, 4 * n)?;
        let product = move |gpu: &Gpu, p: &many::Product<'_>| many::w8a8(gpu, p, &scales);
        case(gpu, format!("{n} x {k}"), (m, n * k, full), product)
    };
    rows(full).iter().map(one).collect()
}

pub(super) fn gemm_blocks(gpu: &Gpu, full: bool) -> Result<Vec<Case>> {
    let (n, k) = sizes(full);
    let mut cases = Vec::new();
    for &m in rows(full) {
        for dtype in [DType::Q4_0, DType::Q8_0, DType::Q4_K, DType::Q6_K] {
            let bytes = dtype.bytes_for(n * k).unwrap_or(0);
            let product = move |gpu: &Gpu, p: &many::Product<'_>| many::linear(gpu, dtype, p);
            cases.push(case(gpu, format!("{dtype} of {n} x {k}"), (m, bytes, full), product)?);
        }
    }
    Ok(cases)
}
