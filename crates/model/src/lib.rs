//! Architectures, weights, one decoder body, the ragged forward
