//! A configuration as the metadata of a GGUF file, in the order of llama.cpp's converter.

use gguf::Metadata;
use model::arch::Arch;
use model::arch::gguf::{default_activation, default_pattern, default_scale};
use model::arch::hf::activation_name;
use model::config::{DecoderConfig, EncoderConfig, Position, RopeScaling, RotaryConfig};
use model::rope_scaling::{llama3_factors, yarn_magnitude};
use tensor::Activation;

/// Tables that go with the metadata: names and elements, all F32.
pub(super) type Tables = Vec<(&'static str, Vec<f32>)>;

/// Writes the keys of a decoder; returns the tables of its rotary embedding.
pub(super) fn decoder(
    arch: Arch,
    c: &DecoderConfig,
    file_type: u32,
    meta: &mut Metadata,
) -> Tables {
    let mut k = Keys { arch: arch.gguf_name(), meta };
    k.count("block_count", c.n_layers);
    k.count("context_length", c.context_length);
    k.count("embedding_length", c.hidden_size);
    let dense = c.experts.as_ref().filter(|_| arch == Arch::Mixtral);
    k.count("feed_forward_length", dense.map_or(c.intermediate_size, |e| e.intermediate_size));
    k.count("attention.head_count", c.n_heads);
    let mut tables = Tables::new();
    match &c.position {
        Position::Learned { .. } => k.set("attention.layer_norm_epsilon", c.norm.eps),
        Position::Rotary { global, local } => {
            k.count("attention.head_count_kv", c.n_kv_heads);
            rope(&mut k, arch, global, &mut tables);
            if let Some(local) = local {
                k.set("rope.freq_base_swa", local.source.theta as f32);
            }
            k.set("attention.layer_norm_rms_epsilon", c.norm.eps);
        }
    }
    if let Some(e) = &c.experts {
        k.count("expert_count", e.n_experts);
        k.count("expert_used_count", e.n_used);
    }
    if matches!(c.position, Position::Rotary { .. }) {
        k.count("attention.key_length", c.head_dim);
        k.count("attention.value_length", c.head_dim);
    }
    k.meta.set("general.file_type", file_type);
    if let Some(e) = &c.experts
        && arch != Arch::Mixtral
    {
        k.count("expert_feed_forward_length", e.intermediate_size);
        if !e.normalise {
            k.set("expert_weights_norm", false);
        }
    }
    if arch.gguf_name() == "llama" {
        k.count("vocab_size", c.vocab_size);
    }
    if let Position::Rotary { global, .. } = &c.position
        && (matches!(arch.gguf_name(), "llama" | "phi3") || global.source.rotary_dim != c.head_dim)
    {
        k.count("rope.dimension_count", global.source.rotary_dim);
    }
    windows(&mut k, arch, c);
    caps_and_scales(&mut k, arch, c);
    if arch == Arch::Opt && c.block == model::config::BlockLayout::PostNorm {
        k.set("do_layer_norm_before", false);
    }
    tables
}

fn windows(k: &mut Keys<'_>, arch: Arch, c: &DecoderConfig) {
    let Some(window) = c.windows.iter().flatten().next() else {
        // What llama.cpp takes for granted where the key is absent.
        if matches!(arch, Arch::Gemma2 | Arch::Phi3) {
            k.count("attention.sliding_window", 0);
        }
        return;
    };
    k.count("attention.sliding_window", *window);
    let pattern: Vec<bool> = c.windows.iter().map(Option::is_some).collect();
    if pattern.iter().enumerate().any(|(i, &w)| w != default_pattern(arch, i)) {
        k.set("attention.sliding_window_pattern", pattern);
    }
}

fn caps_and_scales(k: &mut Keys<'_>, arch: Arch, c: &DecoderConfig) {
    if let Some(cap) = c.attention_softcap {
        k.set("attn_logit_softcapping", cap);
    }
    if let Some(cap) = c.logit_softcap {
        k.set("final_logit_softcapping", cap);
    }
    let usual = default_scale(arch, c.n_layers, c.hidden_size / c.n_heads, c.head_dim);
    if c.attention_scale != usual {
        k.set("attention.scale", c.attention_scale);
    }
    if c.attention_scale_by_layer {
        k.set("attention.scale_by_layer", true);
    }
    activation(k, arch, c.feed_forward.activation);
}

fn activation(k: &mut Keys<'_>, arch: Arch, own: Activation) {
    if own != default_activation(arch)
        && let Some(name) = activation_name(own)
    {
        k.set("hidden_activation", name);
    }
}

fn rope(k: &mut Keys<'_>, arch: Arch, r: &RotaryConfig, tables: &mut Tables) {
    let source = &r.source;
    let one = |f: f64| (f - 1.0).abs() < 1e-6;
    let long = |k: &mut Keys<'_>, original: usize, factor: f64| {
        k.set("rope.scaling.type", "longrope");
        k.count("rope.scaling.original_context_length", original);
        if !one(factor) {
            k.set("rope.scaling.attn_factor", factor as f32);
        }
    };
    match &source.scaling {
        RopeScaling::Linear { factor } => {
            k.set("rope.scaling.type", "linear");
            k.set("rope.scaling.factor", *factor as f32);
        }
        RopeScaling::Llama3 { factor, low_freq_factor, high_freq_factor, original_context } => {
            tables.push(("rope_freqs.weight", llama3_factors(source)));
            // Not llama.cpp's: what the table was computed from, for the way back.
            k.set("rope.llama3.factor", *factor as f32);
            k.set("rope.llama3.low_freq_factor", *low_freq_factor as f32);
            k.set("rope.llama3.high_freq_factor", *high_freq_factor as f32);
            k.count("rope.llama3.original_context_length", *original_context);
        }
        RopeScaling::Yarn {
            factor,
            original_context,
            attention_factor,
            beta_fast,
            beta_slow,
            truncate: true,
        } => {
            k.set("rope.scaling.type", "yarn");
            k.set("rope.scaling.factor", *factor as f32);
            k.count("rope.scaling.original_context_length", *original_context);
            let beyond = attention_factor / yarn_magnitude(*factor, 1.0);
            if !one(beyond) {
                k.set("rope.scaling.attn_factor", beyond as f32);
            }
            if *beta_fast != 32.0 {
                k.set("rope.scaling.yarn_beta_fast", *beta_fast as f32);
            }
            if *beta_slow != 1.0 {
                k.set("rope.scaling.yarn_beta_slow", *beta_slow as f32);
            }
        }
        RopeScaling::Yarn { original_context, attention_factor, truncate: false, .. } => {
            // llama.cpp rounds the bounds always: the frequencies are written out instead.
            let plain =
                model::config::RopeParameters { scaling: RopeScaling::Default, ..source.clone() };
            let plain = RotaryConfig::new(plain, r.layout).inv_freq;
            let factors: Vec<f32> = plain.iter().zip(&r.inv_freq).map(|(p, f)| p / f).collect();
            long(k, *original_context, *attention_factor);
            tables.push(("rope_factors_long.weight", factors.clone()));
            tables.push(("rope_factors_short.weight", factors));
        }
        RopeScaling::LongRope { short_factor, long_factor, original_context, attention_factor } => {
            long(k, *original_context, *attention_factor);
            tables.push(("rope_factors_long.weight", long_factor.clone()));
            tables.push(("rope_factors_short.weight", short_factor.clone()));
        }
        RopeScaling::Factors(factors) => tables.push(("rope_freqs.weight", factors.clone())),
        _ => {
            if arch == Arch::Phi3 {
                // llama.cpp asks for it.
                k.count("rope.scaling.original_context_length", 4096);
            }
        }
    }
    k.set("rope.freq_base", source.theta as f32);
}

/// Writes the keys of an encoder.
pub(super) fn encoder(arch: Arch, c: &EncoderConfig, file_type: u32, meta: &mut Metadata) {
    let mut k = Keys { arch: arch.gguf_name(), meta };
    k.count("block_count", c.n_layers);
    k.count("context_length", c.context_length);
    k.count("embedding_length", c.hidden_size);
    k.count("feed_forward_length", c.intermediate_size);
    k.count("attention.head_count", c.n_heads);
    k.set("attention.layer_norm_epsilon", c.norm_eps);
    k.meta.set("general.file_type", file_type);
    k.set("attention.causal", false);
    k.meta.set("tokenizer.ggml.token_type_count", c.type_vocab_size as u32);
    activation(&mut k, arch, c.activation);
}

/// Sets `{arch}.NAME`.
struct Keys<'a> {
    arch: &'static str,
    meta: &'a mut Metadata,
}

impl Keys<'_> {
    fn set(&mut self, name: &str, value: impl Into<gguf::Value>) {
        self.meta.set(format!("{}.{name}", self.arch), value);
    }

    /// Counts are `u32`; the configuration has checked that they fit.
    fn count(&mut self, name: &str, value: usize) {
        self.set(name, value as u32);
    }
}
