//! One safetensors file: its header, checked, and where each tensor's bytes lie.
//!
//! The format is eight bytes of header length, a JSON header, and the data. The crate `safetensors`
//! checks shapes against offsets, and that tensors follow each other without gaps. What it lets pass
//! is checked here: names that occur twice, tensors without elements, offsets so large that their
//! sums would wrap, bytes behind the last tensor. The header is parsed here as well, since the
//! crate holds all of it in memory several times over.

use std::ops::Range;
use std::path::Path;

use files::MappedFile;
use safetensors::Dtype;
use safetensors::tensor::{Metadata, TensorInfo};

use super::pairs::Pairs;
use crate::Error;

/// Longer headers are refused, as by the format's own library.
const MAX_HEADER: u64 = 100_000_000;
/// More dimensions make no sense.
const MAX_DIMS: usize = 16;

/// What is wrong with a header.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
#[allow(missing_docs, reason = "the messages say what the variants and their fields are")]
pub enum HeaderFault {
    #[error("{bytes} bytes are too few for its length")]
    TooShort { bytes: usize },
    #[error("its length is {len}, at most {max} are allowed")]
    TooLong { len: u64, max: u64 },
    #[error("its length is {len}, but only {remaining} bytes remain")]
    BeyondTheFile { len: u64, remaining: usize },
    #[error("tensor '{tensor}' has no elements")]
    NoElements { tensor: String },
    #[error("tensor '{tensor}' has {dims} dimensions, at most {max} make sense")]
    TooManyDimensions { tensor: String, dims: usize, max: usize },
    #[error("tensor '{tensor}' lies at {begin}..{end} of {data} bytes of data")]
    BeyondTheData { tensor: String, begin: usize, end: usize, data: usize },
    #[error("the name '{name}' occurs twice")]
    Duplicate { name: String },
    #[error("{bytes} bytes follow the last tensor")]
    TrailingBytes { bytes: usize },
}

/// A tensor of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Its name.
    pub name: String,
    /// The type of its elements, as the format has it.
    pub dtype: Dtype,
    /// Its shape, the length of a row last.
    pub shape: Vec<usize>,
    /// Where its bytes lie in the file.
    pub range: Range<usize>,
}

/// Maps a file and reads its header; tensors in the order of their data.
pub(crate) fn open(path: &Path) -> Result<(MappedFile, Vec<Entry>), Error> {
    let file =
        MappedFile::open(path).map_err(|source| Error::Io { path: path.to_owned(), source })?;
    let entries = parse(&file, path)?;
    Ok((file, entries))
}

/// Reads the header of a whole file: its tensors in the order of their data, which they fill without
/// gaps; `path` is for messages.
///
/// ```
/// let header = br#"{"a":{"dtype":"F32","shape":[1,2],"data_offsets":[0,8]}}"#;
/// let mut file = (header.len() as u64).to_le_bytes().to_vec();
/// file.extend(header);
/// file.extend([0; 8]);
/// let tensors = model::weights::safetensors::parse(&file, "a.safetensors".as_ref())?;
/// assert_eq!((tensors[0].name.as_str(), &tensors[0].shape), ("a", &vec![1, 2]));
/// assert_eq!(tensors[0].range, file.len() - 8..file.len());
/// # Ok::<(), model::Error>(())
/// ```
///
/// # Errors
/// [`Error::SafetensorsHeader`], [`Error::Safetensors`] and [`Error::Json`].
pub fn parse(bytes: &[u8], path: &Path) -> Result<Vec<Entry>, Error> {
    let refuse = |fault| Error::SafetensorsHeader { path: path.to_owned(), fault };
    let Some((len, rest)) = bytes.split_first_chunk::<8>() else {
        return Err(refuse(HeaderFault::TooShort { bytes: bytes.len() }));
    };
    let len = u64::from_le_bytes(*len);
    if len > MAX_HEADER {
        return Err(refuse(HeaderFault::TooLong { len, max: MAX_HEADER }));
    }
    let Some((json, data)) = rest.split_at_checked(len as usize) else {
        return Err(refuse(HeaderFault::BeyondTheFile { len, remaining: rest.len() }));
    };
    let pairs: Pairs<TensorInfo> = serde_json::from_slice(json)
        .map_err(|source| Error::Json { path: path.to_owned(), source })?;
    if let Some(name) = pairs.duplicate() {
        return Err(refuse(HeaderFault::Duplicate { name: name.to_owned() }));
    }
    let mut tensors = pairs.0;
    tensors.iter().try_for_each(|(name, info)| check(name, info, data.len()).map_err(refuse))?;
    tensors.sort_by_key(|(_, info)| info.data_offsets);

    let start = bytes.len() - data.len();
    let entries = tensors.iter().map(|(name, info)| Entry {
        name: name.clone(),
        dtype: info.dtype,
        shape: info.shape.clone(),
        range: start + info.data_offsets.0..start + info.data_offsets.1,
    });
    let entries = entries.collect();
    let end = tensors.last().map_or(0, |(_, info)| info.data_offsets.1);
    Metadata::new(None, tensors)
        .map_err(|source| Error::Safetensors { path: path.to_owned(), source })?;
    match data.len() - end {
        0 => Ok(entries),
        bytes => Err(refuse(HeaderFault::TrailingBytes { bytes })),
    }
}

/// Refuses what the crate would not, or not soon; its offsets lie in `data` bytes.
fn check(name: &str, info: &TensorInfo, data: usize) -> Result<(), HeaderFault> {
    let tensor = name.to_owned();
    let (begin, end) = info.data_offsets;
    if info.shape.len() > MAX_DIMS {
        let dims = info.shape.len();
        return Err(HeaderFault::TooManyDimensions { tensor, dims, max: MAX_DIMS });
    }
    if info.shape.contains(&0) {
        return Err(HeaderFault::NoElements { tensor });
    }
    if begin > data || end > data {
        return Err(HeaderFault::BeyondTheData { tensor, begin, end, data });
    }
    Ok(())
}
