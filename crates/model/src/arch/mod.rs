//! The architectures that are known: what their configurations and tensors are called.
//!
//! An architecture here is a way of naming. Reading one ends in a [`ModelConfig`], which is all
//! that the decoder's and the encoder's body see.
//!
//! - [`hf`]: a Hugging Face `config.json`, as transformers 4 and 5 write it;
//! - [`gguf`]: the metadata of a GGUF file, as llama.cpp reads it;
//! - [`names`]: the names of the tensors in both.
//!
//! [`ModelConfig`]: crate::ModelConfig

pub mod gguf;
pub mod hf;
mod hf_rope;
mod json;
pub mod names;

use crate::Error;

/// A way of naming configurations and tensors: one class of transformers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Arch {
    /// Llama 1 to 3.x (Touvron et al. 2023, Dubey et al. 2024).
    Llama,
    /// Mistral 7B (Jiang et al. 2023): Llama with a window.
    Mistral,
    /// Mixtral (Jiang et al. 2024): Mistral with routed experts.
    Mixtral,
    /// Qwen 2 and 2.5.
    Qwen2,
    /// Qwen 3.
    Qwen3,
    /// Qwen 3 with routed experts.
    Qwen3Moe,
    /// Gemma 2.
    Gemma2,
    /// Gemma 3, the text model.
    Gemma3,
    /// Phi-3 and Phi-4.
    Phi3,
    /// GPT-2 (Radford et al. 2019).
    Gpt2,
    /// OPT (Zhang et al. 2022).
    Opt,
    /// BERT (Devlin et al. 2019).
    Bert,
}

/// One line of the table of architectures.
struct Facts {
    arch: Arch,
    /// `model_type` in `config.json`.
    model_type: &'static str,
    /// The beginning of the class names in `architectures`.
    class: &'static str,
    /// The class that a converted folder names.
    writes_class: &'static str,
    /// `general.architecture` in GGUF.
    gguf: &'static str,
}

const fn facts(
    arch: Arch,
    model_type: &'static str,
    class: &'static str,
    writes_class: &'static str,
    gguf: &'static str,
) -> Facts {
    Facts { arch, model_type, class, writes_class, gguf }
}

const TABLE: &[Facts] = &[
    facts(Arch::Llama, "llama", "LlamaFor", "LlamaForCausalLM", "llama"),
    facts(Arch::Mistral, "mistral", "MistralFor", "MistralForCausalLM", "llama"),
    facts(Arch::Mixtral, "mixtral", "MixtralFor", "MixtralForCausalLM", "llama"),
    facts(Arch::Qwen2, "qwen2", "Qwen2For", "Qwen2ForCausalLM", "qwen2"),
    facts(Arch::Qwen3, "qwen3", "Qwen3For", "Qwen3ForCausalLM", "qwen3"),
    facts(Arch::Qwen3Moe, "qwen3_moe", "Qwen3MoeFor", "Qwen3MoeForCausalLM", "qwen3moe"),
    facts(Arch::Gemma2, "gemma2", "Gemma2For", "Gemma2ForCausalLM", "gemma2"),
    facts(Arch::Gemma3, "gemma3_text", "Gemma3For", "Gemma3ForCausalLM", "gemma3"),
    facts(Arch::Gemma3, "gemma3", "Gemma3For", "Gemma3ForCausalLM", "gemma3"),
    facts(Arch::Phi3, "phi3", "Phi3For", "Phi3ForCausalLM", "phi3"),
    facts(Arch::Gpt2, "gpt2", "GPT2", "GPT2LMHeadModel", "gpt2"),
    facts(Arch::Opt, "opt", "OPT", "OPTForCausalLM", "opt"),
    facts(Arch::Bert, "bert", "Bert", "BertModel", "bert"),
];

impl Arch {
    fn facts(self) -> &'static Facts {
        TABLE.iter().find(|f| f.arch == self).expect("every architecture has a line")
    }

    /// `model_type` of a `config.json` of this architecture.
    pub fn model_type(self) -> &'static str {
        self.facts().model_type
    }

    /// The class of transformers that runs it, for `architectures` of a `config.json`.
    pub fn hf_class(self) -> &'static str {
        self.facts().writes_class
    }

    /// `general.architecture` of a GGUF file. Mistral and Mixtral go by `llama`.
    pub fn gguf_name(self) -> &'static str {
        self.facts().gguf
    }

    /// Whether GGUF files hold the queries and keys with the rows of each head reordered, so that
    /// the elements that rotate together are neighbours.
    pub fn interleaves_rope(self) -> bool {
        self.gguf_name() == "llama"
    }

    /// What is added to norm weights on the way from a Hugging Face checkpoint to what multiplies.
    pub fn norm_offset(self) -> f32 {
        if matches!(self, Arch::Gemma2 | Arch::Gemma3) { 1.0 } else { 0.0 }
    }

    /// The architecture that `config.json` names by `model_type` or, failing that, by the first of
    /// `architectures`.
    ///
    /// # Errors
    /// [`Error::UnknownArchitecture`].
    pub fn from_hf(model_type: Option<&str>, class: Option<&str>) -> Result<Arch, Error> {
        let found = match (model_type, class) {
            (Some(t), _) => TABLE.iter().find(|f| f.model_type == t),
            (None, Some(c)) => TABLE.iter().find(|f| c.starts_with(f.class)),
            (None, None) => {
                return Err(Error::MissingParameter { key: "model_type".to_owned() });
            }
        };
        found.map(|f| f.arch).ok_or_else(|| {
            let known = TABLE.iter().map(|f| f.model_type).collect();
            unknown(class.or(model_type).unwrap_or_default(), known)
        })
    }

    /// The architecture of a GGUF file; Mistral and Mixtral are told apart from Llama by what the
    /// metadata say of windows and experts.
    ///
    /// # Errors
    /// [`Error::UnknownArchitecture`].
    pub fn from_gguf(name: &str, has_window: bool, has_experts: bool) -> Result<Arch, Error> {
        match TABLE.iter().find(|f| f.gguf == name).map(|f| f.arch) {
            Some(Arch::Llama) if has_experts => Ok(Arch::Mixtral),
            Some(Arch::Llama) if has_window => Ok(Arch::Mistral),
            Some(arch) => Ok(arch),
            None => {
                let mut known: Vec<_> = TABLE.iter().map(|f| f.gguf).collect();
                known.dedup();
                Err(unknown(name, known))
            }
        }
    }
}

fn unknown(name: &str, known: Vec<&'static str>) -> Error {
    let name: String = name.chars().take(100).collect();
    Error::UnknownArchitecture { name, known }
}
