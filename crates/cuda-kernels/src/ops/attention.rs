//! Attention over pages.
