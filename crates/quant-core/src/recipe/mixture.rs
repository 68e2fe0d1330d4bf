//! The rules of the mixtures, one function a kind of tensor.

use blocks::DType::{self, *};

use super::category::{Category, layer_of};
use super::{ModelFacts, RecipeError, RecipeOptions, TensorFacts};
use crate::FileType;

/// The rules, with the counts that some of them go by.
pub(super) struct Mixture<'a> {
    pub(super) file_type: FileType,
    pub(super) options: &'a RecipeOptions,
    model: &'a ModelFacts,
    /// There is no `output.weight`: the embeddings serve as the output.
    tied: bool,
    /// Tensors that hold values: all, and those that have had their turn.
    values: usize,
    value: usize,
    down: usize,
    gate: usize,
    up: usize,
}

/// The layers that get more bits: the first and last eighth, and every third in between.
fn more_bits(layer: usize, layers: usize) -> bool {
    layer < layers / 8 || layer >= seven_eighths(layers) || (layer - layers / 8) % 3 == 2
}

/// Where the last eighth begins; files may state any number of layers.
fn seven_eighths(layers: usize) -> usize {
    layers.saturating_mul(7) / 8
}

impl<'a> Mixture<'a> {
    pub(super) fn new(
        file_type: FileType,
        model: &'a ModelFacts,
        tensors: &[TensorFacts<'_>],
        options: &'a RecipeOptions,
    ) -> Self {
        let of = |category| tensors.iter().filter(move |t| Category::of(t.name) == category);
        let values = of(Category::AttentionValue).count();
        let tied = of(Category::Output).next().is_none();
        Self { file_type, options, model, tied, values, value: 0, down: 0, gate: 0, up: 0 }
    }

    /// The type of a tensor, whatever the length of its rows.
    pub(super) fn dtype(
        &mut self,
        category: Category,
        tensor: &TensorFacts<'_>,
    ) -> Result<DType, RecipeError> {
        let default = self.file_type.default_dtype();
        if self.model.arch == "glm5-next"
            && ["attn_q_a", "attn_q_b", "nextn.eh_proj"]
                .iter()
                .any(|part| tensor.name.contains(part))
        {
            return Ok(Q8_0);
        }
        if category == Category::Output || (self.tied && category == Category::TokenEmbedding) {
            return Ok(self.output(tensor));
        }
        if self.file_type == FileType::MXFP4_MOE {
            return Ok(if self.is_expert(category, tensor) { MXFP4 } else { Q8_0 });
        }
        let special = match category {
            Category::TokenEmbedding => self.token_embedding(),
            Category::AttentionValue => self.attention_value(),
            Category::AttentionKey => self.attention_key(),
            Category::AttentionQuery => self.attention_query(),
            Category::AttentionOutput => self.attention_output(),
            Category::FfnDown => self.ffn_down(tensor)?,
            Category::FfnGate if !self.is_below_3_bits() => {
                self.gate += 1;
                self.ffn_gate_or_up(tensor, self.gate - 1)?
            }
            Category::FfnUp if !self.is_below_3_bits() => {
                self.up += 1;
                self.ffn_gate_or_up(tensor, self.up - 1)?
            }
            _ => None,
        };
        Ok(special.unwrap_or(default))
    }

    fn is_falcon(&self) -> bool {
        self.model.arch == "falcon"
    }

    /// Query heads for each key and value head.
    fn gqa(&self) -> usize {
        self.model.n_head.checked_div(self.model.n_head_kv).unwrap_or(0)
    }

    /// The IQ1 and IQ2 mixtures, which follow rules of their own.
    fn is_below_3_bits(&self) -> bool {
        use FileType::*;
        matches!(self.file_type, IQ1_S | IQ1_M | IQ2_XXS | IQ2_XS | IQ2_S | IQ2_M)
    }

    /// The 2.5-bit mixtures among them.
    fn is_iq2_s_or_m(&self) -> bool {
        matches!(self.file_type, FileType::IQ2_S | FileType::IQ2_M)
    }

    /// Models of the size class that llama.cpp calls 70B, in which 8 heads share their values.
    fn is_70b(&self) -> bool {
        let ModelFacts { arch, n_layer, n_head, n_head_kv, .. } = self.model;
        match arch.as_str() {
            "llama" | "llama-embed" => *n_layer == 80 && n_head != n_head_kv,
            "qwen2" | "deci" | "olmo" => *n_layer == 80,
            "jais2" => *n_layer == 68,
            _ => false,
        }
    }

    fn is_expert(&self, category: Category, tensor: &TensorFacts<'_>) -> bool {
        let stacked = tensor.shape.iter().rev().nth(2).is_some_and(|&n| n > 1);
        // Its projections of attention are stacked too.
        let role = self.model.arch != "bailingmoe3"
            || matches!(category, Category::FfnUp | Category::FfnGate | Category::FfnDown);
        stacked && role
    }

    fn output(&self, tensor: &TensorFacts<'_>) -> DType {
        let default = self.file_type.default_dtype();
        if let Some(dtype) = self.options.output {
            return dtype;
        }
        let partial = !tensor.row_len().is_multiple_of(default.block_len());
        if self.file_type == FileType::MXFP4_MOE || self.is_falcon() || partial || default == Q8_0 {
            Q8_0
        } else if self.is_below_3_bits() || self.file_type == FileType::IQ3_XXS {
            Q5_K
        } else {
            Q6_K
        }
    }

    fn token_embedding(&self) -> Option<DType> {
        match self.file_type {
            FileType::IQ2_XXS | FileType::IQ2_XS | FileType::IQ1_S | FileType::IQ1_M => Some(Q2_K),
            FileType::IQ2_S | FileType::IQ2_M | FileType::IQ3_XXS => Some(IQ3_S),
            FileType::TQ1_0 | FileType::TQ2_0 | FileType::Q2_0 => Some(Q4_K),
            _ => None,
        }
    }

    fn attention_value(&mut self) -> Option<DType> {
        let index = self.value;
        self.value += 1;
        let (shared, importance) = (self.gqa() >= 4, self.options.has_importance);
        if self.is_below_3_bits() {
            return Some(match shared || self.model.n_expert >= 4 {
                true => Q4_K,
                false if self.is_iq2_s_or_m() => IQ3_S,
                false => Q2_K,
            });
        }
        if self.model.n_expert == 8 {
            return Some(Q8_0); // small beside the experts
        }
        let dtype = match self.file_type {
            FileType::Q2_K => Some(if shared { Q4_K } else { Q3_K }),
            FileType::Q2_K_S if shared => Some(Q4_K),
            FileType::IQ3_XXS => Some(match (shared, importance) {
                (true, _) => Q4_K,
                (false, true) => IQ3_XXS,
                (false, false) => IQ3_S,
            }),
            FileType::IQ3_XS | FileType::IQ3_S if shared => Some(Q4_K),
            FileType::IQ3_M => Some(Q4_K),
            FileType::Q3_K_M => Some(if index < 2 { Q5_K } else { Q4_K }),
            FileType::Q3_K_L => Some(Q5_K),
            FileType::IQ4_NL | FileType::IQ4_XS if shared => Some(Q5_K),
            FileType::Q4_K_M | FileType::Q5_K_M if more_bits(index, self.values) => Some(Q6_K),
            FileType::Q4_K_S if index < 4 => Some(Q5_K),
            _ => None,
        };
        match dtype.unwrap_or(self.file_type.default_dtype()) {
            Q3_K | Q4_K if self.is_70b() => Some(Q5_K),
            _ => dtype,
        }
    }

    fn attention_key(&self) -> Option<DType> {
        match (self.is_below_3_bits(), self.model.n_expert) {
            (true, 8) => Some(Q4_K),
            (false, 8) => Some(Q8_0),
            _ => self.attention_query(),
        }
    }

    fn attention_query(&self) -> Option<DType> {
        match self.file_type {
            FileType::IQ3_XS => Some(IQ3_XXS),
            FileType::IQ3_XXS => Some(IQ2_S),
            _ => None,
        }
    }

    fn attention_output(&self) -> Option<DType> {
        let file_type = self.file_type;
        if self.is_below_3_bits() {
            return match file_type {
                _ if self.model.n_expert == 8 => Some(Q5_K),
                FileType::IQ1_S | FileType::IQ1_M => Some(IQ2_XXS),
                FileType::IQ2_S | FileType::IQ2_M => Some(IQ3_S),
                _ => None,
            };
        }
        if self.is_falcon() {
            return (file_type == FileType::Q3_K_L).then_some(Q4_K);
        }
        if self.model.n_expert == 8 {
            use FileType::*;
            let generous = matches!(
                file_type,
                Q2_K | IQ3_XS
                    | IQ3_XXS
                    | Q3_K_S
                    | Q3_K_M
                    | IQ4_NL
                    | Q4_K_S
                    | Q4_K_M
                    | IQ3_S
                    | IQ3_M
                    | IQ4_XS
            );
            return generous.then_some(Q5_K);
        }
        match file_type {
            FileType::Q2_K => Some(Q3_K),
            FileType::IQ3_XXS => Some(IQ3_S),
            FileType::Q3_K_M | FileType::IQ3_M => Some(Q4_K),
            FileType::Q3_K_L => Some(Q5_K),
            _ => None,
        }
    }

    /// The layer of a feed-forward tensor: how many of its kind came before, or, since those of
    /// experts are not in order in every file, what the name says.
    fn layer(&self, tensor: &TensorFacts<'_>, count: usize) -> Result<usize, RecipeError> {
        if self.model.n_expert <= 1 {
            return Ok(count);
        }
        let name = || tensor.name.to_owned();
        match layer_of(tensor.name) {
            None => Err(RecipeError::NoLayer { tensor: name() }),
            Some(layer) if layer >= self.model.n_layer => Err(RecipeError::LayerOutOfRange {
                tensor: name(),
                layer,
                n_layer: self.model.n_layer,
            }),
            Some(layer) => Ok(layer),
        }
    }

    fn ffn_down(&mut self, tensor: &TensorFacts<'_>) -> Result<Option<DType>, RecipeError> {
        let count = self.down;
        self.down += 1;
        let (layers, importance) = (self.model.n_layer, self.options.has_importance);
        if self.is_below_3_bits() {
            let dtype = if self.is_iq2_s_or_m() { IQ3_S } else { Q2_K };
            return Ok((count < layers / 8).then_some(dtype));
        }
        let layer = self.layer(tensor, count)?;
        let (first_eighth, first_sixteenth) = (layer < layers / 8, layer < layers / 16);
        let (more, falcon) = (more_bits(layer, layers), self.is_falcon());
        Ok(match self.file_type {
            FileType::Q2_K => Some(Q3_K),
            FileType::Q2_K_S if first_eighth => Some(Q4_K),
            FileType::IQ3_XXS if !importance => Some(if first_eighth { Q4_K } else { Q3_K }),
            FileType::Q3_K_M if first_sixteenth => Some(Q5_K),
            FileType::Q3_K_M => Some(if !falcon || more { Q4_K } else { Q3_K }),
            FileType::IQ3_M if first_eighth || (self.model.n_expert == 8 && more) => Some(Q4_K),
            FileType::Q3_K_L => Some(if falcon { Q4_K } else { Q5_K }),
            FileType::Q4_K_M if falcon && first_sixteenth => Some(Q6_K),
            FileType::Q4_K_M if falcon && more => Some(Q5_K),
            FileType::Q4_K_M if !falcon && more => Some(Q6_K),
            FileType::IQ4_NL | FileType::IQ4_XS if first_eighth && !importance => Some(Q5_K),
            FileType::Q5_K_M if more => Some(Q6_K),
            FileType::Q4_K_S if first_eighth && !falcon => Some(Q5_K),
            // Types with a minimum err wildly here without importances.
            FileType::Q4_0 if first_eighth && importance => Some(Q4_1),
            FileType::Q5_0 if first_eighth && importance => Some(Q5_1),
            _ => None,
        })
    }

    fn ffn_gate_or_up(
        &self,
        tensor: &TensorFacts<'_>,
        count: usize,
    ) -> Result<Option<DType>, RecipeError> {
        let (layer, layers) = (self.layer(tensor, count)?, self.model.n_layer);
        let middle = layer >= layers / 8 && layer < seven_eighths(layers);
        Ok((middle && self.file_type == FileType::IQ3_XS).then_some(IQ3_XXS))
    }
}
