//! Files made byte by byte, so that they can be wrong in ways that the writer refuses.
#![allow(dead_code, reason = "each test binary uses a part")]

/// Bytes of a GGUF file under construction.
#[derive(Clone, Default)]
pub(crate) struct Raw(pub(crate) Vec<u8>);

impl Raw {
    /// Magic, version and counts.
    pub(crate) fn header(version: u32, tensors: u64, keys: u64) -> Self {
        Raw(b"GGUF".to_vec()).u32(version).u64(tensors).u64(keys)
    }
    pub(crate) fn u8(mut self, v: u8) -> Self {
        self.0.push(v);
        self
    }
    pub(crate) fn u32(mut self, v: u32) -> Self {
        self.0.extend(v.to_le_bytes());
        self
    }
    pub(crate) fn u64(mut self, v: u64) -> Self {
        self.0.extend(v.to_le_bytes());
        self
    }
    pub(crate) fn string(self, s: impl AsRef<[u8]>) -> Self {
        let mut raw = self.u64(s.as_ref().len() as u64);
        raw.0.extend(s.as_ref());
        raw
    }
    /// A key with the id of its type; its value follows.
    pub(crate) fn key(self, key: &str, kind: u32) -> Self {
        self.string(key).u32(kind)
    }
    /// The head of an array: the id of its type and its length.
    pub(crate) fn array(self, kind: u32, len: u64) -> Self {
        self.u32(kind).u64(len)
    }
    /// A line of the tensor table, `dims` in the order of the file.
    pub(crate) fn tensor(mut self, name: &str, dims: &[u64], kind: u32, offset: u64) -> Self {
        self = self.string(name).u32(dims.len() as u32);
        for &d in dims {
            self = self.u64(d);
        }
        self.u32(kind).u64(offset)
    }
    /// Padding and `n` bytes of data.
    pub(crate) fn data(mut self, alignment: usize, n: usize) -> Self {
        self.0.resize(self.0.len().next_multiple_of(alignment) + n, 0);
        self
    }
}

pub(crate) const U32: u32 = 4;
pub(crate) const BOOL: u32 = 7;
pub(crate) const STRING: u32 = 8;
pub(crate) const ARRAY: u32 = 9;
pub(crate) const U64: u32 = 10;
pub(crate) const F32: u32 = 0;
pub(crate) const Q4_K: u32 = 12;
