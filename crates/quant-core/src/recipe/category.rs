//! What a tensor is, by its GGUF name, and whether it is quantized at all.

/// The kinds of tensors that recipes tell apart. Names are matched as llama.cpp does: `ffn_up` also
/// covers experts and shared experts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Category {
    TokenEmbedding,
    Output,
    /// Values, or whatever contains them: `attn_v`, `attn_qkv`, `attn_kv_b`.
    AttentionValue,
    AttentionKey,
    AttentionQuery,
    AttentionOutput,
    FfnUp,
    FfnGate,
    FfnDown,
    Other,
}

impl Category {
    pub(super) fn of(name: &str) -> Self {
        if name == "output.weight" {
            return Self::Output;
        }
        if matches!(name, "token_embd.weight" | "per_layer_token_embd.weight") {
            return Self::TokenEmbedding;
        }
        let parts = [
            ("attn_qkv.weight", Self::AttentionValue),
            ("attn_kv_b.weight", Self::AttentionValue),
            ("attn_v.weight", Self::AttentionValue),
            ("attn_k.weight", Self::AttentionKey),
            ("attn_q.weight", Self::AttentionQuery),
            ("attn_output.weight", Self::AttentionOutput),
            ("ffn_up", Self::FfnUp),
            ("ffn_gate", Self::FfnGate),
            ("ffn_down", Self::FfnDown),
        ];
        parts
            .iter()
            .find(|(part, _)| name.contains(part))
            .map_or(Self::Other, |(_, category)| *category)
    }
}

/// Weights that stay as they are, although matrices: small, sensitive, or looked up by index.
const KEPT: &[&str] = &[
    "_norm.weight",
    // routers of experts
    "ffn_gate_inp.weight",
    "ffn_gate_tid2eid.weight",
    // Gemma 3n
    "altup",
    "laurel",
    "per_layer_model_proj",
    // convolutions of state-space models
    "ssm_conv1d",
    "shortconv.conv.weight",
    // indexers of sparse attention
    "indexer.k_proj.weight",
    "indexer.q_proj.weight",
    // RWKV
    "time_mix_first.weight",
    "time_mix_w0.weight",
    "time_mix_w1.weight",
    "time_mix_w2.weight",
    "time_mix_v0.weight",
    "time_mix_v1.weight",
    "time_mix_v2.weight",
    "time_mix_a0.weight",
    "time_mix_a1.weight",
    "time_mix_a2.weight",
    "time_mix_g1.weight",
    "time_mix_g2.weight",
    "time_mix_decay_w1.weight",
    "time_mix_decay_w2.weight",
    "time_mix_lerp_fused.weight",
    // relative positions of T5
    "attn_rel_b.weight",
    // vision and audio
    ".position_embd",
    "sam.pos_embd",
    "sam.neck.",
    "sam.net_",
    ".rel_pos",
    ".patch_embd",
    ".patch_merger",
    "a.rvq.codebook",
    "mm.a.code_embd",
];

/// Further ones of the architecture `glm5-next`.
const KEPT_GLM5_NEXT: &[&str] = &[
    "hc_",
    "indexer.attn_q_b",
    "indexer.attn_k",
    "indexer.proj",
    "indexer_compressor_gate",
    "indexer_compressor_ape",
    "ssm_f_a.weight",
    "ssm_f_b.weight",
    "ssm_g_a.weight",
    "ssm_g_b.weight",
    "ssm_beta.weight",
    "attn_kv_a_mqa.weight",
    "attn_k_b.weight",
    "attn_v_b.weight",
];

/// Whether the tensor is one that recipes apply to: a weight of at least two dimensions.
pub(super) fn is_quantized(arch: &str, name: &str, shape: &[usize]) -> bool {
    let matrix = shape.iter().rev().skip(1).any(|&n| n > 1);
    let kept = KEPT.iter().any(|part| name.contains(part))
        || matches!(name, "position_embd.weight" | "token_types.weight")
        || (arch == "glm5-next" && KEPT_GLM5_NEXT.iter().any(|part| name.contains(part)));
    matrix && name.ends_with("weight") && !kept
}

/// The layer in a name `blk.N.`, if it is one of a layer.
pub(super) fn layer_of(name: &str) -> Option<usize> {
    let rest = name.strip_prefix("blk.")?;
    let digits = rest.len() - rest.trim_start_matches(|c: char| c.is_ascii_digit()).len();
    rest[..digits].parse().ok()
}
