//! A model file, or the files of a split model, mapped into memory.

use std::ops::Range;
use std::path::{Path, PathBuf};

use files::MappedFile;

use crate::array::Storage;
use crate::index::NameIndex;
use crate::parse::{Parsed, parse_shared};
use crate::tensors::index;
use crate::{Error, Header, Metadata, TensorInfo};

/// An opened GGUF file, or a set of split files opened by its first part.
///
/// Opening maps the file and reads header, metadata and tensor table; data are read when they are
/// looked at. Header and metadata of a split model are those of its first part.
#[derive(Clone, Debug)]
pub struct Gguf {
    parts: Vec<MappedFile>,
    header: Header,
    metadata: Metadata,
    tensors: Vec<TensorInfo>,
    index: NameIndex,
}

impl Gguf {
    /// Opens the file at `path`; if it is the first part of a split model
    /// (`NAME-00001-of-00003.gguf`), the other parts with it.
    ///
    /// # Errors
    /// [`Error::Io`] where a file cannot be mapped, [`Error::File`] for what is wrong with one.
    pub fn open(path: impl AsRef<Path>) -> Result<Gguf, Error> {
        let path = path.as_ref();
        let (file, first) = open_one(path)?;
        let mut gguf = Gguf {
            parts: vec![file],
            header: first.header,
            metadata: first.metadata,
            tensors: first.tensors,
            index: NameIndex::default(),
        };
        gguf.open_other_parts().and_then(|()| gguf.build_index()).map_err(|e| within(path, e))?;
        Ok(gguf)
    }

    fn open_other_parts(&mut self) -> Result<(), Error> {
        let count = self.metadata.optional::<u16>("split.count")?.unwrap_or(1);
        if count <= 1 {
            return Ok(());
        }
        let no = self.metadata.u32("split.no")?;
        if no != 0 {
            return Err(Error::NotFirstPart { no, count: count.into() });
        }
        let first = self.path().to_owned();
        for no in 1..count {
            let path = part_path(&first, no, count)?;
            let (file, parsed) = open_one(&path)?;
            check_part(&parsed.metadata, no, count).map_err(|e| within(&path, e))?;
            let part = self.parts.len();
            self.tensors.extend(parsed.tensors.into_iter().map(|t| TensorInfo { part, ..t }));
            self.parts.push(file);
        }
        match self.metadata.optional::<usize>("split.tensors.count")? {
            Some(expected) if expected != self.tensors.len() => {
                Err(Error::SplitTensorCount { expected, got: self.tensors.len() })
            }
            _ => Ok(()),
        }
    }

    fn build_index(&mut self) -> Result<(), Error> {
        self.index = index(&self.tensors)?;
        Ok(())
    }

    /// Version, alignment and counts.
    pub fn header(&self) -> &Header {
        &self.header
    }

    /// Keys and values.
    pub fn metadata(&self) -> &Metadata {
        &self.metadata
    }

    /// The tensors of all parts, in the order of the files.
    pub fn tensors(&self) -> &[TensorInfo] {
        &self.tensors
    }

    /// The tensor of this name, found by a hash.
    pub fn tensor(&self, name: &str) -> Option<&TensorInfo> {
        self.index.find(name, |i| &self.tensors[i].name).map(|i| &self.tensors[i])
    }

    /// The data of a tensor, which begin at a multiple of 8 in memory.
    ///
    /// # Panics
    /// If `info` is of another file and beyond the end of this one.
    pub fn data(&self, info: &TensorInfo) -> &[u8] {
        &self.parts[info.part][info.range()]
    }

    /// The file that holds a tensor and where in it the data lie, for storage that copies nothing.
    ///
    /// # Panics
    /// If `info` is of another file with more parts.
    pub fn mapped(&self, info: &TensorInfo) -> (MappedFile, Range<usize>) {
        (self.parts[info.part].clone(), info.range())
    }

    /// The path it was opened by.
    pub fn path(&self) -> &Path {
        self.parts[0].path()
    }

    /// The files: one, or the parts of a split model in order.
    pub fn parts(&self) -> &[MappedFile] {
        &self.parts
    }

    /// Bytes of all files together.
    pub fn file_bytes(&self) -> u64 {
        self.parts.iter().map(|p| p.len() as u64).sum()
    }
}

fn open_one(path: &Path) -> Result<(MappedFile, Parsed), Error> {
    let file =
        MappedFile::open(path).map_err(|error| Error::Io { path: path.to_owned(), error })?;
    let parsed = parse_shared(&Storage::Mapped(file.clone())).map_err(|e| within(path, e))?;
    Ok((file, parsed))
}

/// Names the file that has the fault, unless the error does so already.
fn within(path: &Path, error: Error) -> Error {
    match error {
        Error::Io { .. } | Error::File { .. } => error,
        fault => Error::File { path: path.to_owned(), fault: Box::new(fault) },
    }
}

/// The path of part `no` (from 0), from that of the first.
fn part_path(first: &Path, no: u16, count: u16) -> Result<PathBuf, Error> {
    let suffix = |no: u16| format!("-{:05}-of-{count:05}.gguf", no + 1);
    let name = first.file_name().and_then(|n| n.to_str()).unwrap_or_default();
    match name.strip_suffix(&suffix(0)) {
        Some(stem) => Ok(first.with_file_name(format!("{stem}{}", suffix(no)))),
        None => Err(Error::SplitName { count: count.into(), expected: suffix(0) }),
    }
}

fn check_part(metadata: &Metadata, no: u16, count: u16) -> Result<(), Error> {
    let (expected_no, expected_count) = (no.into(), count.into());
    let (no, count) = (metadata.u32("split.no")?, metadata.u32("split.count")?);
    if (no, count) == (expected_no, expected_count) {
        Ok(())
    } else {
        Err(Error::SplitMismatch { no, count, expected_no, expected_count })
    }
}
