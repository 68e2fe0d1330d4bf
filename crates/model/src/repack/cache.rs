//! Repacked weights kept in files, so that the next start maps them.
//!
//! An entry is one file: [`MAGIC`], the length of a header, the header (JSON, for people), zeros up
//! to a multiple of 4096, then the interleaved weights one after the other.
//!
//! The header follows from the model's file and from which weights are repacked: the file's
//! [stamp](files::FileStamp), a SHA-256 of its metadata and tensor table, the version of the layout, and
//! names, types, shapes and places of the weights. An entry is used if its bytes begin with exactly that header and its length is exactly what
//! follows; nothing that it says is believed. A row of each weight is compared with the model's, too.
//! Whatever differs (another model, one that was written to since, an entry that was cut short) is
//! repacked again, and replaces the entry by a rename: whoever has mapped the old one keeps it.
//!
//! What is not detected: a byte that changes later in an entry of the right length and header, just as
//! in a model's file itself.

use std::fmt::Write as _;
use std::fs;
use std::io::{self, Write as _};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use files::{AtomicFile, FileStamp, MappedFile};
use gguf::Gguf;
use serde::Serialize;
use sha2::{Digest, Sha256};
use tensor::{Compute, InterleavedBytes, Tensor, interleaved};

use super::{LoadOptions, LoadStage, Plan, RESERVE};

/// What an entry begins with.
pub const MAGIC: [u8; 8] = *b"INFREPK1";

/// How the names of entries end.
const EXTENSION: &str = "repacked";

/// The weights begin at a multiple of this: a page of most systems.
const ALIGNMENT: usize = 4096;

/// After this a temporary file belongs to no process that still writes it.
const ABANDONED: Duration = Duration::from_secs(24 * 3600);

/// A file of a cache, as a listing shows it.
#[derive(Clone, Debug)]
pub struct Listed {
    /// The file.
    pub path: PathBuf,
    /// Its length.
    pub bytes: u64,
}

/// The entries in `folder`, by name; none if there is no such folder.
///
/// # Errors
/// What reading the folder or a file in it says.
pub fn list(folder: &Path) -> io::Result<Vec<Listed>> {
    let mut all = Vec::new();
    for path in paths(folder)? {
        if is_entry(&path)? {
            all.push(Listed { bytes: fs::metadata(&path)?.len(), path });
        }
    }
    all.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(all)
}

/// Removes the entries in `folder`, and what writers that were killed a day ago have left; other
/// files stay. Returns the bytes that entries had.
///
/// # Errors
/// What reading the folder or removing a file says.
pub fn clear(folder: &Path) -> io::Result<u64> {
    let mut bytes = 0;
    for entry in list(folder)? {
        match fs::remove_file(&entry.path) {
            Ok(()) => bytes += entry.bytes,
            Err(e) if e.kind() == io::ErrorKind::NotFound => {} // another was faster
            Err(e) => return Err(e),
        }
    }
    remove_abandoned(folder)?;
    Ok(bytes)
}

/// Why repacked weights are not in a file.
#[derive(Debug, thiserror::Error)]
pub(super) enum CacheError {
    #[error("{}: {error}", path.display())]
    Io { path: PathBuf, error: io::Error },
    #[error("{}: {needed} bytes are needed there with what should stay free, {free} are", folder.display())]
    NoSpace { folder: PathBuf, needed: u64, free: u64 },
    #[error("{}: what was written there is not what is read", path.display())]
    Changed { path: PathBuf },
    #[error(transparent)]
    Tensor(#[from] tensor::Error),
}

/// Where the repacked weights of one model are kept, and what the file must say.
pub(super) struct Entry {
    path: PathBuf,
    /// All that comes before the weights.
    front: Vec<u8>,
}

#[derive(Serialize)]
struct Header {
    layout: u32,
    parts: Vec<Part>,
    weights: Vec<Placed>,
}

/// A file of the model.
#[derive(Serialize)]
struct Part {
    len: u64,
    modified: i64,
    changed: i64,
    inode: u64,
    /// Of everything before the data.
    sha256: String,
}

#[derive(Serialize)]
struct Placed {
    name: String,
    dtype: &'static str,
    rows: usize,
    cols: usize,
    /// From the first of the weights.
    start: usize,
}

impl Entry {
    pub(super) fn new(folder: &Path, model: &Gguf, plan: &Plan) -> Self {
        let parts = parts(model);
        // A model's file that is written again replaces its entry; starts that repack other weights have
        // one of their own.
        let mut key = Sha256::new();
        parts.iter().for_each(|p| key.update(&p.sha256));
        plan.names.iter().for_each(|name| key.update(format!("{name}\n")));
        let key = hex(&key.finalize()[..8]);
        let stem = model.path().file_stem().unwrap_or_default().to_string_lossy();
        let stem: String = stem.chars().take(60).collect();
        let path = folder.join(format!("{stem}-{key}.{EXTENSION}"));
        let placed = |((name, weight), range): ((&'_ String, &Tensor), &Range<usize>)| Placed {
            name: name.clone(),
            dtype: weight.dtype().name(),
            rows: weight.rows(),
            cols: weight.cols(),
            start: range.start,
        };
        let weights = plan.names.iter().zip(&plan.weights).zip(&plan.ranges).map(placed).collect();
        let header = Header { layout: interleaved::VERSION, parts, weights };
        let json = serde_json::to_vec(&header).expect("names and numbers");
        let mut front = [&MAGIC[..], &(json.len() as u64).to_le_bytes(), &json].concat();
        front.resize(front.len().next_multiple_of(ALIGNMENT), 0);
        Self { path, front }
    }

    /// The weights as they lie in the entry, which is written first if need be.
    pub(super) fn open_or_write(
        &self,
        plan: &Plan,
        compute: &Compute,
        options: &mut LoadOptions<'_>,
    ) -> Result<Vec<Tensor>, CacheError> {
        if let Some(tensors) = self.open(plan)? {
            return Ok(tensors);
        }
        self.write(plan, compute, options)?;
        self.open(plan)?.ok_or_else(|| CacheError::Changed { path: self.path.clone() })
    }

    /// The weights, if there is an entry and it is of this model.
    fn open(&self, plan: &Plan) -> Result<Option<Vec<Tensor>>, CacheError> {
        let file = match MappedFile::open(&self.path) {
            Ok(file) => file,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(self.io(error)),
        };
        let start = self.front.len();
        if file.len() != start + plan.len() || file[..start] != self.front[..] {
            tracing::debug!(
                "{}: of another model, or of one that has changed",
                self.path.display()
            );
            return Ok(None);
        }
        let packed = plan.tensors(&InterleavedBytes::File(file), start)?;
        let compute = Compute::cpu().with_threads(1); // a row is quickly read
        for (i, (weight, packed)) in plan.weights.iter().zip(&packed).enumerate() {
            let row = &[(i * 7919 % weight.rows().max(1)) as u32]; // of many weights, many different ones
            let (want, got) = (compute.embedding(weight, row)?, compute.embedding(packed, row)?);
            let bits = |t: &Tensor| t.as_f32().map(|v| v.iter().map(|x| x.to_bits()).collect());
            let (want, got): (Vec<u32>, Vec<u32>) = (bits(&want)?, bits(&got)?);
            if want != got {
                tracing::debug!("{}: weights are not the model's", self.path.display());
                return Ok(None);
            }
        }
        Ok(Some(packed))
    }

    fn write(
        &self,
        plan: &Plan,
        compute: &Compute,
        options: &mut LoadOptions<'_>,
    ) -> Result<(), CacheError> {
        let folder = self.path.parent().unwrap_or(Path::new("."));
        fs::create_dir_all(folder).map_err(|e| self.io(e))?;
        remove_abandoned(folder).map_err(|e| self.io(e))?;
        let needed = (self.front.len() + plan.len()) as u64 + RESERVE;
        match files::free_space(folder).map_err(|e| self.io(e))? {
            Some(free) if free < needed => {
                return Err(CacheError::NoSpace { folder: folder.to_owned(), needed, free });
            }
            _ => {}
        }
        let mut file = AtomicFile::create(&self.path).map_err(|e| self.io(e))?;
        file.write_all(&self.front).map_err(|e| self.io(e))?;
        let mut bytes = Vec::new();
        for batch in plan.batches(compute) {
            let (start, end) = (plan.ranges[batch.start].start, plan.ranges[batch.end - 1].end);
            bytes.resize(end - start, 0);
            interleaved::interleave_all(compute, &plan.weights[batch], &mut bytes)?;
            file.write_all(&bytes).map_err(|e| self.io(e))?;
            options.tell(LoadStage::Repack, end as u64, plan.len() as u64);
        }
        file.commit().map_err(|e| self.io(e))
    }

    fn io(&self, error: io::Error) -> CacheError {
        CacheError::Io { path: self.path.clone(), error }
    }
}

fn parts(model: &Gguf) -> Vec<Part> {
    let one = |(i, file): (usize, &MappedFile)| {
        let data = model.tensors().iter().filter(|t| t.part == i).map(|t| t.range().start);
        let front = &file[..data.min().unwrap_or(file.len())];
        let &FileStamp { len, modified, changed, inode } = file.stamp();
        Part { len, modified, changed, inode, sha256: hex(&Sha256::digest(front)) }
    };
    model.parts().iter().enumerate().map(one).collect()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, b| {
        let _ = write!(text, "{b:02x}");
        text
    })
}

/// The files in `folder`.
fn paths(folder: &Path) -> io::Result<Vec<PathBuf>> {
    let found = match fs::read_dir(folder) {
        Ok(found) => found,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(e) => return Err(e),
    };
    found.map(|entry| Ok(entry?.path())).collect()
}

/// Whether a file is an entry, by its name and how it begins.
fn is_entry(path: &Path) -> io::Result<bool> {
    if path.extension().is_none_or(|e| e != EXTENSION) || !path.is_file() {
        return Ok(false);
    }
    Ok(MappedFile::open(path)?.starts_with(&MAGIC))
}

/// Removes temporary files of writers that were killed.
fn remove_abandoned(folder: &Path) -> io::Result<()> {
    for path in paths(folder)? {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let old = |modified: SystemTime| modified.elapsed().is_ok_and(|age| age > ABANDONED);
        if name.starts_with(AtomicFile::PREFIX)
            && fs::metadata(&path).and_then(|m| m.modified()).is_ok_and(old)
        {
            let _ = fs::remove_file(&path); // or another process does
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
