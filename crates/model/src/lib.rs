//! Architectures, weights, one decoder body, the ragged forward.
//!
//! A [`Model`] is a configuration and weights. Its one [`forward`](Model::forward) takes a ragged
//! [`Batch`]: prefill chunks, decode steps and trees of drafts of any number of sequences together,
//! each row knowing its sequence and its parent; [`Outputs`] says which rows' logits or hidden
//! states are wanted, and a [`Tap`] may watch what enters every linear layer. Generation, serving,
//! speculation, perplexity and calibration all go through it. Encoders have
//! [`encode`](Model::encode).
//!
//! The body of a model is written once, over [`Ops`]: [`Decoder`] and [`Encoder`] for any
//! implementation, [`Eager`] being the one for inference. Architectures are configurations
//! ([`DecoderConfig`]); nothing in the body knows a name.
#![forbid(unsafe_code)]

pub mod arch;
pub mod batch;
pub mod block;
pub mod config;
mod decoder;
mod eager;
mod encoder;
mod error;
pub mod experts;
pub mod feed_forward;
mod inputs;
pub mod linear;
mod model;
pub mod ops;
pub mod pooling;
mod products;
pub mod repack;
pub mod rope_scaling;
mod validate;
pub mod weights;

pub use batch::{Batch, Forward, Outputs, Row, Tap};
pub use config::{DecoderConfig, EncoderConfig, ModelConfig};
pub use decoder::{Decoder, DecoderInput};
pub use eager::Eager;
pub use encoder::{Encoder, EncoderInput};
pub use error::Error;
pub use model::Model;
pub use ops::Ops;
pub use products::Product;
pub use repack::{LoadOptions, LoadProgress, LoadStage, Repack, UnknownRepack};
pub use weights::WeightSource;

/// The crate whose types a model is made of and speaks in.
pub use tensor;
