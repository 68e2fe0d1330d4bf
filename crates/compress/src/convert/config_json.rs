//! A configuration as `config.json`, for transformers 5 and 4.
//!
//! Version 5 reads `rope_parameters` and `dtype`; version 4 reads `rope_theta`, `rope_scaling` and
//! `torch_dtype`. All of them are written, saying the same.

use model::arch::Arch;
use model::arch::hf::activation_name;
use model::config::{
    BlockLayout, DecoderConfig, EncoderConfig, ModelConfig, Position, RopeParameters, RopeScaling,
    RotaryConfig,
};
use model::rope_scaling::{longrope_magnitude, yarn_magnitude};
use serde_json::{Map, Value, json};
use tensor::{Activation, DType};

/// What `config.json` says beyond the configuration.
#[derive(Clone, Copy, Debug)]
pub(super) struct Facts {
    pub(super) arch: Arch,
    pub(super) dtype: DType,
    /// Whether the projections of attention have biases.
    pub(super) attention_bias: bool,
    /// Whether those of the feed-forward layer have.
    pub(super) ffn_bias: bool,
    /// Ids of the tokens that begin, end and fill up. Those that are not known are written as
    /// `null`: the defaults of the classes may lie beyond the vocabulary.
    pub(super) tokens: [Option<u32>; 3],
}

pub(super) const TOKEN_KEYS: [&str; 3] = ["bos_token_id", "eos_token_id", "pad_token_id"];

/// The object to write.
pub(super) fn config(facts: &Facts, config: &ModelConfig) -> Map<String, Value> {
    let mut json = match config {
        ModelConfig::Decoder(c) => match facts.arch {
            Arch::Gpt2 => gpt2(c),
            Arch::Opt => opt(facts, c),
            _ => rotary_decoder(facts, c),
        },
        ModelConfig::Encoder(c) => bert(c),
        _ => Map::new(),
    };
    let dtype = match facts.dtype {
        DType::F32 => "float32",
        DType::BF16 => "bfloat16",
        _ => "float16",
    };
    put(
        &mut json,
        json!({
            "architectures": [facts.arch.hf_class()],
            "model_type": facts.arch.model_type(),
            "dtype": dtype,
            "torch_dtype": dtype,
            "use_cache": true,
        }),
    );
    for (key, id) in TOKEN_KEYS.iter().zip(facts.tokens) {
        json.insert((*key).to_owned(), json!(id));
    }
    json.sort_keys();
    json
}

/// Adds the entries of an object.
fn put(map: &mut Map<String, Value>, entries: Value) {
    if let Value::Object(entries) = entries {
        map.extend(entries);
    }
}

/// A number with as few digits as single precision needs.
fn number(v: f32) -> Value {
    json!(v.to_string().parse::<f64>().unwrap_or(f64::from(v)))
}

/// A number of the configuration that was single precision in the file.
fn rounded(v: f64) -> Value {
    number(v as f32)
}

fn rotary_decoder(facts: &Facts, c: &DecoderConfig) -> Map<String, Value> {
    let arch = facts.arch;
    let mut json = Map::new();
    put(
        &mut json,
        json!({
            "vocab_size": c.vocab_size,
            "hidden_size": c.hidden_size,
            "intermediate_size": c.intermediate_size,
            "num_hidden_layers": c.n_layers,
            "num_attention_heads": c.n_heads,
            "num_key_value_heads": c.n_kv_heads,
            "head_dim": c.head_dim,
            "max_position_embeddings": c.context_length,
            "rms_norm_eps": number(c.norm.eps),
            "tie_word_embeddings": c.tied_embeddings,
            "attention_dropout": 0.0,
            "initializer_range": 0.02,
        }),
    );
    let gemma = matches!(arch, Arch::Gemma2 | Arch::Gemma3);
    let key = if gemma { "hidden_activation" } else { "hidden_act" };
    put(&mut json, json!({ key: activation_name(c.feed_forward.activation) }));
    if matches!(arch, Arch::Llama | Arch::Qwen3 | Arch::Qwen3Moe) || gemma {
        put(&mut json, json!({ "attention_bias": facts.attention_bias }));
    }
    if arch == Arch::Llama {
        put(&mut json, json!({ "mlp_bias": facts.ffn_bias }));
    }
    if gemma {
        let scalar = f64::from(c.attention_scale).powi(-2);
        let whole = scalar.round();
        let scalar =
            if (scalar - whole).abs() < 1e-4 * whole { json!(whole as u64) } else { json!(scalar) };
        put(
            &mut json,
            json!({
                "query_pre_attn_scalar": scalar,
                "attn_logit_softcapping": c.attention_softcap.map(number),
                "final_logit_softcapping": c.logit_softcap.map(number),
            }),
        );
    }
    windows(arch, c, &mut json);
    if let Some(e) = &c.experts {
        put(&mut json, json!({ "num_experts_per_tok": e.n_used }));
        if arch == Arch::Mixtral {
            put(
                &mut json,
                json!({
                    "num_local_experts": e.n_experts, "intermediate_size": e.intermediate_size,
                }),
            );
        } else {
            let dense: Vec<usize> = (0..c.n_layers).filter(|&i| !e.layers[i]).collect();
            put(
                &mut json,
                json!({
                    "num_experts": e.n_experts,
                    "moe_intermediate_size": e.intermediate_size,
                    "norm_topk_prob": e.normalise,
                    "decoder_sparse_step": 1,
                    "mlp_only_layers": dense,
                }),
            );
        }
    }
    if let Position::Rotary { global, local } = &c.position {
        rope(arch, c, global, local.as_ref(), &mut json);
    }
    json
}

fn windows(arch: Arch, c: &DecoderConfig, json: &mut Map<String, Value>) {
    let window = c.windows.iter().flatten().next();
    match arch {
        Arch::Llama => return,
        Arch::Qwen2 | Arch::Qwen3 | Arch::Qwen3Moe => {
            let first = c.windows.iter().position(Option::is_some).unwrap_or(c.n_layers);
            put(
                json,
                json!({ "use_sliding_window": window.is_some(), "max_window_layers": first }),
            );
        }
        _ => {}
    }
    put(json, json!({ "sliding_window": window }));
    if matches!(arch, Arch::Qwen2 | Arch::Qwen3 | Arch::Gemma2 | Arch::Gemma3) {
        let kind = |w: &Option<usize>| match w {
            Some(_) => "sliding_attention",
            None => "full_attention",
        };
        let kinds: Vec<_> = c.windows.iter().map(kind).collect();
        put(json, json!({ "layer_types": kinds }));
    }
    if arch == Arch::Gemma3 {
        put(json, json!({ "sliding_window_pattern": 6 }));
    }
}

fn rope(
    arch: Arch,
    c: &DecoderConfig,
    global: &RotaryConfig,
    local: Option<&RotaryConfig>,
    json: &mut Map<String, Value>,
) {
    let source = &global.source;
    let scaling = scaling(arch, c, source);
    let mut own = Map::new();
    put(&mut own, json!({ "rope_type": "default", "rope_theta": rounded(source.theta) }));
    let mut old = scaling.clone();
    if let Some(scaling) = scaling {
        own.extend(scaling);
    }
    if arch == Arch::Phi3 {
        // Version 4 knows no other key there.
        if let Some(old) = &mut old
            && let Some(kind) = old.remove("rope_type")
        {
            old.remove("original_max_position_embeddings");
            old.insert("type".to_owned(), kind);
        }
        let original = match &source.scaling {
            RopeScaling::LongRope { original_context, .. } => *original_context,
            _ => 4096,
        };
        put(json, json!({ "original_max_position_embeddings": original }));
    }
    if source.rotary_dim != c.head_dim || arch == Arch::Phi3 {
        let partial = json!(source.rotary_dim as f64 / c.head_dim as f64);
        own.insert("partial_rotary_factor".to_owned(), partial.clone());
        json.insert("partial_rotary_factor".to_owned(), partial);
    }
    put(json, json!({ "rope_theta": rounded(source.theta), "rope_scaling": old }));
    if arch == Arch::Gemma3 {
        let theta = local.map_or(json!(10_000.0), |l| rounded(l.source.theta));
        put(
            json,
            json!({
                "rope_local_base_freq": theta,
                "rope_parameters": {
                    "full_attention": own,
                    "sliding_attention": { "rope_type": "default", "rope_theta": theta },
                },
            }),
        );
    } else {
        put(json, json!({ "rope_parameters": own }));
    }
}

/// `rope_scaling`, without the base.
fn scaling(arch: Arch, c: &DecoderConfig, source: &RopeParameters) -> Option<Map<String, Value>> {
    let differs = |a: f64, b: f64| (a - b).abs() > 1e-6 * b;
    let mut map = Map::new();
    match &source.scaling {
        RopeScaling::Linear { factor } => {
            put(&mut map, json!({ "rope_type": "linear", "factor": rounded(*factor) }));
        }
        RopeScaling::Llama3 { factor, low_freq_factor, high_freq_factor, original_context } => {
            put(
                &mut map,
                json!({
                    "rope_type": "llama3",
                    "factor": rounded(*factor),
                    "low_freq_factor": rounded(*low_freq_factor),
                    "high_freq_factor": rounded(*high_freq_factor),
                    "original_max_position_embeddings": original_context,
                }),
            );
        }
        RopeScaling::Yarn {
            factor,
            original_context,
            attention_factor,
            beta_fast,
            beta_slow,
            truncate,
        } => {
            put(
                &mut map,
                json!({
                    "rope_type": "yarn",
                    "factor": rounded(*factor),
                    "original_max_position_embeddings": original_context,
                    "beta_fast": rounded(*beta_fast),
                    "beta_slow": rounded(*beta_slow),
                }),
            );
            if differs(*attention_factor, yarn_magnitude(*factor, 1.0)) {
                put(&mut map, json!({ "attention_factor": rounded(*attention_factor) }));
            }
            if !truncate {
                put(&mut map, json!({ "truncate": false }));
            }
        }
        RopeScaling::LongRope { short_factor, long_factor, original_context, attention_factor } => {
            let list = |f: &[f32]| f.iter().map(|&v| number(v)).collect::<Vec<_>>();
            put(
                &mut map,
                json!({
                    "rope_type": "longrope",
                    "short_factor": list(short_factor),
                    "long_factor": list(long_factor),
                    "original_max_position_embeddings": original_context,
                }),
            );
            let extension = c.context_length as f64 / *original_context as f64;
            let usual = longrope_magnitude(extension, *original_context);
            if differs(*attention_factor, usual) || arch != Arch::Phi3 {
                put(&mut map, json!({ "attention_factor": rounded(*attention_factor) }));
            }
        }
        // A table whose origin is unknown: the same as LongRoPE's without its extension.
        RopeScaling::Factors(factors) => {
            let list: Vec<_> = factors.iter().map(|&v| number(v)).collect();
            put(
                &mut map,
                json!({
                    "rope_type": "longrope",
                    "short_factor": list,
                    "long_factor": list,
                    "factor": 1.0,
                    "attention_factor": 1.0,
                    "original_max_position_embeddings": c.context_length,
                }),
            );
        }
        _ => return None,
    }
    Some(map)
}

fn gpt2(c: &DecoderConfig) -> Map<String, Value> {
    let mut json = Map::new();
    let activation = match c.feed_forward.activation {
        Activation::GeluTanh => Some("gelu_new"),
        other => activation_name(other),
    };
    put(
        &mut json,
        json!({
            "vocab_size": c.vocab_size,
            "n_embd": c.hidden_size,
            "n_inner": (c.intermediate_size != 4 * c.hidden_size).then_some(c.intermediate_size),
            "n_layer": c.n_layers,
            "n_head": c.n_heads,
            "n_positions": c.context_length,
            "n_ctx": c.context_length,
            "activation_function": activation,
            "layer_norm_epsilon": number(c.norm.eps),
            "scale_attn_weights": c.attention_scale != 1.0 || c.head_dim == 1,
            "scale_attn_by_inverse_layer_idx": c.attention_scale_by_layer,
            "tie_word_embeddings": c.tied_embeddings,
        }),
    );
    json
}

fn opt(facts: &Facts, c: &DecoderConfig) -> Map<String, Value> {
    let before = c.block != BlockLayout::PostNorm;
    let mut json = Map::new();
    put(
        &mut json,
        json!({
            "vocab_size": c.vocab_size,
            "hidden_size": c.hidden_size,
            "ffn_dim": c.intermediate_size,
            "num_hidden_layers": c.n_layers,
            "num_attention_heads": c.n_heads,
            "max_position_embeddings": c.context_length,
            "word_embed_proj_dim": c.embedding_width.unwrap_or(c.hidden_size),
            "activation_function": activation_name(c.feed_forward.activation),
            "do_layer_norm_before": before,
            "_remove_final_layer_norm": before && !c.final_norm,
            "layer_norm_elementwise_affine": true,
            "enable_bias": facts.attention_bias,
            "tie_word_embeddings": c.tied_embeddings,
        }),
    );
    json
}

fn bert(c: &EncoderConfig) -> Map<String, Value> {
    let mut json = Map::new();
    let activation = match c.activation {
        Activation::GeluTanh => Some("gelu_new"),
        other => activation_name(other),
    };
    put(
        &mut json,
        json!({
            "vocab_size": c.vocab_size,
            "type_vocab_size": c.type_vocab_size,
            "hidden_size": c.hidden_size,
            "num_hidden_layers": c.n_layers,
            "num_attention_heads": c.n_heads,
            "intermediate_size": c.intermediate_size,
            "max_position_embeddings": c.context_length,
            "layer_norm_eps": number(c.norm_eps),
            "hidden_act": activation,
            "position_embedding_type": "absolute",
        }),
    );
    json
}
