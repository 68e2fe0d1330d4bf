//! Perplexity, KL divergence, error bars
