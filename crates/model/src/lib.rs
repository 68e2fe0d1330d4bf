//! Architectures, weights, one decoder body, the ragged forward.
#![forbid(unsafe_code)]

pub mod batch;
pub mod config;
mod error;
mod weights;

pub use batch::{Batch, Forward, Outputs, Row, Tap};
pub use config::{DecoderConfig, EncoderConfig, ModelConfig};
pub use error::Error;
pub use weights::WeightSource;
