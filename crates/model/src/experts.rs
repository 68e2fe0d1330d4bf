//! Routed experts (Mixtral, Jiang et al. 2024, section 2.1; Qwen3-MoE).
//!
//! `y = sum over the k experts with the largest p_e of p_e FFN_e(x)`, where `p = softmax(W_r x)`
//! over all experts, divided by the sum of the chosen ones where the model says so.
//!
//! Each row's experts are summed in ascending order, so that its result does not depend on the
//! rows beside it. Experts are views of the stacked tensors of the file; nothing is copied.

use tensor::Tensor;

use crate::Error;
use crate::config::{DecoderConfig, Experts};
use crate::feed_forward::DenseFeedForward;
use crate::linear::{Linear, Loader};
use crate::ops::{Ops, Routed, TopK};

/// A feed-forward layer of which each row uses a few parts.
#[derive(Clone, Debug)]
pub struct RoutedExperts<W = Tensor> {
    /// `[experts, hidden]`.
    pub router: Linear<W>,
    /// The experts.
    pub experts: Vec<DenseFeedForward<W>>,
    /// How many each row uses.
    pub n_used: usize,
    /// Whether the used weights are divided by their sum.
    pub normalise: bool,
}

impl<W> RoutedExperts<W> {
    pub(crate) fn load(
        loader: &mut Loader<'_, W>,
        config: &DecoderConfig,
        experts: &Experts,
        block: usize,
    ) -> Result<Self, Error> {
        let (n, hidden, width) = (experts.n_experts, config.hidden_size, experts.intermediate_size);
        let router = loader.table(&format!("blk.{block}.ffn_gate_inp.weight"), [n, hidden])?;
        let mut gates = match config.feed_forward.gated {
            true => loader.experts(block, "ffn_gate", [n, width, hidden])?,
            false => Vec::new(),
        }
        .into_iter();
        let ups = loader.experts(block, "ffn_up", [n, width, hidden])?;
        let downs = loader.experts(block, "ffn_down", [n, hidden, width])?;
        let activation = config.feed_forward.activation;
        let one = |(up, down)| DenseFeedForward { gate: gates.next(), up, down, activation };
        Ok(Self {
            router,
            experts: ups.into_iter().zip(downs).map(one).collect(),
            n_used: experts.n_used,
            normalise: experts.normalise,
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
        let scores = ops.linear(&self.router, x)?;
        let scores = ops.softmax(scores)?;
        let TopK { columns, values } = ops.top_k(&scores, self.n_used)?;
        let weights = match self.normalise {
            true => ops.normalise_rows(values)?,
            false => values,
        };
        let mut out = ops.zeros_like(x)?;
        for (expert, routed) in self.experts.iter().zip(by_expert(&columns, self.experts.len())) {
            if routed.is_empty() {
                continue;
            }
            let rows: Vec<usize> = routed.iter().map(|r| r.row).collect();
            let input = ops.gather_rows(x, &rows)?;
            let y = expert.run(ops, &input)?;
            out = ops.scatter_add(out, &y, &weights, &routed)?;
        }
        Ok(out)
    }
}

/// For each expert, the rows that chose it, ascending.
fn by_expert(columns: &[Vec<usize>], experts: usize) -> Vec<Vec<Routed>> {
    let mut all = vec![Vec::new(); experts];
    for (row, chosen) in columns.iter().enumerate() {
        for (rank, &expert) in chosen.iter().enumerate() {
            all[expert].push(Routed { row, rank });
        }
    }
    all
}
