//! Quantization of whole tensors, error measures, per-tensor recipes
