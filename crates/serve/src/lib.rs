//! A language model for many users at once: continuous batching over a paged key-value cache, behind
//! the OpenAI API.
//!
//! - [`engine`]: one thread that runs a model, step by step, and a handle through which anybody asks.
//! - [`models`]: several engines under one memory budget.
//!
//! ```no_run
//! use std::sync::Arc;
//! use serve::engine::{Engine, EngineConfig, Event, GenerationRequest};
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! let tokenizer = Arc::new(tokenizer::Tokenizer::from_path("model.gguf")?);
//! let model = model::Model::open("model.gguf")?;
//! let prompt = tokenizer.encode("Once", Default::default())?;
//! let engine = Engine::start("model", model, tokenizer, EngineConfig::default())?;
//! let mut generation = engine.submit(GenerationRequest::new(prompt))?;
//! while let Some(event) = generation.next().await {
//!     if let Event::Delta { text, .. } = event {
//!         print!("{text}");
//!     }
//! }
//! # Ok(())
//! # }
//! ```
#![forbid(unsafe_code)]

pub mod engine;
pub mod models;
