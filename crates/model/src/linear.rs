//! The layers that hold weights, and reading them from a checkpoint with their shapes checked.

use tensor::{Shape, Tensor};

use crate::config::{Norm, NormKind};
use crate::{Error, WeightSource};

/// `y = x W^T + b`.
///
/// The weight may be plain or quantized; nothing above can tell.
#[derive(Clone, Debug)]
pub struct Linear<W = Tensor> {
    /// The weight's name, as in [`WeightSource`]; of one expert `blk.N.ffn_up.E.weight`.
    pub name: String,
    /// `[out, in]`.
    pub weight: W,
    /// `[out]`.
    pub bias: Option<W>,
}

/// A normalisation with its weights.
#[derive(Clone, Debug)]
pub struct NormLayer<W = Tensor> {
    /// The weight's name.
    pub name: String,
    /// Which normalisation.
    pub norm: Norm,
    /// As long as what is normalised.
    pub weight: W,
    /// As long as the weight (LayerNorm only).
    pub bias: Option<W>,
}

/// Turns the tensors of a [`WeightSource`] into layers whose weights are `W`.
///
/// Vectors arrive as `f32`; matrices as they are stored.
pub(crate) struct Loader<'a, W> {
    source: &'a dyn WeightSource,
    wrap: &'a mut dyn FnMut(&str, Tensor) -> Result<W, Error>,
}

impl<'a, W> Loader<'a, W> {
    pub(crate) fn new(
        source: &'a dyn WeightSource,
        wrap: &'a mut dyn FnMut(&str, Tensor) -> Result<W, Error>,
    ) -> Self {
        Self { source, wrap }
    }

    /// The matrix or table `name` (with its suffix) and its name.
    pub(crate) fn table(&mut self, name: &str, shape: [usize; 2]) -> Result<Linear<W>, Error> {
        let tensor = self.numbers(name, shape.into())?;
        let weight = (self.wrap)(name, tensor)?;
        Ok(Linear { name: name.to_owned(), weight, bias: None })
    }

    /// `name.weight` `[outputs, inputs]` and, where there is one, `name.bias`.
    pub(crate) fn linear(
        &mut self,
        name: &str,
        outputs: usize,
        inputs: usize,
    ) -> Result<Linear<W>, Error> {
        let layer = self.table(&format!("{name}.weight"), [outputs, inputs])?;
        Ok(Linear { bias: self.vector(&format!("{name}.bias"), outputs)?, ..layer })
    }

    /// `name.weight` and, for LayerNorm where there is one, `name.bias`.
    pub(crate) fn norm(
        &mut self,
        name: &str,
        width: usize,
        norm: Norm,
    ) -> Result<NormLayer<W>, Error> {
        let weight_name = format!("{name}.weight");
        let weight = self.vector(&weight_name, width)?;
        let weight = weight.ok_or_else(|| Error::MissingTensor { name: weight_name.clone() })?;
        let bias = match norm.kind {
            NormKind::Rms => None,
            NormKind::Layer => self.vector(&format!("{name}.bias"), width)?,
        };
        Ok(NormLayer { name: weight_name, norm, weight, bias })
    }

    /// The matrices of `blk.N.STEM_exps.weight` `[experts, outputs, inputs]`, each a view of it,
    /// under the names `blk.N.STEM.E.weight`.
    pub(crate) fn experts(
        &mut self,
        block: usize,
        stem: &str,
        [experts, outputs, inputs]: [usize; 3],
    ) -> Result<Vec<Linear<W>>, Error> {
        let name = format!("blk.{block}.{stem}_exps.weight");
        let all = self.numbers(&name, Shape::from([experts, outputs, inputs]))?;
        let one = |expert: usize| {
            let name = format!("blk.{block}.{stem}.{expert}.weight");
            let rows = expert * outputs..(expert + 1) * outputs;
            let weight = (self.wrap)(&name, all.slice_rows(rows)?)?;
            Ok(Linear { name, weight, bias: None })
        };
        (0..experts).map(one).collect()
    }

    /// A vector as `f32`, if it is there.
    fn vector(&mut self, name: &str, len: usize) -> Result<Option<W>, Error> {
        match self.source.get(name)? {
            None => Ok(None),
            Some(t) => {
                let t = checked(name, t, Shape::from([len]))?;
                Ok(Some((self.wrap)(name, t.to_f32()?)?))
            }
        }
    }

    fn numbers(&self, name: &str, shape: Shape) -> Result<Tensor, Error> {
        checked(name, self.source.require(name)?, shape)
    }
}

/// `tensor`, if it has this shape and holds numbers that can be weights.
fn checked(name: &str, tensor: Tensor, expected: Shape) -> Result<Tensor, Error> {
    let dtype = tensor.dtype();
    if *tensor.shape() != expected {
        let got = tensor.shape().clone();
        return Err(Error::TensorShape { name: name.to_owned(), expected, got });
    }
    if !dtype.is_float() && !dtype.is_quantized() {
        return Err(Error::TensorType { name: name.to_owned(), dtype });
    }
    Ok(tensor)
}
