//! What can be wrong with making one model file from another.

use std::path::PathBuf;

use tensor::DType;

/// Why a model could not be converted or quantized.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The model cannot be read.
    #[error(transparent)]
    Model(#[from] model::Error),
    /// A GGUF file cannot be read or written.
    #[error(transparent)]
    Gguf(#[from] gguf::Error),
    /// The tokenizer cannot be read.
    #[error(transparent)]
    Tokenizer(#[from] tokenizer::Error),
    /// A tensor cannot be used.
    #[error(transparent)]
    Tensor(#[from] tensor::Error),
    /// A tensor cannot be encoded or decoded.
    #[error("tensor '{tensor}': {source}")]
    Quant {
        /// Its name.
        tensor: String,
        /// Why.
        source: quant_core::QuantError,
    },
    /// No type could be chosen for a tensor.
    #[error(transparent)]
    Recipe(#[from] quant_core::RecipeError),
    /// A file cannot be read or written.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The output is there already.
    #[error("{}: is there already; remove it or name another output", path.display())]
    OutputExists {
        /// The output.
        path: PathBuf,
    },
    /// Input and output are the same file.
    #[error("{}: is the input, too; name another output", path.display())]
    SameFile {
        /// The file.
        path: PathBuf,
    },
    /// A type that a checkpoint cannot be converted to.
    #[error(
        "cannot convert to {dtype}: F32, F16 and BF16 can be written; other types are made by quantizing"
    )]
    OutputType {
        /// The type.
        dtype: DType,
    },
    /// A type that tensors cannot be encoded to.
    #[error("tensor '{tensor}' would become {dtype}, which cannot be made here")]
    NoEncoder {
        /// The tensor.
        tensor: String,
        /// The type.
        dtype: DType,
    },
    /// The vocabulary is larger than the model's.
    #[error("the tokenizer has {tokens} tokens, the model only {rows}")]
    Vocabulary {
        /// Tokens of the tokenizer.
        tokens: usize,
        /// Rows of the token embedding.
        rows: usize,
    },
    /// The caller asked to stop.
    #[error("cancelled")]
    Cancelled,
}

impl Error {
    /// Names the tensor with which something was wrong.
    pub(crate) fn quant(tensor: &str) -> impl Fn(quant_core::QuantError) -> Error + '_ {
        move |source| match source {
            quant_core::QuantError::Cancelled => Error::Cancelled,
            source => Error::Quant { tensor: tensor.to_owned(), source },
        }
    }

    /// Names the file with which something was wrong.
    pub(crate) fn io(path: impl Into<PathBuf>) -> impl FnOnce(std::io::Error) -> Error {
        let path = path.into();
        move |source| Error::Io { path, source }
    }
}
