//! A model as a source of logits, through its one forward.

use model::config::Position;
use model::{Batch, Model, Outputs};
use tensor::DType;
use tensor::kv::{KvCache, SeqId};

use crate::{EvalError, LogitsSource, Piece};

/// A decoder with a key-value cache for the windows under way.
pub struct ModelLogits<'m> {
    model: &'m Model,
    cache: Box<dyn KvCache>,
    windows: usize,
    vocabulary: usize,
    positions: Option<usize>,
}

impl<'m> ModelLogits<'m> {
    /// Wraps a model; keys and values are kept as `f32`, so that a figure is about the weights.
    ///
    /// # Errors
    /// [`EvalError::Source`] for an encoder.
    pub fn new(model: &'m Model) -> Result<Self, EvalError> {
        let config = &model.decoder().map_err(failed)?.config;
        let positions = match config.position {
            Position::Learned { .. } => Some(config.context_length),
            Position::Rotary { .. } => None,
        };
        let vocabulary = config.vocab_size;
        // As many slots as the windows need: the limits of a task bound them.
        let cache = model.new_cache(DType::F32, usize::MAX).map_err(failed)?;
        Ok(Self { model, cache, windows: 0, vocabulary, positions })
    }
}

impl LogitsSource for ModelLogits<'_> {
    fn vocabulary(&self) -> usize {
        self.vocabulary
    }

    /// Learned positions end; rotary ones go on, beyond what the model was trained for.
    fn positions(&self) -> Option<usize> {
        self.positions
    }

    fn begin(&mut self, windows: usize) -> Result<(), EvalError> {
        (0..self.windows as u64).for_each(|i| self.cache.remove(SeqId(i)));
        self.windows = windows;
        Ok(())
    }

    fn extend(&mut self, pieces: &[Piece<'_>], logits: &mut Vec<f32>) -> Result<(), EvalError> {
        let mut batch = Batch::new();
        let mut outputs = Outputs::default();
        for piece in pieces {
            let first = batch.len();
            batch.extend(SeqId(piece.window as u64), piece.tokens);
            outputs.logits.extend(piece.wanted.clone().map(|i| first + i));
        }
        let forward = self.model.forward(&batch, &mut self.cache, &outputs).map_err(failed)?;
        logits.clear();
        logits.extend_from_slice(forward.logits.as_f32().map_err(failed)?);
        Ok(())
    }
}

fn failed(error: impl std::error::Error + Send + Sync + 'static) -> EvalError {
    EvalError::Source(Box::new(error))
}
