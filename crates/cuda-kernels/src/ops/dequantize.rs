//! Blocks to plain numbers.
