//! GGML's element types: layouts of the blocks, and their scalar decoding and encoding.
//!
//! [`DType`] names every type. [`decode`] and [`encode`] work on rows of any of them; each block
//! type is also a struct ([`BlockQ4K`] for example) with its fields open to SIMD kernels, and a
//! [`Block`] whose `decode` is the reference that such kernels are tested against. The
//! arithmetic is plain f32 in a fixed order, so that decoded values are bit-equal to libggml's
//! and encoded bytes to those of libggml built without fused multiply-add.
//!
//! The loops run over lanes and are inlined into a [`Target`], who may compile them for more
//! instructions than the baseline has ([`encode_on`], [`decode_on`]); the bits are the same.
//!
//! What is not here: whole tensors, threads, choice of a type for a tensor (`quant-core`), products
//! with blocks (`cpu-kernels`).
#![forbid(unsafe_code)]
// Loops over lanes read best with their index, and several arrays share it.
#![allow(clippy::needless_range_loop)]

mod block;
mod codec;
mod dtype;
mod error;
mod fit;
mod float16;
mod fp4;
mod iq;
mod kquants;
mod lanes;
mod legacy;
mod low_bit;
mod plain;
mod round;
mod target;
mod ternary;

pub use block::{Block, Encode, Half, Word, as_blocks};
pub use codec::{AbsMax, can_encode, decode, decode_on, encode, encode_on};
pub use dtype::{DType, UnknownDType};
pub use error::BlockError;
pub use fp4::{BlockMxfp4, BlockNvfp4, KVALUES_FP4, e8m0_half, to_ue4m3, ue4m3_half};
pub use iq::*;
pub use kquants::{
    BlockQ2K, BlockQ3K, BlockQ4K, BlockQ5K, BlockQ6K, BlockQ8K, QK_K, unpack_q3k_scales,
    unpack_scales_mins,
};
pub use legacy::{BlockQ4_0, BlockQ4_1, BlockQ5_0, BlockQ5_1, BlockQ8_0, BlockQ8_1};
pub use low_bit::{BlockQ1_0, BlockQ2_0};
pub use target::{Baseline, Target, Work};
pub use ternary::{BlockTq1_0, BlockTq2_0};
