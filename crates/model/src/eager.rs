//! [`Ops`] computed at once, with the kernels of `tensor`.

use tensor::kv::KvCache;
use tensor::profile::Work;
use tensor::{Activation, AttentionRow, AttentionSpec, Compute, Device, Rope, Tensor};

use crate::Error;
use crate::batch::{Plan, Span, Tap};
use crate::config::NormKind;
use crate::linear::{Linear, NormLayer};
use crate::ops::{Ops, Routed, TopK};

/// Computes each operation when it is called.
pub struct Eager<'a> {
    compute: &'a Compute,
    memory: Memory<'a>,
    tap: Option<&'a mut dyn Tap>,
}

/// What rows see besides themselves.
enum Memory<'a> {
    /// Earlier positions of their sequence in a cache that has slots for them.
    Causal { cache: &'a mut dyn KvCache, plan: &'a Plan },
    /// All rows of their own sequence; these are the sequences' lengths.
    Bidirectional { lengths: &'a [usize] },
}

impl<'a> Eager<'a> {
    /// For the rows of a plan whose slots are reserved in `cache`.
    pub fn causal(
        compute: &'a Compute,
        cache: &'a mut dyn KvCache,
        plan: &'a Plan,
        tap: Option<&'a mut dyn Tap>,
    ) -> Self {
        Self { compute, memory: Memory::Causal { cache, plan }, tap }
    }

    /// For rows of sequences of these lengths, behind each other, without a cache.
    pub fn bidirectional(
        compute: &'a Compute,
        lengths: &'a [usize],
        tap: Option<&'a mut dyn Tap>,
    ) -> Self {
        Self { compute, memory: Memory::Bidirectional { lengths }, tap }
    }

    /// Lets the tap see the input of a layer.
    fn show(&mut self, layer: &Linear, x: &Tensor) -> Result<(), Error> {
        if let Some(tap) = &mut self.tap {
            tap.linear_input(&layer.name, &x.to_device(&Device::Cpu)?);
        }
        Ok(())
    }
}

impl Ops for Eager<'_> {
    type Tensor = Tensor;
    type Weight = Tensor;
    type Error = Error;

    fn embedding(&mut self, table: &Tensor, ids: &[u32]) -> Result<Tensor, Error> {
        Ok(self.compute.embedding(table, ids)?)
    }

    fn linear(&mut self, layer: &Linear, x: &Tensor) -> Result<Tensor, Error> {
        self.show(layer, x)?;
        Ok(self.compute.linear(x, &layer.weight, layer.bias.as_ref())?)
    }

    fn norm(&mut self, layer: &NormLayer, x: &Tensor) -> Result<Tensor, Error> {
        let (norm, weight) = (&layer.norm, &layer.weight);
        Ok(match norm.kind {
            NormKind::Rms => self.compute.rms_norm(x, weight, norm.eps, norm.offset)?,
            NormKind::Layer => self.compute.layer_norm(x, weight, layer.bias.as_ref(), norm.eps)?,
        })
    }

    fn rotary(&mut self, x: Tensor, head_dim: usize, angles: &Rope) -> Result<Tensor, Error> {
        Ok(self.compute.rope(x, head_dim, angles)?)
    }

    fn attention(
        &mut self,
        layer: usize,
        spec: &AttentionSpec,
        q: Tensor,
        k: Tensor,
        v: Tensor,
    ) -> Result<Tensor, Error> {
        self.rotary_attention(layer, spec, [q, k, v], None)
    }

    fn activation(&mut self, x: Tensor, f: Activation) -> Result<Tensor, Error> {
        Ok(self.compute.activation(x, f)?)
    }

    fn add(&mut self, x: Tensor, y: &Tensor) -> Result<Tensor, Error> {
        Ok(self.compute.add(x, y)?)
    }

    fn mul(&mut self, x: Tensor, y: &Tensor) -> Result<Tensor, Error> {
        Ok(self.compute.mul(x, y)?)
    }

    fn scale(&mut self, x: Tensor, factor: f32) -> Result<Tensor, Error> {
        Ok(self.compute.scale(x, factor)?)
    }

    fn softcap(&mut self, x: Tensor, cap: f32) -> Result<Tensor, Error> {
        Ok(self.compute.softcap(x, cap)?)
    }

    fn softmax(&mut self, x: Tensor) -> Result<Tensor, Error> {
        Ok(self.compute.softmax(x)?)
    }

    fn top_k(&mut self, x: &Tensor, k: usize) -> Result<TopK<Tensor>, Error> {
        let ranked = self.compute.top_k(x, k)?;
        let values = ranked.iter().flatten().map(|&(_, value)| value).collect();
        let columns = |row: &Vec<(usize, f32)>| row.iter().map(|&(column, _)| column).collect();
        Ok(TopK {
            columns: ranked.iter().map(columns).collect(),
            values: Tensor::from_vec([ranked.len(), k], values)?
                .to_device(&self.compute.device())?,
        })
    }

    fn normalise_rows(&mut self, x: Tensor) -> Result<Tensor, Error> {
        Ok(self.compute.normalise_rows(x)?)
    }

    fn gather_rows(&mut self, x: &Tensor, rows: &[usize]) -> Result<Tensor, Error> {
        Ok(self.compute.gather_rows(x, rows)?)
    }

    fn scatter_add(
        &mut self,
        acc: Tensor,
        y: &Tensor,
        weights: &Tensor,
        to: &[Routed],
    ) -> Result<Tensor, Error> {
        let weights = weights.to_device(&Device::Cpu)?;
        let (all, k) = (weights.as_f32()?, weights.cols());
        let rows: Vec<usize> = to.iter().map(|r| r.row).collect();
        let weights: Vec<f32> = to.iter().map(|r| all[r.row * k + r.rank]).collect();
        Ok(self.compute.scatter_add_rows(acc, &rows, &weights, y)?)
    }

    fn zeros_like(&mut self, x: &Tensor) -> Result<Tensor, Error> {
        Ok(self.compute.zeros(x.shape())?)
    }

    fn rotary_attention(
        &mut self,
        layer: usize,
        spec: &AttentionSpec,
        [mut q, mut k, v]: [Tensor; 3],
        angles: Option<&Rope>,
    ) -> Result<Tensor, Error> {
        match &mut self.memory {
            Memory::Causal { cache, plan } => {
                let Plan { spans, seen, .. } = plan;
                let q = self.compute.turn_and_store([q, k, v], angles, *cache, layer, spans)?;
                let _scope = self.compute.profile().scope("attention", "", || {
                    // Rows that follow each other read the same keys and values.
                    let last = |s: &Span| seen[s.rows.end - 1].visible();
                    let read: usize = spans.iter().map(last).sum();
                    let pairs: usize = seen.iter().map(AttentionRow::visible).sum();
                    let position = cache.layout().bytes_per_token() / cache.layout().layers;
                    Work {
                        bytes: read * position,
                        operations: 4 * pairs * spec.n_heads * spec.head_dim,
                    }
                });
                Ok(self.compute.attention(&q, spec, &**cache, layer, seen)?)
            }
            Memory::Bidirectional { lengths } => {
                if let Some(angles) = angles {
                    q = self.compute.rope(q, spec.head_dim, angles)?;
                    k = self.compute.rope(k, spec.head_dim, angles)?;
                }
                Ok(self.compute.attention_bidirectional(&q, &k, &v, spec, lengths)?)
            }
        }
    }

    fn gated(&mut self, gate: Tensor, up: &Tensor, f: Activation) -> Result<Tensor, Error> {
        Ok(self.compute.gated(gate, up, f)?)
    }

    fn linears<const N: usize>(
        &mut self,
        layers: [&Linear; N],
        x: &Tensor,
    ) -> Result<[Tensor; N], Error> {
        for layer in layers {
            self.show(layer, x)?;
        }
        Ok(self.compute.linears(x, layers.map(|l| (&l.weight, l.bias.as_ref())))?)
    }

    fn add_norm(
        &mut self,
        x: Tensor,
        y: &Tensor,
        layer: &NormLayer,
    ) -> Result<(Tensor, Tensor), Error> {
        let (norm, weight, bias) = (&layer.norm, &layer.weight, layer.bias.as_ref());
        Ok(match norm.kind {
            NormKind::Rms => self.compute.add_rms_norm(x, y, weight, norm.eps, norm.offset)?,
            NormKind::Layer => self.compute.add_layer_norm(x, y, weight, bias, norm.eps)?,
        })
    }
}
