//! RMSNorm and LayerNorm.
