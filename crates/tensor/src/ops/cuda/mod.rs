//! The operations on a GPU: tensors that were checked, to kernels of `cuda_kernels`.
//!
//! Activations are `f32`, as on the processor. What a step needs of the host (ids, slots, angles) is uploaded
//! once for all layers that ask for the same.

mod attention;
pub(crate) mod steps;

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

use blocks::DType;
use cuda_kernels::ops::norm::{Norm, NormKind};
use cuda_kernels::ops::rope::{Heads, KvSlots, Rotation};
use cuda_kernels::ops::{
    dequantize, elementwise, gemm, gemv, norm, quantize, rope, rows, sampling,
};
use cuda_kernels::{Buffer, Gpu};

use super::linear::try_map;
use super::{Activation, Draw, Rope};
use crate::kv::{KvCache, KvError, KvLayout, KvPages, Span};
use crate::{Device, Error, Result, RopeLayout, Shape, Tensor};

/// Bytes of the host, and the same on the device.
type Upload = (Vec<u8>, Buffer);

/// A GPU with what was uploaded last.
#[derive(Clone, Debug)]
pub(crate) struct GpuState {
    gpu: Gpu,
    uploads: Arc<Mutex<VecDeque<Upload>>>,
    rows: Arc<Mutex<Option<attention::KnownRows>>>,
    /// In a capture: all that it takes from the host.
    bound: Option<Arc<steps::Bound>>,
}

/// What lists of the host are for.
const IDS: &str = "ids";
const ROWS: &str = "rows";
const WEIGHTS: &str = "weights";
const COSINES: &str = "cosines";
const SINES: &str = "sines";
const SLOTS: &str = "slots";

/// Uploads that are remembered: of a step some five, twice as many where layers differ.
const REMEMBERED: usize = 12;

/// Whether kernels make elements of this type.
pub(crate) fn can_encode(dtype: DType) -> bool {
    quantize::can_quantize(dtype) || dequantize::can_dequantize(DType::F32, dtype)
}

/// A tensor on a GPU as another type of `len` bytes.
pub(crate) fn to_dtype(x: &Tensor, dtype: DType, len: usize) -> Result<Tensor> {
    if !can_encode(dtype) {
        return Err(blocks::BlockError::NoEncoder { dtype }.into());
    }
    let (buffer, elements) = (x.buffer()?, x.shape().elements().unwrap_or(0));
    let gpu = buffer.gpu();
    let converted = |to: DType, len: usize| {
        let out = gpu.alloc(len)?;
        dequantize::dequantize(&gpu, elements, (&buffer, x.dtype()), (&out, to))?;
        Ok::<_, Error>(out)
    };
    let out = if quantize::can_quantize(dtype) {
        let numbers = match x.dtype() {
            DType::F32 => buffer.clone(),
            _ => converted(DType::F32, 4 * elements)?,
        };
        let out = gpu.alloc(len)?;
        quantize::quantize(&gpu, elements, &numbers, (&out, dtype))?;
        out
    } else {
        converted(dtype, len)?
    };
    Tensor::on_gpu_as(dtype, x.shape().clone(), out)
}

impl GpuState {
    pub(crate) fn open(ordinal: usize) -> Result<Self> {
        Ok(Self {
            gpu: crate::device::cuda::gpu(ordinal)?,
            uploads: Arc::default(),
            rows: Arc::default(),
            bound: None,
        })
    }

    /// Begins to record where the device's time goes, unless that goes on already.
    pub(crate) fn profile(&self) {
        if !self.gpu.is_profiled() {
            self.gpu.start_profile();
        }
    }

    /// Elements on the device; the same ones are uploaded once.
    fn upload<T: bytemuck::NoUninit>(&self, what: &'static str, elements: &[T]) -> Result<Buffer> {
        let bytes: &[u8] = bytemuck::cast_slice(elements);
        if let Some(bound) = &self.bound {
            return bound.list(what, bytes).ok_or_else(|| self.not_bound(what));
        }
        let mut uploads = self.uploads.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, buffer)) = uploads.iter().find(|(known, _)| known == bytes) {
            return Ok(buffer.clone());
        }
        let buffer = self.gpu.upload(elements)?;
        if uploads.len() == REMEMBERED {
            uploads.pop_back();
        }
        uploads.push_front((bytes.to_vec(), buffer.clone()));
        Ok(buffer)
    }

    /// That a step takes something of the host that its inputs lack.
    fn not_bound(&self, what: &'static str) -> Error {
        let (ordinal, what) = (self.gpu.properties().ordinal, format!("{what} of the host"));
        cuda_kernels::Error::Capture { ordinal, what }.into()
    }

    /// The type of a weight on the device: its own, or f16 where no kernel takes that.
    pub(crate) fn placed_type(dtype: DType) -> DType {
        let taken = rows::can_embed(dtype) && dequantize::can_dequantize(dtype, DType::F16);
        if taken { dtype } else { DType::F16 }
    }

    /// A weight on the device.
    pub(crate) fn place(&self, weight: &Tensor) -> Result<Tensor> {
        let device = Device::Cuda(self.gpu.properties().ordinal);
        match Self::placed_type(weight.dtype()) {
            same if same == weight.dtype() => weight.to_device(&device),
            other => weight.to_dtype(other)?.to_device(&device),
        }
    }

    /// `len` bytes, those of a pattern over and over.
    pub(crate) fn repeated(
        &self,
        dtype: DType,
        shape: Shape,
        pattern: &[u8],
        len: usize,
    ) -> Result<Tensor> {
        let all = self.gpu.alloc(len)?;
        let mut done = pattern.len().min(len);
        all.write(&pattern[..done])?;
        while done < len {
            let more = done.min(len - done);
            all.slice(done..done + more).copy_from(&all.slice(0..more))?;
            done += more;
        }
        Tensor::on_gpu_as(dtype, shape, all)
    }

    /// An `f32` matrix of any content.
    pub(crate) fn unwritten(&self, shape: [usize; 2]) -> Result<Tensor> {
        Tensor::on_gpu(shape, self.gpu.alloc(4 * shape[0] * shape[1])?)
    }

    pub(crate) fn zeros(&self, shape: Shape) -> Result<Tensor> {
        let bytes = 4 * shape.elements().unwrap_or(0);
        Tensor::on_gpu(shape, self.gpu.filled(0, bytes)?)
    }

    /// The same elements in memory that may be written: its own if nobody else holds it.
    fn owned(&self, x: Tensor) -> Result<Tensor> {
        expect_f32("an operation in place", &x)?;
        match x.is_unique_on_gpu() {
            true => Ok(x.without_rounded()),
            false => self.copied(&x),
        }
    }

    /// The same elements in memory of their own.
    fn copied(&self, x: &Tensor) -> Result<Tensor> {
        let source = x.buffer()?;
        let copy = self.gpu.alloc(source.len())?;
        copy.copy_from(&source)?;
        Tensor::on_gpu(x.shape(), copy)
    }

    /// An operation in place over `n` elements.
    fn in_place(
        &self,
        x: Tensor,
        kernel: impl FnOnce(&Gpu, &Buffer, usize) -> cuda_kernels::Result<()>,
    ) -> Result<Tensor> {
        let x = self.owned(x)?;
        kernel(&self.gpu, &x.buffer()?, x.shape().elements().unwrap_or(0))?;
        Ok(x)
    }

    pub(crate) fn add(&self, x: Tensor, y: &Tensor) -> Result<Tensor> {
        let (rows, cols, whole) = (x.rows(), x.cols(), x.shape() == y.shape());
        let y = y.buffer()?;
        self.in_place(x, |gpu, x, n| match whole {
            true => elementwise::add(gpu, x, &y, n),
            false => elementwise::add_row(gpu, x, &y, rows, cols),
        })
    }

    pub(crate) fn mul(&self, x: Tensor, y: &Tensor) -> Result<Tensor> {
        let y = y.buffer()?;
        self.in_place(x, |gpu, x, n| elementwise::mul(gpu, x, &y, n))
    }

    pub(crate) fn scale(&self, x: Tensor, factor: f32) -> Result<Tensor> {
        match factor {
            1.0 => Ok(x),
            _ => self.in_place(x, |gpu, x, n| elementwise::scale(gpu, x, n, factor)),
        }
    }

    pub(crate) fn softcap(&self, x: Tensor, cap: f32) -> Result<Tensor> {
        self.in_place(x, |gpu, x, n| elementwise::softcap(gpu, x, n, cap))
    }

    pub(crate) fn activation(&self, x: Tensor, f: Activation) -> Result<Tensor> {
        let f = kernel_of(f)?;
        self.in_place(x, |gpu, x, n| elementwise::activation(gpu, f, x, n))
    }

    pub(crate) fn gated(&self, gate: Tensor, up: &Tensor, f: Activation) -> Result<Tensor> {
        let (f, up) = (kernel_of(f)?, up.buffer()?);
        let Some(to) = self.room_for_rounded(gate.rows(), gate.cols())? else {
            return self.in_place(gate, |gpu, gate, n| elementwise::gated(gpu, f, gate, &up, n));
        };
        let product = self.in_place(gate, |gpu, gate, n| {
            elementwise::gated_rounded(gpu, f, gate, &up, int8(&to), n)
        })?;
        Ok(product.with_rounded(to))
    }

    pub(crate) fn softmax(&self, x: Tensor) -> Result<Tensor> {
        let (rows, cols) = (x.rows(), x.cols());
        self.in_place(x, |gpu, x, _| elementwise::softmax(gpu, x, rows, cols))
    }

    pub(crate) fn normalise_rows(&self, x: Tensor) -> Result<Tensor> {
        let (rows, cols) = (x.rows(), x.cols());
        self.in_place(x, |gpu, x, _| elementwise::normalise_rows(gpu, x, rows, cols))
    }

    pub(crate) fn rms_norm(
        &self,
        x: &Tensor,
        weight: &Tensor,
        eps: f32,
        offset: f32,
    ) -> Result<Tensor> {
        self.normed(x, NormKind::Rms { weight_offset: offset }, weight, eps)
    }

    pub(crate) fn layer_norm(
        &self,
        x: &Tensor,
        weight: &Tensor,
        bias: Option<&Tensor>,
        eps: f32,
    ) -> Result<Tensor> {
        let bias = bias.map(Tensor::buffer).transpose()?;
        self.normed(x, NormKind::Layer { bias: bias.as_ref() }, weight, eps)
    }

    fn normed(&self, x: &Tensor, kind: NormKind<'_>, weight: &Tensor, eps: f32) -> Result<Tensor> {
        expect_f32("norm", x)?;
        let out = self.unwritten([x.rows(), x.cols()])?;
        let width = weight.shape().elements().unwrap_or(0).max(1);
        let rows = x.shape().elements().unwrap_or(0) / width;
        let (to, weight) = (self.room_for_rounded_norm(x, width)?, weight.buffer()?);
        let rounded = to.as_ref().map(int8);
        let parameters = Norm { kind, width, eps, weight: &weight, rounded };
        norm::norm(&self.gpu, &parameters, &x.buffer()?, &out.buffer()?, rows)?;
        Ok(with_rounded(out.reshape(x.shape())?, to))
    }

    pub(crate) fn add_rms_norm(
        &self,
        x: Tensor,
        y: &Tensor,
        weight: &Tensor,
        eps: f32,
        offset: f32,
    ) -> Result<(Tensor, Tensor)> {
        self.added_and_normed(x, y, NormKind::Rms { weight_offset: offset }, weight, eps)
    }

    pub(crate) fn add_layer_norm(
        &self,
        x: Tensor,
        y: &Tensor,
        weight: &Tensor,
        bias: Option<&Tensor>,
        eps: f32,
    ) -> Result<(Tensor, Tensor)> {
        let bias = bias.map(Tensor::buffer).transpose()?;
        self.added_and_normed(x, y, NormKind::Layer { bias: bias.as_ref() }, weight, eps)
    }

    fn added_and_normed(
        &self,
        x: Tensor,
        y: &Tensor,
        kind: NormKind<'_>,
        weight: &Tensor,
        eps: f32,
    ) -> Result<(Tensor, Tensor)> {
        if x.shape() != y.shape() {
            return Err(super::shapes("add_norm", "equal shapes", &[&x, y]));
        }
        let x = self.owned(x)?;
        let out = self.unwritten([x.rows(), x.cols()])?;
        let width = weight.shape().elements().unwrap_or(0).max(1);
        let rows = x.shape().elements().unwrap_or(0) / width;
        let (rounded, weight) = (self.room_for_rounded_norm(&x, width)?, weight.buffer()?);
        let to = rounded.as_ref().map(int8);
        let parameters = Norm { kind, width, eps, weight: &weight, rounded: to };
        let (to, y) = (out.buffer()?, y.buffer()?);
        norm::add_norm(&self.gpu, &parameters, &x.buffer()?, &y, &to, rows)?;
        let out = out.reshape(x.shape())?;
        Ok((x, with_rounded(out, rounded)))
    }

    /// Products of one `x`, which is rounded once for all weights in blocks; of few rows those with weights of the
    /// same type by one launch.
    pub(crate) fn linears<const N: usize>(
        &self,
        x: &Tensor,
        weights: [(&Tensor, Option<&Tensor>); N],
    ) -> Result<[Tensor; N]> {
        expect_f32("linear", x)?;
        let (m, k, from) = (x.rows(), x.cols(), x.buffer()?);
        let out = try_map(weights, |(weight, _)| self.unwritten([m, weight.rows()]))?;
        let mut operands = Vec::with_capacity(N);
        for ((weight, bias), out) in weights.iter().zip(&out) {
            let bias = bias.map(Tensor::buffer).transpose()?;
            operands.push((weight.dtype(), weight.buffer()?, bias, out.buffer()?, weight.rows()));
        }
        let mut few: Vec<(DType, Vec<gemv::Product<'_>>)> = Vec::new();
        for (dtype, w, bias, y, n) in &operands {
            let (dtype, n, bias) = (*dtype, *n, bias.as_ref());
            if !few_rows(m, dtype) {
                gemm::linear(&self.gpu, dtype, &gemm::Product { x: &from, w, bias, y, m, n, k })?;
                continue;
            }
            let product = gemv::Product { weight: gemv::Weight { dtype, bytes: w, bias }, n, y };
            match few.iter_mut().find(|(known, _)| *known == dtype) {
                Some((_, products)) => products.push(product),
                None => few.push((dtype, vec![product])),
            }
        }
        let rounded = match x.rounded() {
            None if few.iter().any(|(dtype, _)| dtype.is_quantized()) => {
                Some(self.rounded(&from, m * k)?)
            }
            known => known.cloned(),
        };
        for (dtype, products) in &few {
            match rounded.as_ref().filter(|_| dtype.is_quantized()) {
                Some(x) => gemv::linears_int8(&self.gpu, int8(x), products, [m, k])?,
                None => gemv::linears_float(&self.gpu, &from, products, [m, k])?,
            }
        }
        Ok(out)
    }

    /// `x` as int8 with a scale for each 32 elements.
    fn rounded(&self, x: &Buffer, elements: usize) -> Result<[Buffer; 2]> {
        let to = self.room_for_bytes(elements)?;
        quantize::quantize_activations(&self.gpu, elements, x, int8(&to))?;
        Ok(to)
    }

    /// Where so many elements can be as int8, with their scales.
    fn room_for_bytes(&self, elements: usize) -> Result<[Buffer; 2]> {
        let scales = elements.div_ceil(quantize::GROUP) * quantize::GROUP_SCALE_BYTES;
        Ok([self.gpu.alloc(elements)?, self.gpu.alloc(scales)?])
    }

    /// That for what a product of few rows may meet next, which is rounded on the way then: where the weights are no
    /// blocks it is not needed, and costs less than a launch.
    fn room_for_rounded(&self, rows: usize, cols: usize) -> Result<Option<[Buffer; 2]>> {
        match (1..=gemv::MOST_ROWS).contains(&rows) && cols.is_multiple_of(quantize::GROUP) {
            true => self.room_for_bytes(rows * cols).map(Some),
            false => Ok(None),
        }
    }

    /// The same for a norm of whole rows.
    fn room_for_rounded_norm(&self, x: &Tensor, width: usize) -> Result<Option<[Buffer; 2]>> {
        match width == x.cols() && norm::can_round(width) {
            true => self.room_for_rounded(x.rows(), width),
            false => Ok(None),
        }
    }

    pub(crate) fn embedding(&self, table: &Tensor, ids: &[u32]) -> Result<Tensor> {
        let out = self.unwritten([ids.len(), table.cols()])?;
        let list = self.upload(IDS, &ints("embedding", ids.iter().map(|&id| id as usize))?)?;
        let (from, to) = (table.buffer()?, out.buffer()?);
        let from = rows::Table { bytes: &from, rows: table.rows(), cols: table.cols() };
        rows::embed(&self.gpu, table.dtype(), &from, &list, ids.len(), &to)?;
        Ok(out)
    }

    pub(crate) fn gather_rows(&self, x: &Tensor, indices: &[usize]) -> Result<Tensor> {
        expect_f32("gather_rows", x)?;
        let out = self.unwritten([indices.len(), x.cols()])?;
        let list = self.upload(ROWS, &ints("gather_rows", indices.iter().copied())?)?;
        let (from, to) = (x.buffer()?, out.buffer()?);
        rows::gather_rows(&self.gpu, &from, x.rows(), x.cols(), &list, indices.len(), &to)?;
        Ok(out)
    }

    pub(crate) fn draw(&self, logits: &Tensor, draws: &[Draw]) -> Result<Vec<Option<u32>>> {
        expect_f32("draw", logits)?;
        if draws.is_empty() || logits.cols() > sampling::MOST_COLS {
            return Ok(vec![None; draws.len()]);
        }
        let params = |draw: &Draw| sampling::SampleParams {
            uniform: draw.uniform,
            temperature: draw.temperature,
            top_k: i32::try_from(draw.top_k).unwrap_or(i32::MAX),
            top_p: draw.top_p,
            min_p: draw.min_p,
        };
        let params: Vec<_> = draws.iter().map(params).collect();
        let (params, tokens) = (self.gpu.upload(&params)?, self.gpu.alloc(4 * draws.len())?);
        let (rows, cols) = (logits.rows(), logits.cols());
        sampling::sample(&self.gpu, &logits.buffer()?, &params, &tokens, rows, cols)?;
        let tokens: Vec<i32> = tokens.download()?;
        Ok(tokens.into_iter().map(|token| u32::try_from(token).ok()).collect())
    }

    pub(crate) fn scatter_add_rows(
        &self,
        acc: Tensor,
        indices: &[usize],
        weights: &[f32],
        y: &Tensor,
    ) -> Result<Tensor> {
        let list = self.upload(ROWS, &ints("scatter_add_rows", indices.iter().copied())?)?;
        let (weights, y) = (self.upload(WEIGHTS, weights)?, y.buffer()?);
        let (n, cols) = (acc.rows(), acc.cols());
        self.in_place(acc, |gpu, acc, _| {
            rows::scatter_add_rows(gpu, acc, n, cols, [&list, &weights], indices.len(), &y)
        })
    }

    pub(crate) fn slice_cols(&self, x: &Tensor, columns: std::ops::Range<usize>) -> Result<Tensor> {
        expect_f32("slice_cols", x)?;
        let out = self.unwritten([x.rows(), columns.len()])?;
        let (from, to) = (x.buffer()?, out.buffer()?);
        rows::slice_cols(&self.gpu, &from, x.rows(), x.cols(), columns, &to)?;
        Ok(out)
    }

    /// Calls `run` with the angles on the device.
    fn with_rotation<T>(
        &self,
        angles: Option<&Rope>,
        run: impl FnOnce(Option<&Rotation<'_>>) -> Result<T>,
    ) -> Result<T> {
        let Some(Rope { rotary_dim, layout, cos, sin }) = angles else { return run(None) };
        let (cos, sin) = (self.upload(COSINES, cos)?, self.upload(SINES, sin)?);
        let layout = match layout {
            RopeLayout::Interleaved => rope::RopeLayout::Interleaved,
            RopeLayout::Half => rope::RopeLayout::Half,
        };
        run(Some(&Rotation { rotary_dim: *rotary_dim, layout, cos: &cos, sin: &sin }))
    }

    pub(crate) fn rope(&self, x: Tensor, head_dim: usize, angles: &Rope) -> Result<Tensor> {
        let (rows, heads) = (x.rows(), x.cols() / head_dim.max(1));
        let x = self.owned(x)?;
        self.with_rotation(Some(angles), |rotation| {
            if let Some(rotation) = rotation {
                rope::rope(&self.gpu, &x.buffer()?, rows, heads, head_dim, rotation)?;
            }
            Ok(())
        })?;
        Ok(x)
    }

    pub(crate) fn turn_and_store(
        &self,
        [q, k, v]: [Tensor; 3],
        angles: Option<&Rope>,
        cache: &dyn KvCache,
        layer: usize,
        spans: &[Span],
    ) -> Result<Tensor> {
        let KvLayout { head_dim, n_kv_heads, dtype, .. } = *cache.layout();
        let (pages, [keys, values]) = self.pages(cache, layer)?;
        let slots = slots(cache, pages.page_slots, spans, q.rows())?;
        let (q, k, v) = (self.owned(q)?, self.owned(k)?, v.buffer()?);
        let heads = Heads { n_heads: q.cols() / head_dim, n_kv_heads, head_dim };
        let slots = self.upload(SLOTS, &slots)?;
        self.with_rotation(angles, |rotation| {
            let (q, k) = (q.buffer()?, k.buffer()?);
            let cache = KvSlots { dtype, keys, values };
            let rows = slots.len() / 4;
            rope::turn_and_store(&self.gpu, rows, heads, rotation, [&q, &k, &v], cache, &slots)?;
            Ok(())
        })?;
        Ok(q)
    }

    /// A cache's storage of a layer, which must be on this GPU.
    pub(crate) fn pages<'a>(
        &self,
        cache: &'a dyn KvCache,
        layer: usize,
    ) -> Result<(KvPages<'a>, &'a [Buffer; 2])> {
        let expected = Device::Cuda(self.gpu.properties().ordinal);
        let wrong = |got| Error::WrongDevice { op: "attention", expected, got };
        let pages = cache.pages().ok_or(wrong(Device::Cpu))?;
        let got = pages.storage.device();
        let sides = pages.storage.buffers(layer).filter(|_| got == expected);
        Ok((pages, sides.ok_or(wrong(got))?))
    }
}

/// Numbers as kernels take them.
fn ints(op: &'static str, list: impl Iterator<Item = usize>) -> Result<Vec<i32>> {
    list.map(|i| {
        i32::try_from(i).map_err(|_| Error::Index { op, index: i, len: i32::MAX as usize })
    })
    .collect()
}

/// Where the keys and values of each row go.
fn slots(cache: &dyn KvCache, page_slots: usize, spans: &[Span], rows: usize) -> Result<Vec<i32>> {
    let (mut table, mut slots) = (Vec::new(), vec![0; rows]);
    for Span { rows, seq, slot } in spans {
        table.clear();
        cache.page_table(*seq, &mut table)?;
        for (row, slot) in rows.clone().zip(*slot..) {
            let none = KvError::NoSuchSlot { seq: *seq, slot, len: cache.len(*seq) };
            slots[row] = physical(&table, page_slots, slot).ok_or(none)?;
        }
    }
    Ok(slots)
}

/// Where a sequence's slot lies.
fn physical(table: &[i32], page_slots: usize, slot: usize) -> Option<i32> {
    let page = *table.get(slot / page_slots)?;
    page.checked_mul(page_slots as i32)?.checked_add((slot % page_slots) as i32)
}

fn int8([q, scales]: &[Buffer; 2]) -> quantize::Int8<'_> {
    quantize::Int8 { q, scales }
}

fn with_rounded(x: Tensor, rounded: Option<[Buffer; 2]>) -> Tensor {
    match rounded {
        Some(rounded) => x.with_rounded(rounded),
        None => x,
    }
}

/// Whether so many rows meet a weight of this type by matrix-vector products.
fn few_rows(m: usize, dtype: DType) -> bool {
    m <= gemv::MOST_ROWS && gemv::supported(dtype)
}

fn expect_f32(op: &'static str, x: &Tensor) -> Result<()> {
    match x.dtype() {
        DType::F32 => Ok(()),
        got => Err(Error::UnexpectedDType { op, expected: DType::F32, got }),
    }
}

fn kernel_of(f: Activation) -> Result<elementwise::Activation> {
    Ok(match f {
        Activation::Silu => elementwise::Activation::Silu,
        Activation::GeluErf => elementwise::Activation::GeluErf,
        Activation::GeluTanh => elementwise::Activation::GeluTanh,
        Activation::GeluQuick => elementwise::Activation::GeluQuick,
        Activation::Relu => elementwise::Activation::Relu,
        Activation::ReluSquared => elementwise::Activation::ReluSquared,
        other => {
            let reason = format!("there is no kernel for {other:?}");
            return Err(cuda_kernels::Error::Unsupported { op: "activation", reason }.into());
        }
    })
}
