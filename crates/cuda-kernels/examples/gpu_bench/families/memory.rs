//! What is bound by bytes.

use blocks::DType;
use cuda_kernels::ops::elementwise::{self, Activation};
use cuda_kernels::ops::norm::{Norm, NormKind, add_norm};
use cuda_kernels::ops::vector_add::{Affine, VectorAdd, quantized_vector_add};
use cuda_kernels::ops::{dequantize as from_blocks, quantize as to_blocks, sampling as sample};
use cuda_kernels::{Gpu, Result};

use super::{Case, Turns};

pub(super) fn vector_add(gpu: &Gpu, full: bool) -> Result<Vec<Case>> {
    let n = if full { 256 << 20 } else { 1 << 16 };
    let case = |kernel: VectorAdd| {
        let gpu = gpu.clone();
        let [a, b, out] = [gpu.filled(1, n)?, gpu.filled(2, n)?, gpu.alloc(n)?];
        let is = Affine { scale: 0.5, zero_point: 1 };
        let work = move || quantized_vector_add(&gpu, kernel, n, (&a, is), (&b, is), (&out, is));
        Ok(Case::new(format!("{kernel:?} of {n}").to_lowercase(), 3 * n, 6 * n, work))
    };
    VectorAdd::ALL.into_iter().map(case).collect()
}

pub(super) fn dequantize(gpu: &Gpu, full: bool) -> Result<Vec<Case>> {
    let n = if full { 14336 * 4096 } else { 4096 };
    let case = |from: DType| {
        let gpu = gpu.clone();
        let bytes = from.bytes_for(n).unwrap_or(0);
        let (blocks, out) = (Turns::new(&gpu, bytes, full)?, gpu.alloc(2 * n)?);
        let work =
            move || from_blocks::dequantize(&gpu, n, (blocks.next(), from), (&out, DType::F16));
        Ok(Case::new(format!("{from} to F16 of {n}"), bytes + 2 * n, n, work))
    };
    [DType::Q4_0, DType::Q8_0, DType::Q4_K, DType::Q5_K, DType::Q6_K]
        .into_iter()
        .map(case)
        .collect()
}

pub(super) fn quantize(gpu: &Gpu, full: bool) -> Result<Vec<Case>> {
    let n = if full { 14336 * 4096 } else { 4096 };
    let case = |to: DType| {
        let gpu = gpu.clone();
        let bytes = to.bytes_for(n).unwrap_or(0);
        let (x, out) = (Turns::new(&gpu, 4 * n, full)?, gpu.alloc(bytes)?);
        let work = move || to_blocks::quantize(&gpu, n, x.next(), (&out, to));
        Ok(Case::new(format!("F32 to {to} of {n}"), bytes + 4 * n, n, work))
    };
    [DType::Q4_0, DType::Q8_0].into_iter().map(case).collect()
}

pub(super) fn norm(gpu: &Gpu, full: bool) -> Result<Vec<Case>> {
    let (width, eps) = (4096, 1e-5);
    let case = |rows: usize| {
        let gpu = gpu.clone();
        let bytes = 4 * rows * width;
        let (x, y) = (Turns::new(&gpu, bytes, full)?, Turns::new(&gpu, bytes, full)?);
        let (out, weight) = (gpu.alloc(bytes)?, gpu.filled(0x2c, 4 * width)?);
        let work = move || {
            let kind = NormKind::Rms { weight_offset: 0.0 };
            let norm = Norm { kind, width, eps, weight: &weight, rounded: None };
            add_norm(&gpu, &norm, x.next(), y.next(), &out, rows)
        };
        Ok(Case::new(format!("add and rms of {rows} x {width}"), 4 * bytes, 5 * rows * width, work))
    };
    let rows: &[usize] = if full { &[1, 32, 4096] } else { &[1] };
    rows.iter().copied().map(case).collect()
}

pub(super) fn elementwise(gpu: &Gpu, full: bool) -> Result<Vec<Case>> {
    let (rows, width) = if full { (4096, 14336) } else { (2, 64) };
    let n = rows * width;
    let gated = {
        let gpu = gpu.clone();
        let (gate, up) = (Turns::new(&gpu, 4 * n, full)?, Turns::new(&gpu, 4 * n, full)?);
        let work = move || elementwise::gated(&gpu, Activation::Silu, gate.next(), up.next(), n);
        Case::new(format!("silu of a gate times {rows} x {width}"), 12 * n, 5 * n, work)
    };
    let softmax = {
        let gpu = gpu.clone();
        let x = Turns::new(&gpu, 4 * n, full)?;
        let work = move || elementwise::softmax(&gpu, x.next(), rows, width);
        Case::new(format!("softmax of {rows} x {width}"), 8 * n, 5 * n, work)
    };
    Ok(vec![gated, softmax])
}

pub(super) fn sampling(gpu: &Gpu, full: bool) -> Result<Vec<Case>> {
    let cols = if full { 128_256 } else { 1000 };
    let case = |rows: usize| {
        let gpu = gpu.clone();
        let (logits, tokens) = (Turns::new(&gpu, 4 * rows * cols, full)?, gpu.alloc(4 * rows)?);
        let work = move || sample::argmax(&gpu, logits.next(), &tokens, rows, cols);
        Ok(Case::new(format!("argmax of {rows} x {cols}"), 4 * rows * cols, rows * cols, work))
    };
    let rows: &[usize] = if full { &[1, 32, 128] } else { &[2] };
    rows.iter().copied().map(case).collect()
}
