//! What differs between the layouts of a tensor in a Hugging Face checkpoint and in a GGUF file.

use model::ModelConfig;
use model::arch::Arch;
use model::arch::names::GgufName;
use quant_core::{Source, Work, quantize_tensor};
use tensor::{DType, Tensor};

use crate::Error;

/// Which way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Direction {
    ToGguf,
    ToHf,
}

/// The differences of one model.
#[derive(Clone, Copy, Debug)]
pub(super) struct Layout {
    arch: Arch,
    n_heads: usize,
    n_kv_heads: usize,
    head_dim: usize,
    direction: Direction,
}

impl Layout {
    pub(super) fn new(arch: Arch, config: &ModelConfig, direction: Direction) -> Self {
        let (n_heads, n_kv_heads, head_dim) = match config {
            ModelConfig::Decoder(c) => (c.n_heads, c.n_kv_heads, c.head_dim),
            ModelConfig::Encoder(c) => (c.n_heads, c.n_heads, c.hidden_size / c.n_heads),
            _ => (1, 1, 1),
        };
        Self { arch, n_heads, n_kv_heads, head_dim, direction }
    }

    /// The elements of a tensor in the other layout, as `dtype`.
    pub(super) fn convert(
        &self,
        name: &str,
        tensor: &Tensor,
        dtype: DType,
        work: Work<'_>,
    ) -> Result<Vec<u8>, Error> {
        let (rows, cols) = (tensor.rows(), tensor.cols());
        let encode = |source| {
            quantize_tensor(source, rows, cols, dtype, None, work).map_err(Error::quantize(name))
        };
        let parsed = GgufName::parse(name);
        if parsed.is_some_and(|n| self.is_shifted(n)) {
            let mut values = tensor.to_f32()?.into_vec()?;
            let offset = match self.direction {
                Direction::ToGguf => self.arch.norm_offset(),
                Direction::ToHf => -self.arch.norm_offset(),
            };
            values.iter_mut().for_each(|v| *v += offset);
            return encode(Source::Values(&values));
        }
        let bytes = encode(Source::Bytes(tensor.dtype(), tensor.bytes()?))?;
        let heads = match parsed {
            Some(GgufName { kind: "attn_q", .. }) => self.n_heads,
            Some(GgufName { kind: "attn_k", .. }) => self.n_kv_heads,
            _ => return Ok(bytes),
        };
        if !self.arch.interleaves_rope() {
            return Ok(bytes);
        }
        let mut expected = tensor.shape().dims().to_vec();
        let len = std::mem::replace(&mut expected[0], heads * self.head_dim);
        if len != heads * self.head_dim {
            let (name, got) = (name.to_owned(), tensor.shape().clone());
            let expected = expected.into();
            return Err(model::Error::TensorShape { name, expected, got }.into());
        }
        Ok(permuted(&bytes, len, heads, self.direction))
    }

    /// Whether the tensor is a norm whose checkpoint stores the weight less one.
    fn is_shifted(&self, name: GgufName<'_>) -> bool {
        self.arch.norm_offset() != 0.0 && name.kind.ends_with("norm") && name.suffix == "weight"
    }
}

/// Rows in the other order within each head of `len / heads`: to GGUF, row `i` of the first half
/// becomes row `2i` and row `i` of the second `2i + 1`.
fn permuted(bytes: &[u8], len: usize, heads: usize, direction: Direction) -> Vec<u8> {
    let row = bytes.len() / len;
    let head = len / heads;
    let half = head / 2;
    let mut out = Vec::with_capacity(bytes.len());
    for r in 0..len {
        let (base, i) = (r - r % head, r % head);
        let from = match direction {
            Direction::ToGguf => i % 2 * half + i / 2,
            Direction::ToHf => i % half * 2 + i / half,
        };
        out.extend_from_slice(&bytes[(base + from) * row..][..row]);
    }
    out
}

/// The type that a tensor has in a GGUF file whose matrices are `dtype`, as llama.cpp's converter
/// chooses it.
pub(super) fn gguf_dtype(name: &str, dims: usize, dtype: DType) -> DType {
    let kind = GgufName::parse(name).map_or(name, |n| n.kind);
    let always = kind.ends_with("norm")
        || matches!(kind, "ffn_gate_inp" | "position_embd" | "token_types")
        || !name.ends_with(".weight");
    if dims <= 1 || always { DType::F32 } else { dtype }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn permuting_there_and_back_changes_nothing() {
        let rows: Vec<u8> = (0..24).collect();
        let there = permuted(&rows, 12, 2, Direction::ToGguf);
        // As numpy's reshape(2, 2, 3, -1).swapaxes(1, 2) of rows 0..12, two bytes a row.
        assert_eq!(there[..12], [0, 1, 6, 7, 2, 3, 8, 9, 4, 5, 10, 11]);
        assert_eq!(permuted(&there, 12, 2, Direction::ToHf), rows);
    }
}
