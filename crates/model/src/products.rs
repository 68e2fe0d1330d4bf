//! The products of a step with weights, for counting what it reads and computes.

use tensor::Tensor;

use crate::Decoder;
use crate::feed_forward::{DenseFeedForward, FeedForward};
use crate::linear::Linear;

/// A product that a step does, for counting what it reads and computes.
#[derive(Clone, Copy, Debug)]
pub struct Product<'a, W = Tensor> {
    /// The layer.
    pub linear: &'a Linear<W>,
    /// The share of rows that go through it: 1, or used experts over all of them.
    pub share: f64,
}

impl<W> Decoder<W> {
    /// Every product of a step with a weight, in order, the output matrix last.
    pub fn products(&self) -> Vec<Product<'_, W>> {
        let always = |linear| Product { linear, share: 1.0 };
        let mut all = Vec::new();
        for block in &self.blocks {
            let a = &block.attention;
            all.extend([&a.query, &a.key, &a.value, &a.output].map(always));
            match &block.feed_forward {
                FeedForward::Dense(d) => all.extend(dense(d).map(always)),
                FeedForward::Routed(r) => {
                    all.push(always(&r.router));
                    let share = r.n_used as f64 / r.experts.len() as f64;
                    let routed = r.experts.iter().flat_map(dense);
                    all.extend(routed.map(|linear| Product { linear, share }));
                }
            }
        }
        all.extend(self.embedding_projections.iter().flatten().map(always));
        all.push(always(self.output.as_ref().unwrap_or(&self.token_embedding)));
        all
    }
}

fn dense<W>(d: &DenseFeedForward<W>) -> impl Iterator<Item = &Linear<W>> {
    d.gate.iter().chain([&d.up, &d.down])
}
