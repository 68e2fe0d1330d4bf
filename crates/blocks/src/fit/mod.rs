//! Scales that minimise a weighted squared error: the searches of llama.cpp's encoders
//! (`make_qx_quants`, `make_q3_quants`, `make_qkx2/3_quants`, `make_qp_quants` in ggml-quants.c).
//!
//! Given integers q, the scale that minimises `sum w (x - s q)^2` is `s = sum w x q / sum w q^2`,
//! and with an offset m the pair (s, m) solves a 2 x 2 system. Each search tries several
//! roundings to integers and keeps the best.
//!
//! A search runs over [`LANES`](crate::lanes::LANES) groups side by side and gives of each group
//! its scale and the rounding that won, from which the caller makes the integers where it needs
//! them.

mod positive;
mod signed;
mod steps;
mod with_min;

pub(crate) use positive::fit_positive;
pub(crate) use signed::{fit_signed, fit_signed_one};
pub(crate) use steps::fit_signed_by_steps;
pub(crate) use with_min::{Search, fit_with_min};

use crate::round::ROUND;

/// Groups whose largest magnitude is below this are taken as zero.
pub(crate) const TINY: f32 = 1e-15;

#[inline(always)]
fn clamp(v: f32, low: f32, high: f32) -> f32 {
    let v = if v > low { v } else { low };
    if v < high { v } else { high }
}

/// The low byte of an integer from 0 to 255.
#[inline(always)]
fn byte(v: f32) -> u8 {
    (v + ROUND).to_bits() as u8
}
