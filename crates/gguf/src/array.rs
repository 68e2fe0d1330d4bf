//! Arrays of metadata, kept as the bytes of the file and read on demand.
//!
//! A vocabulary has hundreds of thousands of strings. Opening a file only steps over them (their
//! lengths are checked against the bytes that remain); nothing is copied until it is asked for.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use files::MappedFile;

use crate::cursor::Cursor;
use crate::value::put_string;
use crate::{Value, ValueType};

/// Bytes that arrays share with the file they come from.
#[derive(Clone)]
pub(crate) enum Storage {
    Mapped(MappedFile),
    Owned(Arc<[u8]>),
}

impl Storage {
    pub(crate) fn bytes(&self) -> &[u8] {
        match self {
            Storage::Mapped(m) => m,
            Storage::Owned(b) => b,
        }
    }
}

/// An array of metadata: a type, a length, and the elements as the file holds them.
///
/// Cloning shares the bytes. Arrays are made from vectors of numbers, booleans or strings:
///
/// ```
/// let a = gguf::Array::from(vec!["he", "llo"]);
/// assert_eq!((a.kind(), a.len()), (gguf::ValueType::String, 2));
/// assert_eq!(a.strings().unwrap().collect::<Vec<_>>().concat(), b"hello");
/// ```
#[derive(Clone)]
pub struct Array(Arc<Inner>);

struct Inner {
    kind: ValueType,
    len: usize,
    storage: Storage,
    range: Range<usize>,
}

impl Array {
    /// Elements that the parser has walked: `range` holds exactly `len` valid ones.
    pub(crate) fn checked(
        kind: ValueType,
        len: usize,
        storage: Storage,
        range: Range<usize>,
    ) -> Self {
        Array(Arc::new(Inner { kind, len, storage, range }))
    }

    fn owned(kind: ValueType, len: usize, bytes: Vec<u8>) -> Self {
        let range = 0..bytes.len();
        Self::checked(kind, len, Storage::Owned(bytes.into()), range)
    }

    /// An array of strings, which need not be UTF-8.
    pub fn from_strings<S: AsRef<[u8]>>(strings: impl IntoIterator<Item = S>) -> Self {
        let (mut bytes, mut len) = (Vec::new(), 0);
        for s in strings {
            put_string(&mut bytes, s.as_ref());
            len += 1;
        }
        Self::owned(ValueType::String, len, bytes)
    }

    /// The type of the elements.
    pub fn kind(&self) -> ValueType {
        self.0.kind
    }

    /// The number of elements.
    pub fn len(&self) -> usize {
        self.0.len
    }

    /// Whether it has no elements.
    pub fn is_empty(&self) -> bool {
        self.0.len == 0
    }

    /// The elements as a file holds them: little-endian numbers, or strings each after its length.
    pub fn bytes(&self) -> &[u8] {
        &self.0.storage.bytes()[self.0.range.clone()]
    }

    /// The strings of an array of strings.
    pub fn strings(&self) -> Option<Strings<'_>> {
        (self.kind() == ValueType::String)
            .then(|| Strings { cursor: Cursor::new(self.bytes(), 0), left: self.len() })
    }

    /// The elements of an array of numbers or booleans.
    pub fn scalars(&self) -> Option<impl ExactSizeIterator<Item = Value> + '_> {
        let (kind, size) = (self.kind(), self.kind().size()?);
        let read = move |b| Value::from_le(kind, b).expect("chunks have the size of the type");
        Some(self.bytes().chunks_exact(size).map(read))
    }

    /// The arrays of an array of arrays.
    pub fn arrays(&self) -> Option<impl Iterator<Item = Array> + '_> {
        if self.kind() != ValueType::Array {
            return None;
        }
        let mut cursor =
            Cursor::new(&self.0.storage.bytes()[..self.0.range.end], self.0.range.start);
        Some(
            (0..self.len())
                .map_while(move |_| crate::parse::array(&mut cursor, &self.0.storage, "", 0).ok()),
        )
    }
}

impl fmt::Debug for Array {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "[{}; {}]", self.kind(), self.len())
    }
}

/// Equal types, lengths and bytes: a NaN equals itself.
impl PartialEq for Array {
    fn eq(&self, other: &Self) -> bool {
        self.kind() == other.kind() && self.len() == other.len() && self.bytes() == other.bytes()
    }
}

/// The strings of an array, as bytes.
pub struct Strings<'a> {
    cursor: Cursor<'a>,
    left: usize,
}

impl<'a> Iterator for Strings<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        self.left = self.left.checked_sub(1)?;
        Some(self.cursor.string("a string").expect("the parser has walked it"))
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (self.left, Some(self.left))
    }
}

impl ExactSizeIterator for Strings<'_> {}

macro_rules! from {
    ($($t:ty => $v:ident),*) => {$(
        impl From<Vec<$t>> for Array {
            fn from(v: Vec<$t>) -> Self {
                Self::owned(ValueType::$v, v.len(), v.into_iter().flat_map(<$t>::to_le_bytes).collect())
            }
        }
    )*};
}

from! { u8 => U8, i8 => I8, u16 => U16, i16 => I16, u32 => U32, i32 => I32, u64 => U64, i64 => I64,
f32 => F32, f64 => F64 }

impl From<Vec<bool>> for Array {
    fn from(v: Vec<bool>) -> Self {
        Self::owned(ValueType::Bool, v.len(), v.into_iter().map(u8::from).collect())
    }
}

impl From<Vec<&str>> for Array {
    fn from(v: Vec<&str>) -> Self {
        Self::from_strings(v)
    }
}

impl From<Vec<String>> for Array {
    fn from(v: Vec<String>) -> Self {
        Self::from_strings(v)
    }
}
