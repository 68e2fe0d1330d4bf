//! Activation functions, in place over slices, and the gated product of feed-forward layers.
//!
//! SiLU `x / (1 + e^-x)`; GELU `x Phi(x)`, exactly with the error function, by the tanh formula
//! (Hendrycks and Gimpel 2016), or as `x / (1 + e^(-1.702 x))`.

use crate::matmul::DisjointMut;
use crate::simd::{LANES, Op, Simd, dispatch, math};
use crate::{Isa, ThreadPool};

/// A function of one number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Activation {
    /// `x / (1 + e^-x)`
    Silu,
    /// `x (1 + erf(x / sqrt 2)) / 2`
    GeluErf,
    /// `x (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3))) / 2`
    GeluTanh,
    /// `x / (1 + e^(-1.702 x))`
    GeluQuick,
    /// `max(x, 0)`
    Relu,
    /// `max(x, 0)^2`
    ReluSquared,
}

fn apply_here(isa: Isa, act: Activation, x: &mut [f32]) {
    dispatch(isa, Apply { act, x, up: None });
}

/// Elements that a chunk of the pool's work has.
const CHUNK: usize = 8192;

/// `act` of each element, on all threads.
pub fn apply(pool: &ThreadPool, isa: Isa, act: Activation, x: &mut [f32]) {
    let len = x.len();
    let x = DisjointMut::new(x);
    pool.run(len.div_ceil(CHUNK), |i| {
        // SAFETY: chunks are disjoint.
        apply_here(isa, act, unsafe { x.slice_mut(i * CHUNK..len.min((i + 1) * CHUNK)) });
    });
}

/// `gate = act(gate) * up`, element by element, on all threads.
///
/// # Panics
/// If lengths do not agree.
pub fn gated(pool: &ThreadPool, isa: Isa, act: Activation, gate: &mut [f32], up: &[f32]) {
    assert_eq!(gate.len(), up.len(), "as many gates as values");
    let gate = DisjointMut::new(gate);
    pool.run(up.len().div_ceil(CHUNK), |i| {
        let range = i * CHUNK..up.len().min((i + 1) * CHUNK);
        // SAFETY: chunks are disjoint.
        let x = unsafe { gate.slice_mut(range.clone()) };
        dispatch(isa, Apply { act, x, up: Some(&up[range]) });
    });
}

struct Apply<'a> {
    act: Activation,
    x: &'a mut [f32],
    up: Option<&'a [f32]>,
}

impl Op for Apply<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Apply { act, x, up } = self;
        let (chunks, rest) = x.as_chunks_mut::<LANES>();
        let (ups, up_rest) = up.unwrap_or_default().as_chunks::<LANES>();
        for (i, chunk) in chunks.iter_mut().enumerate() {
            let v = evaluate(s, act, s.load_f(chunk));
            let v = if up.is_some() { s.mul(v, s.load_f(&ups[i])) } else { v };
            s.store_f(v, chunk);
        }
        if rest.is_empty() {
            return;
        }
        let (mut last, mut last_up) = ([0.0; LANES], [1.0; LANES]);
        last[..rest.len()].copy_from_slice(rest);
        last_up[..up_rest.len()].copy_from_slice(up_rest);
        let v = s.mul(evaluate(s, act, s.load_f(&last)), s.load_f(&last_up));
        s.store_f(v, &mut last);
        rest.copy_from_slice(&last[..rest.len()]);
    }
}

#[inline(always)]
fn evaluate<S: Simd>(s: S, act: Activation, x: S::F) -> S::F {
    let one = s.splat_f(1.0);
    match act {
        Activation::Silu => s.div(x, s.add(one, math::exp(s, s.sub(s.splat_f(0.0), x)))),
        Activation::GeluQuick => s.div(x, s.add(one, math::exp(s, s.mul(s.splat_f(-1.702), x)))),
        Activation::GeluTanh => {
            // (1 + tanh u) / 2 = 1 / (1 + e^-2u), without the cancellation of the left side.
            let c = s.splat_f(-2.0 * 0.797_884_6);
            let x2 = s.mul(x, x);
            let u = s.mul(s.mul(c, x), s.fma(s.splat_f(0.044_715), x2, one));
            s.div(x, s.add(one, math::exp(s, u)))
        }
        Activation::Relu => s.max(s.splat_f(0.0), x),
        Activation::ReluSquared => {
            let r = s.max(s.splat_f(0.0), x);
            s.mul(r, r)
        }
        Activation::GeluErf => {
            let mut v = [0.0; LANES];
            s.store_f(x, &mut v);
            for x in &mut v {
                // x Phi(x) = x erfc(-x / sqrt 2) / 2: no cancellation for negative x.
                *x *= 0.5 * libm::erfcf(-*x * std::f32::consts::FRAC_1_SQRT_2);
            }
            s.load_f(&v)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn exact(act: Activation, x: f64) -> f64 {
        match act {
            Activation::Silu => x / (1.0 + (-x).exp()),
            Activation::GeluQuick => x / (1.0 + (-1.702 * x).exp()),
            Activation::GeluErf => x * 0.5 * libm::erfc(-x / 2f64.sqrt()),
            Activation::GeluTanh => {
                let u = (2.0 / std::f64::consts::PI).sqrt() * (x + 0.044715 * x.powi(3));
                x * 0.5 * (1.0 + u.tanh())
            }
            Activation::Relu => x.max(0.0),
            Activation::ReluSquared => x.max(0.0).powi(2),
        }
    }

    #[test]
    fn agree_with_f64_on_every_path() {
        use Activation::*;
        for isa in Isa::supported() {
            for act in [Silu, GeluErf, GeluTanh, GeluQuick, Relu, ReluSquared] {
                let x: Vec<f32> = (0..2001).map(|i| (i as f32 - 1000.0) * 0.0173).collect();
                let mut y = x.clone();
                apply_here(isa, act, &mut y);
                for (&x, &y) in x.iter().zip(&y) {
                    let want = exact(act, f64::from(x));
                    let error = (f64::from(y) - want).abs();
                    assert!(error < 2e-6 * want.abs() + 1e-9, "{isa} {act:?}({x}) = {y}, {want}");
                }
            }
        }
    }

    #[test]
    fn gated_multiplies() {
        let pool = ThreadPool::new(2);
        let gate: Vec<f32> = (0..20_000).map(|i| (i as f32 * 0.01).sin() * 4.0).collect();
        let up: Vec<f32> = (0..20_000).map(|i| (i as f32 * 0.02).cos()).collect();
        for isa in Isa::supported() {
            let mut want = gate.clone();
            apply_here(isa, Activation::Silu, &mut want);
            let mut threaded = gate.clone();
            apply(&pool, isa, Activation::Silu, &mut threaded);
            assert_eq!(threaded, want, "{isa}");
            let mut out = gate.clone();
            gated(&pool, isa, Activation::Silu, &mut out, &up);
            assert!((0..out.len()).all(|i| out[i] == want[i] * up[i]), "{isa}");
        }
    }

    #[test]
    fn not_a_number_stays() {
        for isa in Isa::supported() {
            for act in [Activation::Silu, Activation::GeluErf, Activation::Relu] {
                let mut x = [f32::NAN; 3];
                apply_here(isa, act, &mut x);
                assert!(x.iter().all(|v| v.is_nan()), "{isa} {act:?}");
            }
        }
    }
}
