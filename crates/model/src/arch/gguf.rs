//! The metadata of a GGUF file, under the keys that llama.cpp reads.
//!
//! Beyond llama.cpp's there are a few keys for what it takes for granted: `{arch}.attention.scale`,
//! `{arch}.hidden_activation`, `{arch}.expert_weights_norm` and a window for any architecture are
//! read wherever they stand, and the architecture `opt`, which llama.cpp does not have, is `gpt2`
//! with `opt.do_layer_norm_before`.

use gguf::{Array, FromValue, Gguf, Metadata, Strings, Value};
use tensor::{Activation, RopeLayout};

use super::Arch;
use super::hf::{learned_decoder, parse_activation};
use super::json::{MAX_COUNT, MAX_HEAD, MAX_PARTS, invalid};
use crate::config::{
    BlockLayout, DecoderConfig, EncoderConfig, Experts, FeedForward, ModelConfig, Norm, NormKind,
    Position, RopeParameters, RopeScaling, RotaryConfig,
};
use crate::rope_scaling::yarn_magnitude;
use crate::{Error, weights};

/// Reads the configuration of an opened file.
///
/// # Errors
/// [`Error::UnknownArchitecture`], or [`Error::Gguf`], [`Error::InvalidParameter`] and
/// [`Error::MissingTensor`] that name the key or tensor.
pub fn config(file: &Gguf) -> Result<(Arch, ModelConfig), Error> {
    let name = file.metadata().str("general.architecture")?;
    let k = Keys { file, meta: file.metadata(), arch: name };
    let window = k.natural("attention.sliding_window")?;
    let experts = k.natural("expert_count")?;
    let arch = Arch::from_gguf(name, window.unwrap_or(0) > 0, experts.unwrap_or(0) > 0)?;
    let config = match arch {
        Arch::Gpt2 | Arch::Opt => ModelConfig::Decoder(learned(arch, &k)?),
        Arch::Bert => ModelConfig::Encoder(bert(&k)?),
        _ => ModelConfig::Decoder(rotary_decoder(arch, &k)?),
    };
    Ok((arch, config))
}

/// The keys of one architecture, `{arch}.NAME`.
struct Keys<'a> {
    file: &'a Gguf,
    meta: &'a Metadata,
    arch: &'a str,
}

impl<'a> Keys<'a> {
    fn key(&self, name: &str) -> String {
        format!("{}.{name}", self.arch)
    }

    fn optional<T: FromValue<'a>>(&self, name: &str) -> Result<Option<T>, Error> {
        Ok(self.meta.optional(&self.key(name))?)
    }

    /// A whole number from 0.
    fn natural(&self, name: &str) -> Result<Option<usize>, Error> {
        let value = self.optional::<usize>(name)?;
        self.check(name, value, |v| *v <= MAX_COUNT, "a whole number up to 2^31")
    }

    /// A whole number from 1 to `max`, or a list of that number again and again, one a layer.
    fn count(&self, name: &str, max: usize) -> Result<Option<usize>, Error> {
        let value = match self.meta.get(&self.key(name)) {
            Some(Value::Array(array)) => self.uniform(name, array)?,
            _ => self.optional(name)?,
        };
        let expected = format!("a whole number from 1 to {max}");
        self.check(name, value, |v| (1..=max).contains(v), &expected)
    }

    fn uniform(&self, name: &str, array: &Array) -> Result<Option<usize>, Error> {
        let whole = |v: Value| v.as_integer().and_then(|v| usize::try_from(v).ok());
        let mut values = array.scalars().into_iter().flatten().map(whole);
        let first = values.next().flatten();
        if first.is_some() && values.all(|v| v == first) {
            return Ok(first);
        }
        let got = format!("an array of {} values that differ", array.len());
        Err(invalid(&self.key(name), got, "one value for all layers"))
    }

    fn required(&self, name: &str, max: usize) -> Result<usize, Error> {
        self.count(name, max)?.ok_or_else(|| Error::MissingParameter { key: self.key(name) })
    }

    /// A finite number above zero.
    fn positive(&self, name: &str) -> Result<Option<f32>, Error> {
        let value = self.optional::<f32>(name)?;
        self.check(name, value, |v| *v > 0.0 && v.is_finite(), "a number above zero")
    }

    fn eps(&self, name: &str) -> Result<f32, Error> {
        self.positive(name)?.ok_or_else(|| Error::MissingParameter { key: self.key(name) })
    }

    fn check<T: std::fmt::Display>(
        &self,
        name: &str,
        value: Option<T>,
        valid: impl Fn(&T) -> bool,
        expected: &str,
    ) -> Result<Option<T>, Error> {
        match value {
            Some(v) if !valid(&v) => Err(invalid(&self.key(name), v, expected)),
            value => Ok(value),
        }
    }

    /// Rows and columns of a matrix of the file.
    fn matrix(&self, name: &str) -> Result<(usize, usize), Error> {
        match self.file.tensor(name).map(|t| t.shape.as_slice()) {
            Some(&[rows, cols]) => Ok((rows, cols)),
            Some(shape) => Err(Error::TensorShape {
                name: name.to_owned(),
                expected: [shape.iter().product(), 1].into(),
                got: shape.into(),
            }),
            None => Err(Error::MissingTensor { name: name.to_owned() }),
        }
    }

    /// Rows and columns of the token embedding; the tokenizer must have as many tokens as rows.
    fn vocabulary(&self) -> Result<(usize, usize), Error> {
        const TOKENS: &str = "tokenizer.ggml.tokens";
        let (rows, cols) = self.matrix("token_embd.weight")?;
        match self.meta.optional::<Strings<'_>>(TOKENS)? {
            Some(tokens) if tokens.len() != rows => {
                let expected = format!("as many as token_embd.weight has rows ({rows})");
                Err(invalid(TOKENS, format!("{} tokens", tokens.len()), expected))
            }
            _ => Ok((rows, cols)),
        }
    }

    fn has(&self, tensor: &str) -> bool {
        self.file.tensor(tensor).is_some()
    }

    fn activation(&self, default: Activation) -> Result<Activation, Error> {
        const NAME: &str = "hidden_activation";
        match self.optional::<&str>(NAME)? {
            Some(name) => parse_activation(&self.key(NAME), name),
            None => Ok(default),
        }
    }

    fn heads(&self) -> Result<(usize, usize), Error> {
        let n_heads = self.required("attention.head_count", MAX_PARTS)?;
        let n_kv = self.count("attention.head_count_kv", MAX_PARTS)?.unwrap_or(n_heads);
        if n_heads.is_multiple_of(n_kv) {
            return Ok((n_heads, n_kv));
        }
        let expected = format!("a divisor of attention.head_count ({n_heads})");
        Err(invalid(&self.key("attention.head_count_kv"), n_kv, expected))
    }

    fn head_dim(&self, hidden_size: usize, n_heads: usize) -> Result<usize, Error> {
        const NAME: &str = "attention.key_length";
        let whole = hidden_size.is_multiple_of(n_heads);
        let head_dim = match self.count(NAME, MAX_HEAD)? {
            Some(n) => n,
            None if whole && hidden_size / n_heads <= MAX_HEAD => hidden_size / n_heads,
            None => {
                let expected = format!(
                    "a divisor of embedding_length ({hidden_size}), with heads up to {MAX_HEAD}"
                );
                return Err(invalid(&self.key("attention.head_count"), n_heads, expected));
            }
        };
        match self.count("attention.value_length", MAX_HEAD)? {
            Some(v) if v != head_dim => {
                let expected = format!("as attention.key_length ({head_dim})");
                Err(invalid(&self.key("attention.value_length"), v, expected))
            }
            _ => Ok(head_dim),
        }
    }
}

fn rotary_decoder(arch: Arch, k: &Keys<'_>) -> Result<DecoderConfig, Error> {
    let gemma = matches!(arch, Arch::Gemma2 | Arch::Gemma3);
    let hidden_size = k.required("embedding_length", MAX_COUNT)?;
    let n_layers = k.required("block_count", MAX_PARTS)?;
    let (n_heads, n_kv_heads) = k.heads()?;
    let head_dim = k.head_dim(hidden_size, n_heads)?;
    let context_length = k.required("context_length", MAX_COUNT)?;
    let (vocab_size, _) = k.vocabulary()?;
    let intermediate_size = k.required("feed_forward_length", MAX_COUNT)?;
    let windows = windows(arch, k, n_layers)?;
    let softcap = |name: &str| if gemma { k.positive(name) } else { Ok(None) };
    Ok(DecoderConfig {
        architecture: arch.gguf_name().to_owned(),
        vocab_size,
        hidden_size,
        n_layers,
        n_heads,
        n_kv_heads,
        head_dim,
        intermediate_size,
        context_length,
        norm: Norm {
            kind: NormKind::Rms,
            eps: k.eps("attention.layer_norm_rms_epsilon")?,
            offset: 0.0,
        },
        final_norm: true,
        block: if gemma { BlockLayout::Sandwich } else { BlockLayout::PreNorm },
        position: position(arch, k, head_dim, context_length, &windows)?,
        qk_norm: matches!(arch, Arch::Qwen3 | Arch::Qwen3Moe | Arch::Gemma3),
        feed_forward: FeedForward {
            activation: k.activation(default_activation(arch))?,
            gated: true,
        },
        experts: experts(k, n_layers, intermediate_size)?,
        attention_scale: match k.positive("attention.scale")? {
            Some(scale) => scale,
            None => default_scale(arch, n_layers, hidden_size / n_heads, head_dim),
        },
        attention_scale_by_layer: false,
        attention_softcap: softcap("attn_logit_softcapping")?,
        logit_softcap: softcap("final_logit_softcapping")?,
        windows,
        embedding_scale: if gemma { (hidden_size as f32).sqrt() } else { 1.0 },
        embedding_width: None,
        tied_embeddings: !k.has("output.weight"),
    })
}

/// The scale that llama.cpp assumes: the 27 B models of Gemma divide by the width by heads.
pub fn default_scale(arch: Arch, n_layers: usize, width_by_heads: usize, head_dim: usize) -> f32 {
    let big = matches!((arch, n_layers), (Arch::Gemma2, 46) | (Arch::Gemma3, 62));
    (if big { width_by_heads } else { head_dim } as f64).powf(-0.5) as f32
}

/// The activation that llama.cpp assumes, but for BERT's, which is the exact one.
pub fn default_activation(arch: Arch) -> Activation {
    match arch {
        Arch::Gemma2 | Arch::Gemma3 | Arch::Gpt2 => Activation::GeluTanh,
        Arch::Opt => Activation::Relu,
        Arch::Bert => Activation::GeluErf,
        _ => Activation::Silu,
    }
}

/// Whether a layer of an architecture with windows has one where the file has no pattern.
pub fn default_pattern(arch: Arch, layer: usize) -> bool {
    match arch {
        Arch::Gemma2 => layer.is_multiple_of(2),
        Arch::Gemma3 => !(layer + 1).is_multiple_of(6),
        _ => true,
    }
}

fn windows(arch: Arch, k: &Keys<'_>, n_layers: usize) -> Result<Vec<Option<usize>>, Error> {
    const PATTERN: &str = "attention.sliding_window_pattern";
    let default = if arch == Arch::Gemma2 { 4096 } else { 0 };
    let window = k.natural("attention.sliding_window")?.unwrap_or(default);
    if window == 0 {
        return Ok(vec![None; n_layers]);
    }
    let windowed: Vec<bool> = match k.meta.get(&k.key(PATTERN)) {
        None => (0..n_layers).map(|i| default_pattern(arch, i)).collect(),
        Some(Value::Array(list)) => {
            if list.len() != n_layers {
                let expected = format!("one value for each of the {n_layers} layers");
                return Err(invalid(&k.key(PATTERN), format!("{} values", list.len()), expected));
            }
            let flag = |v: Value| v.as_bool().unwrap_or(v.as_integer() == Some(1));
            list.scalars().into_iter().flatten().map(flag).collect()
        }
        Some(_) => {
            // One layer of `every` sees everything; 0: none does.
            let every = k.natural(PATTERN)?.unwrap_or(0);
            (0..n_layers).map(|i| every == 0 || i % every < every - 1).collect()
        }
    };
    if windowed.len() != n_layers {
        return Err(invalid(&k.key(PATTERN), "an array", "an array of booleans"));
    }
    Ok(windowed.into_iter().map(|w| w.then_some(window)).collect())
}

fn position(
    arch: Arch,
    k: &Keys<'_>,
    head_dim: usize,
    context: usize,
    windows: &[Option<usize>],
) -> Result<Position, Error> {
    const DIM: &str = "rope.dimension_count";
    let rotary_dim = k.count(DIM, MAX_HEAD)?.unwrap_or(head_dim);
    if rotary_dim > head_dim || !rotary_dim.is_multiple_of(2) {
        let expected = format!("an even number of the {head_dim} elements of a head");
        return Err(invalid(&k.key(DIM), rotary_dim, expected));
    }
    let layout = match arch.interleaves_rope() {
        true => RopeLayout::Interleaved,
        false => RopeLayout::Half,
    };
    let theta = f64::from(k.positive("rope.freq_base")?.unwrap_or(10_000.0));
    let scaling = scaling(k, theta, rotary_dim, context)?;
    let global = RotaryConfig::new(RopeParameters { theta, rotary_dim, scaling }, layout);
    let local = match arch == Arch::Gemma3 && windows.iter().any(Option::is_some) {
        true => {
            let theta = f64::from(k.positive("rope.freq_base_swa")?.unwrap_or(10_000.0));
            let scaling = RopeScaling::Default;
            Some(RotaryConfig::new(RopeParameters { theta, rotary_dim, scaling }, layout))
        }
        false => None,
    };
    Ok(Position::Rotary { global, local })
}

fn scaling(
    k: &Keys<'_>,
    theta: f64,
    rotary_dim: usize,
    context: usize,
) -> Result<RopeScaling, Error> {
    const KIND: &str = "rope.scaling.type";
    let factor = match k.optional::<f32>("rope.scaling.factor")? {
        Some(f) => Some(f),
        None => k.optional("rope.scale_linear")?,
    };
    // Zero means that there is none.
    let factor = f64::from(factor.filter(|f| *f != 0.0).unwrap_or(1.0));
    if !(factor > 0.0 && factor.is_finite()) {
        return Err(invalid(&k.key("rope.scaling.factor"), factor, "a number above zero"));
    }
    let original = k.count("rope.scaling.original_context_length", MAX_COUNT)?;
    let original_context = original.unwrap_or(context).max(2);
    let attention_factor = k.positive("rope.scaling.attn_factor")?.map(f64::from);
    let table = |name: &str| -> Result<Option<Vec<f32>>, Error> {
        let Some(info) = k.file.tensor(name) else { return Ok(None) };
        let refused = || {
            let expected = format!("{} numbers above zero", rotary_dim / 2);
            invalid(name, format!("{} numbers", info.elements()), expected)
        };
        // A tensor of any other length is not decoded: it may be large.
        if info.elements() != rotary_dim / 2 {
            return Err(refused());
        }
        let tensor = weights::gguf_tensor(k.file, name)?.ok_or_else(refused)?;
        let factors = tensor.into_vec()?;
        match factors.iter().all(|f| *f > 0.0 && f.is_finite()) {
            true => Ok(Some(factors)),
            false => Err(refused()),
        }
    };
    if let Some(long_factor) = table("rope_factors_long.weight")? {
        let short_factor = table("rope_factors_short.weight")?
            .ok_or_else(|| Error::MissingTensor { name: "rope_factors_short.weight".to_owned() })?;
        let attention_factor = attention_factor.unwrap_or(1.0);
        return Ok(RopeScaling::LongRope {
            short_factor,
            long_factor,
            original_context,
            attention_factor,
        });
    }
    let kind = k.optional::<&str>(KIND)?.unwrap_or("linear");
    let factors = table("rope_freqs.weight")?;
    match (kind, factors) {
        ("yarn", None) => {
            if theta <= 1.0 {
                return Err(invalid(&k.key("rope.freq_base"), theta, "more than 1 for yarn"));
            }
            let extended = match k.positive("rope.scaling.yarn_attn_factor")? {
                // The factor as a Hugging Face configuration states it.
                Some(f) if attention_factor.is_none() => f64::from(f),
                _ => yarn_magnitude(factor, 1.0) * attention_factor.unwrap_or(1.0),
            };
            Ok(RopeScaling::Yarn {
                factor,
                original_context,
                attention_factor: extended,
                beta_fast: f64::from(k.positive("rope.scaling.yarn_beta_fast")?.unwrap_or(32.0)),
                beta_slow: f64::from(k.positive("rope.scaling.yarn_beta_slow")?.unwrap_or(1.0)),
                truncate: true,
            })
        }
        ("none", None) => Ok(RopeScaling::Default),
        ("linear", None) if factor == 1.0 => Ok(RopeScaling::Default),
        ("linear", None) => Ok(RopeScaling::Linear { factor }),
        ("none" | "longrope", Some(factors)) => Ok(RopeScaling::Factors(factors)),
        ("linear", Some(factors)) => {
            Ok(RopeScaling::Factors(factors.into_iter().map(|f| f * factor as f32).collect()))
        }
        ("longrope", None) => {
            Err(Error::MissingTensor { name: "rope_factors_long.weight".to_owned() })
        }
        (other, _) => Err(invalid(&k.key(KIND), other, "none, linear, yarn or longrope")),
    }
}

fn experts(
    k: &Keys<'_>,
    n_layers: usize,
    intermediate_size: usize,
) -> Result<Option<Experts>, Error> {
    let n_experts = k.natural("expert_count")?.unwrap_or(0);
    if n_experts == 0 {
        return Ok(None);
    }
    let n_experts = k.required("expert_count", MAX_PARTS)?;
    let n_used = k.required("expert_used_count", n_experts)?;
    let width = k.count("expert_feed_forward_length", MAX_COUNT)?;
    Ok(Some(Experts {
        n_experts,
        n_used,
        intermediate_size: width.unwrap_or(intermediate_size),
        normalise: k.optional("expert_weights_norm")?.unwrap_or(true),
        layers: (0..n_layers).map(|i| k.has(&format!("blk.{i}.ffn_gate_inp.weight"))).collect(),
    }))
}

/// GPT-2 and OPT.
fn learned(arch: Arch, k: &Keys<'_>) -> Result<DecoderConfig, Error> {
    let hidden_size = k.required("embedding_length", MAX_COUNT)?;
    let n_layers = k.required("block_count", MAX_PARTS)?;
    let (n_heads, n_kv_heads) = k.heads()?;
    if n_kv_heads != n_heads {
        let expected = format!("as attention.head_count ({n_heads})");
        return Err(invalid(&k.key("attention.head_count_kv"), n_kv_heads, expected));
    }
    let head_dim = k.head_dim(hidden_size, n_heads)?;
    let (vocab_size, width) = k.vocabulary()?;
    let eps = k.eps("attention.layer_norm_epsilon")?;
    let opt = arch == Arch::Opt;
    let activation = k.activation(default_activation(arch))?;
    let common = learned_decoder(arch, hidden_size, n_layers, n_heads, head_dim, eps, activation);
    let before = !opt || k.optional("do_layer_norm_before")?.unwrap_or(true);
    Ok(DecoderConfig {
        vocab_size,
        intermediate_size: k.required("feed_forward_length", MAX_COUNT)?,
        context_length: k.required("context_length", MAX_COUNT)?,
        final_norm: k.has("output_norm.weight"),
        block: if before { BlockLayout::PreNorm } else { BlockLayout::PostNorm },
        position: Position::Learned { offset: if opt { 2 } else { 0 } },
        attention_scale: k.positive("attention.scale")?.unwrap_or(common.attention_scale),
        attention_scale_by_layer: k.optional("attention.scale_by_layer")?.unwrap_or(false),
        embedding_width: (width != hidden_size).then_some(width),
        tied_embeddings: !k.has("output.weight"),
        ..common
    })
}

fn bert(k: &Keys<'_>) -> Result<EncoderConfig, Error> {
    let hidden_size = k.required("embedding_length", MAX_COUNT)?;
    let (n_heads, _) = k.heads()?;
    k.head_dim(hidden_size, n_heads)?;
    let (vocab_size, _) = k.vocabulary()?;
    Ok(EncoderConfig {
        architecture: Arch::Bert.gguf_name().to_owned(),
        vocab_size,
        type_vocab_size: k.matrix("token_types.weight")?.0,
        hidden_size,
        n_layers: k.required("block_count", MAX_PARTS)?,
        n_heads,
        intermediate_size: k.required("feed_forward_length", MAX_COUNT)?,
        context_length: k.required("context_length", MAX_COUNT)?,
        norm_eps: k.eps("attention.layer_norm_epsilon")?,
        activation: k.activation(default_activation(Arch::Bert))?,
    })
}
