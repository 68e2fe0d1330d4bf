//! Rotary embedding, with the writing of keys and values.
