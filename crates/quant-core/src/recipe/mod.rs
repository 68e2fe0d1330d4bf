//! The type of every tensor of a file, as llama.cpp's `llama-quantize` chooses it
//! (`llama_tensor_get_type` in llama-quant.cpp).
//!
//! Layers are not equal: the first and last eighth and every third in between get more bits, values
//! more than keys, `ffn_down` more than `ffn_up`. Some rules count tensors in llama.cpp's order (by
//! layer, then name), so types are chosen for all tensors of a file at once.

mod category;
mod mixture;

use blocks::DType;
use regex::Regex;

use crate::FileType;
use category::{Category, is_quantized, layer_of};
use mixture::Mixture;

/// What recipes need to know of a model; the names are GGUF's.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ModelFacts {
    /// `general.architecture`.
    pub arch: String,
    /// `block_count`.
    pub n_layer: usize,
    /// `attention.head_count` (of the first layer, where layers differ).
    pub n_head: usize,
    /// `attention.head_count_kv` (of the first layer); equal to `n_head` where a file has none.
    pub n_head_kv: usize,
    /// `expert_count`; 0 without experts.
    pub n_expert: usize,
}

/// One tensor.
#[derive(Clone, Copy, Debug)]
pub struct TensorFacts<'a> {
    /// Its name in a GGUF file.
    pub name: &'a str,
    /// Its dimensions in row-major order: the length of a row last (GGML's `ne`, reversed).
    pub shape: &'a [usize],
    /// The type it has, which it keeps if it is not to be quantized.
    pub dtype: DType,
}

impl TensorFacts<'_> {
    /// Elements a row; 1 for a scalar.
    fn row_len(&self) -> usize {
        self.shape.last().copied().unwrap_or(1)
    }
}

/// A type for the tensors whose name the expression matches anywhere.
#[derive(Clone, Debug)]
pub struct Override {
    /// What the name must match.
    pub pattern: Regex,
    /// The type that it gets, if its rows are whole blocks; the fallback of that type otherwise.
    pub dtype: DType,
}

/// What departs from the recipe.
#[derive(Clone, Debug, Default)]
pub struct RecipeOptions {
    /// Whether there are importances; some rules are bolder with them.
    pub has_importance: bool,
    /// Give every tensor the default type of the mixture (`--pure`).
    pub pure: bool,
    /// Leave `output.weight` as it is (`--leave-output-tensor`).
    pub keep_output: bool,
    /// The type of `output.weight` (`--output-tensor-type`).
    pub output: Option<DType>,
    /// The type of the token embeddings (`--token-embedding-type`).
    pub token_embedding: Option<DType>,
    /// Types for tensors by name, the first that matches (`--tensor-type`). They apply to mixtures of
    /// quantized types only.
    pub overrides: Vec<Override>,
}

/// What becomes of a tensor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Choice {
    /// The type it gets.
    pub dtype: DType,
    /// The type that the recipe meant, where its blocks do not divide the rows.
    pub fallback_from: Option<DType>,
    /// Whether llama.cpp refuses to make this without importances.
    pub needs_importance: bool,
}

/// Why no type could be chosen.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RecipeError {
    /// In a model with experts, a feed-forward tensor whose name has no layer.
    #[error("the name of tensor '{tensor}' does not say its layer ('blk.N.' was expected)")]
    NoLayer {
        /// Its name.
        tensor: String,
    },
    /// In a model with experts, a feed-forward tensor of a layer that there is not.
    #[error("tensor '{tensor}' is of layer {layer}, but the model has {n_layer}")]
    LayerOutOfRange {
        /// Its name.
        tensor: String,
        /// The layer in it.
        layer: usize,
        /// Layers of the model.
        n_layer: usize,
    },
    /// The rows are no whole blocks, and the type has no other to fall back to.
    #[error(
        "rows of {row_len} of tensor '{tensor}' are no whole {dtype} blocks, and nothing stands in for {dtype}"
    )]
    NoFallback {
        /// Its name.
        tensor: String,
        /// Elements a row.
        row_len: usize,
        /// The type it should have.
        dtype: DType,
    },
}

/// The type of each tensor, in the order given.
///
/// # Errors
/// If a rule cannot be applied to a tensor.
///
/// ```
/// use blocks::DType;
/// use quant_core::{FileType, ModelFacts, RecipeOptions, TensorFacts, choose};
/// let model = ModelFacts { arch: "llama".into(), n_layer: 1, n_head: 8, n_head_kv: 8, n_expert: 0 };
/// let tensor = |name, shape| TensorFacts { name, shape, dtype: DType::F16 };
/// let tensors = [tensor("token_embd.weight", &[100, 512]), tensor("output_norm.weight", &[512])];
/// let choices = choose(FileType::Q4_K_M, &model, &tensors, &RecipeOptions::default()).unwrap();
/// assert_eq!(choices[0].dtype, DType::Q6_K); // without output.weight the embeddings are the output
/// assert_eq!(choices[1].dtype, DType::F16);
/// ```
pub fn choose(
    file_type: FileType,
    model: &ModelFacts,
    tensors: &[TensorFacts<'_>],
    options: &RecipeOptions,
) -> Result<Vec<Choice>, RecipeError> {
    let mut mixture = Mixture::new(file_type, model, tensors, options);
    let mut order: Vec<usize> = (0..tensors.len()).collect();
    order.sort_by_key(|&i| (layer_of(tensors[i].name), tensors[i].name));
    let mut choices: Vec<_> = tensors
        .iter()
        .map(|t| Choice { dtype: t.dtype, fallback_from: None, needs_importance: false })
        .collect();
    for i in order {
        let tensor = &tensors[i];
        let kept = options.keep_output && tensor.name == "output.weight";
        if !kept && is_quantized(&model.arch, tensor.name, tensor.shape) {
            choices[i] = choose_one(&mut mixture, tensor)?;
        }
    }
    Ok(choices)
}

/// The type of a tensor that is to be quantized.
fn choose_one(mixture: &mut Mixture<'_>, tensor: &TensorFacts<'_>) -> Result<Choice, RecipeError> {
    let options = mixture.options;
    let category = Category::of(tensor.name);
    let named = options.overrides.iter().find(|o| o.pattern.is_match(tensor.name)).map(|o| o.dtype);
    // A large table of its own, which an explicit name may single out.
    let per_layer = tensor.name == "per_layer_token_embd.weight";
    let given = match category {
        Category::TokenEmbedding if !(per_layer && named.is_some()) => options.token_embedding,
        Category::Output => options.output,
        _ => None,
    };
    let default = mixture.file_type.default_dtype();
    let (dtype, fallback_from) = if let Some(dtype) = given {
        (dtype, None)
    } else if !default.is_quantized() {
        (default, None)
    } else {
        let meant = match named {
            Some(dtype) => dtype,
            None if options.pure => default,
            None => mixture.dtype(category, tensor)?,
        };
        let dtype = fallback(meant, tensor)?;
        (dtype, (dtype != meant).then_some(meant))
    };
    Ok(Choice {
        dtype,
        fallback_from,
        needs_importance: needs_importance(category, dtype, mixture.file_type),
    })
}

/// The type, or one with smaller blocks if they do not divide the rows.
fn fallback(dtype: DType, tensor: &TensorFacts<'_>) -> Result<DType, RecipeError> {
    let row_len = tensor.row_len();
    let divides = |dtype: DType| row_len.is_multiple_of(dtype.block_len());
    if divides(dtype) {
        return Ok(dtype);
    }
    let smaller = match dtype {
        DType::IQ1_S
        | DType::IQ1_M
        | DType::IQ2_XXS
        | DType::IQ2_XS
        | DType::IQ2_S
        | DType::IQ3_XXS
        | DType::IQ3_S
        | DType::IQ4_XS => DType::IQ4_NL,
        DType::Q2_0 | DType::Q2_K | DType::Q3_K | DType::TQ1_0 | DType::TQ2_0 => DType::Q4_0,
        DType::Q4_K => DType::Q5_0,
        DType::Q5_K => DType::Q5_1,
        DType::Q6_K => DType::Q8_0,
        _ if dtype.block_len() <= 32 => dtype,
        _ => {
            return Err(RecipeError::NoFallback { tensor: tensor.name.to_owned(), row_len, dtype });
        }
    };
    Ok(if divides(smaller) { smaller } else { DType::F16 })
}

/// Whether a type is useless without importances.
fn needs_importance(category: Category, dtype: DType, file_type: FileType) -> bool {
    if matches!(category, Category::TokenEmbedding | Category::Output) {
        return false;
    }
    match dtype {
        DType::IQ3_XXS
        | DType::IQ2_XXS
        | DType::IQ2_XS
        | DType::IQ2_S
        | DType::IQ1_M
        | DType::IQ1_S => true,
        DType::Q2_K => file_type == FileType::Q2_K_S,
        _ => false,
    }
}
