//! What a configuration must satisfy before weights are read by it.

use crate::Error;
use crate::config::{DecoderConfig, EncoderConfig, Position, RotaryConfig};

impl DecoderConfig {
    /// Whether the parameters fit each other.
    ///
    /// # Errors
    /// [`Error::InvalidParameter`] names the first that does not.
    pub fn validate(&self) -> Result<(), Error> {
        positive("vocab_size", self.vocab_size)?;
        positive("hidden_size", self.hidden_size)?;
        positive("n_layers", self.n_layers)?;
        positive("intermediate_size", self.intermediate_size)?;
        positive("context_length", self.context_length)?;
        heads(self.n_heads, self.n_kv_heads, self.head_dim)?;
        if self.windows.len() != self.n_layers {
            return Err(invalid("windows", self.windows.len(), "one entry a layer"));
        }
        if self.windows.contains(&Some(0)) {
            return Err(invalid("windows", 0, "windows of at least one position"));
        }
        if let Some(width) = self.embedding_width {
            positive("embedding_width", width)?;
        }
        if let Position::Rotary { global, local } = &self.position {
            rotary(global, self.head_dim)?;
            local.iter().try_for_each(|local| rotary(local, self.head_dim))?;
        }
        let Some(experts) = &self.experts else {
            return Ok(());
        };
        positive("experts.intermediate_size", experts.intermediate_size)?;
        if experts.layers.len() != self.n_layers {
            return Err(invalid("experts.layers", experts.layers.len(), "one entry a layer"));
        }
        if experts.n_used == 0 || experts.n_used > experts.n_experts {
            let expected = format!("1..={}", experts.n_experts);
            return Err(invalid("experts.n_used", experts.n_used, &expected));
        }
        Ok(())
    }
}

impl EncoderConfig {
    /// Whether the parameters fit each other.
    ///
    /// # Errors
    /// [`Error::InvalidParameter`] names the first that does not.
    pub fn validate(&self) -> Result<(), Error> {
        positive("vocab_size", self.vocab_size)?;
        positive("type_vocab_size", self.type_vocab_size)?;
        positive("hidden_size", self.hidden_size)?;
        positive("n_layers", self.n_layers)?;
        positive("intermediate_size", self.intermediate_size)?;
        positive("context_length", self.context_length)?;
        heads(self.n_heads, self.n_heads, self.hidden_size.checked_div(self.n_heads).unwrap_or(0))?;
        if !self.hidden_size.is_multiple_of(self.n_heads) {
            return Err(invalid("n_heads", self.n_heads, "a divisor of hidden_size"));
        }
        Ok(())
    }
}

/// The largest size that a parameter may state: products of two of them do not overflow.
const LARGEST: usize = u32::MAX as usize;

fn positive(key: &str, value: usize) -> Result<(), Error> {
    match value {
        1..=LARGEST => Ok(()),
        _ => Err(invalid(key, value, &format!("1..={LARGEST}"))),
    }
}

fn heads(n_heads: usize, n_kv_heads: usize, head_dim: usize) -> Result<(), Error> {
    positive("n_heads", n_heads)?;
    positive("n_kv_heads", n_kv_heads)?;
    positive("head_dim", head_dim)?;
    positive("n_heads * head_dim", n_heads.saturating_mul(head_dim))?;
    match n_heads.is_multiple_of(n_kv_heads) {
        true => Ok(()),
        false => Err(invalid("n_kv_heads", n_kv_heads, &format!("a divisor of {n_heads}"))),
    }
}

fn rotary(config: &RotaryConfig, head_dim: usize) -> Result<(), Error> {
    let pairs = config.inv_freq.len();
    if pairs == 0 || pairs * 2 > head_dim {
        return Err(invalid("rotary_dim", pairs * 2, &format!("2..={head_dim}")));
    }
    match &config.long {
        Some(long) if long.inv_freq.len() != pairs => {
            Err(invalid("long_factor", long.inv_freq.len(), &format!("{pairs} of them")))
        }
        _ => Ok(()),
    }
}

fn invalid(key: &str, value: usize, expected: &str) -> Error {
    Error::InvalidParameter {
        key: key.to_owned(),
        value: value.to_string(),
        expected: expected.to_owned(),
    }
}
