//! Continuous batching: which rows of which requests the next step computes.
#![forbid(unsafe_code)]
