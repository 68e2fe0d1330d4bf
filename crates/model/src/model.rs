//! A model of either family, and the one forward that everything goes through.

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use tensor::kv::{ContiguousKvCache, KvCache, KvLayout, SlotKvCache};
use tensor::profile::Work;
use tensor::{Compute, DType, Device, Profile, StepCounts, Steps, Tensor};

use crate::batch::{Batch, Forward, Outputs, Plan, Tap};
use crate::config::{ModelConfig, Position};
use crate::decoder::{Decoder, DecoderInput};
use crate::eager::Eager;
use crate::encoder::{Encoder, EncoderInput};
use crate::inputs::Inputs;
use crate::ops::Ops;
use crate::repack::{self, LoadOptions, LoadStage, Repack};
use crate::{Error, WeightSource};

/// A model that is ready to run.
#[derive(Clone, Debug)]
pub struct Model {
    config: ModelConfig,
    body: Body,
    compute: Compute,
    /// Working memory of forwards, used again.
    spare: Arc<Mutex<Vec<Workspace>>>,
    steps: Steps,
}

/// What a forward notes down.
#[derive(Debug, Default)]
struct Workspace {
    tokens: Vec<u32>,
    plan: Plan,
    /// The lengths of the plan's sequences before the batch.
    before: Vec<usize>,
    /// Rows of which something is wanted.
    wanted: Vec<usize>,
}

#[derive(Clone, Debug)]
#[allow(clippy::large_enum_variant)] // one a model
enum Body {
    Decoder(Decoder),
    Encoder(Encoder),
}

/// Shows each weight that a configuration asks for, as it is in the source.
pub(crate) fn visit(
    config: &ModelConfig,
    source: &dyn WeightSource,
    see: &mut dyn FnMut(&str, Tensor),
) -> Result<(), Error> {
    let see = &mut |name: &str, weight: Tensor| {
        see(name, weight);
        Ok(())
    };
    match config.clone() {
        ModelConfig::Decoder(c) => Decoder::load_with(c, source, see).map(drop),
        ModelConfig::Encoder(c) => Encoder::load_with(c, source, see).map(drop),
    }
}

/// What all weights need of a device that has too little memory for them, once it has back what some took.
fn too_large(
    config: &ModelConfig,
    source: &dyn WeightSource,
    compute: &Compute,
    device: Device,
) -> Error {
    let mut needed = 0;
    let seen = visit(config, source, &mut |_, weight| needed += compute.placed_len(&weight) as u64);
    device.trim();
    let free = device.available_memory().unwrap_or(0);
    seen.err().unwrap_or(Error::Tensor(tensor::Error::OutOfMemory { device, needed, free }))
}

impl Model {
    /// Opens a Hugging Face folder or a GGUF file, to run on the processor.
    ///
    /// # Errors
    /// [`Error::UnknownArchitecture`], whatever is wrong with the files, and as [`Model::load`].
    pub fn open(path: impl AsRef<Path>) -> Result<Self, Error> {
        Self::open_with(path, Compute::cpu(), Repack::Auto)
    }

    /// As [`Model::open`], with what it runs with and how it is loaded: a [`Repack`], or all
    /// [`LoadOptions`].
    ///
    /// # Errors
    /// As [`Model::open`].
    pub fn open_with<'a>(
        path: impl AsRef<Path>,
        compute: Compute,
        options: impl Into<LoadOptions<'a>>,
    ) -> Result<Self, Error> {
        let (config, source) = crate::weights::open(path.as_ref())?;
        Self::load(config, &*source, compute, options)
    }

    /// Reads the weights that a configuration asks for; `compute` is what the model runs with, and
    /// `options` say where weights that are repacked lie then.
    ///
    /// # Errors
    /// As [`Decoder::load`], and [`Error::Tensor`] if there is no memory for weights that must be
    /// repacked, or for all of them on a GPU.
    pub fn load<'a>(
        config: ModelConfig,
        source: &dyn WeightSource,
        compute: Compute,
        options: impl Into<LoadOptions<'a>>,
    ) -> Result<Self, Error> {
        let mut options = options.into();
        let mut packed = repack::repacked(&config, source, &compute, &mut options)?;
        let mut weights = Vec::new();
        let wrap = &mut |name: &str, tensor: Tensor| {
            let weight = match packed.remove(name) {
                Some(packed) => packed,
                None => compute.place(&tensor)?,
            };
            if options.warm_up {
                weights.push(weight.clone());
            }
            Ok(weight)
        };
        let body = match config.clone() {
            ModelConfig::Decoder(c) => Decoder::load_with(c, source, wrap).map(Body::Decoder),
            ModelConfig::Encoder(c) => Encoder::load_with(c, source, wrap).map(Body::Encoder),
        };
        let body = match body {
            Err(Error::Tensor(tensor::Error::OutOfMemory { device, .. })) => {
                drop(weights);
                return Err(too_large(&config, source, &compute, device));
            }
            body => body?,
        };
        tensor::warm_up(&compute, &weights, &mut |done, total| {
            options.tell(LoadStage::WarmUp, done, total);
        });
        Ok(Self { config, body, compute, spare: Arc::default(), steps: Steps::default() })
    }

    /// Whether a source has every weight that a configuration asks for, in its shape and of a type
    /// that a weight can have; keeps none of them.
    ///
    /// # Errors
    /// As [`Decoder::load`].
    pub fn check(config: &ModelConfig, source: &dyn WeightSource) -> Result<(), Error> {
        visit(config, source, &mut |_, _| ())
    }

    /// The same weights, run with other threads, instructions or activations.
    #[must_use]
    pub fn with_compute(self, compute: Compute) -> Self {
        Self { compute, steps: Steps::default(), ..self }
    }

    /// What it is.
    pub fn config(&self) -> &ModelConfig {
        &self.config
    }

    /// What it runs with.
    pub fn compute(&self) -> &Compute {
        &self.compute
    }

    /// How its forwards were computed where they can repeat: on a GPU.
    pub fn step_counts(&self) -> StepCounts {
        self.steps.counts()
    }

    /// The decoder, if it is one.
    ///
    /// # Errors
    /// [`Error::WrongFamily`].
    pub fn decoder(&self) -> Result<&Decoder, Error> {
        match &self.body {
            Body::Decoder(decoder) => Ok(decoder),
            Body::Encoder(encoder) => Err(Error::WrongFamily {
                architecture: encoder.config.architecture.clone(),
                family: "an encoder",
                hint: "it embeds text and does not generate any",
            }),
        }
    }

    /// The encoder, if it is one.
    ///
    /// # Errors
    /// [`Error::WrongFamily`].
    pub fn encoder(&self) -> Result<&Encoder, Error> {
        match &self.body {
            Body::Encoder(encoder) => Ok(encoder),
            Body::Decoder(decoder) => Err(Error::WrongFamily {
                architecture: decoder.config.architecture.clone(),
                family: "a decoder",
                hint: "ask for the hidden states of its forward instead",
            }),
        }
    }

    /// A cache where the model runs that stores `dtype` and has `capacity` slots over all sequences: on
    /// the processor in one piece a sequence, on a GPU slot by slot.
    ///
    /// # Errors
    /// [`Error::WrongFamily`] for an encoder, [`Error::Kv`] for a type that a cache cannot hold.
    pub fn new_cache(&self, dtype: DType, capacity: usize) -> Result<Box<dyn KvCache>, Error> {
        let layout = self.decoder()?.config.kv_layout(dtype);
        Ok(match self.compute.device() {
            Device::Cpu => Box::new(ContiguousKvCache::new(layout, capacity)?),
            device => Box::new(SlotKvCache::new(layout, capacity, device)?),
        })
    }

    /// Computes a ragged batch: the rows' keys and values go into the cache, the results asked for
    /// come back. A row's result does not depend on the other rows. On an error the cache is as it
    /// was.
    ///
    /// # Errors
    /// [`Error::WrongFamily`] for an encoder; [`Error::EmptyBatch`], [`Error::TokenOutOfRange`],
    /// [`Error::PositionOutOfRange`], [`Error::InvalidParent`], [`Error::NoSuchRow`] for the batch;
    /// [`Error::CacheLayout`] and [`Error::Kv`] for the cache.
    pub fn forward(
        &self,
        batch: &Batch,
        cache: &mut dyn KvCache,
        outputs: &Outputs,
    ) -> Result<Forward, Error> {
        self.forward_rows(batch, cache, outputs, None)
    }

    /// As [`Model::forward`], with `tap` watching the input of every linear layer, of every row.
    ///
    /// # Errors
    /// As [`Model::forward`].
    pub fn forward_tapped(
        &self,
        batch: &Batch,
        cache: &mut dyn KvCache,
        outputs: &Outputs,
        tap: &mut dyn Tap,
    ) -> Result<Forward, Error> {
        self.forward_rows(batch, cache, outputs, Some(tap))
    }

    fn forward_rows(
        &self,
        batch: &Batch,
        cache: &mut dyn KvCache,
        outputs: &Outputs,
        tap: Option<&mut dyn Tap>,
    ) -> Result<Forward, Error> {
        let decoder = self.decoder()?;
        let spare = || self.spare.lock().unwrap_or_else(PoisonError::into_inner);
        let mut work = spare().pop().unwrap_or_default();
        let result = self.forward_with(&mut work, decoder, batch, cache, outputs, tap);
        spare().push(work);
        result
    }

    fn forward_with(
        &self,
        work: &mut Workspace,
        decoder: &Decoder,
        batch: &Batch,
        cache: &mut dyn KvCache,
        outputs: &Outputs,
        tap: Option<&mut dyn Tap>,
    ) -> Result<Forward, Error> {
        work.plan(decoder, batch, cache, outputs)?;
        let mut reserved = 0;
        let mut result = Ok(());
        for &(seq, slots) in &work.plan.reserve {
            result = cache.reserve(seq, slots).map_err(Error::from);
            if result.is_err() {
                break;
            }
            reserved += 1;
        }
        let result = match result {
            Ok(()) => self.compute_rows(work, decoder, cache, outputs, tap),
            Err(e) => Err(e),
        };
        if result.is_err() {
            for (&(seq, _), &len) in work.plan.reserve.iter().zip(&work.before).take(reserved) {
                match len {
                    0 => cache.remove(seq),
                    _ => cache.truncate(seq, len)?,
                }
            }
        }
        result
    }

    /// Computes rows that have their slots.
    fn compute_rows(
        &self,
        work: &mut Workspace,
        decoder: &Decoder,
        cache: &mut dyn KvCache,
        outputs: &Outputs,
        tap: Option<&mut dyn Tap>,
    ) -> Result<Forward, Error> {
        let Workspace { tokens, plan, wanted, .. } = work;
        let input = DecoderInput { tokens, positions: &plan.positions, lengths: &plan.lengths };
        outputs.rows_into(wanted);
        // A tap sees every row of every layer; otherwise the last layer ends with those wanted.
        let wanted = Some(&wanted[..]).filter(|rows| tap.is_none() && rows.len() < tokens.len());
        let step = Step { decoder, input, outputs, wanted };
        let inputs = match tap {
            None => self.compute.step_inputs(tokens.len()),
            Some(_) => None, // it sees what is computed
        };
        let inputs = inputs.and_then(|to| {
            let mut noted = Inputs { to, cache: &*cache, plan };
            noted.to.fixed(&outputs.hidden);
            noted.to.fixed(&outputs.logits);
            step.run(&mut noted, &Profile::default()).ok()?;
            Some(noted.to)
        });
        let mut tap = tap;
        let stay = [false, outputs.on_device];
        let results = self.compute.step(&self.steps, inputs, stay, |compute| {
            // By hand: a closure cannot give away what it borrows for longer than a call.
            let tap: Option<&mut dyn Tap> = match &mut tap {
                Some(tap) => Some(&mut **tap),
                None => None,
            };
            step.run(&mut Eager::causal(compute, &mut *cache, plan, tap), compute.profile())
        })?;
        let or_none = |result: Option<Tensor>, cols: usize| match result {
            Some(result) => Ok(result),
            None => self.compute.zeros([0, cols])?.to_device(&Device::Cpu),
        };
        let [hidden, logits] = results;
        Ok(Forward {
            logits: or_none(logits, decoder.config.vocab_size)?,
            hidden: or_none(hidden, decoder.config.hidden_size)?,
        })
    }

    /// The last hidden states of texts given as token ids, behind each other:
    /// `[sum of lengths, hidden_size]`. [`pool`](crate::pooling::pool) makes one vector a text.
    ///
    /// # Errors
    /// [`Error::WrongFamily`] for a decoder; [`Error::TokenOutOfRange`],
    /// [`Error::PositionOutOfRange`], [`Error::EmptyBatch`].
    pub fn encode(&self, texts: &[&[u32]]) -> Result<Tensor, Error> {
        let encoder = self.encoder()?;
        let lengths: Vec<usize> = texts.iter().map(|t| t.len()).collect();
        let tokens = texts.concat();
        if tokens.is_empty() {
            return Err(Error::EmptyBatch);
        }
        check_tokens(&tokens, encoder.config.vocab_size)?;
        if let Some(&longest) = lengths.iter().max()
            && longest > encoder.config.context_length
        {
            let len = encoder.config.context_length;
            return Err(Error::PositionOutOfRange { position: longest - 1, len });
        }
        let positions: Vec<u32> = lengths.iter().flat_map(|&n| 0..n as u32).collect();
        let types = vec![0; tokens.len()];
        let input = EncoderInput { tokens: &tokens, positions: &positions, types: &types };
        let [states] = self.compute.step(&self.steps, None, [false], |compute| {
            let ops = &mut Eager::bidirectional(compute, &lengths, None);
            Ok::<_, Error>([Some(encoder.hidden(ops, input)?)])
        })?;
        Ok(states.expect("the step has a result"))
    }
}

/// What of a decoder a forward computes.
#[derive(Clone, Copy)]
struct Step<'a> {
    decoder: &'a Decoder,
    input: DecoderInput<'a>,
    outputs: &'a Outputs,
    /// The rows that leave the last layer, if not all of them do.
    wanted: Option<&'a [usize]>,
}

impl Step<'_> {
    /// The hidden states and the logits that are wanted, if any are.
    fn run<O: Ops<Weight = Tensor>>(
        self,
        ops: &mut O,
        profile: &Profile,
    ) -> Result<[Option<O::Tensor>; 2], O::Error> {
        let Self { decoder, input, outputs, wanted } = self;
        let states = decoder.hidden(ops, input, wanted)?;
        let count = wanted.map_or(input.tokens.len(), <[usize]>::len);
        let of_row = |row: &usize| match wanted {
            None => *row,
            Some(wanted) => wanted.binary_search(row).unwrap_or(usize::MAX),
        };
        let pick = |ops: &mut O, rows: &[usize]| {
            if rows.is_empty() {
                return Ok(None);
            }
            if rows.len() == count && rows.iter().map(of_row).eq(0..count) {
                return Ok(Some(states.clone()));
            }
            let rows: Vec<usize> = rows.iter().map(of_row).collect();
            ops.gather_rows(&states, &rows).map(Some)
        };
        let hidden = pick(ops, &outputs.hidden)?;
        let logits = match pick(ops, &outputs.logits)? {
            None => None,
            Some(states) => {
                let _scope = profile.scope("lm head", "", Work::default);
                Some(decoder.logits(ops, &states)?)
            }
        };
        Ok([hidden, logits])
    }
}

impl Workspace {
    /// Notes the plan of a batch, if the model and the cache can take it.
    fn plan(
        &mut self,
        decoder: &Decoder,
        batch: &Batch,
        cache: &dyn KvCache,
        outputs: &Outputs,
    ) -> Result<(), Error> {
        let config = &decoder.config;
        if batch.is_empty() {
            return Err(Error::EmptyBatch);
        }
        let rows = batch.len();
        if let Some(&row) = outputs.logits.iter().chain(&outputs.hidden).find(|&&row| row >= rows) {
            return Err(Error::NoSuchRow { row, rows });
        }
        let expected = config.kv_layout(cache.layout().dtype);
        if *cache.layout() != expected {
            let sizes = |l: &KvLayout| [l.layers, l.n_kv_heads, l.head_dim];
            let (expected, got) = (sizes(&expected), sizes(cache.layout()));
            return Err(Error::CacheLayout { expected, got });
        }
        let Self { tokens, plan, before, .. } = self;
        tokens.clear();
        tokens.extend(batch.rows().iter().map(|row| row.token));
        check_tokens(tokens, config.vocab_size)?;
        batch.plan_into(cache, plan)?;
        before.clear();
        before.extend(plan.reserve.iter().map(|&(seq, _)| cache.len(seq)));
        if let Position::Learned { .. } = config.position {
            let len = config.context_length;
            if let Some(&position) = plan.positions.iter().find(|&&p| p as usize >= len) {
                return Err(Error::PositionOutOfRange { position: position as usize, len });
            }
        }
        Ok(())
    }
}

fn check_tokens(ids: &[u32], vocab_size: usize) -> Result<(), Error> {
    match ids.iter().find(|&&id| id as usize >= vocab_size) {
        Some(&id) => Err(Error::TokenOutOfRange { id, vocab_size }),
        None => Ok(()),
    }
}
