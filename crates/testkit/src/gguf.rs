//! GGUF files made byte by byte, so that they can be wrong in ways that the writer refuses.

/// Bytes of a GGUF file under construction.
#[derive(Clone, Debug, Default)]
pub struct Raw(pub Vec<u8>);

impl Raw {
    /// Magic, version and counts.
    pub fn header(version: u32, tensors: u64, keys: u64) -> Self {
        Raw(b"GGUF".to_vec()).u32(version).u64(tensors).u64(keys)
    }
    /// One byte.
    pub fn u8(mut self, v: u8) -> Self {
        self.0.push(v);
        self
    }
    /// Four bytes.
    pub fn u32(mut self, v: u32) -> Self {
        self.0.extend(v.to_le_bytes());
        self
    }
    /// Eight bytes.
    pub fn u64(mut self, v: u64) -> Self {
        self.0.extend(v.to_le_bytes());
        self
    }
    /// A length and as many bytes.
    pub fn string(self, s: impl AsRef<[u8]>) -> Self {
        let mut raw = self.u64(s.as_ref().len() as u64);
        raw.0.extend(s.as_ref());
        raw
    }
    /// A key with the id of its type; its value follows.
    pub fn key(self, key: &str, kind: u32) -> Self {
        self.string(key).u32(kind)
    }
    /// The head of an array: the id of its type and its length.
    pub fn array(self, kind: u32, len: u64) -> Self {
        self.u32(kind).u64(len)
    }
    /// A line of the tensor table, `dims` in the order of the file.
    pub fn tensor(mut self, name: &str, dims: &[u64], kind: u32, offset: u64) -> Self {
        self = self.string(name).u32(dims.len() as u32);
        for &d in dims {
            self = self.u64(d);
        }
        self.u32(kind).u64(offset)
    }
    /// Padding and `n` bytes of data.
    pub fn data(mut self, alignment: usize, n: usize) -> Self {
        self.0.resize(self.0.len().next_multiple_of(alignment) + n, 0);
        self
    }
}

/// The id of a type of values.
pub const INT8: u32 = 1;
/// The id of a type of values.
pub const U32: u32 = 4;
/// The id of a type of values.
pub const I32: u32 = 5;
/// The id of a type of values.
pub const FLOAT32: u32 = 6;
/// The id of a type of values.
pub const BOOL: u32 = 7;
/// The id of a type of values.
pub const STRING: u32 = 8;
/// The id of a type of values.
pub const ARRAY: u32 = 9;
/// The id of a type of values.
pub const U64: u32 = 10;
/// The id of a type of values.
pub const I64: u32 = 11;
/// The id of a type of tensors.
pub const F32: u32 = 0;
/// The id of a type of tensors.
pub const Q8_0: u32 = 8;
/// The id of a type of tensors.
pub const Q4_K: u32 = 12;
/// The id of a type of tensors.
pub const TENSOR_I32: u32 = 26;
/// The id of a type of tensors.
pub const TQ1_0: u32 = 34;

/// A value of the metadata: the id of its type, and its bytes.
#[derive(Clone, Debug)]
pub struct Stored(Raw);

/// Implements `From` for types whose values are their little-endian bytes.
macro_rules! stored {
    ($($type:ty = $kind:expr,)*) => {$(
        impl From<$type> for Stored {
            fn from(v: $type) -> Self {
                let mut raw = Raw::default().u32($kind);
                raw.0.extend(v.to_le_bytes());
                Stored(raw)
            }
        }
        impl From<Vec<$type>> for Stored {
            fn from(v: Vec<$type>) -> Self {
                let mut raw = Raw::default().u32(ARRAY).array($kind, v.len() as u64);
                raw.0.extend(v.into_iter().flat_map(<$type>::to_le_bytes));
                Stored(raw)
            }
        }
    )*};
}

stored! { i8 = INT8, u32 = U32, i32 = I32, f32 = FLOAT32, u64 = U64, i64 = I64, }

impl From<&str> for Stored {
    fn from(v: &str) -> Self {
        Stored(Raw::default().u32(STRING).string(v))
    }
}

impl From<Vec<&str>> for Stored {
    fn from(v: Vec<&str>) -> Self {
        let raw = Raw::default().u32(ARRAY).array(STRING, v.len() as u64);
        Stored(v.into_iter().fold(raw, Raw::string))
    }
}

/// A whole file: metadata and tensors, their data zeros but for what is set.
#[derive(Clone, Debug, Default)]
pub struct File {
    keys: Vec<(String, Stored)>,
    tensors: Vec<Line>,
}

#[derive(Clone, Debug)]
struct Line {
    name: String,
    dims: Vec<u64>,
    kind: u32,
    value: f32,
}

impl File {
    /// Sets a key.
    pub fn set(mut self, key: &str, value: impl Into<Stored>) -> Self {
        self = self.without(key);
        self.keys.push((key.to_owned(), value.into()));
        self
    }

    /// Takes the key or tensor of this name out.
    pub fn without(mut self, name: &str) -> Self {
        self.keys.retain(|(k, _)| k != name);
        self.tensors.retain(|t| t.name != name);
        self
    }

    /// Adds a tensor, or another in its place; `shape` with the length of a row last.
    pub fn tensor(self, name: &str, shape: &[u64], kind: u32) -> Self {
        self.filled(name, shape, kind, 0.0)
    }

    /// As [`File::tensor`]; an `f32` tensor has this value everywhere.
    pub fn filled(mut self, name: &str, shape: &[u64], kind: u32, value: f32) -> Self {
        self.tensors.retain(|t| t.name != name);
        let dims = shape.iter().rev().copied().collect();
        self.tensors.push(Line { name: name.to_owned(), dims, kind, value });
        self
    }

    /// Its bytes.
    ///
    /// # Panics
    /// For a type of tensors that is not among the constants here.
    pub fn bytes(&self) -> Vec<u8> {
        let mut raw = Raw::header(3, self.tensors.len() as u64, self.keys.len() as u64);
        for (key, value) in &self.keys {
            raw = raw.string(key);
            raw.0.extend(&value.0.0);
        }
        let mut data: Vec<u8> = Vec::new();
        for t in &self.tensors {
            raw = raw.tensor(&t.name, &t.dims, t.kind, data.len() as u64);
            let n = t.dims.iter().product::<u64>() as usize;
            match t.kind {
                F32 => data.extend(std::iter::repeat_n(t.value.to_le_bytes(), n).flatten()),
                _ => data.resize(data.len() + bytes_of(t.kind, n), 0),
            }
            data.resize(data.len().next_multiple_of(32), 0);
        }
        raw = raw.data(32, 0);
        raw.0.extend(data);
        raw.0
    }
}

fn bytes_of(kind: u32, elements: usize) -> usize {
    match kind {
        TENSOR_I32 => elements * 4,
        Q8_0 => elements / 32 * 34,
        Q4_K => elements / 256 * 144,
        TQ1_0 => elements / 256 * 54,
        _ => panic!("type {kind} has no size here"),
    }
}
