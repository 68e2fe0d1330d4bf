//! A Hugging Face `config.json`, as transformers 4 and 5 write it.
//!
//! A key that is absent takes the default of the architecture's configuration class in
//! transformers, since a saved configuration may leave out what equals it.

use serde_json::{Map, Value};
use tensor::{Activation, RopeLayout};

use super::Arch;
use super::hf_rope::{self, RopeContext};
use super::json::{MAX_COUNT, MAX_HEAD, MAX_PARTS, Params, invalid};
use crate::Error;
use crate::config::{
    BlockLayout, DecoderConfig, EncoderConfig, Experts, FeedForward, ModelConfig, Norm, NormKind,
    Position, RotaryConfig,
};

/// Reads a parsed `config.json`.
///
/// The text part of a multimodal configuration (`text_config`) is read in its place.
///
/// ```
/// let json = serde_json::json!({"model_type": "llama", "hidden_size": 64,
///     "num_attention_heads": 4, "num_hidden_layers": 2, "vocab_size": 320});
/// let (arch, config) = model::arch::hf::config(json.as_object().unwrap())?;
/// assert_eq!(arch, model::arch::Arch::Llama);
/// let model::ModelConfig::Decoder(config) = config else { panic!("Llama is a decoder") };
/// assert_eq!((config.head_dim, config.n_kv_heads, config.windows.len()), (16, 4, 2));
/// # Ok::<(), model::Error>(())
/// ```
///
/// # Errors
/// [`Error::UnknownArchitecture`], or [`Error::InvalidParameter`] and [`Error::MissingParameter`]
/// that name the key.
pub fn config(json: &Map<String, Value>) -> Result<(Arch, ModelConfig), Error> {
    let outer = Params::new(json);
    let class = outer.list("architectures")?.and_then(|l| l.first()).and_then(Value::as_str);
    let arch = Arch::from_hf(outer.text("model_type")?, class)?;
    let text = match outer.object("text_config")? {
        Some(text) => text,
        None => outer,
    };
    let config = match arch {
        Arch::Gpt2 => ModelConfig::Decoder(gpt2(&text)?),
        Arch::Opt => ModelConfig::Decoder(opt(&text)?),
        Arch::Bert => ModelConfig::Encoder(bert(&text)?),
        _ => ModelConfig::Decoder(rotary_decoder(arch, &text)?),
    };
    Ok((arch, config))
}

/// The defaults of an architecture's configuration class in transformers.
struct Defaults {
    vocab_size: usize,
    hidden_size: usize,
    intermediate_size: usize,
    layers: usize,
    heads: usize,
    /// `None`: as many as heads.
    kv_heads: Option<usize>,
    /// `None`: width by heads.
    head_dim: Option<usize>,
    context: usize,
    eps: f64,
    theta: f64,
    window: Option<usize>,
    tied: bool,
}

const LLAMA: Defaults = Defaults {
    vocab_size: 32_000,
    hidden_size: 4096,
    intermediate_size: 11_008,
    layers: 32,
    heads: 32,
    kv_heads: None,
    head_dim: None,
    context: 2048,
    eps: 1e-6,
    theta: 10_000.0,
    window: None,
    tied: false,
};

impl Defaults {
    fn of(arch: Arch) -> Self {
        let mistral = Defaults {
            intermediate_size: 14_336,
            kv_heads: Some(8),
            context: 4096 * 32,
            window: Some(4096),
            ..LLAMA
        };
        let qwen = Defaults {
            vocab_size: 151_936,
            intermediate_size: 22_016,
            context: 32_768,
            kv_heads: Some(32),
            window: Some(4096),
            ..LLAMA
        };
        let gemma = Defaults {
            vocab_size: 256_000,
            hidden_size: 2304,
            intermediate_size: 9216,
            layers: 26,
            heads: 8,
            kv_heads: Some(4),
            head_dim: Some(256),
            context: 8192,
            window: Some(4096),
            tied: true,
            ..LLAMA
        };
        match arch {
            Arch::Mistral => mistral,
            Arch::Mixtral => Defaults { eps: 1e-5, theta: 1e6, window: None, ..mistral },
            Arch::Qwen2 => qwen,
            Arch::Qwen3 => Defaults { head_dim: Some(128), ..qwen },
            Arch::Qwen3Moe => Defaults {
                hidden_size: 2048,
                intermediate_size: 6144,
                layers: 24,
                kv_heads: Some(4),
                ..qwen
            },
            Arch::Gemma2 => gemma,
            Arch::Gemma3 => Defaults { vocab_size: 262_208, context: 131_072, ..gemma },
            Arch::Phi3 => Defaults {
                vocab_size: 32_064,
                hidden_size: 3072,
                intermediate_size: 8192,
                context: 4096,
                eps: 1e-5,
                ..LLAMA
            },
            _ => LLAMA,
        }
    }
}

/// Llama and those built like it.
fn rotary_decoder(arch: Arch, p: &Params<'_>) -> Result<DecoderConfig, Error> {
    let d = Defaults::of(arch);
    let gemma = matches!(arch, Arch::Gemma2 | Arch::Gemma3);
    let hidden_size = p.count("hidden_size", MAX_COUNT)?.unwrap_or(d.hidden_size);
    let n_layers = p.count("num_hidden_layers", MAX_PARTS)?.unwrap_or(d.layers);
    let n_heads = p.count("num_attention_heads", MAX_PARTS)?.unwrap_or(d.heads);
    let n_kv_heads = kv_heads(p, n_heads, d.kv_heads)?;
    let head_dim = head_dim(p, hidden_size, n_heads, d.head_dim)?;
    let context_length = p.count("max_position_embeddings", MAX_COUNT)?.unwrap_or(d.context);
    let (windows, windowed) = windows(arch, p, n_layers, d.window)?;

    let rope = RopeContext { arch, head_dim, context_length, default_theta: d.theta };
    let rotary = |r| RotaryConfig::new(r, RopeLayout::Half);
    let position = if arch == Arch::Gemma3 {
        let (global, local) = hf_rope::global_and_local(p, &rope)?;
        // Without a window a layer cannot be told by it: then all of them are of one kind.
        let local = windowed.then(|| rotary(local));
        Position::Rotary { global: rotary(global), local }
    } else {
        Position::Rotary { global: rotary(hf_rope::shared(p, &rope)?), local: None }
    };

    let activation = match gemma {
        true => activation(p, "hidden_activation", Activation::GeluTanh)?,
        false => activation(p, "hidden_act", Activation::Silu)?,
    };
    let query_scale = match gemma {
        true => p.positive("query_pre_attn_scalar")?.unwrap_or(256.0),
        false => head_dim as f64,
    };
    // `null` says that there is no cap, an absent key that it is the default.
    let softcap = |key: &str, default: f32| match p.positive(key)? {
        _ if !gemma => Ok(None),
        Some(cap) => Ok(Some(cap as f32)),
        None if p.contains(key) || arch == Arch::Gemma3 => Ok(None),
        None => Ok::<_, Error>(Some(default)),
    };
    let eps = p.positive("rms_norm_eps")?.unwrap_or(d.eps) as f32;
    Ok(DecoderConfig {
        architecture: arch.gguf_name().to_owned(),
        vocab_size: p.count("vocab_size", MAX_COUNT)?.unwrap_or(d.vocab_size),
        hidden_size,
        n_layers,
        n_heads,
        n_kv_heads,
        head_dim,
        intermediate_size: p.count("intermediate_size", MAX_COUNT)?.unwrap_or(d.intermediate_size),
        context_length,
        norm: Norm { kind: NormKind::Rms, eps, offset: arch.norm_offset() },
        final_norm: true,
        block: if gemma { BlockLayout::Sandwich } else { BlockLayout::PreNorm },
        position,
        qk_norm: matches!(arch, Arch::Qwen3 | Arch::Qwen3Moe | Arch::Gemma3),
        feed_forward: FeedForward { activation, gated: true },
        experts: experts(arch, p, n_layers)?,
        attention_scale: query_scale.powf(-0.5) as f32,
        attention_scale_by_layer: false,
        // Gemma 3 has the key too, but neither transformers nor llama.cpp caps its scores.
        attention_softcap: match arch {
            Arch::Gemma3 => None,
            _ => softcap("attn_logit_softcapping", 50.0)?,
        },
        logit_softcap: softcap("final_logit_softcapping", 30.0)?,
        windows,
        embedding_scale: if gemma { (hidden_size as f32).sqrt() } else { 1.0 },
        embedding_width: None,
        tied_embeddings: p.flag("tie_word_embeddings")?.unwrap_or(d.tied),
    })
}

fn kv_heads(p: &Params<'_>, n_heads: usize, default: Option<usize>) -> Result<usize, Error> {
    const KEY: &str = "num_key_value_heads";
    let n = match p.count(KEY, MAX_PARTS)? {
        Some(n) => n,
        // An explicit `null` means as many as heads.
        None if p.contains(KEY) => n_heads,
        None => default.unwrap_or(n_heads),
    };
    if n_heads.is_multiple_of(n) {
        return Ok(n);
    }
    Err(invalid(KEY, n, format!("a divisor of num_attention_heads ({n_heads})")))
}

fn head_dim(
    p: &Params<'_>,
    hidden_size: usize,
    n_heads: usize,
    default: Option<usize>,
) -> Result<usize, Error> {
    let own = match p.count("head_dim", MAX_HEAD)? {
        None if !p.contains("head_dim") => default,
        own => own,
    };
    match own {
        Some(n) => Ok(n),
        None => divided_width("num_attention_heads", hidden_size, n_heads),
    }
}

/// Elements a head where nothing but the width says so.
fn divided_width(key: &str, hidden_size: usize, n_heads: usize) -> Result<usize, Error> {
    if hidden_size.is_multiple_of(n_heads) && (1..=MAX_HEAD).contains(&(hidden_size / n_heads)) {
        return Ok(hidden_size / n_heads);
    }
    let expected = format!("a divisor of the width ({hidden_size}), with heads up to {MAX_HEAD}");
    Err(invalid(key, n_heads, expected))
}

fn activation(p: &Params<'_>, key: &str, default: Activation) -> Result<Activation, Error> {
    match p.text(key)? {
        Some(name) => parse_activation(key, name),
        None => Ok(default),
    }
}

/// Activations and what transformers calls them; the first name of each is the one to write.
const ACTIVATIONS: &[(&str, Activation)] = &[
    ("silu", Activation::Silu),
    ("swish", Activation::Silu),
    ("gelu", Activation::GeluErf),
    ("gelu_pytorch_tanh", Activation::GeluTanh),
    ("gelu_new", Activation::GeluTanh),
    ("gelu_fast", Activation::GeluTanh),
    ("quick_gelu", Activation::GeluQuick),
    ("relu", Activation::Relu),
    ("relu2", Activation::ReluSquared),
];

/// The activation that transformers calls by this name.
pub(crate) fn parse_activation(key: &str, name: &str) -> Result<Activation, Error> {
    let found = ACTIVATIONS.iter().find(|(n, _)| *n == name).map(|&(_, a)| a);
    found.ok_or_else(|| {
        let known: Vec<_> = ACTIVATIONS.iter().map(|&(n, _)| n).collect();
        invalid(key, name, format!("one of {}", known.join(", ")))
    })
}

/// What transformers calls an activation; `None` if it has no name for it.
pub fn activation_name(activation: Activation) -> Option<&'static str> {
    ACTIVATIONS.iter().find(|(_, a)| *a == activation).map(|&(name, _)| name)
}

/// The window of each layer, and whether the model has windows at all.
fn windows(
    arch: Arch,
    p: &Params<'_>,
    n_layers: usize,
    default: Option<usize>,
) -> Result<(Vec<Option<usize>>, bool), Error> {
    const KEY: &str = "sliding_window";
    let all = |w: Option<usize>| Ok((vec![w; n_layers], w.is_some()));
    let qwen = matches!(arch, Arch::Qwen2 | Arch::Qwen3 | Arch::Qwen3Moe);
    if arch == Arch::Llama || (qwen && !p.flag("use_sliding_window")?.unwrap_or(false)) {
        return all(None);
    }
    let window = match p.count(KEY, MAX_COUNT)? {
        None if !p.contains(KEY) => default,
        own => own,
    };
    let Some(window) = window else { return all(None) };
    // Whether layer `i` has the window, where no list says so.
    let pattern: Box<dyn Fn(usize) -> bool> = match arch {
        Arch::Qwen2 | Arch::Qwen3 => {
            let first = p.natural("max_window_layers")?.unwrap_or(28);
            Box::new(move |i| i >= first)
        }
        Arch::Gemma2 => Box::new(|i| i % 2 == 0),
        Arch::Gemma3 => {
            let own = match p.count("sliding_window_pattern", MAX_PARTS)? {
                Some(n) => Some(n),
                None => p.count("_sliding_window_pattern", MAX_PARTS)?,
            };
            let every = own.unwrap_or(6);
            Box::new(move |i| !(i + 1).is_multiple_of(every))
        }
        _ => return all(Some(window)),
    };
    let layers: Vec<bool> = match p.list("layer_types")? {
        Some(list) => layer_types(list, n_layers)?,
        None => (0..n_layers).map(pattern).collect(),
    };
    Ok((layers.into_iter().map(|w| w.then_some(window)).collect(), true))
}

fn layer_types(list: &[Value], n_layers: usize) -> Result<Vec<bool>, Error> {
    const KEY: &str = "layer_types";
    if list.len() != n_layers {
        let expected = format!("one entry for each of the {n_layers} layers");
        return Err(invalid(KEY, format!("a list of {}", list.len()), expected));
    }
    let kind = |v: &Value| match v.as_str() {
        Some("sliding_attention") => Ok(true),
        Some("full_attention") => Ok(false),
        _ => Err(invalid(KEY, v, "sliding_attention or full_attention")),
    };
    list.iter().map(kind).collect()
}

fn experts(arch: Arch, p: &Params<'_>, n_layers: usize) -> Result<Option<Experts>, Error> {
    let (n_experts, n_used, width, normalise) = match arch {
        Arch::Mixtral => (8, 2, ("intermediate_size", 14_336), true),
        Arch::Qwen3Moe => {
            let normalise = p.flag("norm_topk_prob")?.unwrap_or(false);
            (128, 8, ("moe_intermediate_size", 768), normalise)
        }
        _ => return Ok(None),
    };
    let own = match p.count("num_local_experts", MAX_PARTS)? {
        Some(n) => Some(n),
        None => p.count("num_experts", MAX_PARTS)?,
    };
    let n_experts = own.unwrap_or(n_experts);
    let n_used = p.count("num_experts_per_tok", MAX_PARTS)?.unwrap_or(n_used);
    if n_used > n_experts {
        let expected = format!("at most the {n_experts} experts that there are");
        return Err(invalid("num_experts_per_tok", n_used, expected));
    }
    let mut layers = vec![true; n_layers];
    if arch == Arch::Qwen3Moe {
        let step = p.count("decoder_sparse_step", MAX_PARTS)?.unwrap_or(1);
        for (i, layer) in layers.iter_mut().enumerate() {
            *layer = (i + 1).is_multiple_of(step);
        }
        for value in p.list("mlp_only_layers")?.unwrap_or_default() {
            match value.as_u64().and_then(|i| usize::try_from(i).ok()) {
                // As in transformers, a number beyond the layers means nothing.
                Some(i) => layers.get_mut(i).into_iter().for_each(|l| *l = false),
                None => return Err(invalid("mlp_only_layers", value, "numbers of layers")),
            }
        }
    }
    let intermediate_size = p.count(width.0, MAX_COUNT)?.unwrap_or(width.1);
    Ok(Some(Experts { n_experts, n_used, intermediate_size, normalise, layers }))
}

fn gpt2(p: &Params<'_>) -> Result<DecoderConfig, Error> {
    let hidden_size = p.count("n_embd", MAX_COUNT)?.unwrap_or(768);
    let n_layers = p.count("n_layer", MAX_PARTS)?.unwrap_or(12);
    let n_heads = p.count("n_head", MAX_PARTS)?.unwrap_or(12);
    let head_dim = divided_width("n_head", hidden_size, n_heads)?;
    let eps = p.positive("layer_norm_epsilon")?.unwrap_or(1e-5) as f32;
    let scaled = p.flag("scale_attn_weights")?.unwrap_or(true);
    let activation = activation(p, "activation_function", Activation::GeluTanh)?;
    Ok(DecoderConfig {
        vocab_size: p.count("vocab_size", MAX_COUNT)?.unwrap_or(50_257),
        intermediate_size: p.count("n_inner", MAX_COUNT)?.unwrap_or(4 * hidden_size),
        context_length: p.count("n_positions", MAX_COUNT)?.unwrap_or(1024),
        attention_scale: if scaled { (head_dim as f32).powf(-0.5) } else { 1.0 },
        attention_scale_by_layer: p.flag("scale_attn_by_inverse_layer_idx")?.unwrap_or(false),
        tied_embeddings: p.flag("tie_word_embeddings")?.unwrap_or(true),
        ..learned_decoder(Arch::Gpt2, hidden_size, n_layers, n_heads, head_dim, eps, activation)
    })
}

fn opt(p: &Params<'_>) -> Result<DecoderConfig, Error> {
    let hidden_size = p.count("hidden_size", MAX_COUNT)?.unwrap_or(768);
    let n_layers = p.count("num_hidden_layers", MAX_PARTS)?.unwrap_or(12);
    let n_heads = p.count("num_attention_heads", MAX_PARTS)?.unwrap_or(12);
    let head_dim = divided_width("num_attention_heads", hidden_size, n_heads)?;
    let before = p.flag("do_layer_norm_before")?.unwrap_or(true);
    if !p.flag("layer_norm_elementwise_affine")?.unwrap_or(true) {
        return Err(invalid("layer_norm_elementwise_affine", false, "true"));
    }
    let removed = p.flag("_remove_final_layer_norm")?.unwrap_or(false);
    let width = p.count("word_embed_proj_dim", MAX_COUNT)?.unwrap_or(hidden_size);
    let activation = activation(p, "activation_function", Activation::Relu)?;
    Ok(DecoderConfig {
        vocab_size: p.count("vocab_size", MAX_COUNT)?.unwrap_or(50_272),
        intermediate_size: p.count("ffn_dim", MAX_COUNT)?.unwrap_or(3072),
        context_length: p.count("max_position_embeddings", MAX_COUNT)?.unwrap_or(2048),
        final_norm: before && !removed,
        block: if before { BlockLayout::PreNorm } else { BlockLayout::PostNorm },
        position: Position::Learned { offset: 2 },
        embedding_width: (width != hidden_size).then_some(width),
        tied_embeddings: p.flag("tie_word_embeddings")?.unwrap_or(true),
        ..learned_decoder(Arch::Opt, hidden_size, n_layers, n_heads, head_dim, 1e-5, activation)
    })
}

/// What GPT-2 and OPT have in common.
pub(crate) fn learned_decoder(
    arch: Arch,
    hidden_size: usize,
    n_layers: usize,
    n_heads: usize,
    head_dim: usize,
    eps: f32,
    activation: Activation,
) -> DecoderConfig {
    DecoderConfig {
        architecture: arch.gguf_name().to_owned(),
        vocab_size: 0,
        hidden_size,
        n_layers,
        n_heads,
        n_kv_heads: n_heads,
        head_dim,
        intermediate_size: 4 * hidden_size,
        context_length: 0,
        norm: Norm { kind: NormKind::Layer, eps, offset: 0.0 },
        final_norm: true,
        block: BlockLayout::PreNorm,
        position: Position::Learned { offset: 0 },
        qk_norm: false,
        feed_forward: FeedForward { activation, gated: false },
        experts: None,
        attention_scale: (head_dim as f32).powf(-0.5),
        attention_scale_by_layer: false,
        attention_softcap: None,
        logit_softcap: None,
        windows: vec![None; n_layers],
        embedding_scale: 1.0,
        embedding_width: None,
        tied_embeddings: true,
    }
}

fn bert(p: &Params<'_>) -> Result<EncoderConfig, Error> {
    let hidden_size = p.count("hidden_size", MAX_COUNT)?.unwrap_or(768);
    let n_heads = p.count("num_attention_heads", MAX_PARTS)?.unwrap_or(12);
    divided_width("num_attention_heads", hidden_size, n_heads)?;
    if let Some(kind) = p.text("position_embedding_type")?.filter(|k| *k != "absolute") {
        return Err(invalid("position_embedding_type", kind, "absolute"));
    }
    if p.flag("is_decoder")?.unwrap_or(false) {
        return Err(invalid("is_decoder", true, "false"));
    }
    Ok(EncoderConfig {
        architecture: Arch::Bert.gguf_name().to_owned(),
        vocab_size: p.count("vocab_size", MAX_COUNT)?.unwrap_or(30_522),
        type_vocab_size: p.count("type_vocab_size", MAX_COUNT)?.unwrap_or(2),
        hidden_size,
        n_layers: p.count("num_hidden_layers", MAX_PARTS)?.unwrap_or(12),
        n_heads,
        intermediate_size: p.count("intermediate_size", MAX_COUNT)?.unwrap_or(3072),
        context_length: p.count("max_position_embeddings", MAX_COUNT)?.unwrap_or(512),
        norm_eps: p.positive("layer_norm_eps")?.unwrap_or(1e-12) as f32,
        activation: activation(p, "hidden_act", Activation::GeluErf)?,
    })
}
