//! The decoder: one body for every architecture of the family, parameterised by its configuration.
//!
//! `x = scale * E[token] (+ P[position])`, then the blocks, a norm, and `logits = cap(x W_out^T)`.
//! What is not here: names of architectures (`arch` turns them into a [`DecoderConfig`]), kernels
//! (an [`Ops`] has them), and the batch's bookkeeping ([`Model`](crate::Model)).

use tensor::{Rope, Tensor};

use crate::block::{Block, Residual};
use crate::config::{DecoderConfig, Position, RotaryConfig};
use crate::linear::{Linear, Loader, NormLayer};
use crate::ops::Ops;
use crate::{Error, WeightSource};

/// A decoder whose parameters are `W`: tensors for inference, whatever an [`Ops`] takes otherwise.
#[derive(Clone, Debug)]
pub struct Decoder<W = Tensor> {
    /// What it is.
    pub config: DecoderConfig,
    /// `[vocab, hidden]`, or `[vocab, embedding_width]`; the output matrix too where they are tied.
    pub token_embedding: Linear<W>,
    /// `[embedding_width]` to `[hidden]` and back, where they differ.
    pub embedding_projections: Option<[Linear<W>; 2]>,
    /// `[context + offset, hidden]`, where positions are learned.
    pub position_embedding: Option<Linear<W>>,
    /// The blocks in order.
    pub blocks: Vec<Block<W>>,
    /// After the last block.
    pub final_norm: Option<NormLayer<W>>,
    /// The output matrix where it is not the token embedding.
    pub output: Option<Linear<W>>,
}

/// The rows that go through a decoder: one entry a row in each slice.
#[derive(Clone, Copy, Debug)]
pub struct DecoderInput<'a> {
    /// Token ids.
    pub tokens: &'a [u32],
    /// How many tokens come before in the sequence.
    pub positions: &'a [u32],
    /// How long the row's sequence is once these rows are in it.
    pub lengths: &'a [usize],
}

/// The angles of a batch for layers that see everything and for windowed ones.
struct Angles {
    global: Option<Rope>,
    local: Option<Rope>,
}

impl Decoder {
    /// Reads the weights that the configuration asks for.
    ///
    /// # Errors
    /// [`Error::InvalidParameter`] for a configuration that makes no sense,
    /// [`Error::MissingTensor`], [`Error::TensorShape`], [`Error::TensorType`], and the source's.
    pub fn load(config: DecoderConfig, source: &dyn WeightSource) -> Result<Self, Error> {
        Self::load_with(config, source, &mut |_, tensor| Ok(tensor))
    }
}

impl<W> Decoder<W> {
    /// As [`Decoder::load`]; `wrap` makes a parameter of each name and tensor (a tied matrix is
    /// seen once).
    ///
    /// # Errors
    /// As [`Decoder::load`], and those of `wrap`.
    pub fn load_with(
        config: DecoderConfig,
        source: &dyn WeightSource,
        wrap: &mut dyn FnMut(&str, Tensor) -> Result<W, Error>,
    ) -> Result<Self, Error> {
        config.validate()?;
        let loader = &mut Loader::new(source, wrap);
        let (vocab, hidden) = (config.vocab_size, config.hidden_size);
        let width = config.embedding_width.unwrap_or(hidden);
        let token_embedding = loader.table("token_embd.weight", [vocab, width])?;
        let embedding_projections = match width == hidden {
            true => None,
            false => Some([
                loader.table("token_embd_proj.weight", [hidden, width])?,
                loader.table("output_proj.weight", [width, hidden])?,
            ]),
        };
        let position_embedding = match config.position {
            Position::Rotary { .. } => None,
            Position::Learned { offset } => {
                let rows = config.context_length + offset;
                Some(loader.table("position_embd.weight", [rows, hidden])?)
            }
        };
        let mut blocks = Vec::new();
        for layer in 0..config.n_layers {
            blocks.push(Block::load(loader, &config, layer)?);
        }
        let final_norm = match config.final_norm {
            true => Some(loader.norm("output_norm", hidden, config.norm)?),
            false => None,
        };
        let output = match config.tied_embeddings {
            true => None,
            false => Some(loader.linear("output", vocab, width)?),
        };
        Ok(Self {
            config,
            token_embedding,
            embedding_projections,
            position_embedding,
            blocks,
            final_norm,
            output,
        })
    }

    /// The hidden states after the last norm, `[rows, hidden]`; of the rows `wanted` only, in this
    /// order, if they are given (the others still leave their keys and values).
    ///
    /// # Errors
    /// Those of `ops`.
    pub fn hidden<O: Ops<Weight = W>>(
        &self,
        ops: &mut O,
        input: DecoderInput<'_>,
        wanted: Option<&[usize]>,
    ) -> Result<O::Tensor, O::Error> {
        let mut x = Residual::new(self.embed(ops, input)?);
        let angles = Angles::new(&self.config.position, input);
        let last = self.blocks.len() - 1;
        for (layer, block) in self.blocks.iter().enumerate() {
            let wanted = wanted.filter(|_| layer == last);
            x = block.run(ops, x, angles.of(block.attention.spec.window.is_some()), wanted)?;
        }
        match &self.final_norm {
            Some(norm) => Ok(x.normed(ops, norm)?.1),
            None => x.sum(ops),
        }
    }

    /// Hidden states `[rows, hidden]` to logits `[rows, vocab]`.
    ///
    /// # Errors
    /// Those of `ops`.
    pub fn logits<O: Ops<Weight = W>>(
        &self,
        ops: &mut O,
        hidden: &O::Tensor,
    ) -> Result<O::Tensor, O::Error> {
        let output = self.output.as_ref().unwrap_or(&self.token_embedding);
        let logits = match &self.embedding_projections {
            Some([_, back]) => {
                let narrow = ops.linear(back, hidden)?;
                ops.linear(output, &narrow)?
            }
            None => ops.linear(output, hidden)?,
        };
        match self.config.logit_softcap {
            Some(cap) => ops.softcap(logits, cap),
            None => Ok(logits),
        }
    }

    fn embed<O: Ops<Weight = W>>(
        &self,
        ops: &mut O,
        input: DecoderInput<'_>,
    ) -> Result<O::Tensor, O::Error> {
        let mut x = ops.embedding(&self.token_embedding.weight, input.tokens)?;
        if self.config.embedding_scale != 1.0 {
            x = ops.scale(x, self.config.embedding_scale)?;
        }
        if let Some([into, _]) = &self.embedding_projections {
            x = ops.linear(into, &x)?;
        }
        if let (Some(table), Position::Learned { offset }) =
            (&self.position_embedding, &self.config.position)
        {
            let rows: Vec<u32> = input.positions.iter().map(|p| p + *offset as u32).collect();
            let positions = ops.embedding(&table.weight, &rows)?;
            x = ops.add(x, &positions)?;
        }
        Ok(x)
    }
}

impl Angles {
    fn new(position: &Position, input: DecoderInput<'_>) -> Self {
        match position {
            Position::Learned { .. } => Self { global: None, local: None },
            Position::Rotary { global, local } => Self {
                global: Some(angles(global, input)),
                local: local.as_ref().map(|local| angles(local, input)),
            },
        }
    }

    fn of(&self, windowed: bool) -> Option<&Rope> {
        self.local.as_ref().filter(|_| windowed).or(self.global.as_ref())
    }
}

fn angles(config: &RotaryConfig, input: DecoderInput<'_>) -> Rope {
    let turn = |f: &[f32]| Rope::new(input.positions, f, config.magnitude, config.layout);
    let mut rope = turn(&config.inv_freq);
    let Some(long) = &config.long else {
        return rope;
    };
    let is_long = |&length: &usize| length > long.original_context;
    if input.lengths.iter().any(is_long) {
        let (other, pairs) = (turn(&long.inv_freq), config.inv_freq.len());
        for (row, _) in input.lengths.iter().enumerate().filter(|(_, n)| is_long(n)) {
            let of_row = row * pairs..(row + 1) * pairs;
            rope.cos[of_row.clone()].copy_from_slice(&other.cos[of_row.clone()]);
            rope.sin[of_row.clone()].copy_from_slice(&other.sin[of_row]);
        }
    }
    rope
}
