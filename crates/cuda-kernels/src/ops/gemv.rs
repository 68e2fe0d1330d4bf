//! Products of a few rows with a matrix of blocks.
