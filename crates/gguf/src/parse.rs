//! Header, metadata and tensor table from bytes (the layout: ggml/docs/gguf.md).
//!
//! ```text
//! "GGUF"  version u32  tensors u64  keys u64
//! key     string, type u32, value                        one for each key
//! tensor  string, dims u32, dim u64 each, type u32, offset u64   one for each tensor
//! padding to the alignment, then the data, which offsets count from
//! ```
//! Every length is checked against the bytes that remain before anything is allocated for it, so
//! that the memory taken stays within a small multiple of the bytes of the table.

use blocks::DType;

use crate::array::Storage;
use crate::cursor::Cursor;
use crate::tensors::{self, TensorInfo};
use crate::{Array, Error, Metadata, Value, ValueType};

pub(crate) const MAGIC: &[u8; 4] = b"GGUF";
pub(crate) const ALIGNMENT_KEY: &str = "general.alignment";
pub(crate) const DEFAULT_ALIGNMENT: usize = 32;
/// The format asks for a multiple of 8, which also lets mapped data be used as any plain type.
const MIN_ALIGNMENT: u32 = 8;
/// Larger alignments are taken for damage: 16 MiB is eight huge pages.
const MAX_ALIGNMENT: u32 = 1 << 24;
/// `GGML_MAX_DIMS` of ggml.h.
pub(crate) const MAX_DIMS: usize = 4;
/// Arrays within arrays that are followed; no known model has any.
const MAX_DEPTH: usize = 4;
/// The least bytes of a key with its value, and of a tensor's line in the table.
const LEAST_KEY: usize = 8 + 4 + 1;
const LEAST_TENSOR: usize = 8 + 4 + 4 + 8;
/// Entries for which memory is taken before they are read.
const RESERVE: usize = 4096;

/// What stands at the head of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Header {
    /// 2 or 3; they differ only in that 3 may be big-endian.
    pub version: u32,
    /// Tensor data begins at multiples of this many bytes (`general.alignment`, 32 by default).
    pub alignment: usize,
    /// Where the data begins, in bytes from the start of the file.
    pub data_offset: u64,
    /// Tensors in this file.
    pub tensor_count: u64,
    /// Metadata keys in this file.
    pub metadata_count: u64,
}

/// Header, metadata and tensor table of one file.
#[derive(Clone, Debug)]
pub struct Parsed {
    /// Version, alignment, counts.
    pub header: Header,
    /// Keys and values.
    pub metadata: Metadata,
    /// The tensors, whose data lie wholly within the bytes and do not overlap.
    pub tensors: Vec<TensorInfo>,
}

/// Reads header, metadata and tensor table from the bytes of a whole file.
///
/// The bytes are copied once for the arrays of the metadata to share; [`crate::Gguf::open`] copies
/// nothing.
///
/// # Errors
/// What is wrong with the bytes.
pub fn parse(bytes: &[u8]) -> Result<Parsed, Error> {
    parse_shared(&Storage::Owned(bytes.into()))
}

pub(crate) fn parse_shared(storage: &Storage) -> Result<Parsed, Error> {
    let bytes = storage.bytes();
    let mut cursor = Cursor::new(bytes, 0);
    let version = version(&mut cursor)?;
    let tensor_count = cursor.u64("the number of tensors")?;
    let metadata_count = cursor.u64("the number of metadata keys")?;

    let n_keys = cursor.fitting(metadata_count, LEAST_KEY, "metadata keys")?;
    let mut metadata = Metadata::with_capacity(n_keys.min(RESERVE));
    for _ in 0..n_keys {
        let key = cursor.utf8("a metadata key")?.to_owned();
        let value = value(&mut cursor, storage, &key)?;
        metadata.push(key, value)?;
    }
    let alignment = alignment(&metadata)?;

    let n_tensors = cursor.fitting(tensor_count, LEAST_TENSOR, "tensors")?;
    let mut found = Vec::with_capacity(n_tensors.min(RESERVE));
    for _ in 0..n_tensors {
        found.push(tensor(&mut cursor)?);
    }
    // The padding may be missing where there are no data.
    let data_offset = cursor.at().next_multiple_of(alignment);
    tensors::place(&mut found, bytes.len(), data_offset, alignment)?;

    let header = Header {
        version,
        alignment,
        data_offset: data_offset as u64,
        tensor_count,
        metadata_count,
    };
    Ok(Parsed { header, metadata, tensors: found })
}

fn version(cursor: &mut Cursor<'_>) -> Result<u32, Error> {
    let magic = cursor.take(cursor.remaining().min(4) as u64, "the magic")?;
    if magic != MAGIC {
        return Err(Error::NotGguf { magic: magic.to_vec() });
    }
    let version = cursor.u32("the version")?;
    match version {
        2 | 3 => Ok(version),
        _ if version & 0xffff == 0 && version != 0 => {
            Err(Error::BigEndian { version: version.swap_bytes() })
        }
        _ => Err(Error::UnsupportedVersion { version }),
    }
}

fn value_type(cursor: &mut Cursor<'_>, key: &str) -> Result<ValueType, Error> {
    let id = cursor.u32("a value type")?;
    ValueType::from_id(id).ok_or_else(|| Error::UnknownValueType { key: key.to_owned(), id })
}

fn value(cursor: &mut Cursor<'_>, storage: &Storage, key: &str) -> Result<Value, Error> {
    let kind = value_type(cursor, key)?;
    match (kind, kind.size()) {
        (ValueType::String, _) => {
            Ok(Value::String(cursor.utf8("the text of a metadata value")?.to_owned()))
        }
        (ValueType::Array, _) => array(cursor, storage, key, 0).map(Value::Array),
        (_, size) => {
            let size = size.expect("all but strings and arrays have a size");
            let bytes = cursor.take(size as u64, "a metadata value")?;
            if kind == ValueType::Bool {
                check_bools(bytes, key)?;
            }
            Ok(Value::from_le(kind, bytes).expect("the bytes have the size of the type"))
        }
    }
}

fn check_bools(bytes: &[u8], key: &str) -> Result<(), Error> {
    match bytes.iter().find(|&&b| b > 1) {
        Some(&byte) => Err(Error::InvalidBool { key: key.to_owned(), byte }),
        None => Ok(()),
    }
}

/// Steps over an array, checking all that [`Array`] relies on later.
pub(crate) fn array(
    cursor: &mut Cursor<'_>,
    storage: &Storage,
    key: &str,
    depth: usize,
) -> Result<Array, Error> {
    let kind = value_type(cursor, key)?;
    let count = cursor.u64("the length of an array")?;
    // A string has at least its length, an array its type and length.
    let least = kind.size().unwrap_or(if kind == ValueType::Array { 12 } else { 8 });
    let len = cursor.fitting(count, least, "elements of an array")?;
    let start = cursor.at();
    match kind {
        ValueType::String => {
            for _ in 0..len {
                cursor.string("a string of an array")?;
            }
        }
        ValueType::Array => {
            if depth + 1 >= MAX_DEPTH {
                return Err(Error::NestedTooDeep { key: key.to_owned(), limit: MAX_DEPTH });
            }
            for _ in 0..len {
                array(cursor, storage, key, depth + 1)?;
            }
        }
        _ => {
            let bytes = cursor.take((len * least) as u64, "an array")?;
            if kind == ValueType::Bool {
                check_bools(bytes, key)?;
            }
        }
    }
    Ok(Array::checked(kind, len, storage.clone(), start..cursor.at()))
}

/// The alignment that the metadata ask for.
pub(crate) fn alignment(metadata: &Metadata) -> Result<usize, Error> {
    match metadata.get(ALIGNMENT_KEY) {
        None => Ok(DEFAULT_ALIGNMENT),
        Some(&Value::U32(value)) => match value {
            MIN_ALIGNMENT..=MAX_ALIGNMENT if value.is_power_of_two() => Ok(value as usize),
            _ => Err(Error::Alignment { value, min: MIN_ALIGNMENT, max: MAX_ALIGNMENT }),
        },
        Some(other) => Err(Error::AlignmentType { got: other.kind() }),
    }
}

/// One line of the tensor table. Where its data lie is checked when all lines are known.
fn tensor(cursor: &mut Cursor<'_>) -> Result<TensorInfo, Error> {
    let name = cursor.utf8("the name of a tensor")?.to_owned();
    let dims = cursor.u32("the number of dimensions of a tensor")? as usize;
    if dims > MAX_DIMS {
        return Err(Error::TooManyDimensions { tensor: name, dims, max: MAX_DIMS });
    }
    let mut shape = Vec::with_capacity(dims);
    for _ in 0..dims {
        let dim = cursor.u64("a dimension of a tensor")?.cast_signed();
        match usize::try_from(dim) {
            Ok(dim) if dim > 0 => shape.push(dim),
            _ => return Err(Error::Dimension { tensor: name, value: dim }),
        }
    }
    shape.reverse();
    let id = cursor.u32("the type of a tensor")?;
    let Some(dtype) = DType::from_ggml_id(id) else {
        return Err(Error::UnknownType { tensor: name, id });
    };
    let offset = cursor.u64("the offset of a tensor")?;
    TensorInfo::new(name, shape, dtype, offset)
}
