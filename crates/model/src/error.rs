use std::path::PathBuf;

use tensor::{DType, Shape};

/// What can be wrong with a model or a batch.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// An architecture this crate does not know.
    #[error("unknown architecture '{name}'; known are {}", known.join(", "))]
    UnknownArchitecture {
        /// As the file names it.
        name: String,
        /// Those that are known.
        known: Vec<&'static str>,
    },
    /// A parameter that is not there.
    #[error("the configuration has no '{key}'")]
    MissingParameter {
        /// Its key.
        key: String,
    },
    /// A parameter whose value makes no sense.
    #[error("'{key}' = {value}: expected {expected}")]
    InvalidParameter {
        /// Its key.
        key: String,
        /// Its value.
        value: String,
        /// What would make sense.
        expected: String,
    },
    /// A tensor that is not there.
    #[error("the checkpoint has no tensor '{name}'")]
    MissingTensor {
        /// Its name.
        name: String,
    },
    /// A tensor of another shape than the configuration says.
    #[error("tensor '{name}' has shape {got}, the configuration asks for {expected}")]
    TensorShape {
        /// Its name.
        name: String,
        /// By the configuration.
        expected: Shape,
        /// As it is.
        got: Shape,
    },
    /// A tensor of a type that cannot be used here.
    #[error("tensor '{name}' has type {dtype}, which cannot be used as a weight")]
    TensorType {
        /// Its name.
        name: String,
        /// Its type.
        dtype: DType,
    },
    /// A token id beyond the vocabulary.
    #[error("token id {id} is beyond the vocabulary of {vocab_size}")]
    TokenOutOfRange {
        /// The id.
        id: u32,
        /// The vocabulary.
        vocab_size: usize,
    },
    /// A batch without rows.
    #[error("the batch has no rows")]
    EmptyBatch,
    /// A row asked for that the batch does not have.
    #[error("row {row} is asked for, the batch has {rows}")]
    NoSuchRow {
        /// The row.
        row: usize,
        /// How many there are.
        rows: usize,
    },
    /// A cache that was made for another model.
    #[error("the cache has [layers, kv heads, head size] = {got:?}, the model needs {expected:?}")]
    CacheLayout {
        /// What the model needs.
        expected: [usize; 3],
        /// What the cache has.
        got: [usize; 3],
    },
    /// A row whose parent is no earlier row of its sequence in the batch.
    #[error("row {row}: its parent {parent} is no earlier row of the same sequence")]
    InvalidParent {
        /// The row.
        row: usize,
        /// Its parent.
        parent: usize,
    },
    /// A position that the model's learned table does not have.
    #[error("position {position} is beyond the {len} that the model knows")]
    PositionOutOfRange {
        /// The position.
        position: usize,
        /// How many there are.
        len: usize,
    },
    /// Something asked of a model of the other family.
    #[error("'{architecture}' is {family}; {hint}")]
    WrongFamily {
        /// The architecture.
        architecture: String,
        /// What it is.
        family: &'static str,
        /// What to do.
        hint: &'static str,
    },
    /// A file that cannot be read or written.
    #[error("{path}: {source}")]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// JSON that cannot be read.
    #[error("{path}: {source}")]
    Json {
        /// The file.
        path: PathBuf,
        /// Why.
        source: serde_json::Error,
    },
    /// A folder without weights that can be read.
    #[error(
        "{}: no model.safetensors and no model.safetensors.index.json; other formats must be converted to safetensors first",
        path.display()
    )]
    NoWeights {
        /// The folder.
        path: PathBuf,
    },
    /// A safetensors file that its library refuses.
    #[error("{}: {source}", path.display())]
    Safetensors {
        /// The file.
        path: PathBuf,
        /// Why.
        source: safetensors::SafeTensorError,
    },
    /// A safetensors file with a bad header.
    #[error("{path}: the header cannot be right: {fault}")]
    SafetensorsHeader {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        fault: crate::weights::HeaderFault,
    },
    /// An index that has a tensor twice.
    #[error("{}: names tensor '{name}' twice", path.display())]
    RepeatedTensor {
        /// The index.
        path: PathBuf,
        /// The tensor.
        name: String,
    },
    /// An index that names a shard outside of its folder.
    #[error("{}: shard {shard:?} is no plain file name", path.display())]
    ShardPath {
        /// The index.
        path: PathBuf,
        /// The shard as the index has it.
        shard: String,
    },
    /// A tensor that is not in the shard that the index names.
    #[error("{}: has no tensor '{name}', which the index says is there", path.display())]
    NotInShard {
        /// The shard.
        path: PathBuf,
        /// The tensor.
        name: String,
    },
    /// A tensor of a checkpoint whose elements are of a type that is no weight.
    #[error("tensor '{name}' has elements of type {dtype}; F32, F16, BF16 and F64 can be read")]
    ElementType {
        /// Its name.
        name: String,
        /// The type as safetensors calls it.
        dtype: String,
    },
    /// An operation on tensors failed.
    #[error(transparent)]
    Tensor(tensor::Error),
    /// The key-value cache refused.
    #[error(transparent)]
    Kv(#[from] tensor::kv::KvError),
    /// A GGUF file that cannot be read.
    #[error(transparent)]
    Gguf(#[from] gguf::Error),
}

impl From<tensor::Error> for Error {
    fn from(error: tensor::Error) -> Self {
        match error {
            tensor::Error::Kv(error) => Error::Kv(error),
            error => Error::Tensor(error),
        }
    }
}
