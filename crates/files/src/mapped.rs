use std::fs::{File, Metadata};
use std::io;
use std::ops::{Deref, Range};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

/// A file mapped read-only into memory; clones share the mapping.
///
/// The bytes are those of the file for as long as nobody truncates or overwrites it in place. A
/// file that is truncated by another process while it is mapped ends this process with SIGBUS on
/// the next access beyond its end: model files are replaced by rename, never shortened in place.
#[derive(Clone, Debug)]
pub struct MappedFile {
    map: Arc<Mapping>,
    path: Arc<PathBuf>,
    stamp: FileStamp,
}

/// By which a file can be recognised as the same and unchanged without reading it.
///
/// Equal stamps say that no program has written to the file in between by ordinary means: on Unix the
/// system sets the time of the last change itself, whatever times a program gives the file. A file that
/// is copied, renamed or linked may have another stamp though its bytes are the same.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct FileStamp {
    /// Its length in bytes.
    pub len: u64,
    /// When it was last written, in nanoseconds from 1970; 0 where the system does not tell.
    pub modified: i64,
    /// When bytes, name or rights last changed, in nanoseconds from 1970; 0 except on Unix.
    pub changed: i64,
    /// Its number on its disk; 0 except on Unix.
    pub inode: u64,
}

impl FileStamp {
    fn of(meta: &Metadata) -> Self {
        let nanoseconds = |time: SystemTime| match time.duration_since(UNIX_EPOCH) {
            Ok(after) => after.as_nanos() as i64, // enough until 2262
            Err(before) => -(before.duration().as_nanos() as i64),
        };
        let modified = meta.modified().map_or(0, nanoseconds);
        #[cfg(unix)]
        let (changed, inode) = {
            use std::os::unix::fs::MetadataExt;
            (meta.ctime().wrapping_mul(1_000_000_000) + meta.ctime_nsec(), meta.ino())
        };
        #[cfg(not(unix))]
        let (changed, inode) = (0, 0);
        Self { len: meta.len(), modified, changed, inode }
    }
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
        let stamp = FileStamp::of(&meta);
        Ok(Self { map: Arc::new(map), path: Arc::new(path.to_owned()), stamp })
    }

    /// What the file was when it was mapped.
    pub fn stamp(&self) -> &FileStamp {
        &self.stamp
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

    /// Tells the system that `range` will be looked at soon, so that it begins to read what is not in
    /// memory. A hint, which returns at once.
    pub fn prefetch(&self, range: Range<usize>) {
        #[cfg(unix)]
        if let Mapping::Mapped(m) = &*self.map {
            let end = range.end.min(m.len());
            if range.start < end {
                // Pages that are read later are no fault.
                let _ = m.advise_range(memmap2::Advice::WillNeed, range.start, end - range.start);
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
            map.prefetch(1..usize::MAX);
            assert_eq!(&*map, content);
        }
        assert_eq!(MappedFile::open(dir.path()).unwrap_err().kind(), io::ErrorKind::IsADirectory);
    }

    #[cfg(unix)]
    #[test]
    fn a_change_shows_even_where_the_time_is_set_back() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f");
        std::fs::write(&path, b"one").unwrap();
        let stamp = |path: &Path| MappedFile::open(path).unwrap().stamp().clone();
        let first = stamp(&path);
        assert_eq!(first, stamp(&path));
        let modified = std::fs::metadata(&path).unwrap().modified().unwrap();
        // The system's clock for files may tick every few milliseconds.
        std::thread::sleep(std::time::Duration::from_millis(20));
        std::fs::write(&path, b"two").unwrap();
        File::options().write(true).open(&path).unwrap().set_modified(modified).unwrap();
        let second = stamp(&path);
        assert_eq!((first.len, first.modified), (second.len, second.modified));
        assert_ne!(first, second);
        // Another file of the same bytes and time in its place.
        let other = dir.path().join("g");
        std::fs::write(&other, b"two").unwrap();
        File::options().write(true).open(&other).unwrap().set_modified(modified).unwrap();
        std::fs::rename(&other, &path).unwrap();
        assert_ne!(stamp(&path), second);
    }
}
