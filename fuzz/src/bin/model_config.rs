//! Reads bytes as `config.json`, and asks for the weights that it describes.
#![cfg_attr(fuzzing, no_main)]

use model::config::Position;
use model::{Error, Model, ModelConfig, WeightSource};
use tensor::Tensor;

fuzz::target!(run);

/// A checkpoint without tensors.
struct Nothing;

impl WeightSource for Nothing {
    fn get(&self, _: &str) -> Result<Option<Tensor>, Error> {
        Ok(None)
    }
}

fn run(bytes: &[u8]) {
    let Ok(json) = serde_json::from_slice(bytes) else { return };
    let config = match model::arch::hf::config(&json) {
        Ok((_, config)) => config,
        Err(error) => {
            let message = error.to_string();
            assert!(!message.is_empty() && message.len() < 1000, "{message}");
            return;
        }
    };
    if let ModelConfig::Decoder(c) = &config {
        assert_eq!(c.windows.len(), c.n_layers);
        assert!(c.n_heads.is_multiple_of(c.n_kv_heads));
        assert!(c.norm.eps > 0.0 && c.attention_scale.is_finite());
        if let Position::Rotary { global, .. } = &c.position {
            assert!(global.inv_freq.len() * 2 <= c.head_dim);
        }
    }
    // What is missing is the first tensor, unless the parameters do not fit each other.
    match Model::check(&config, &Nothing) {
        Err(Error::MissingTensor { name }) => assert_eq!(name, "token_embd.weight"),
        Err(Error::InvalidParameter { .. }) => {}
        other => panic!("{other:?}"),
    }
}
