//! Tokens drawn from logits on a GPU, where they lie: so a step brings a number a sequence to the host.

use super::shapes;
use crate::{Compute, Device, Error, Result, Tensor};

/// How a row's token is drawn: steps of the crate `sampling`, in its order.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Draw {
    /// The random number, in `0.0..1.0`.
    pub uniform: f64,
    /// Divisor of the logits; 0 takes the largest.
    pub temperature: f32,
    /// Keep so many of the largest; 0 keeps all.
    pub top_k: usize,
    /// Keep the fewest of the largest whose probabilities sum to this; 1 keeps all.
    pub top_p: f32,
    /// Keep those at least this fraction as probable as the most probable; 0 keeps all.
    pub min_p: f32,
}

impl Draw {
    /// The largest, of equals the first.
    pub const GREEDY: Self =
        Self { uniform: 0.0, temperature: 0.0, top_k: 0, top_p: 1.0, min_p: 0.0 };
}

impl Compute {
    /// A token of each row of `logits` `[rows, vocabulary]`. `None` for a row from which none is drawn: one with NaN
    /// or +inf, or of nothing but -inf, or of more logits than a kernel counts.
    ///
    /// # Errors
    /// [`Error::Shapes`] for another number of draws than rows, [`Error::WrongDevice`] for logits elsewhere or a
    /// device that is no GPU: there the crate `sampling` draws.
    pub fn draw(&self, logits: &Tensor, draws: &[Draw]) -> Result<Vec<Option<u32>>> {
        const OP: &str = "draw";
        self.expect_here(OP, &[logits])?;
        if logits.rows() != draws.len() {
            return Err(shapes(OP, "a row of logits a draw", &[logits]));
        }
        on_gpu!(self, |gpu| gpu.draw(logits, draws));
        Err(Error::WrongDevice { op: OP, expected: Device::Cuda(0), got: Device::Cpu })
    }
}
