use std::path::PathBuf;

use blocks::DType;

/// Why a model was not converted or compressed. Nothing is left behind under the output's name.
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
    /// The model cannot be read.
    #[error(transparent)]
    Model(#[from] model::Error),
    /// The tokenizer cannot be read.
    #[error(transparent)]
    Tokenizer(#[from] tokenizer::Error),
    /// A tensor cannot be used.
    #[error(transparent)]
    Tensor(#[from] tensor::Error),
    /// A file cannot be read or written.
    #[error("{path}: {source}")]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The output is there already.
    #[error("{path} is there already; remove it or name another output")]
    OutputExists {
        /// The output.
        path: PathBuf,
    },
    /// A type that a checkpoint cannot be converted to.
    #[error(
        "cannot convert to {dtype}: choose F32, F16 or BF16, and quantize the result for other types"
    )]
    OutputType {
        /// The type.
        dtype: DType,
    },
    /// The caller asked to stop.
    #[error("cancelled")]
    Cancelled,
}

impl Error {
    /// Names the tensor with which something was wrong.
    pub(crate) fn quantize(tensor: &str) -> impl Fn(quant_core::QuantError) -> Error + '_ {
        move |source| match source {
            quant_core::QuantError::Cancelled => Error::Cancelled,
            source => Error::Quantize { tensor: tensor.to_owned(), source },
        }
    }

    /// Names the file with which something was wrong.
    pub(crate) fn io(path: impl Into<PathBuf>) -> impl FnOnce(std::io::Error) -> Error {
        let path = path.into();
        move |source| Error::Io { path, source }
    }
}
