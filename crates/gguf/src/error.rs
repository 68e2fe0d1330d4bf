//! What can be wrong with a GGUF file, with a request for its metadata, or with writing one.

use std::io;
use std::path::PathBuf;

use blocks::DType;

use crate::ValueType;

/// What was wrong, with where and how much.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
#[allow(missing_docs, reason = "the messages say what the variants and their fields are")]
pub enum Error {
    #[error("{}: {error}", path.display())]
    Io { path: PathBuf, error: io::Error },
    #[error("{}: {fault}", path.display())]
    File { path: PathBuf, fault: Box<Error> },

    // the container
    #[error("not a GGUF file: it begins with '{}' instead of 'GGUF'", magic.escape_ascii())]
    NotGguf { magic: Vec<u8> },
    #[error("a big-endian GGUF file (version {version}): convert it to little-endian first")]
    BigEndian { version: u32 },
    #[error("GGUF version {version} is not supported: versions 2 and 3 are, convert the file anew")]
    UnsupportedVersion { version: u32 },
    #[error(
        "the file ends inside {what} at byte {at}: {needed} bytes are needed, {remaining} remain"
    )]
    Truncated { what: &'static str, at: usize, needed: u64, remaining: usize },
    #[error("{count} {what} cannot fit into the {remaining} bytes that remain")]
    ImpossibleCount { what: &'static str, count: u64, remaining: usize },
    #[error("{what} at byte {at} is not valid UTF-8")]
    NotUtf8 { what: &'static str, at: usize },
    #[error("metadata '{key}' has the unknown value type {id}")]
    UnknownValueType { key: String, id: u32 },
    #[error("metadata '{key}' has a boolean stored as {byte}: it must be 0 or 1")]
    InvalidBool { key: String, byte: u8 },
    #[error("metadata '{key}' nests arrays more than {limit} deep")]
    NestedTooDeep { key: String, limit: usize },
    #[error("metadata '{key}' occurs twice")]
    DuplicateKey { key: String },
    #[error("general.alignment is stored as {got}: it must be U32")]
    AlignmentType { got: ValueType },
    #[error("general.alignment is {value}: it must be a power of two from {min} to {max}")]
    Alignment { value: u32, min: u32, max: u32 },

    // the tensor table
    #[error("tensor '{tensor}' occurs twice")]
    DuplicateTensor { tensor: String },
    #[error("tensor '{tensor}' has {dims} dimensions: at most {max} are allowed")]
    TooManyDimensions { tensor: String, dims: usize, max: usize },
    #[error("tensor '{tensor}' has the dimension {value}: it must be at least 1")]
    Dimension { tensor: String, value: i64 },
    #[error("the size of tensor '{tensor}' overflows")]
    SizeOverflow { tensor: String },
    #[error(
        "tensor '{tensor}' has rows of {row} elements: {dtype} needs whole blocks of {}",
        dtype.block_len()
    )]
    PartialBlock { tensor: String, row: usize, dtype: DType },
    #[error("tensor '{tensor}' has the unknown type id {id}")]
    UnknownType { tensor: String, id: u32 },
    #[error("tensor '{tensor}' has the offset {offset}, no multiple of the alignment {alignment}")]
    Misaligned { tensor: String, offset: u64, alignment: usize },
    #[error(
        "tensor '{tensor}' needs {size} bytes at offset {offset} of the data: the file has {available}"
    )]
    OutOfBounds { tensor: String, offset: u64, size: usize, available: usize },
    #[error("tensors '{first}' and '{second}' overlap")]
    Overlap { first: String, second: String },

    // metadata, asked for by type
    #[error("metadata '{key}' is missing")]
    MissingKey { key: String },
    #[error("metadata '{key}' must be {expected}: it is {got}")]
    WrongType { key: String, expected: &'static str, got: String },
    #[error("metadata '{key}' is {value}: it does not fit {expected}")]
    OutOfRange { key: String, expected: &'static str, value: i128 },
    #[error("string {index} of metadata '{key}' is not valid UTF-8")]
    StringNotUtf8 { key: String, index: usize },

    // split files
    #[error("part {} of a split model of {count}: open the first part", no + 1)]
    NotFirstPart { no: u32, count: u32 },
    #[error("a split model of {count} parts whose name does not end with '{expected}'")]
    SplitName { count: u32, expected: String },
    #[error("says it is part {} of {count}: it must be part {} of {expected_count}", no + 1, expected_no + 1)]
    SplitMismatch { no: u32, count: u32, expected_no: u32, expected_count: u32 },
    #[error("the parts hold {got} tensors: split.tensors.count says {expected}")]
    SplitTensorCount { expected: usize, got: usize },

    // writing
    #[error("writing: {0}")]
    Write(io::Error),
    #[error("the name '{name}' has {} bytes: at most {max} are allowed", name.len())]
    NameTooLong { name: String, max: usize },
    #[error("tensor '{tensor}' has the type {dtype}, which GGUF does not have")]
    NotAGgufType { tensor: String, dtype: DType },
    #[error("tensor '{got}' was written where '{expected}' comes next")]
    OutOfOrder { expected: String, got: String },
    #[error("{got} bytes were given after the data of the last tensor")]
    TooMuchData { got: usize },
    #[error("{got} bytes were given for tensor '{tensor}', which has {expected}")]
    WrongSize { tensor: String, expected: usize, got: usize },
    #[error("the data of tensor '{tensor}' is missing")]
    Unfinished { tensor: String },
}

impl Error {
    /// The fault itself, without the name of the file that has it.
    pub fn fault(&self) -> &Error {
        match self {
            Error::File { fault, .. } => fault.fault(),
            other => other,
        }
    }
}
