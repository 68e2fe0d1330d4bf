//! Fused projections, taken apart into row ranges that share the storage.

use tensor::Tensor;

use crate::Error;
use crate::arch::Arch;
use crate::arch::names::GgufName;
use crate::config::ModelConfig;

/// The lengths by which fused projections come apart.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Parts {
    arch: Arch,
    q: usize,
    kv: usize,
    ffn: usize,
}

impl Parts {
    pub(crate) fn new(arch: Arch, config: &ModelConfig) -> Self {
        match config {
            ModelConfig::Decoder(c) => Self {
                arch,
                q: c.n_heads * c.head_dim,
                kv: c.n_kv_heads * c.head_dim,
                ffn: c.intermediate_size,
            },
            ModelConfig::Encoder(c) => {
                Self { arch, q: c.hidden_size, kv: c.hidden_size, ffn: c.intermediate_size }
            }
        }
    }

    /// The tensor of this name, given how to get those that the file has.
    pub(crate) fn get(
        &self,
        name: &str,
        file: impl Fn(&str) -> Result<Option<Tensor>, Error>,
    ) -> Result<Option<Tensor>, Error> {
        let Some(parsed) = GgufName::parse(name) else { return file(name) };
        // Phi-3 keeps gate and up in one tensor that goes by the name of the latter.
        if self.arch == Arch::Phi3 && matches!(parsed.kind, "ffn_gate" | "ffn_up") {
            let fused = parsed.with_kind("ffn_up").to_string();
            let Some(tensor) = file(&fused)? else { return file(name) };
            if len(&tensor) != 2 * self.ffn {
                return if parsed.kind == "ffn_up" { Ok(Some(tensor)) } else { file(name) };
            }
            let start = if parsed.kind == "ffn_up" { self.ffn } else { 0 };
            return rows(&tensor, start, self.ffn).map(Some);
        }
        if let Some(tensor) = file(name)? {
            return Ok(Some(tensor));
        }
        let (start, n) = match parsed.kind {
            "attn_q" => (0, self.q),
            "attn_k" => (self.q, self.kv),
            "attn_v" => (self.q + self.kv, self.kv),
            _ => return Ok(None),
        };
        let fused = parsed.with_kind("attn_qkv").to_string();
        let Some(tensor) = file(&fused)? else { return Ok(None) };
        let expected = self.q + 2 * self.kv;
        if len(&tensor) != expected {
            let mut dims = tensor.shape().dims().to_vec();
            if let Some(first) = dims.first_mut() {
                *first = expected;
            }
            let got = tensor.shape().clone();
            return Err(Error::TensorShape { name: fused, expected: dims.into(), got });
        }
        rows(&tensor, start, n).map(Some)
    }
}

/// The length of the first dimension.
fn len(tensor: &Tensor) -> usize {
    tensor.shape().dims().first().copied().unwrap_or(0)
}

/// `n` entries of the first dimension of a vector or matrix.
fn rows(tensor: &Tensor, start: usize, n: usize) -> Result<Tensor, Error> {
    if tensor.shape().dims().len() == 1 {
        let column = tensor.reshape([len(tensor), 1])?.slice_rows(start..start + n)?;
        return Ok(column.reshape([n])?);
    }
    Ok(tensor.slice_rows(start..start + n)?)
}
