//! One sequence: tokens in, text out as it comes.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use model::{Batch, Model, Outputs};
use sampling::Sampler;
use tensor::kv::{KvCache, SeqId};
use tensor::profile::Work;
use tensor::{DType, Device, Tensor};
use tokenizer::{DecodeOptions, Tokenizer};

/// Rows of a prompt that enter the model at a time.
pub(crate) const PREFILL_CHUNK: usize = 512;

/// A sequence and its keys and values.
pub(crate) struct Session<'a> {
    model: &'a Model,
    cache: Box<dyn KvCache>,
    context: usize,
    /// The logits that the next token is drawn from, where the model runs.
    logits: Option<Tensor>,
    /// The rows of a step and what is wanted of them, used again.
    batch: Batch,
    outputs: Outputs,
}

/// Why a generation ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Finish {
    /// The model said that it is done.
    Stop,
    /// As many tokens as were asked for.
    Length,
    /// The model's context is full.
    Context,
    /// The user interrupted it.
    Interrupted,
}

/// What a generation made and how long it took.
#[derive(Debug)]
pub(crate) struct Generated {
    pub(crate) ids: Vec<u32>,
    pub(crate) text: String,
    pub(crate) finish: Finish,
    pub(crate) prompt_tokens: usize,
    pub(crate) prefill: Duration,
    pub(crate) decode: Duration,
}

impl Generated {
    pub(crate) fn prefill_rate(&self) -> f64 {
        self.prompt_tokens as f64 / self.prefill.as_secs_f64()
    }

    /// Tokens a second, of those that took a step of the model.
    pub(crate) fn decode_rate(&self) -> f64 {
        self.ids.len().saturating_sub(1) as f64 / self.decode.as_secs_f64().max(1e-9)
    }
}

/// When to stop.
pub(crate) struct Limits<'a> {
    pub(crate) max_tokens: usize,
    pub(crate) ignore_eos: bool,
    pub(crate) interrupted: &'a dyn Fn() -> bool,
}

impl<'a> Session<'a> {
    pub(crate) fn new(model: &'a Model, kv_type: DType, context: Option<usize>) -> Result<Self> {
        let limit = model.decoder()?.config.context_length;
        let context = context.unwrap_or(limit).min(limit);
        let cache = model.new_cache(kv_type, context)?;
        let outputs = Outputs { on_device: true, ..Outputs::default() };
        Ok(Self { model, cache, context, logits: None, batch: Batch::new(), outputs })
    }

    /// Positions taken.
    pub(crate) fn len(&self) -> usize {
        self.cache.len(SEQ)
    }

    /// Forgets the positions from `len` on.
    pub(crate) fn truncate(&mut self, len: usize) -> Result<()> {
        Ok(self.cache.truncate(SEQ, len)?)
    }

    /// Runs `ids` through the model; the logits of the last are kept.
    pub(crate) fn feed(&mut self, ids: &[u32], interrupted: &dyn Fn() -> bool) -> Result<bool> {
        if self.len() + ids.len() > self.context {
            bail!(
                "{} tokens are too many: the context holds {}, {} are taken",
                ids.len(),
                self.context,
                self.len()
            );
        }
        for chunk in ids.chunks(PREFILL_CHUNK) {
            if interrupted() {
                return Ok(false);
            }
            self.batch.clear();
            self.batch.extend(SEQ, chunk);
            self.outputs.logits.clear();
            self.outputs.logits.push(chunk.len() - 1);
            let out = self.model.forward(&self.batch, &mut self.cache, &self.outputs)?;
            self.logits = Some(out.logits);
        }
        Ok(true)
    }

    /// Draws a token from the newest logits.
    fn next_token(&self, sampler: &mut Sampler) -> Result<u32> {
        let logits = self.logits.as_ref().context("no logits")?;
        if let [Some(token)] = engine::draw(self.model, logits, &[Some(&*sampler)])?[..] {
            sampler.drawn(token);
            return Ok(token);
        }
        let logits = logits.to_device(&Device::Cpu)?;
        sampler.next_token(logits.as_f32()?).context("the model's logits")
    }

    /// Feeds the prompt and generates; `on_text` gets whole characters as they come.
    pub(crate) fn generate(
        &mut self,
        tokenizer: &Tokenizer,
        prompt: &[u32],
        sampler: &mut Sampler,
        limits: &Limits<'_>,
        on_text: &mut dyn FnMut(&str) -> Result<()>,
    ) -> Result<Generated> {
        if prompt.is_empty() && self.logits.is_none() {
            bail!("the prompt has no tokens, and this model's vocabulary adds none; give a prompt");
        }
        let profile = self.model.compute().profile();
        let start = Instant::now();
        let scope = profile.scope("prefill", "", Work::default);
        sampler.observe_prompt(prompt);
        let mut finish = match self.feed(prompt, limits.interrupted)? {
            true => Finish::Length,
            false => Finish::Interrupted,
        };
        drop(scope);
        let prefill = start.elapsed();
        let start = Instant::now();
        let (mut ids, mut text) = (Vec::new(), String::new());
        let shown = DecodeOptions { skip_special: true, continues: !prompt.is_empty() };
        let mut stream = tokenizer.decode_stream_with(shown);
        while finish == Finish::Length && ids.len() < limits.max_tokens {
            if (limits.interrupted)() {
                finish = Finish::Interrupted;
                break;
            }
            let _step = profile.scope("decode", "", Work::default);
            let sampling = profile.scope("sampling", "", Work::default);
            let id = self.next_token(sampler)?;
            drop(sampling);
            ids.push(id);
            if tokenizer.is_eog(id) && !limits.ignore_eos {
                finish = Finish::Stop;
                break;
            }
            let showing = profile.scope("text", "", Work::default);
            if let Some(piece) = stream.push(id)? {
                text.push_str(&piece);
                on_text(&piece)?;
            }
            drop(showing);
            if ids.len() == limits.max_tokens {
                break;
            }
            if self.len() == self.context {
                finish = Finish::Context;
                break;
            }
            self.feed(&[id], &|| false)?;
        }
        if let Some(rest) = stream.finish() {
            text.push_str(&rest);
            on_text(&rest)?;
        }
        let decode = start.elapsed();
        Ok(Generated { ids, text, finish, prompt_tokens: prompt.len(), prefill, decode })
    }
}

const SEQ: SeqId = SeqId(0);
