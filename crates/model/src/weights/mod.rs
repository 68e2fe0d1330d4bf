//! Where a model's weights come from: one interface over safetensors folders and GGUF files.

mod gguf;
mod hf;
mod pairs;
pub mod safetensors;
mod split;

use std::path::Path;

use ::gguf::Gguf;
use tensor::{Compute, Tensor};

use crate::{Error, ModelConfig};

pub use gguf::GgufModel;
pub(crate) use gguf::tensor as gguf_tensor;
pub use hf::HfModel;
pub use safetensors::HeaderFault;

/// Opens a Hugging Face folder or a GGUF file.
///
/// # Errors
/// Those of [`HfModel::open`] and [`GgufModel::open`].
pub fn open(path: &Path) -> Result<(ModelConfig, Box<dyn WeightSource>), Error> {
    if path.is_dir() {
        let model = HfModel::open(path)?;
        return Ok((model.config().clone(), Box::new(model)));
    }
    let model = GgufModel::open(path)?;
    Ok((model.config().clone(), Box::new(model)))
}

/// Named tensors of a checkpoint, under the names that GGUF files use (llama.cpp,
/// `llama-arch.cpp`).
///
/// Whatever the checkpoint's own names and layouts are (fused projections, transposed matrices,
/// experts apart), the source presents them as below; linear weights are `[out, in]`.
///
/// | decoder | shape |
/// |---|---|
/// | `token_embd.weight` | `[vocab, hidden]`, or `[vocab, embedding_width]` |
/// | `token_embd_proj.weight`, `output_proj.weight` | `[hidden, embedding_width]` and its reverse, if they differ (OPT-350m; not in llama.cpp) |
/// | `position_embd.weight` | `[context + offset, hidden]`, if positions are learned |
/// | `blk.N.attn_norm`, `blk.N.ffn_norm`, `output_norm` `.weight`, `.bias` | `[hidden]` |
/// | `blk.N.post_attention_norm`, `blk.N.post_ffw_norm` `.weight` | `[hidden]`, sandwich blocks |
/// | `blk.N.attn_q` `.weight`, `.bias` | `[heads * head_dim, hidden]` |
/// | `blk.N.attn_k`, `blk.N.attn_v` | `[kv_heads * head_dim, hidden]` |
/// | `blk.N.attn_output` | `[hidden, heads * head_dim]` |
/// | `blk.N.attn_q_norm.weight`, `blk.N.attn_k_norm.weight` | `[head_dim]` |
/// | `blk.N.ffn_gate`, `blk.N.ffn_up` | `[intermediate, hidden]` |
/// | `blk.N.ffn_down` | `[hidden, intermediate]` |
/// | `blk.N.ffn_gate_inp.weight` | `[experts, hidden]` |
/// | `blk.N.ffn_gate_exps`, `_up_exps`, `_down_exps` `.weight` | `[experts, out, in]` |
/// | `output.weight` | `[vocab, hidden or embedding_width]`, unless tied |
///
/// A bias may be absent everywhere. In a post-norm block `attn_norm` and `ffn_norm` follow
/// attention and the feed-forward layer.
///
/// | encoder | shape |
/// |---|---|
/// | `token_embd.weight`, `position_embd.weight`, `token_types.weight` | `[rows, hidden]` |
/// | `token_embd_norm`, `blk.N.attn_output_norm`, `blk.N.layer_output_norm` | `[hidden]` |
/// | `blk.N.attn_{q,k,v,output}`, `blk.N.ffn_{up,down}` | as above |
pub trait WeightSource {
    /// The tensor of this name, mapped where its bytes can stay where they are.
    ///
    /// # Errors
    /// If it is there and cannot be read.
    fn get(&self, name: &str) -> Result<Option<Tensor>, Error>;

    /// The tensor of this name, which must be there.
    ///
    /// # Errors
    /// [`Error::MissingTensor`], and those of [`WeightSource::get`].
    fn require(&self, name: &str) -> Result<Tensor, Error> {
        self.get(name)?.ok_or_else(|| Error::MissingTensor { name: name.to_owned() })
    }

    /// Whether weights may be repacked; if not, loading looks for none.
    fn may_gain_from_repacking(&self, compute: &Compute) -> bool {
        let _ = compute;
        true
    }

    /// The file that the weights are in, if it is one: by it they are recognised when the model is
    /// opened again.
    fn gguf(&self) -> Option<&Gguf> {
        None
    }
}
