//! The encoder of the BERT family (Devlin et al. 2018): text in, a vector a token out.
//!
//! `x = norm(E[token] + T[type] + P[position])`, then blocks whose attention sees the whole text
//! and whose norms stand after each addition. It shares blocks and [`Ops`] with the decoder; there
//! is no cache.

use tensor::{AttentionSpec, Tensor};

use crate::block::{Attention, Block, BlockNorms, Residual};
use crate::config::{EncoderConfig, FeedForward as Kind, Norm, NormKind};
use crate::feed_forward::{DenseFeedForward, FeedForward};
use crate::linear::{Linear, Loader, NormLayer};
use crate::ops::Ops;
use crate::{Error, WeightSource};

/// An encoder whose parameters are `W`.
#[derive(Clone, Debug)]
pub struct Encoder<W = Tensor> {
    /// What it is.
    pub config: EncoderConfig,
    /// `[vocab, hidden]`.
    pub token_embedding: Linear<W>,
    /// `[types, hidden]`.
    pub type_embedding: Linear<W>,
    /// `[context, hidden]`.
    pub position_embedding: Linear<W>,
    /// After their sum.
    pub embedding_norm: NormLayer<W>,
    /// The blocks in order.
    pub blocks: Vec<Block<W>>,
}

/// The rows that go through an encoder: one entry a row in each slice, texts behind each other.
#[derive(Clone, Copy, Debug)]
pub struct EncoderInput<'a> {
    /// Token ids.
    pub tokens: &'a [u32],
    /// How many tokens come before in the text.
    pub positions: &'a [u32],
    /// Token types (0 for the first of a pair of texts and for single texts, 1 for the second).
    pub types: &'a [u32],
}

impl Encoder {
    /// Reads the weights that the configuration asks for.
    ///
    /// # Errors
    /// As [`Decoder::load`](crate::Decoder::load).
    pub fn load(config: EncoderConfig, source: &dyn WeightSource) -> Result<Self, Error> {
        Self::load_with(config, source, &mut |_, tensor| Ok(tensor))
    }
}

impl<W> Encoder<W> {
    /// As [`Encoder::load`]; `wrap` makes a parameter of each name and tensor.
    ///
    /// # Errors
    /// As [`Encoder::load`], and those of `wrap`.
    pub fn load_with(
        config: EncoderConfig,
        source: &dyn WeightSource,
        wrap: &mut dyn FnMut(&str, Tensor) -> Result<W, Error>,
    ) -> Result<Self, Error> {
        config.validate()?;
        let loader = &mut Loader::new(source, wrap);
        let hidden = config.hidden_size;
        let norm = Norm { kind: NormKind::Layer, eps: config.norm_eps, offset: 0.0 };
        let token_embedding = loader.table("token_embd.weight", [config.vocab_size, hidden])?;
        let type_embedding =
            loader.table("token_types.weight", [config.type_vocab_size, hidden])?;
        let position_embedding =
            loader.table("position_embd.weight", [config.context_length, hidden])?;
        let embedding_norm = loader.norm("token_embd_norm", hidden, norm)?;
        let mut blocks = Vec::new();
        for layer in 0..config.n_layers {
            blocks.push(block(loader, &config, norm, layer)?);
        }
        Ok(Self {
            config,
            token_embedding,
            type_embedding,
            position_embedding,
            embedding_norm,
            blocks,
        })
    }

    /// The last hidden state of each row: `[rows, hidden]`.
    ///
    /// # Errors
    /// Those of `ops`.
    pub fn hidden<O: Ops<Weight = W>>(
        &self,
        ops: &mut O,
        input: EncoderInput<'_>,
    ) -> Result<O::Tensor, O::Error> {
        let tokens = ops.embedding(&self.token_embedding.weight, input.tokens)?;
        let types = ops.embedding(&self.type_embedding.weight, input.types)?;
        let positions = ops.embedding(&self.position_embedding.weight, input.positions)?;
        let sum = ops.add(tokens, &types)?;
        let (_, x) = ops.add_norm(sum, &positions, &self.embedding_norm)?;
        let mut x = Residual::new(x);
        for block in &self.blocks {
            x = block.run(ops, x, None, None)?;
        }
        x.sum(ops)
    }
}

fn block<W>(
    loader: &mut Loader<'_, W>,
    config: &EncoderConfig,
    norm: Norm,
    layer: usize,
) -> Result<Block<W>, Error> {
    let (hidden, head_dim) = (config.hidden_size, config.hidden_size / config.n_heads);
    let spec = AttentionSpec {
        n_heads: config.n_heads,
        n_kv_heads: config.n_heads,
        head_dim,
        scale: (head_dim as f32).sqrt().recip(),
        softcap: None,
        window: None,
    };
    let kind = Kind { activation: config.activation, gated: false };
    let names = ["attn_output_norm", "layer_output_norm"].map(|n| format!("blk.{layer}.{n}"));
    let dense = DenseFeedForward::load(loader, kind, layer, hidden, config.intermediate_size)?;
    Ok(Block {
        attention: Attention::load(loader, spec, hidden, layer)?,
        feed_forward: FeedForward::Dense(dense),
        norms: BlockNorms::post(loader, names, hidden, norm)?,
    })
}
