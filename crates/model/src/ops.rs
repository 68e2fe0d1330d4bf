//! The operations that a model's body is written in.
//!
//! [`Decoder`](crate::Decoder) and [`Encoder`](crate::Encoder) say once, over this trait, what a
//! model computes. [`Eager`](crate::Eager) computes it at once with the kernels of `tensor`; an
//! implementation with a tape differentiates it; one that counts or records shows what it costs.
//!
//! Activations are matrices `[rows, features]`, a row a token. Arguments taken by value may be
//! overwritten by an implementation that can; none has to. Steps that kernels fuse are provided
//! methods made of the others, so that an implementation overrides them where it gains.

use tensor::{Activation, AttentionSpec, Rope};

use crate::linear::{Linear, NormLayer};

/// What [`Ops::top_k`] chose.
#[derive(Clone, Debug)]
pub struct TopK<T> {
    /// For each row, the columns of its largest elements, largest first.
    pub columns: Vec<Vec<usize>>,
    /// `[rows, k]`: the elements themselves.
    pub values: T,
}

/// One row's place in what an expert computes: the batch's row, and the rank of the expert there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Routed {
    /// Row of the batch.
    pub row: usize,
    /// Column of [`TopK::values`] that weighs the expert in this row.
    pub rank: usize,
}

/// The operations of a Transformer.
pub trait Ops {
    /// Activations `[rows, features]`.
    type Tensor: Clone;
    /// A parameter of the model: a matrix `[out, in]`, a table `[n, features]`, or a vector.
    type Weight;
    /// What can go wrong.
    type Error;

    /// Rows `ids` of a table: `[ids.len(), features]`.
    ///
    /// # Errors
    /// The implementation's own, as for every other method.
    fn embedding(&mut self, table: &Self::Weight, ids: &[u32])
    -> Result<Self::Tensor, Self::Error>;

    /// `x W^T + b`.
    fn linear(
        &mut self,
        layer: &Linear<Self::Weight>,
        x: &Self::Tensor,
    ) -> Result<Self::Tensor, Self::Error>;

    /// RMSNorm or LayerNorm over rows, or over each head where the weight is as long as a head.
    fn norm(
        &mut self,
        norm: &NormLayer<Self::Weight>,
        x: &Self::Tensor,
    ) -> Result<Self::Tensor, Self::Error>;

    /// Turns each head of `[rows, heads * head_dim]` by the angles of its row.
    fn rotary(
        &mut self,
        x: Self::Tensor,
        head_dim: usize,
        angles: &Rope,
    ) -> Result<Self::Tensor, Self::Error>;

    /// Attention of layer `layer`: what the rows see (earlier keys and values of their sequence,
    /// the other way round in encoders too) is the implementation's; the keys and values given
    /// belong to these rows and are seen by them and by later ones.
    /// `q` `[rows, n_heads * head_dim]`, `k` and `v` `[rows, n_kv_heads * head_dim]`.
    fn attention(
        &mut self,
        layer: usize,
        spec: &AttentionSpec,
        q: Self::Tensor,
        k: Self::Tensor,
        v: Self::Tensor,
    ) -> Result<Self::Tensor, Self::Error>;

    /// `f(x)` of each element.
    fn activation(&mut self, x: Self::Tensor, f: Activation) -> Result<Self::Tensor, Self::Error>;

    /// `x + y`.
    fn add(&mut self, x: Self::Tensor, y: &Self::Tensor) -> Result<Self::Tensor, Self::Error>;

    /// `x * y`, element by element.
    fn mul(&mut self, x: Self::Tensor, y: &Self::Tensor) -> Result<Self::Tensor, Self::Error>;

    /// `factor * x`.
    fn scale(&mut self, x: Self::Tensor, factor: f32) -> Result<Self::Tensor, Self::Error>;

    /// `cap * tanh(x / cap)`.
    fn softcap(&mut self, x: Self::Tensor, cap: f32) -> Result<Self::Tensor, Self::Error>;

    /// Softmax of each row.
    fn softmax(&mut self, x: Self::Tensor) -> Result<Self::Tensor, Self::Error>;

    /// The `k` largest elements of each row; of equal ones the lower column.
    fn top_k(&mut self, x: &Self::Tensor, k: usize) -> Result<TopK<Self::Tensor>, Self::Error>;

    /// Each row divided by its sum.
    fn normalise_rows(&mut self, x: Self::Tensor) -> Result<Self::Tensor, Self::Error>;

    /// Rows `rows` of `x`: `[rows.len(), features]`.
    fn gather_rows(
        &mut self,
        x: &Self::Tensor,
        rows: &[usize],
    ) -> Result<Self::Tensor, Self::Error>;

    /// `acc[r.row] += weights[r.row, r.rank] * y[i]` for each row `i` of `y`, where `r = to[i]`.
    fn scatter_add(
        &mut self,
        acc: Self::Tensor,
        y: &Self::Tensor,
        weights: &Self::Tensor,
        to: &[Routed],
    ) -> Result<Self::Tensor, Self::Error>;

    /// Zeros of the shape of `x`.
    fn zeros_like(&mut self, x: &Self::Tensor) -> Result<Self::Tensor, Self::Error>;

    /// Several products with the same input (queries, keys and values; gate and up).
    fn linears<const N: usize>(
        &mut self,
        layers: [&Linear<Self::Weight>; N],
        x: &Self::Tensor,
    ) -> Result<[Self::Tensor; N], Self::Error> {
        let mut out = Vec::with_capacity(N);
        for layer in layers {
            out.push(self.linear(layer, x)?);
        }
        Ok(out.try_into().unwrap_or_else(|_| unreachable!("one for each of the N layers")))
    }

    /// [`attention`](Self::attention) of queries and keys that are turned first
    /// ([`rotary`](Self::rotary)), where there are angles.
    fn rotary_attention(
        &mut self,
        layer: usize,
        spec: &AttentionSpec,
        [mut q, mut k, v]: [Self::Tensor; 3],
        angles: Option<&Rope>,
    ) -> Result<Self::Tensor, Self::Error> {
        if let Some(angles) = angles {
            q = self.rotary(q, spec.head_dim, angles)?;
            k = self.rotary(k, spec.head_dim, angles)?;
        }
        self.attention(layer, spec, q, k, v)
    }

    /// A gated linear unit (Shazeer 2020): `f(gate) * up`.
    fn gated(
        &mut self,
        gate: Self::Tensor,
        up: &Self::Tensor,
        f: Activation,
    ) -> Result<Self::Tensor, Self::Error> {
        let gate = self.activation(gate, f)?;
        self.mul(gate, up)
    }

    /// `x + y`, and its norm.
    fn add_norm(
        &mut self,
        x: Self::Tensor,
        y: &Self::Tensor,
        norm: &NormLayer<Self::Weight>,
    ) -> Result<(Self::Tensor, Self::Tensor), Self::Error> {
        let sum = self.add(x, y)?;
        let normed = self.norm(norm, &sum)?;
        Ok((sum, normed))
    }
}
