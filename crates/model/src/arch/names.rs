//! What the tensors are called: GGUF's names and Hugging Face's.
//!
//! GGUF's are those of the files that llama.cpp's converter writes, where Phi-3 and GPT-2 have fused
//! projections; a [`WeightSource`] takes these apart.
//!
//! [`WeightSource`]: crate::WeightSource

use super::Arch;

/// A kind of tensor, without `.weight` or `.bias`.
#[derive(Clone, Copy, Debug)]
pub struct Name {
    /// In GGUF; within a layer, what follows `blk.N.`.
    pub gguf: &'static str,
    /// In a Hugging Face checkpoint, after the path of the model or of the layer; the first is the
    /// one that is written. With a leading `/` it stands outside of the model's path.
    pub hf: &'static [&'static str],
    /// Whether the checkpoint stores `[in, out]` (GPT-2's `Conv1D`).
    pub transposed: bool,
}

const fn name(gguf: &'static str, hf: &'static [&'static str]) -> Name {
    Name { gguf, hf, transposed: false }
}

const fn conv1d(gguf: &'static str, hf: &'static [&'static str]) -> Name {
    Name { gguf, hf, transposed: true }
}

/// The names of an architecture's tensors.
#[derive(Clone, Copy, Debug)]
pub struct Names {
    /// Outside of the layers.
    pub model: &'static [Name],
    /// Within a layer.
    pub layer: &'static [Name],
    /// The path of the layers within the model's.
    pub layers: &'static str,
    /// The path of the model in what is written.
    pub model_path: &'static str,
}

const MODEL: &[Name] = &[
    name("token_embd", &["embed_tokens"]),
    name("output_norm", &["norm"]),
    name("output", &["/lm_head"]),
];

const ATTN_NORM: Name = name("attn_norm", &["input_layernorm"]);
const ATTN_Q: Name = name("attn_q", &["self_attn.q_proj"]);
const ATTN_K: Name = name("attn_k", &["self_attn.k_proj"]);
const ATTN_V: Name = name("attn_v", &["self_attn.v_proj"]);
const ATTN_OUTPUT: Name = name("attn_output", &["self_attn.o_proj"]);
const ATTN_Q_NORM: Name = name("attn_q_norm", &["self_attn.q_norm"]);
const ATTN_K_NORM: Name = name("attn_k_norm", &["self_attn.k_norm"]);
const FFN_GATE: Name = name("ffn_gate", &["mlp.gate_proj"]);
const FFN_UP: Name = name("ffn_up", &["mlp.up_proj"]);
const FFN_DOWN: Name = name("ffn_down", &["mlp.down_proj"]);
const FFN_NORM: Name = name("ffn_norm", &["post_attention_layernorm"]);

const LLAMA: Names = Names {
    model: MODEL,
    layer: &[
        ATTN_NORM,
        ATTN_Q,
        ATTN_K,
        ATTN_V,
        ATTN_OUTPUT,
        ATTN_Q_NORM,
        ATTN_K_NORM,
        FFN_NORM,
        FFN_GATE,
        FFN_UP,
        FFN_DOWN,
    ],
    layers: "layers.",
    model_path: "model.",
};

const MIXTRAL: Names = Names {
    layer: &[
        ATTN_NORM,
        ATTN_Q,
        ATTN_K,
        ATTN_V,
        ATTN_OUTPUT,
        FFN_NORM,
        name("ffn_gate_inp", &["block_sparse_moe.gate", "mlp.gate"]),
        name("ffn_gate_exps", &["block_sparse_moe.experts.*.w1", "mlp.experts.*.gate_proj"]),
        name("ffn_up_exps", &["block_sparse_moe.experts.*.w3", "mlp.experts.*.up_proj"]),
        name("ffn_down_exps", &["block_sparse_moe.experts.*.w2", "mlp.experts.*.down_proj"]),
    ],
    ..LLAMA
};

const QWEN3_MOE: Names = Names {
    layer: &[
        ATTN_NORM,
        ATTN_Q,
        ATTN_K,
        ATTN_V,
        ATTN_OUTPUT,
        ATTN_Q_NORM,
        ATTN_K_NORM,
        FFN_NORM,
        FFN_GATE,
        FFN_UP,
        FFN_DOWN,
        name("ffn_gate_inp", &["mlp.gate"]),
        name("ffn_gate_exps", &["mlp.experts.*.gate_proj"]),
        name("ffn_up_exps", &["mlp.experts.*.up_proj"]),
        name("ffn_down_exps", &["mlp.experts.*.down_proj"]),
    ],
    ..LLAMA
};

const GEMMA: Names = Names {
    layer: &[
        ATTN_NORM,
        ATTN_Q,
        ATTN_K,
        ATTN_V,
        ATTN_OUTPUT,
        ATTN_Q_NORM,
        ATTN_K_NORM,
        name("post_attention_norm", &["post_attention_layernorm"]),
        name("ffn_norm", &["pre_feedforward_layernorm"]),
        FFN_GATE,
        FFN_UP,
        FFN_DOWN,
        name("post_ffw_norm", &["post_feedforward_layernorm"]),
    ],
    ..LLAMA
};

const PHI3: Names = Names {
    layer: &[
        ATTN_NORM,
        name("attn_qkv", &["self_attn.qkv_proj"]),
        ATTN_OUTPUT,
        FFN_NORM,
        name("ffn_up", &["mlp.gate_up_proj"]),
        FFN_DOWN,
    ],
    ..LLAMA
};

const GPT2: Names = Names {
    model: &[
        name("token_embd", &["wte"]),
        name("position_embd", &["wpe"]),
        name("output_norm", &["ln_f"]),
        name("output", &["/lm_head"]),
    ],
    layer: &[
        name("attn_norm", &["ln_1"]),
        conv1d("attn_qkv", &["attn.c_attn"]),
        conv1d("attn_output", &["attn.c_proj"]),
        name("ffn_norm", &["ln_2"]),
        conv1d("ffn_up", &["mlp.c_fc"]),
        conv1d("ffn_down", &["mlp.c_proj"]),
    ],
    layers: "h.",
    model_path: "transformer.",
};

const OPT: Names = Names {
    model: &[
        name("token_embd", &["embed_tokens"]),
        name("token_embd_proj", &["project_in"]),
        name("position_embd", &["embed_positions"]),
        name("output_norm", &["final_layer_norm"]),
        name("output_proj", &["project_out"]),
        name("output", &["/lm_head"]),
    ],
    layer: &[
        name("attn_norm", &["self_attn_layer_norm"]),
        ATTN_Q,
        ATTN_K,
        ATTN_V,
        name("attn_output", &["self_attn.out_proj"]),
        name("ffn_norm", &["final_layer_norm"]),
        name("ffn_up", &["fc1"]),
        name("ffn_down", &["fc2"]),
    ],
    layers: "layers.",
    model_path: "model.decoder.",
};

const BERT: Names = Names {
    model: &[
        name("token_embd", &["embeddings.word_embeddings"]),
        name("token_types", &["embeddings.token_type_embeddings"]),
        name("position_embd", &["embeddings.position_embeddings"]),
        name("token_embd_norm", &["embeddings.LayerNorm"]),
    ],
    layer: &[
        name("attn_q", &["attention.self.query"]),
        name("attn_k", &["attention.self.key"]),
        name("attn_v", &["attention.self.value"]),
        name("attn_output", &["attention.output.dense"]),
        name("attn_output_norm", &["attention.output.LayerNorm"]),
        name("ffn_up", &["intermediate.dense"]),
        name("ffn_down", &["output.dense"]),
        name("layer_output_norm", &["output.LayerNorm"]),
    ],
    layers: "encoder.layer.",
    model_path: "",
};

/// A tensor's name in GGUF, taken apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GgufName<'a> {
    /// `N` of `blk.N.`.
    pub layer: Option<usize>,
    /// What it is, `attn_q` for example.
    pub kind: &'a str,
    /// `weight` or `bias`.
    pub suffix: &'a str,
}

impl<'a> GgufName<'a> {
    /// Takes a name apart.
    ///
    /// ```
    /// use model::arch::names::GgufName;
    /// let name = GgufName::parse("blk.3.attn_q.bias").unwrap();
    /// assert_eq!((name.layer, name.kind, name.suffix), (Some(3), "attn_q", "bias"));
    /// assert_eq!(name.to_string(), "blk.3.attn_q.bias");
    /// ```
    pub fn parse(name: &'a str) -> Option<Self> {
        let (path, suffix) = name.rsplit_once('.')?;
        match path.strip_prefix("blk.").and_then(|rest| rest.split_once('.')) {
            Some((layer, kind)) => Some(Self { layer: Some(layer.parse().ok()?), kind, suffix }),
            None => Some(Self { layer: None, kind: path, suffix }),
        }
    }

    /// The name of another tensor of the same layer.
    pub fn with_kind<'b>(self, kind: &'b str) -> GgufName<'b>
    where
        'a: 'b,
    {
        GgufName { kind, ..self }
    }
}

impl std::fmt::Display for GgufName<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.layer {
            Some(n) => write!(f, "blk.{n}.{}.{}", self.kind, self.suffix),
            None => write!(f, "{}.{}", self.kind, self.suffix),
        }
    }
}

impl Arch {
    /// The names of its tensors.
    pub fn names(self) -> &'static Names {
        match self {
            Arch::Llama | Arch::Mistral | Arch::Qwen2 | Arch::Qwen3 => &LLAMA,
            Arch::Mixtral => &MIXTRAL,
            Arch::Qwen3Moe => &QWEN3_MOE,
            Arch::Gemma2 | Arch::Gemma3 => &GEMMA,
            Arch::Phi3 => &PHI3,
            Arch::Gpt2 => &GPT2,
            Arch::Opt => &OPT,
            Arch::Bert => &BERT,
        }
    }
}

impl Names {
    /// The line of the table for a name of GGUF.
    pub fn find(&self, name: GgufName<'_>) -> Option<&'static Name> {
        let table = if name.layer.is_some() { self.layer } else { self.model };
        table.iter().find(|n| n.gguf == name.kind)
    }

    /// Every name in GGUF that a model of `n_layers` layers may have.
    pub fn gguf(&self, n_layers: usize) -> impl Iterator<Item = GgufName<'static>> {
        let both = |layer: Option<usize>, table: &'static [Name]| {
            table.iter().flat_map(move |n| {
                ["weight", "bias"].map(|suffix| GgufName { layer, kind: n.gguf, suffix })
            })
        };
        let layer = self.layer;
        both(None, self.model).chain((0..n_layers).flat_map(move |i| both(Some(i), layer)))
    }

    /// The path in a Hugging Face checkpoint that `hf`, an entry of [`Name::hf`], stands for.
    pub fn hf_path(&self, base: &str, layer: Option<usize>, hf: &str) -> String {
        match (hf.strip_prefix('/'), layer) {
            (Some(outside), _) => outside.to_owned(),
            (None, Some(n)) => format!("{base}{}{n}.{hf}", self.layers),
            (None, None) => format!("{base}{hf}"),
        }
    }
}
