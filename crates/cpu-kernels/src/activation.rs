//! Activations.
use crate::ThreadPool;

/// A non-linearity.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
#[allow(missing_docs)]
pub enum Activation {
    Silu,
    GeluErf,
    GeluTanh,
    GeluQuick,
    Relu,
}

fn f(a: Activation, x: f32) -> f32 {
    match a {
        Activation::Silu => x / (1.0 + (-x).exp()),
        Activation::GeluErf => 0.5 * x * (1.0 + libm::erff(x * std::f32::consts::FRAC_1_SQRT_2)),
        Activation::GeluTanh => 0.5 * x * (1.0 + (0.797_884_6 * (x + 0.044715 * x * x * x)).tanh()),
        Activation::GeluQuick => x / (1.0 + (-1.702 * x).exp()),
        Activation::Relu => x.max(0.0),
    }
}

/// Each element in place.
pub fn apply(_pool: &ThreadPool, a: Activation, x: &mut [f32]) {
    x.iter_mut().for_each(|v| *v = f(a, *v));
}

/// `gate = f(gate) * up`.
pub fn gated(_pool: &ThreadPool, a: Activation, gate: &mut [f32], up: &[f32]) {
    gate.iter_mut().zip(up).for_each(|(g, u)| *g = f(a, *g) * u);
}
