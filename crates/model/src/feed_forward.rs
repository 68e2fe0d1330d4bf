//! The feed-forward layer: two or three products and a non-linearity, dense or by routed experts.
//!
//! Dense: `y = W_down f(W_up x)`, or gated `y = W_down (f(W_gate x) * W_up x)` (Shazeer 2020).

use tensor::{Activation, Tensor};

use crate::Error;
use crate::config::{DecoderConfig, FeedForward as Kind};
use crate::experts::RoutedExperts;
use crate::linear::{Linear, Loader};
use crate::ops::Ops;

/// The feed-forward layer of a block.
#[derive(Clone, Debug)]
pub enum FeedForward<W = Tensor> {
    /// One for all tokens.
    Dense(DenseFeedForward<W>),
    /// Some of many for each token.
    Routed(RoutedExperts<W>),
}

/// A feed-forward layer that all rows go through.
#[derive(Clone, Debug)]
pub struct DenseFeedForward<W = Tensor> {
    /// Multiplies the other projection after the non-linearity, where the layer is gated.
    pub gate: Option<Linear<W>>,
    /// `[intermediate, hidden]`.
    pub up: Linear<W>,
    /// `[hidden, intermediate]`.
    pub down: Linear<W>,
    /// The non-linearity.
    pub activation: Activation,
}

impl<W> FeedForward<W> {
    /// That of block `block`.
    pub(crate) fn load(
        loader: &mut Loader<'_, W>,
        config: &DecoderConfig,
        block: usize,
    ) -> Result<Self, Error> {
        match &config.experts {
            Some(experts) if experts.layers[block] => {
                let routed = RoutedExperts::load(loader, config, experts, block)?;
                Ok(Self::Routed(routed))
            }
            _ => {
                let (hidden, width) = (config.hidden_size, config.intermediate_size);
                let dense =
                    DenseFeedForward::load(loader, config.feed_forward, block, hidden, width)?;
                Ok(Self::Dense(dense))
            }
        }
    }

    /// `[rows, hidden]` to `[rows, hidden]`.
    ///
    /// # Errors
    /// Those of `ops`.
    pub fn run<O: Ops<Weight = W>>(
        &self,
        ops: &mut O,
        x: &O::Tensor,
    ) -> Result<O::Tensor, O::Error> {
        match self {
            Self::Dense(dense) => dense.run(ops, x),
            Self::Routed(routed) => routed.run(ops, x),
        }
    }
}

impl<W> DenseFeedForward<W> {
    pub(crate) fn load(
        loader: &mut Loader<'_, W>,
        kind: Kind,
        block: usize,
        hidden: usize,
        width: usize,
    ) -> Result<Self, Error> {
        let name = |stem: &str| format!("blk.{block}.{stem}");
        let gate = match kind.gated {
            true => Some(loader.linear(&name("ffn_gate"), width, hidden)?),
            false => None,
        };
        Ok(Self {
            gate,
            up: loader.linear(&name("ffn_up"), width, hidden)?,
            down: loader.linear(&name("ffn_down"), hidden, width)?,
            activation: kind.activation,
        })
    }

    /// `[rows, hidden]` to `[rows, hidden]`.
    ///
    /// # Errors
    /// Those of `ops`.
    pub fn run<O: Ops<Weight = W>>(
        &self,
        ops: &mut O,
        x: &O::Tensor,
    ) -> Result<O::Tensor, O::Error> {
        let inner = match &self.gate {
            Some(gate) => {
                let [gate, up] = ops.linears([gate, &self.up], x)?;
                ops.gated(gate, &up, self.activation)?
            }
            None => {
                let up = ops.linear(&self.up, x)?;
                ops.activation(up, self.activation)?
            }
        };
        ops.linear(&self.down, &inner)
    }
}
