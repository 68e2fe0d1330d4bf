//! A block of a Transformer: attention and a feed-forward layer, each added to the residual stream.

use tensor::{AttentionSpec, Rope, Tensor};

use crate::Error;
use crate::config::{BlockLayout, DecoderConfig, Norm};
use crate::feed_forward::FeedForward;
use crate::linear::{Linear, Loader, NormLayer};
use crate::ops::Ops;

/// One block.
#[derive(Clone, Debug)]
pub struct Block<W = Tensor> {
    /// Mixes rows of a sequence.
    pub attention: Attention<W>,
    /// Works on each row.
    pub feed_forward: FeedForward<W>,
    /// The norms, and where they stand.
    pub norms: BlockNorms<W>,
}

/// The residual stream between two blocks: `x + update`.
///
/// The sum is left to the norm that reads it first, which makes it on its way.
#[derive(Clone, Debug)]
pub struct Residual<T> {
    /// `[rows, hidden]`.
    pub x: T,
    /// `[rows, hidden]`: what the last layer adds, if that is still to be done.
    pub update: Option<T>,
}

/// The norms of a block.
#[derive(Clone, Debug)]
pub enum BlockNorms<W = Tensor> {
    /// `x += attention(norm(x)); x += feed_forward(norm(x))`.
    Pre {
        /// Before attention.
        attention: NormLayer<W>,
        /// Before the feed-forward layer.
        feed_forward: NormLayer<W>,
    },
    /// `x = norm(x + attention(x)); x = norm(x + feed_forward(x))`.
    Post {
        /// After attention's addition.
        attention: NormLayer<W>,
        /// After the feed-forward layer's addition.
        feed_forward: NormLayer<W>,
    },
    /// `x += norm(attention(norm(x))); x += norm(feed_forward(norm(x)))`.
    Sandwich {
        /// Before attention.
        attention: NormLayer<W>,
        /// After it, before the addition.
        post_attention: NormLayer<W>,
        /// Before the feed-forward layer.
        feed_forward: NormLayer<W>,
        /// After it, before the addition.
        post_feed_forward: NormLayer<W>,
    },
}

/// Multi-head attention with its projections.
#[derive(Clone, Debug)]
pub struct Attention<W = Tensor> {
    /// Which layer's keys and values these are.
    pub layer: usize,
    /// Heads, scale, window, cap.
    pub spec: AttentionSpec,
    /// `[n_heads * head_dim, hidden]`.
    pub query: Linear<W>,
    /// `[n_kv_heads * head_dim, hidden]`.
    pub key: Linear<W>,
    /// `[n_kv_heads * head_dim, hidden]`.
    pub value: Linear<W>,
    /// `[hidden, n_heads * head_dim]`.
    pub output: Linear<W>,
    /// Norms over each head of queries and of keys.
    pub head_norms: Option<[NormLayer<W>; 2]>,
}

impl<W> Block<W> {
    pub(crate) fn load(
        loader: &mut Loader<'_, W>,
        config: &DecoderConfig,
        layer: usize,
    ) -> Result<Self, Error> {
        let spec = AttentionSpec {
            n_heads: config.n_heads,
            n_kv_heads: config.n_kv_heads,
            head_dim: config.head_dim,
            scale: match config.attention_scale_by_layer {
                true => config.attention_scale / (layer + 1) as f32,
                false => config.attention_scale,
            },
            softcap: config.attention_softcap,
            window: config.windows[layer],
        };
        let mut attention = Attention::load(loader, spec, config.hidden_size, layer)?;
        if config.qk_norm {
            let mut head = |side: &str| {
                let name = format!("blk.{layer}.attn_{side}_norm");
                loader.norm(&name, config.head_dim, config.norm)
            };
            attention.head_norms = Some([head("q")?, head("k")?]);
        }
        let mut norm = |stem: &str| {
            loader.norm(&format!("blk.{layer}.{stem}"), config.hidden_size, config.norm)
        };
        let (before, between) = (norm("attn_norm")?, norm("ffn_norm")?);
        let norms = match config.block {
            BlockLayout::PreNorm => BlockNorms::Pre { attention: before, feed_forward: between },
            BlockLayout::PostNorm => BlockNorms::Post { attention: before, feed_forward: between },
            BlockLayout::Sandwich => BlockNorms::Sandwich {
                attention: before,
                post_attention: norm("post_attention_norm")?,
                feed_forward: between,
                post_feed_forward: norm("post_ffw_norm")?,
            },
        };
        Ok(Self { attention, feed_forward: FeedForward::load(loader, config, layer)?, norms })
    }

    /// `[rows, hidden]` to `[rows, hidden]`, or to `[wanted.len(), hidden]`: those rows only, once
    /// all of them are there as keys and values.
    ///
    /// # Errors
    /// Those of `ops`.
    pub fn run<O: Ops<Weight = W>>(
        &self,
        ops: &mut O,
        stream: Residual<O::Tensor>,
        angles: Option<&Rope>,
        wanted: Option<&[usize]>,
    ) -> Result<Residual<O::Tensor>, O::Error> {
        let (x, attended) = match &self.norms {
            BlockNorms::Post { .. } => {
                let x = stream.sum(ops)?;
                let attended = self.attention.run(ops, &x, angles, wanted)?;
                (x, attended)
            }
            BlockNorms::Pre { attention, .. } | BlockNorms::Sandwich { attention, .. } => {
                let (x, normed) = stream.normed(ops, attention)?;
                let attended = self.attention.run(ops, &normed, angles, wanted)?;
                (x, attended)
            }
        };
        let x = match wanted {
            Some(rows) => ops.gather_rows(&x, rows)?,
            None => x,
        };
        match &self.norms {
            BlockNorms::Pre { feed_forward, .. } => {
                let (x, normed) = ops.add_norm(x, &attended, feed_forward)?;
                let y = self.feed_forward.run(ops, &normed)?;
                Ok(Residual { x, update: Some(y) })
            }
            BlockNorms::Post { attention, feed_forward } => {
                let (_, x) = ops.add_norm(x, &attended, attention)?;
                let y = self.feed_forward.run(ops, &x)?;
                let (_, x) = ops.add_norm(x, &y, feed_forward)?;
                Ok(Residual::new(x))
            }
            BlockNorms::Sandwich { post_attention, feed_forward, post_feed_forward, .. } => {
                let attended = ops.norm(post_attention, &attended)?;
                let (x, normed) = ops.add_norm(x, &attended, feed_forward)?;
                let y = self.feed_forward.run(ops, &normed)?;
                let y = ops.norm(post_feed_forward, &y)?;
                Ok(Residual { x, update: Some(y) })
            }
        }
    }
}

impl<T> Residual<T> {
    /// A stream to which nothing is to be added.
    pub fn new(x: T) -> Self {
        Self { x, update: None }
    }

    /// The sum.
    ///
    /// # Errors
    /// Those of `ops`.
    pub fn sum<O: Ops<Tensor = T>>(self, ops: &mut O) -> Result<T, O::Error> {
        match self.update {
            Some(y) => ops.add(self.x, &y),
            None => Ok(self.x),
        }
    }

    /// The sum and its norm.
    ///
    /// # Errors
    /// Those of `ops`.
    pub fn normed<O: Ops<Tensor = T>>(
        self,
        ops: &mut O,
        norm: &NormLayer<O::Weight>,
    ) -> Result<(T, T), O::Error> {
        match self.update {
            Some(y) => ops.add_norm(self.x, &y, norm),
            None => {
                let normed = ops.norm(norm, &self.x)?;
                Ok((self.x, normed))
            }
        }
    }
}

impl<W> Attention<W> {
    pub(crate) fn load(
        loader: &mut Loader<'_, W>,
        spec: AttentionSpec,
        hidden: usize,
        layer: usize,
    ) -> Result<Self, Error> {
        let (queries, keys) = (spec.n_heads * spec.head_dim, spec.n_kv_heads * spec.head_dim);
        let name = |stem: &str| format!("blk.{layer}.{stem}");
        Ok(Self {
            layer,
            query: loader.linear(&name("attn_q"), queries, hidden)?,
            key: loader.linear(&name("attn_k"), keys, hidden)?,
            value: loader.linear(&name("attn_v"), keys, hidden)?,
            output: loader.linear(&name("attn_output"), hidden, queries)?,
            head_norms: None,
            spec,
        })
    }

    /// `[rows, hidden]` to `[rows, hidden]`, or to the rows `wanted` of it.
    fn run<O: Ops<Weight = W>>(
        &self,
        ops: &mut O,
        x: &O::Tensor,
        angles: Option<&Rope>,
        wanted: Option<&[usize]>,
    ) -> Result<O::Tensor, O::Error> {
        let [mut q, mut k, v] = ops.linears([&self.query, &self.key, &self.value], x)?;
        if let Some([query_norm, key_norm]) = &self.head_norms {
            q = ops.norm(query_norm, &q)?;
            k = ops.norm(key_norm, &k)?;
        }
        let mut mixed = ops.rotary_attention(self.layer, &self.spec, [q, k, v], angles)?;
        if let Some(rows) = wanted {
            mixed = ops.gather_rows(&mixed, rows)?;
        }
        ops.linear(&self.output, &mixed)
    }
}

impl<W> BlockNorms<W> {
    /// The norms of a block that has them after each addition, under the names given.
    pub(crate) fn post(
        loader: &mut Loader<'_, W>,
        [attention, feed_forward]: [String; 2],
        hidden: usize,
        norm: Norm,
    ) -> Result<Self, Error> {
        Ok(Self::Post {
            attention: loader.norm(&attention, hidden, norm)?,
            feed_forward: loader.norm(&feed_forward, hidden, norm)?,
        })
    }
}
