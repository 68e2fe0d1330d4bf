use std::fs::File;
use std::io;
use std::ops::{Deref, Range};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// A file mapped read-only into memory; clones share the mapping.
///
/// The bytes are those of the file for as long as nobody truncates or overwrites it in place. A
/// file that is truncated by another process while it is mapped ends this process with SIGBUS on
/// the next access beyond its end: model files are replaced by rename, never shortened in place.
#[derive(Clone, Debug)]
pub struct MappedFile {
    map: Arc<Mapping>,
    path: Arc<PathBuf>,
}

#[derive(Debug)]
enum Mapping {
    /// `mmap` refuses a length of zero.
    Empty,
    Mapped(memmap2::Mmap),
}

impl MappedFile {
    /// Maps the file at `path`.
    ///
    /// # Errors
    /// What opening or mapping it says; a folder is an error of kind `IsADirectory`.
    pub fn open(path: impl AsRef<Path>) -> io::Result<Self> {
        let path = path.as_ref();
        let file = File::open(path)?;
        let meta = file.metadata()?;
        if meta.is_dir() {
            return Err(io::Error::new(io::ErrorKind::IsADirectory, "is a folder"));
        }
        let map = if meta.len() == 0 {
            Mapping::Empty
        } else {
            // SAFETY: the mapping is read-only and private to this value; that the file is not
            // shortened or rewritten in place meanwhile is the stated contract of the type.
            Mapping::Mapped(unsafe { memmap2::Mmap::map(&file)? })
        };
        Ok(Self { map: Arc::new(map), path: Arc::new(path.to_owned()) })
    }

    /// The path it was opened by.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Tells the system that `range` need not stay in this process's memory: it will be read from
    /// the file again if it is looked at again. A hint; nothing is lost, and it may do nothing.
    pub fn release(&self, range: Range<usize>) {
        #[cfg(unix)]
        if let Mapping::Mapped(m) = &*self.map {
            let end = range.end.min(m.len());
            if range.start < end {
                // SAFETY: the mapping is of a file and read-only: pages that are dropped come back
                // from the file, with the same content.
                let hint = unsafe {
                    m.unchecked_advise_range(
                        memmap2::UncheckedAdvice::DontNeed,
                        range.start,
                        end - range.start,
                    )
                };
                // Pages that stay are no fault.
                drop(hint);
            }
        }
        #[cfg(not(unix))]
        let _ = range;
    }

    /// The bytes of the file.
    pub fn bytes(&self) -> &[u8] {
        match &*self.map {
            Mapping::Empty => &[],
            Mapping::Mapped(m) => m,
        }
    }
}

impl Deref for MappedFile {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        self.bytes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn maps_what_was_written_and_an_empty_file() {
        let dir = tempfile::tempdir().unwrap();
        for content in [&b""[..], b"some bytes"] {
            let path = dir.path().join("f");
            std::fs::write(&path, content).unwrap();
            let map = MappedFile::open(&path).unwrap();
            assert_eq!(&*map, content);
            map.release(1..usize::MAX);
            assert_eq!(&*map, content);
        }
        assert_eq!(MappedFile::open(dir.path()).unwrap_err().kind(), io::ErrorKind::IsADirectory);
    }
}
