//! Where a model's weights come from: one interface over safetensors folders and GGUF files.

use tensor::Tensor;

use crate::Error;

/// Named tensors of a checkpoint, under the names that GGUF files use.
///
/// `token_embd.weight`, `output_norm.weight`, `output.weight`, `blk.N.attn_q.weight`,
/// `blk.N.ffn_gate_exps.weight` `[experts, out, in]` and so on (llama.cpp, `llama-arch.cpp`).
/// Whatever the checkpoint's own names and layouts are (fused projections, transposed matrices,
/// experts apart), the source presents them as GGUF has them; linear weights are `[out, in]`.
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
}
