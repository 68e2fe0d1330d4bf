use std::path::PathBuf;

use blocks::DType;

/// Why a model was not compressed. Nothing is left behind under the output's name.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The file cannot be read or written.
    #[error(transparent)]
    Gguf(#[from] gguf::Error),
    /// The output would replace the input, which is mapped while it is read.
    #[error("input and output are the same file, {path}; name another output")]
    SameFile {
        /// The file.
        path: PathBuf,
    },
    /// No type could be chosen for a tensor.
    #[error(transparent)]
    Recipe(#[from] quant_core::RecipeError),
    /// A tensor could not be quantized.
    #[error("tensor '{tensor}': {source}")]
    Quantize {
        /// Its name.
        tensor: String,
        /// Why.
        source: quant_core::QuantError,
    },
    /// The mixture asks for a type that is worthless without importances.
    #[error(
        "tensor '{tensor}' would become {dtype}, which needs an importance matrix; choose a type of more bits"
    )]
    NeedsImportance {
        /// Its name.
        tensor: String,
        /// The type.
        dtype: DType,
    },
    /// The type cannot be made here.
    #[error(
        "tensor '{tensor}' would become {dtype}, which can be read but not made; choose another type"
    )]
    CannotEncode {
        /// Its name.
        tensor: String,
        /// The type.
        dtype: DType,
    },
    /// The input is quantized already.
    #[error(
        "tensor '{tensor}' is {dtype} already, and quantizing it again loses more; begin with an f16 or f32 file, or allow it"
    )]
    AlreadyQuantized {
        /// Its name.
        tensor: String,
        /// Its type.
        dtype: DType,
    },
}
