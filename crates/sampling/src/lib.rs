//! Logits to token: temperature, truncation, penalties
