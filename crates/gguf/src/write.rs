//! Writing version 3, one tensor at a time.
//!
//! The table stands before the data, so names, shapes and types are declared first ([`Builder`])
//! and the data follow in that order ([`Writer`]): a model larger than memory can be quantized
//! tensor by tensor. The same declarations and data always give the same bytes.

use std::io::{self, Write};
use std::path::Path;

use blocks::DType;
use files::AtomicFile;

use crate::index::NameIndex;
use crate::parse::{MAGIC, MAX_DIMS, alignment};
use crate::value::put_string;
use crate::{Error, Metadata, TensorInfo, Value};

/// The longest tensor name that llama.cpp reads (`GGML_MAX_NAME` less its NUL).
const MAX_NAME: usize = 63;
/// The longest key that the format allows.
const MAX_KEY: usize = u16::MAX as usize;

/// Declares what a file will hold.
#[derive(Clone, Debug, Default)]
pub struct Builder {
    metadata: Metadata,
    tensors: Vec<TensorInfo>,
    index: NameIndex,
}

impl Builder {
    /// A file without metadata and tensors.
    pub fn new() -> Self {
        Self::default()
    }

    /// A file with the metadata of another, in the same order.
    pub fn with_metadata(metadata: Metadata) -> Self {
        Self { metadata, ..Self::default() }
    }

    /// Sets a key; `general.alignment` (a `u32`) also sets the alignment of the data.
    pub fn set(&mut self, key: impl Into<String>, value: impl Into<Value>) -> &mut Self {
        self.metadata.set(key, value);
        self
    }

    /// The metadata so far.
    pub fn metadata(&self) -> &Metadata {
        &self.metadata
    }

    /// Declares the next tensor: `shape` in row-major order, outermost first.
    ///
    /// # Errors
    /// A name that is too long or there already, a shape or type that GGUF does not have.
    pub fn tensor(
        &mut self,
        name: impl Into<String>,
        shape: impl Into<Vec<usize>>,
        dtype: DType,
    ) -> Result<&mut Self, Error> {
        let (name, shape) = (name.into(), shape.into());
        if name.len() > MAX_NAME {
            return Err(Error::NameTooLong { name, max: MAX_NAME });
        }
        if dtype.ggml_id().is_none() {
            return Err(Error::NotAGgufType { tensor: name, dtype });
        }
        if shape.len() > MAX_DIMS {
            let dims = shape.len();
            return Err(Error::TooManyDimensions { tensor: name, dims, max: MAX_DIMS });
        }
        if shape.contains(&0) {
            return Err(Error::Dimension { tensor: name, value: 0 });
        }
        let info = TensorInfo::new(name, shape, dtype, 0)?;
        if !self.index.insert(&info.name, self.tensors.len(), |i| &self.tensors[i].name) {
            return Err(Error::DuplicateTensor { tensor: info.name });
        }
        self.tensors.push(info);
        Ok(self)
    }

    /// Begins the file at `path`, which appears when [`Writer::commit`] is called.
    ///
    /// # Errors
    /// What [`Builder::write_to`] says.
    pub fn create(self, path: impl AsRef<Path>) -> Result<Writer<AtomicFile>, Error> {
        self.write_to(AtomicFile::create(path).map_err(Error::Write)?)
    }

    /// Writes header, metadata and tensor table to `out`; the data come next.
    ///
    /// # Errors
    /// An alignment that is none, a key that is too long, what writing says.
    pub fn write_to<W: Write>(mut self, mut out: W) -> Result<Writer<W>, Error> {
        let alignment = alignment(&self.metadata)?;
        let head = self.head(alignment)?;
        out.write_all(&head).map_err(Error::Write)?;
        let mut writer = Writer { out, tensors: self.tensors, next: 0, written: 0, alignment };
        writer.pad(head.len())?;
        Ok(writer)
    }

    /// Places the tensors one after another and gives all that stands before the data.
    fn head(&mut self, alignment: usize) -> Result<Vec<u8>, Error> {
        let mut out = MAGIC.to_vec();
        out.extend(3u32.to_le_bytes());
        out.extend((self.tensors.len() as u64).to_le_bytes());
        out.extend((self.metadata.len() as u64).to_le_bytes());
        for (key, value) in self.metadata.iter() {
            if key.len() > MAX_KEY {
                return Err(Error::NameTooLong { name: key.to_owned(), max: MAX_KEY });
            }
            put_string(&mut out, key.as_bytes());
            out.extend(value.kind().id().to_le_bytes());
            value.put(&mut out);
        }
        let mut offset = 0u64;
        for t in &mut self.tensors {
            t.offset = offset;
            put_string(&mut out, t.name.as_bytes());
            out.extend((t.shape.len() as u32).to_le_bytes());
            for &dim in t.shape.iter().rev() {
                out.extend((dim as u64).to_le_bytes());
            }
            let id = t.dtype.ggml_id().expect("declaring the tensor checked it");
            out.extend(id.to_le_bytes());
            out.extend(offset.to_le_bytes());
            let end = offset.checked_add(t.size as u64);
            offset = end
                .and_then(|end| end.checked_next_multiple_of(alignment as u64))
                .ok_or_else(|| Error::SizeOverflow { tensor: t.name.clone() })?;
        }
        Ok(out)
    }
}

/// Takes the data of the declared tensors, in order.
#[derive(Debug)]
pub struct Writer<W> {
    out: W,
    tensors: Vec<TensorInfo>,
    /// The tensor that is being written, and how much of it has been.
    next: usize,
    written: usize,
    alignment: usize,
}

impl<W: Write> Writer<W> {
    /// The tensor whose data come next, `None` when all are there.
    pub fn next_tensor(&self) -> Option<&TensorInfo> {
        self.tensors.get(self.next)
    }

    /// All tensors, with their places.
    pub fn tensors(&self) -> &[TensorInfo] {
        &self.tensors
    }

    /// Writes the whole data of the tensor that comes next, which must have this name.
    ///
    /// # Errors
    /// [`Error::OutOfOrder`], [`Error::WrongSize`], [`Error::TooMuchData`], or what writing says.
    pub fn tensor(&mut self, name: &str, data: &[u8]) -> Result<(), Error> {
        if let Some(t) = self.next_tensor() {
            if t.name != name {
                return Err(Error::OutOfOrder { expected: t.name.clone(), got: name.to_owned() });
            }
            if t.size != self.written + data.len() {
                let (tensor, expected) = (name.to_owned(), t.size);
                return Err(Error::WrongSize { tensor, expected, got: self.written + data.len() });
            }
        }
        self.append(data)
    }

    /// Writes a part of the data of the tensor that comes next; with its last byte the following
    /// one comes next.
    ///
    /// # Errors
    /// [`Error::WrongSize`] if the tensor has fewer bytes left, or what writing says.
    pub fn append(&mut self, data: &[u8]) -> Result<(), Error> {
        let Some(t) = self.tensors.get(self.next) else {
            let got = data.len();
            return if got == 0 { Ok(()) } else { Err(Error::TooMuchData { got }) };
        };
        let (size, got) = (t.size, self.written + data.len());
        if got > size {
            return Err(Error::WrongSize { tensor: t.name.clone(), expected: size, got });
        }
        self.out.write_all(data).map_err(Error::Write)?;
        self.written = got;
        if got == size {
            self.pad(size)?;
            self.next += 1;
            self.written = 0;
        }
        Ok(())
    }

    /// Ends the file and gives back what it was written to.
    ///
    /// # Errors
    /// [`Error::Unfinished`] if data are missing.
    pub fn finish(self) -> Result<W, Error> {
        match self.next_tensor() {
            Some(t) => Err(Error::Unfinished { tensor: t.name.clone() }),
            None => Ok(self.out),
        }
    }

    /// Fills up with zeros after `len` bytes that began at a multiple of the alignment.
    fn pad(&mut self, len: usize) -> Result<(), Error> {
        let n = len.next_multiple_of(self.alignment) - len;
        let copied = io::copy(&mut io::Read::take(io::repeat(0), n as u64), &mut self.out);
        copied.map(drop).map_err(Error::Write)
    }
}

impl Writer<AtomicFile> {
    /// Ends the file and makes it appear under its name.
    ///
    /// # Errors
    /// [`Error::Unfinished`], or what flushing, syncing and renaming say.
    pub fn commit(self) -> Result<(), Error> {
        self.finish()?.commit().map_err(Error::Write)
    }
}
