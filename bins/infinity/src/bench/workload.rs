//! The runs that are timed.

use std::time::{Duration, Instant};

use anyhow::Result;
use model::{Batch, Model, Outputs};
use sampling::{Sampler, SamplingParams};
use tensor::DType;
use tensor::kv::{KvCache, SeqId};

use super::cost::{Forward, Span};
use crate::session::PREFILL_CHUNK;

/// Token ids that are the same each time and spread over the vocabulary.
fn tokens(model: &Model, n: usize) -> Vec<u32> {
    let vocab = model.decoder().map_or(1, |d| d.config.vocab_size) as u32;
    (0..n as u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 7) % vocab).collect()
}

/// A prompt into an empty cache, in chunks, up to the logits of its last token.
pub(crate) struct Prefill<'a> {
    pub(crate) model: &'a Model,
    pub(crate) kv: DType,
    pub(crate) tokens: usize,
}

impl Prefill<'_> {
    /// Touches the weights and wakes the threads.
    pub(crate) fn warm_up(&self) -> Result<()> {
        Prefill { tokens: self.tokens.min(PREFILL_CHUNK), ..*self }.time().map(drop)
    }

    pub(crate) fn time(&self) -> Result<Duration> {
        let ids = tokens(self.model, self.tokens);
        let mut cache = self.model.new_cache(self.kv, self.tokens)?;
        let start = Instant::now();
        let mut left = self.tokens;
        for chunk in ids.chunks(PREFILL_CHUNK) {
            let mut batch = Batch::new();
            batch.extend(SeqId(0), chunk);
            left -= chunk.len();
            let outputs = if left == 0 { Outputs::last_logits(&batch) } else { Outputs::default() };
            self.model.forward(&batch, &mut cache, &outputs)?;
        }
        Ok(start.elapsed())
    }

    pub(crate) fn forwards(&self) -> Vec<Forward> {
        (0..self.tokens)
            .step_by(PREFILL_CHUNK)
            .map(|start| {
                let len = PREFILL_CHUNK.min(self.tokens - start);
                let last = start + len == self.tokens;
                Forward { spans: vec![Span { start, len }], logits: usize::from(last) }
            })
            .collect()
    }
}

/// Sequences that each hold some positions and decode together, a token each a step.
pub(crate) struct Decoding<'a> {
    model: &'a Model,
    cache: Box<dyn KvCache>,
    sequences: usize,
    depth: usize,
    steps: usize,
}

impl<'a> Decoding<'a> {
    /// Fills the cache with `depth` positions of each sequence.
    pub(crate) fn new(
        model: &'a Model,
        kv: DType,
        sequences: usize,
        depth: usize,
        steps: usize,
    ) -> Result<Self> {
        let mut cache = model.new_cache(kv, sequences * (depth + steps))?;
        let ids = tokens(model, depth);
        let mut batch = Batch::new();
        for seq in 0..sequences {
            for &id in &ids {
                batch.extend(SeqId(seq as u64), &[id]);
                if batch.len() == PREFILL_CHUNK {
                    model.forward(&batch, &mut cache, &Outputs::default())?;
                    batch = Batch::new();
                }
            }
        }
        if !batch.is_empty() {
            model.forward(&batch, &mut cache, &Outputs::default())?;
        }
        Ok(Self { model, cache, sequences, depth, steps })
    }

    /// Two steps, then as before.
    pub(crate) fn warm_up(&mut self) -> Result<()> {
        self.decode(self.steps.min(2)).map(drop)
    }

    /// The time of all steps; afterwards the cache is as it was.
    pub(crate) fn time(&mut self) -> Result<Duration> {
        self.decode(self.steps)
    }

    fn decode(&mut self, steps: usize) -> Result<Duration> {
        let ids = tokens(self.model, steps);
        // What one draws with where the logits lie on a GPU.
        let greedy = Sampler::new(SamplingParams::greedy())?;
        let samplers = vec![Some(&greedy); self.sequences];
        let start = Instant::now();
        for id in ids {
            let mut batch = Batch::new();
            for seq in 0..self.sequences {
                batch.extend(SeqId(seq as u64), &[id]);
            }
            let outputs = Outputs { on_device: true, ..Outputs::all_logits(&batch) };
            let logits = self.model.forward(&batch, &mut self.cache, &outputs)?.logits;
            engine::draw(self.model, &logits, &samplers)?;
        }
        let took = start.elapsed();
        for seq in 0..self.sequences {
            match self.depth {
                0 => self.cache.remove(SeqId(seq as u64)),
                depth => self.cache.truncate(SeqId(seq as u64), depth)?,
            }
        }
        Ok(took)
    }

    pub(crate) fn forwards(&self) -> Vec<Forward> {
        let step = |at| Forward {
            spans: vec![Span { start: self.depth + at, len: 1 }; self.sequences],
            logits: self.sequences,
        };
        (0..self.steps).map(step).collect()
    }
}

/// A token after `length - 1` others without a cache: the whole prefix in one forward.
pub(crate) fn recompute(model: &Model, kv: DType, length: usize) -> Result<Duration> {
    let mut batch = Batch::new();
    batch.extend(SeqId(0), &tokens(model, length));
    let start = Instant::now();
    // The forward writes keys and values somewhere; nothing of them outlives the step.
    let mut cache = model.new_cache(kv, length)?;
    model.forward(&batch, &mut cache, &Outputs::last_logits(&batch))?;
    Ok(start.elapsed())
}
