//! Models of random weights, made where they run: to measure a shape without its files.

use std::path::PathBuf;
use std::str::FromStr;
use std::time::Instant;

use anyhow::{Context, Result, bail};
use model::{Model, ModelConfig, Repack, WeightSource};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde_json::json;
use tensor::{Compute, DType, Tensor};

use crate::load::Loaded;
use crate::options::Hardware;

/// Rows of random numbers; a matrix has them over and over.
const ROWS: usize = 32;

/// A model's shape: `llama-3-8b`, or `llama-3-8b/16` with widths, heads and layers divided by 16.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Shape {
    divisor: usize,
}

const NAME: &str = "llama-3-8b";

impl FromStr for Shape {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (name, divisor) = text.split_once('/').unwrap_or((text, "1"));
        match divisor.parse() {
            Ok(divisor @ (1 | 2 | 4 | 8 | 16)) if name == NAME => Ok(Self { divisor }),
            _ => Err(format!("expected {NAME}, or {NAME}/2 to /16 in powers of two")),
        }
    }
}

impl Shape {
    fn config(self) -> Result<ModelConfig> {
        let part = |n: usize| n / self.divisor;
        let json = json!({
            "model_type": "llama",
            "hidden_size": part(4096),
            // Whole blocks of 256.
            "intermediate_size": part(14336).next_multiple_of(256),
            "num_hidden_layers": part(32),
            "num_attention_heads": part(32),
            "num_key_value_heads": part(8).max(1),
            "head_dim": 128,
            "vocab_size": part(128_256),
            "max_position_embeddings": 8192,
            "rope_theta": 500_000.0,
            "rms_norm_eps": 1e-5,
        });
        let json = json.as_object().context("a configuration is an object")?;
        Ok(model::arch::hf::config(json)?.1)
    }

    fn name(self) -> String {
        if self.divisor == 1 { NAME.to_owned() } else { format!("{NAME}/{}", self.divisor) }
    }
}

/// A model of this shape whose matrices have this type.
pub(crate) fn model(shape: Shape, dtype: DType, hardware: &Hardware) -> Result<Loaded> {
    let start = Instant::now();
    if !matches!(dtype, DType::F16 | DType::BF16 | DType::Q4_0 | DType::Q8_0)
        && !matches!(dtype, DType::Q4_K | DType::Q5_K | DType::Q6_K)
    {
        bail!("--weights {dtype}: expected F16, BF16, Q4_0, Q8_0, Q4_K, Q5_K or Q6_K");
    }
    let (config, compute) = (shape.config()?, hardware.compute()?);
    let random = Random { config: &config, compute: &compute, dtype };
    let model = Model::load(config.clone(), &random, compute.clone(), Repack::Never)?;
    let path = PathBuf::from(format!("random {} {dtype}", shape.name()));
    Ok(Loaded { path, model, took: start.elapsed() })
}

struct Random<'a> {
    config: &'a ModelConfig,
    compute: &'a Compute,
    dtype: DType,
}

impl WeightSource for Random<'_> {
    fn get(&self, name: &str) -> Result<Option<Tensor>, model::Error> {
        let ModelConfig::Decoder(c) = self.config else { return Ok(None) };
        let part = name.rsplit_once('.').map_or(name, |(stem, _)| stem);
        let part = part.rsplit('.').next().unwrap_or(part);
        let (queries, keys) = (c.n_heads * c.head_dim, c.n_kv_heads * c.head_dim);
        let [rows, cols] = match part {
            _ if name.ends_with(".bias") => return Ok(None),
            "attn_norm" | "ffn_norm" | "output_norm" => {
                return Ok(Some(Tensor::from_vec([c.hidden_size], vec![1.0; c.hidden_size])?));
            }
            "token_embd" | "output" => [c.vocab_size, c.hidden_size],
            "attn_q" => [queries, c.hidden_size],
            "attn_k" | "attn_v" => [keys, c.hidden_size],
            "attn_output" => [c.hidden_size, queries],
            "ffn_gate" | "ffn_up" => [c.intermediate_size, c.hidden_size],
            "ffn_down" => [c.hidden_size, c.intermediate_size],
            _ => return Ok(None),
        };
        let mut random = ChaCha8Rng::seed_from_u64(rows as u64);
        // Of the size that keeps what goes through a layer as large as it was.
        let scale = (3.0 / cols as f32).sqrt();
        let numbers = (0..ROWS * cols).map(|_| random.random_range(-scale..scale)).collect();
        let pattern = Tensor::from_vec([ROWS, cols], numbers)?.to_dtype(self.dtype)?;
        Ok(Some(self.compute.repeated(&pattern, rows)?))
    }
}
