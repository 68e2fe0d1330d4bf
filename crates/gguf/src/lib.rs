//! The GGUF container: a reader for versions 2 and 3 and a writer for version 3.
//!
//! A file is a header, metadata (keys with typed values), a table of tensors, and the tensors'
//! data. [`Gguf::open`] maps it and reads all but the data, without copying vocabularies;
//! [`parse`] does the same for bytes in memory; [`Builder`] and [`Writer`] make a file, one tensor
//! at a time. This is the only place where the format is parsed; what the keys mean is the
//! business of `model` and `tokenizer`.
//!
//! Nothing in a file is trusted: counts, lengths, dimensions, offsets and their sums are checked
//! against the bytes that remain, and what is wrong comes back as a typed [`Error`].
//!
//! ```
//! use blocks::DType;
//! # let dir = tempfile::tempdir().unwrap();
//! # let path = dir.path().join("tiny.gguf");
//! let mut builder = gguf::Builder::new();
//! builder.set("general.architecture", "llama").set("llama.block_count", 1u32);
//! builder.tensor("output.weight", vec![2, 3], DType::F32)?;
//! let mut writer = builder.create(&path)?;
//! writer.tensor("output.weight", &[0; 24])?;
//! writer.commit()?;
//!
//! let file = gguf::Gguf::open(&path)?;
//! assert_eq!(file.metadata().str("general.architecture")?, "llama");
//! let tensor = file.tensor("output.weight").unwrap();
//! assert_eq!((tensor.shape.as_slice(), file.data(tensor).len()), (&[2, 3][..], 24));
//! # Ok::<(), gguf::Error>(())
//! ```
#![forbid(unsafe_code)]

mod array;
mod cursor;
mod error;
mod file;
mod index;
mod metadata;
mod parse;
mod tensors;
mod value;
mod write;

pub use array::{Array, Strings};
pub use blocks::DType;
pub use error::Error;
pub use file::Gguf;
pub use metadata::{FromValue, Metadata, Mismatch};
pub use parse::{Header, Parsed, parse};
pub use tensors::TensorInfo;
pub use value::{Value, ValueType};
pub use write::{Builder, Writer};
