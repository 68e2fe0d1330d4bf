//! What a model is: the parameters that turn the one decoder body into any of the architectures.

use tensor::kv::KvLayout;
use tensor::{Activation, DType, RopeLayout};

/// A decoder of the Transformer family.
///
/// `arch::*` fills this from a Hugging Face `config.json` or from GGUF metadata; nothing else in
/// the body knows an architecture's name.
#[derive(Clone, Debug, PartialEq)]
pub struct DecoderConfig {
    /// The architecture's name in GGUF (`general.architecture`), for messages and for writing.
    pub architecture: String,
    /// Rows of the token embedding.
    pub vocab_size: usize,
    /// Width of the residual stream.
    pub hidden_size: usize,
    /// Blocks.
    pub n_layers: usize,
    /// Query heads.
    pub n_heads: usize,
    /// Key-value heads; divides `n_heads`.
    pub n_kv_heads: usize,
    /// Elements a head; `n_heads * head_dim` may differ from `hidden_size`.
    pub head_dim: usize,
    /// Width of the feed-forward layer (of a dense block).
    pub intermediate_size: usize,
    /// Positions the model was made for.
    pub context_length: usize,
    /// How the residual stream is normalised.
    pub norm: Norm,
    /// Whether a norm (`output_norm`) follows the last block (OPT has models without).
    pub final_norm: bool,
    /// Where the norms of a block stand.
    pub block: BlockLayout,
    /// How positions enter.
    pub position: Position,
    /// A norm over each head of queries and keys before they turn (Qwen3, Gemma 3).
    pub qk_norm: bool,
    /// The feed-forward layer.
    pub feed_forward: FeedForward,
    /// Routed experts, and in which layers; `None` for dense models.
    pub experts: Option<Experts>,
    /// Scores are multiplied by this.
    pub attention_scale: f32,
    /// Whether the scores of layer `i` are divided by `i + 1` as well (a variant of GPT-2).
    pub attention_scale_by_layer: bool,
    /// Scores are capped softly to this (Gemma 2).
    pub attention_softcap: Option<f32>,
    /// Logits are capped softly to this (Gemma 2).
    pub logit_softcap: Option<f32>,
    /// Positions seen by each layer's attention; one entry a layer, `None` for all of them.
    pub windows: Vec<Option<usize>>,
    /// Embeddings are multiplied by this (Gemma: the square root of the width).
    pub embedding_scale: f32,
    /// Width of the token embedding where it differs from the residual stream (OPT-350m).
    pub embedding_width: Option<usize>,
    /// Whether the output matrix is the token embedding.
    pub tied_embeddings: bool,
}

/// A normalisation.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Norm {
    /// Which.
    pub kind: NormKind,
    /// Added under the root.
    pub eps: f32,
    /// Added to the weight (1 where the checkpoint stores `w - 1`: Gemma in Hugging Face folders).
    pub offset: f32,
}

/// Kinds of normalisation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NormKind {
    /// Zhang and Sennrich 2019; a weight and no bias.
    Rms,
    /// Ba et al. 2016; a weight and a bias.
    Layer,
}

/// Where the norms of a block stand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BlockLayout {
    /// Before attention and before the feed-forward layer.
    PreNorm,
    /// After each residual addition (OPT-350m).
    PostNorm,
    /// Before and after both, the latter inside the residual branch (Gemma 2 and 3).
    Sandwich,
}

/// How positions enter.
#[derive(Clone, Debug, PartialEq)]
#[allow(clippy::large_enum_variant)] // one a model
pub enum Position {
    /// A learned table; row `position + offset` (OPT: 2).
    Learned {
        /// Added to the position.
        offset: usize,
    },
    /// Rotary embedding, in every layer the same or with another base in the windowed layers.
    Rotary {
        /// For layers that see everything.
        global: RotaryConfig,
        /// For layers with a window, where it differs (Gemma 3).
        local: Option<RotaryConfig>,
    },
}

/// A rotary embedding, resolved: the scaling of a checkpoint (linear, llama3, yarn, longrope) is
/// already in the frequencies.
#[derive(Clone, Debug, PartialEq)]
pub struct RotaryConfig {
    /// `inv_freq[i]` for each pair; twice as many elements of a head turn.
    pub inv_freq: Vec<f32>,
    /// Other frequencies, for sequences that reach beyond a length (LongRoPE).
    pub long: Option<LongRotary>,
    /// Cosine and sine are multiplied by this (yarn's attention factor).
    pub magnitude: f32,
    /// Which elements form a pair.
    pub layout: RopeLayout,
    /// What the frequencies were computed from, for writing them to a file again.
    pub source: RopeParameters,
}

/// The frequencies of a sequence that is longer than the context before extension (LongRoPE).
///
/// As in transformers, a forward turns all its rows of a sequence by these frequencies if the
/// sequence is longer than `original_context` after it; keys that are cached already keep theirs.
#[derive(Clone, Debug, PartialEq)]
pub struct LongRotary {
    /// As many as in [`RotaryConfig::inv_freq`].
    pub inv_freq: Vec<f32>,
    /// The longest sequence for which the short ones are used.
    pub original_context: usize,
}

/// A checkpoint's statement about its rotary embedding, in Hugging Face's terms.
#[derive(Clone, Debug, PartialEq)]
pub struct RopeParameters {
    /// `rope_theta`.
    pub theta: f64,
    /// Elements of a head that turn.
    pub rotary_dim: usize,
    /// `rope_type` and its parameters.
    pub scaling: RopeScaling,
}

/// `rope_scaling` (transformers 4) or `rope_parameters` (transformers 5).
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum RopeScaling {
    /// None.
    Default,
    /// Positions divided by a factor (Chen et al. 2023).
    Linear {
        /// The divisor.
        factor: f64,
    },
    /// Llama 3.1's: low frequencies divided, high ones kept, a ramp between.
    Llama3 {
        /// The divisor of low frequencies.
        factor: f64,
        /// Wavelengths over `original / low_freq_factor` are divided.
        low_freq_factor: f64,
        /// Wavelengths under `original / high_freq_factor` are kept.
        high_freq_factor: f64,
        /// The context before extension.
        original_context: usize,
    },
    /// YaRN (Peng et al. 2023).
    Yarn {
        /// The extension.
        factor: f64,
        /// The context before extension.
        original_context: usize,
        /// `attention_factor`, or the one that follows from `mscale` and the factor.
        attention_factor: f64,
        /// Rotations above which a frequency is kept (32).
        beta_fast: f64,
        /// Rotations under which it is divided (1).
        beta_slow: f64,
        /// Whether the bounds are rounded to whole dimensions.
        truncate: bool,
    },
    /// LongRoPE (Phi-3): a factor for each frequency.
    LongRope {
        /// Divisors within the original context.
        short_factor: Vec<f32>,
        /// Divisors beyond it.
        long_factor: Vec<f32>,
        /// The context before extension.
        original_context: usize,
        /// Multiplier of cosine and sine.
        attention_factor: f64,
    },
    /// A divisor for each frequency, as GGUF files carry it (`rope_freqs.weight`).
    Factors(Vec<f32>),
}

/// The feed-forward layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FeedForward {
    /// The non-linearity.
    pub activation: Activation,
    /// Whether it multiplies a second projection (SwiGLU, GeGLU).
    pub gated: bool,
}

/// Routed experts (Mixtral, Qwen3-MoE).
#[derive(Clone, Debug, PartialEq)]
pub struct Experts {
    /// How many there are.
    pub n_experts: usize,
    /// How many each token uses.
    pub n_used: usize,
    /// Width of each one's feed-forward layer.
    pub intermediate_size: usize,
    /// Whether the used weights are divided by their sum.
    pub normalise: bool,
    /// Whether a layer has experts; one entry a layer.
    pub layers: Vec<bool>,
}

/// An encoder of the BERT family.
#[derive(Clone, Debug, PartialEq)]
pub struct EncoderConfig {
    /// The architecture's name in GGUF.
    pub architecture: String,
    /// Rows of the token embedding.
    pub vocab_size: usize,
    /// Rows of the token-type embedding.
    pub type_vocab_size: usize,
    /// Width of the residual stream.
    pub hidden_size: usize,
    /// Blocks.
    pub n_layers: usize,
    /// Heads.
    pub n_heads: usize,
    /// Width of the feed-forward layer.
    pub intermediate_size: usize,
    /// Rows of the position embedding.
    pub context_length: usize,
    /// Added under the root of the layer norms.
    pub norm_eps: f32,
    /// The non-linearity.
    pub activation: Activation,
}

/// A model of either family.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
#[allow(clippy::large_enum_variant)] // one a model
pub enum ModelConfig {
    /// Generates text.
    Decoder(DecoderConfig),
    /// Embeds text.
    Encoder(EncoderConfig),
}

impl DecoderConfig {
    /// What it needs of a key-value cache that stores `dtype`.
    pub fn kv_layout(&self, dtype: DType) -> KvLayout {
        KvLayout {
            layers: self.n_layers,
            n_kv_heads: self.n_kv_heads,
            head_dim: self.head_dim,
            dtype,
        }
    }
}
