//! What is bound by bytes.

use blocks::DType;
use cuda_kernels::ops::dequantize::{AbsMax, BLOCK_4BIT, Code4, Packed4, PackedMatrix};
use cuda_kernels::ops::elementwise::{self, Activation};
use cuda_kernels::ops::norm::{Norm, NormKind, add_norm};
use cuda_kernels::ops::sampling::SampleParams;
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

pub(super) fn dequantize_packed(gpu: &Gpu, full: bool) -> Result<Vec<Case>> {
    let (n, k) = if full { (14336, 4096) } else { (64, 256) };
    let (elements, groups) = (n * k, k / 128);
    let to = |bytes: usize| bytes + 2 * elements;
    let mut cases = Vec::new();
    let gptq = Packed4::Gptq { version2: false, groups: None };
    for (name, format) in [("GPTQ", gptq), ("AWQ", Packed4::Awq)] {
        let gpu = gpu.clone();
        let (words, out) = (Turns::new(&gpu, elements / 2, full)?, gpu.alloc(2 * elements)?);
        let zeros = gpu.filled(0x2c, groups * n / 2)?;
        let scales = gpu.filled(0x2c, 2 * groups * n)?;
        let bytes = to(elements / 2 + zeros.len() + scales.len());
        cases.push(Case::new(format!("{name} to F16 of {n} x {k}"), bytes, elements, move || {
            let (words, zeros, scales) = (words.next(), &zeros, &scales);
            let matrix = PackedMatrix { format, k, n, group_size: 128, words, zeros, scales };
            from_blocks::dequantize_packed(&gpu, &matrix, (&out, DType::F16))
        }));
    }
    let gpu = gpu.clone();
    let (codes, out) = (Turns::new(&gpu, elements / 2, full)?, gpu.alloc(2 * elements)?);
    let absmax = gpu.filled(0x2c, 4 * elements / BLOCK_4BIT)?;
    let bytes = to(elements / 2 + absmax.len());
    cases.push(Case::new(format!("NF4 to F16 of {n} x {k}"), bytes, elements, move || {
        let (codes, scales) = (codes.next(), AbsMax::Plain(&absmax));
        from_blocks::dequantize_4bit(&gpu, Code4::Nf4, elements, codes, scales, (&out, DType::F16))
    }));
    Ok(cases)
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
    let case = |(name, layer, rows): (&str, bool, usize)| {
        let gpu = gpu.clone();
        let bytes = 4 * rows * width;
        let (x, y) = (Turns::new(&gpu, bytes, full)?, Turns::new(&gpu, bytes, full)?);
        let (out, weight) = (gpu.alloc(bytes)?, gpu.filled(0x2c, 4 * width)?);
        let work = move || {
            let kind = match layer {
                true => NormKind::Layer { bias: Some(&weight) },
                false => NormKind::Rms { weight_offset: 0.0 },
            };
            let norm = Norm { kind, width, eps, weight: &weight, rounded: None };
            add_norm(&gpu, &norm, x.next(), y.next(), &out, rows)
        };
        let name = format!("add and {name} of {rows} x {width}");
        Ok(Case::new(name, 4 * bytes, 5 * rows * width, work))
    };
    let rows: &[usize] = if full { &[1, 32, 4096] } else { &[1] };
    let kinds = [("rms", false), ("layer", true)];
    let all = kinds.iter().flat_map(|&(name, layer)| rows.iter().map(move |&m| (name, layer, m)));
    all.map(case).collect()
}

pub(super) fn elementwise(gpu: &Gpu, full: bool) -> Result<Vec<Case>> {
    let (rows, width) = if full { (4096, 14336) } else { (2, 64) };
    let n = rows * width;
    let gated = |(name, f): (&str, Activation)| {
        let gpu = gpu.clone();
        let (gate, up) = (Turns::new(&gpu, 4 * n, full)?, Turns::new(&gpu, 4 * n, full)?);
        let work = move || elementwise::gated(&gpu, f, gate.next(), up.next(), n);
        Ok(Case::new(format!("{name} of a gate times {rows} x {width}"), 12 * n, 5 * n, work))
    };
    let gelu = {
        let gpu = gpu.clone();
        let x = Turns::new(&gpu, 4 * n, full)?;
        let work = move || elementwise::activation(&gpu, Activation::GeluErf, x.next(), n);
        Case::new(format!("gelu of {rows} x {width}"), 8 * n, 5 * n, work)
    };
    let softmax = {
        let gpu = gpu.clone();
        let x = Turns::new(&gpu, 4 * n, full)?;
        let work = move || elementwise::softmax(&gpu, x.next(), rows, width);
        Case::new(format!("softmax of {rows} x {width}"), 8 * n, 5 * n, work)
    };
    let gates = [("silu", Activation::Silu), ("gelu", Activation::GeluTanh)];
    let mut cases = gates.into_iter().map(gated).collect::<Result<Vec<_>>>()?;
    cases.extend([gelu, softmax]);
    Ok(cases)
}

pub(super) fn sampling(gpu: &Gpu, full: bool) -> Result<Vec<Case>> {
    let cols = if full { 128_256 } else { 1000 };
    let case = |rows: usize| {
        let gpu = gpu.clone();
        let (logits, tokens) = (Turns::new(&gpu, 4 * rows * cols, full)?, gpu.alloc(4 * rows)?);
        let work = move || sample::argmax(&gpu, logits.next(), &tokens, rows, cols);
        Ok(Case::new(format!("argmax of {rows} x {cols}"), 4 * rows * cols, rows * cols, work))
    };
    let drawn = |rows: usize| {
        let gpu = gpu.clone();
        let (logits, tokens) = (Turns::new(&gpu, 4 * rows * cols, full)?, gpu.alloc(4 * rows)?);
        let (uniform, temperature) = (0.5, 0.8);
        let params = SampleParams { uniform, temperature, top_k: 40, top_p: 0.95, min_p: 0.05 };
        let params = gpu.upload(&vec![params; rows])?;
        let work = move || sample::sample(&gpu, logits.next(), &params, &tokens, rows, cols);
        let name = format!("top-k, top-p and min-p of {rows} x {cols}");
        Ok(Case::new(name, 4 * rows * cols, rows * cols, work))
    };
    let rows: &[usize] = if full { &[1, 32, 128] } else { &[2] };
    let rows = || rows.iter().copied();
    rows().map(case).chain(rows().map(drawn)).collect()
}
