//! Vectors of texts: one text a turn, between the steps of generations.

use std::collections::VecDeque;

use model::pooling::{Pooling, l2_normalise, pool};
use model::{Batch, Model, Outputs};
use tensor::DType;
use tensor::kv::SeqId;
use tokio::sync::oneshot;

use crate::EmbedError;

/// Texts whose vectors somebody waits for.
pub(crate) struct EmbedRequest {
    pub(crate) texts: VecDeque<Vec<u32>>,
    pub(crate) pooling: Option<Pooling>,
    pub(crate) done: Vec<Vec<f32>>,
    pub(crate) reply: oneshot::Sender<Result<Vec<Vec<f32>>, EmbedError>>,
}

/// Requests in the order they came.
#[derive(Default)]
pub(crate) struct Embedder(VecDeque<EmbedRequest>);

/// Rows of a decoder's forward.
const CHUNK: usize = 512;

impl Embedder {
    pub(crate) fn is_idle(&self) -> bool {
        self.0.is_empty()
    }

    pub(crate) fn push(&mut self, request: EmbedRequest) {
        self.0.push_back(request);
    }

    /// Embeds one text.
    pub(crate) fn step(&mut self, model: &Model) {
        // Those who do not wait any more.
        self.0.retain(|request| !request.reply.is_closed());
        let Some(request) = self.0.front_mut() else { return };
        let embedded = match request.texts.pop_front() {
            Some(text) => embed(model, &text, request.pooling).map(|v| request.done.push(v)),
            None => Ok(()),
        };
        if embedded.is_err() || request.texts.is_empty() {
            let request = self.0.pop_front().expect("there is a first one");
            // Whoever asked may have gone.
            let _ = request.reply.send(embedded.map(|()| request.done));
        }
    }
}

/// The vector of one text, of length 1: of an encoder the mean over its tokens if nothing else is
/// asked for, of a decoder the last token's hidden state.
fn embed(model: &Model, text: &[u32], pooling: Option<Pooling>) -> Result<Vec<f32>, EmbedError> {
    let hidden = if model.encoder().is_ok() {
        model.encode(&[text])?
    } else {
        let mut cache = model.new_cache(DType::F32, text.len())?;
        let mut rows = Vec::new();
        let mut width = 0;
        for chunk in text.chunks(CHUNK) {
            let mut batch = Batch::new();
            batch.extend(SeqId(0), chunk);
            let outputs = Outputs { hidden: (0..chunk.len()).collect(), ..Outputs::default() };
            let out = model.forward(&batch, &mut cache, &outputs)?;
            width = out.hidden.cols();
            rows.extend_from_slice(out.hidden.as_f32().map_err(model::Error::from)?);
        }
        tensor::Tensor::from_vec([text.len(), width], rows).map_err(model::Error::from)?
    };
    let usual = if model.encoder().is_ok() { Pooling::Mean } else { Pooling::Last };
    let pooled = pool(&hidden, &[text.len()], pooling.unwrap_or(usual))?;
    let vector = l2_normalise(pooled)?.into_vec().map_err(model::Error::from)?;
    match vector.iter().all(|x| x.is_finite()) {
        true => Ok(vector),
        false => Err(EmbedError::NotFinite),
    }
}
