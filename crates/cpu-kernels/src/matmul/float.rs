//! f32 products: f32, f16 and bf16 weights widened, block types and f64 decoded, along
//! [`rows`](super::rows): sixteen chains of fused multiply-adds, for k = 0, 16, ... to 15, 31, ...

use super::rows::{Dot, Elements, F32, Family, RowProduct, Step, Steps};
use super::{DisjointMut, Job, Piece, bf16};
use crate::KernelError;
use crate::simd::{LANES, Op, Simd, dispatch};
use blocks::DType;
use bytemuck::Zeroable;
use std::marker::PhantomData;

/// `Ok` if weights of this type can be multiplied.
pub(crate) fn check_dtype(dtype: DType) -> Result<(), KernelError> {
    if dtype.is_float() || dtype.is_quantized() {
        Ok(())
    } else {
        Err(KernelError::UnsupportedDType { what: "weights", dtype })
    }
}

/// Types that are read as they lie.
fn is_plain(dtype: DType) -> bool {
    matches!(dtype, DType::F32 | DType::F16 | DType::BF16)
}

/// What activations are cut into: those of f32 products, or of `rounded` ones, whose activations and
/// weights are taken as bf16.
pub(super) fn steps(job: &Job<'_>, rounded: bool) -> Steps {
    let elements = if rounded { Elements::RoundedF32 } else { Elements::F32 };
    Steps::new(job, elements, is_plain(job.dtype))
}

/// A piece of the product in f32, with activations cut into [`steps`].
pub(super) fn run(
    job: &Job<'_>,
    x: &[Step],
    rounded: bool,
    piece: Piece,
    out: &DisjointMut<'_, f32>,
) {
    let product = &RowProduct { job, steps: steps(job, rounded), x, out };
    dispatch(job.isa, FloatPiece { product, rounded, piece });
}

struct FloatPiece<'a> {
    product: &'a RowProduct<'a>,
    rounded: bool,
    piece: Piece,
}

impl Op for FloatPiece<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let FloatPiece { product, rounded, piece } = self;
        match product.job.dtype {
            DType::F32 => product.piece::<S, Widened<F32>>(s, &piece),
            DType::F16 if rounded => product.piece::<S, Widened<RoundedF16>>(s, &piece),
            DType::F16 => product.piece::<S, Widened<F16>>(s, &piece),
            DType::BF16 => product.piece::<S, Widened<Bf16>>(s, &piece),
            _ => product.piece::<S, Decoded>(s, &piece),
        }
    }
}

/// Sixteen f16.
struct F16;

impl<S: Simd> Dot<S> for F16 {
    type Bytes = [u8; 32];
    #[inline(always)]
    fn load(s: S, from: &[u8; 32]) -> S::F {
        s.widen_f16(from)
    }
    #[inline(always)]
    fn step(s: S, acc: S::F, w: S::F, x: S::F) -> S::F {
        s.fma(w, x, acc)
    }
}

/// Sixteen f16, rounded to bf16.
struct RoundedF16;

impl<S: Simd> Dot<S> for RoundedF16 {
    type Bytes = [u8; 32];
    #[inline(always)]
    fn load(s: S, from: &[u8; 32]) -> S::F {
        let mut wide = [0.0; LANES];
        s.store_f(s.widen_f16(from), &mut wide);
        s.load_f(&wide.map(bf16::rounded))
    }
    #[inline(always)]
    fn step(s: S, acc: S::F, w: S::F, x: S::F) -> S::F {
        s.fma(w, x, acc)
    }
}

/// Sixteen bf16.
struct Bf16;

impl<S: Simd> Dot<S> for Bf16 {
    type Bytes = [u8; 32];
    #[inline(always)]
    fn load(s: S, from: &[u8; 32]) -> S::F {
        s.widen_bf16(from)
    }
    #[inline(always)]
    fn step(s: S, acc: S::F, w: S::F, x: S::F) -> S::F {
        s.fma(w, x, acc)
    }
}

/// A plain type.
struct Widened<D>(PhantomData<D>);

impl<S: Simd, D: Dot<S>> Family<S> for Widened<D> {
    type Stored = D;
    const K: usize = LANES;

    #[inline(always)]
    fn unpack(
        s: S,
        job: &Job<'_>,
        row: usize,
        (k0, k): (usize, usize),
        pad: &mut Vec<u8>,
        to: &mut [Step],
    ) {
        let size = size_of::<D::Bytes>() / LANES;
        let bytes = job.source.row(row, k0 * size, k * size, pad);
        let whole = k / LANES;
        let (steps, rest) = bytes.split_at(whole * size_of::<D::Bytes>());
        for (from, to) in bytemuck::cast_slice(steps).iter().zip(&mut *to) {
            s.store_f(D::load(s, from), &mut to.0);
        }
        if !rest.is_empty() {
            let mut last = D::Bytes::zeroed();
            bytemuck::bytes_of_mut(&mut last)[..rest.len()].copy_from_slice(rest);
            s.store_f(D::load(s, &last), &mut to[whole].0);
        }
    }
}

/// Any other type.
struct Decoded;

impl<S: Simd> Family<S> for Decoded {
    type Stored = F32;
    const K: usize = LANES;

    #[inline(always)]
    fn unpack(
        _: S,
        job: &Job<'_>,
        row: usize,
        (k0, k): (usize, usize),
        pad: &mut Vec<u8>,
        to: &mut [Step],
    ) {
        let (len, size) = (job.dtype.block_len(), job.dtype.block_bytes());
        let bytes = job.source.row(row, k0 / len * size, k / len * size, pad);
        let to: &mut [f32] = bytemuck::cast_slice_mut(to);
        decode(job.dtype, bytes, &mut to[..k]);
        to[k..].fill(0.0);
    }
}

/// Decodes whole blocks whose lengths have been checked.
pub(crate) fn decode(dtype: DType, bytes: &[u8], out: &mut [f32]) {
    crate::codec::decode(dtype, bytes, out).expect("lengths have been checked");
}
