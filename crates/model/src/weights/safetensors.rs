//! One safetensors file: its header, checked, and where each tensor's bytes lie.
//!
//! The format is eight bytes of header length, a JSON header, and the data. The crate `safetensors`
//! checks shapes against offsets, overlaps and trailing bytes; what it lets pass is checked here
//! first: names that occur twice, tensors without elements, and offsets so large that their sums
//! would wrap.

use std::fmt;
use std::ops::Range;
use std::path::Path;

use files::MappedFile;
use safetensors::{Dtype, SafeTensors};
use serde::Deserialize;
use serde::de::{Deserializer, IgnoredAny, MapAccess, Visitor};

use crate::Error;

/// Longer headers are refused, as by the format's own library.
const MAX_HEADER: u64 = 100_000_000;

/// What is wrong with a header that the crate `safetensors` would let pass.
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
    #[error("tensor '{tensor}' lies at {begin}..{end} of {data} bytes of data")]
    BeyondTheData { tensor: String, begin: u64, end: u64, data: usize },
    #[error("the name '{name}' occurs twice")]
    Duplicate { name: String },
}

/// A tensor of a file.
#[derive(Clone, Debug)]
pub(crate) struct Entry {
    pub(crate) name: String,
    pub(crate) dtype: Dtype,
    pub(crate) shape: Vec<usize>,
    /// Bytes of the file.
    pub(crate) range: Range<usize>,
}

/// Maps a file and reads its header; tensors in the order of their data.
pub(crate) fn open(path: &Path) -> Result<(MappedFile, Vec<Entry>), Error> {
    let file =
        MappedFile::open(path).map_err(|source| Error::Io { path: path.to_owned(), source })?;
    let entries = parse(&file, path)?;
    Ok((file, entries))
}

/// Reads the header of a whole file; `path` is for messages.
pub(crate) fn parse(bytes: &[u8], path: &Path) -> Result<Vec<Entry>, Error> {
    let refuse = |source| Error::Safetensors { path: path.to_owned(), source };
    check_header(bytes, path)?;
    let (header, metadata) = SafeTensors::read_metadata(bytes).map_err(refuse)?;
    let data = header + 8;
    let mut entries: Vec<Entry> = metadata
        .tensors()
        .into_iter()
        .map(|(name, info)| Entry {
            name,
            dtype: info.dtype,
            shape: info.shape.clone(),
            range: data + info.data_offsets.0..data + info.data_offsets.1,
        })
        .collect();
    entries.sort_unstable_by_key(|e| e.range.start);
    Ok(entries)
}

/// Refuses what the crate `safetensors` would not.
fn check_header(bytes: &[u8], path: &Path) -> Result<(), Error> {
    let header = |fault| Error::SafetensorsHeader { path: path.to_owned(), fault };
    let Some((len, rest)) = bytes.split_first_chunk::<8>() else {
        return Err(header(HeaderFault::TooShort { bytes: bytes.len() }));
    };
    let len = u64::from_le_bytes(*len);
    if len > MAX_HEADER {
        return Err(header(HeaderFault::TooLong { len, max: MAX_HEADER }));
    }
    let Some(json) = rest.get(..len as usize) else {
        return Err(header(HeaderFault::BeyondTheFile { len, remaining: rest.len() }));
    };
    let Keys(keys) = serde_json::from_slice(json)
        .map_err(|source| Error::Json { path: path.to_owned(), source })?;
    let data = rest.len() - json.len();
    for (name, raw) in &keys {
        let Some(raw) = raw else { continue };
        if raw.shape.contains(&0) {
            return Err(header(HeaderFault::NoElements { tensor: name.clone() }));
        }
        if raw.data_offsets.iter().any(|&o| o > data as u64) {
            let ([begin, end], tensor) = (raw.data_offsets, name.clone());
            return Err(header(HeaderFault::BeyondTheData { tensor, begin, end, data }));
        }
    }
    let mut names: Vec<&str> = keys.iter().map(|(name, _)| name.as_str()).collect();
    names.sort_unstable();
    match names.windows(2).find(|w| w[0] == w[1]) {
        Some(w) => Err(header(HeaderFault::Duplicate { name: w[0].to_owned() })),
        None => Ok(()),
    }
}

/// What is checked of a tensor before the crate `safetensors` sees it.
#[derive(Deserialize)]
struct Raw {
    shape: Vec<u64>,
    data_offsets: [u64; 2],
}

/// The keys of the header in order, doubles included; `None` for `__metadata__`.
struct Keys(Vec<(String, Option<Raw>)>);

impl<'de> Deserialize<'de> for Keys {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct All;
        impl<'de> Visitor<'de> for All {
            type Value = Keys;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object of tensors")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Keys, A::Error> {
                let mut keys = Vec::new();
                while let Some(key) = map.next_key::<String>()? {
                    let raw = if key == "__metadata__" {
                        map.next_value::<IgnoredAny>()?;
                        None
                    } else {
                        Some(map.next_value()?)
                    };
                    keys.push((key, raw));
                }
                Ok(Keys(keys))
            }
        }
        deserializer.deserialize_map(All)
    }
}
