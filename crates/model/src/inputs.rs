//! [`Ops`] that compute nothing: they note what a step takes from the host.

use tensor::kv::KvCache;
use tensor::{Activation, AttentionSpec, Rope, StepInputs, Tensor};

use crate::batch::Plan;
use crate::linear::{Linear, NormLayer};
use crate::ops::{Ops, Routed, TopK};

/// Notes the lists of a step for [`Compute::step`](tensor::Compute::step), in microseconds: tensors are nothing.
pub(crate) struct Inputs<'a> {
    pub(crate) to: StepInputs,
    pub(crate) cache: &'a dyn KvCache,
    pub(crate) plan: &'a Plan,
}

/// A step that is not captured: the host chooses in the midst of it, or something is wrong with its lists, which
/// computing it tells.
#[derive(Debug)]
pub(crate) struct NotCaptured;

impl From<tensor::Error> for NotCaptured {
    fn from(_: tensor::Error) -> Self {
        Self
    }
}

type Noted = Result<(), NotCaptured>;

impl Ops for Inputs<'_> {
    type Tensor = ();
    type Weight = Tensor;
    type Error = NotCaptured;

    fn embedding(&mut self, _: &Tensor, ids: &[u32]) -> Noted {
        Ok(self.to.embedding(ids)?)
    }

    fn linear(&mut self, _: &Linear, (): &()) -> Noted {
        Ok(())
    }

    fn norm(&mut self, _: &NormLayer, (): &()) -> Noted {
        Ok(())
    }

    fn rotary(&mut self, (): (), _: usize, _: &Rope) -> Noted {
        Err(NotCaptured) // of encoders, which are not captured
    }

    fn attention(&mut self, layer: usize, spec: &AttentionSpec, q: (), k: (), v: ()) -> Noted {
        self.rotary_attention(layer, spec, [q, k, v], None)
    }

    fn activation(&mut self, (): (), _: Activation) -> Noted {
        Ok(())
    }

    fn add(&mut self, (): (), (): &()) -> Noted {
        Ok(())
    }

    fn mul(&mut self, (): (), (): &()) -> Noted {
        Ok(())
    }

    fn scale(&mut self, (): (), _: f32) -> Noted {
        Ok(())
    }

    fn softcap(&mut self, (): (), _: f32) -> Noted {
        Ok(())
    }

    fn softmax(&mut self, (): ()) -> Noted {
        Ok(())
    }

    fn top_k(&mut self, (): &(), _: usize) -> Result<TopK<()>, NotCaptured> {
        Err(NotCaptured)
    }

    fn normalise_rows(&mut self, (): ()) -> Noted {
        Ok(())
    }

    fn gather_rows(&mut self, (): &(), rows: &[usize]) -> Noted {
        Ok(self.to.gather_rows(rows)?)
    }

    fn scatter_add(&mut self, (): (), (): &(), (): &(), _: &[Routed]) -> Noted {
        Err(NotCaptured)
    }

    fn zeros_like(&mut self, (): &()) -> Noted {
        Ok(())
    }

    fn rotary_attention(
        &mut self,
        _: usize,
        _: &AttentionSpec,
        _: [(); 3],
        angles: Option<&Rope>,
    ) -> Noted {
        Ok(self.to.attention(angles, self.cache, &self.plan.spans, &self.plan.seen)?)
    }

    fn add_norm(&mut self, (): (), (): &(), _: &NormLayer) -> Result<((), ()), NotCaptured> {
        Ok(((), ()))
    }
}
