use std::fs::File;
use std::io::{self, BufWriter, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

/// A file that appears under its name only when it is whole.
///
/// Bytes go to a temporary file in the same folder; [`AtomicFile::commit`] flushes, syncs and
/// renames it and syncs the folder. Dropped without a commit, or killed, it leaves the old file (or
/// none) and removes the temporary one where it can.
///
/// ```
/// use std::io::Write;
/// let dir = tempfile::tempdir()?;
/// let path = dir.path().join("out");
/// let mut f = files::AtomicFile::create(&path)?;
/// f.write_all(b"whole")?;
/// assert!(!path.exists());
/// f.commit()?;
/// assert_eq!(std::fs::read(&path)?, b"whole");
/// # Ok::<(), std::io::Error>(())
/// ```
#[derive(Debug)]
pub struct AtomicFile {
    out: BufWriter<tempfile::NamedTempFile>,
    path: PathBuf,
    /// Bytes written since the last time that the disk was waited for.
    unsynced: usize,
}

/// Bytes after which the disk is waited for: a large file then reaches it while its next bytes are
/// made on other threads, instead of all of it at the end.
const SYNC_EVERY: usize = 64 << 20;

impl AtomicFile {
    /// What the names of temporary files begin with.
    pub const PREFIX: &str = ".partial-";

    /// Begins to write the file that will be at `path`.
    ///
    /// # Errors
    /// What creating the temporary file says.
    pub fn create(path: impl AsRef<Path>) -> io::Result<Self> {
        let path = path.as_ref().to_owned();
        let mut builder = tempfile::Builder::new();
        builder.prefix(Self::PREFIX);
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt;
            builder.permissions(std::fs::Permissions::from_mode(0o666));
        }
        let temporary = builder.tempfile_in(folder(&path))?;
        Ok(Self { out: BufWriter::with_capacity(1 << 20, temporary), path, unsynced: 0 })
    }

    /// Makes the file appear under its name.
    ///
    /// # Errors
    /// What flushing, syncing or renaming says; the temporary file is removed.
    pub fn commit(self) -> io::Result<()> {
        let temporary = self.out.into_inner().map_err(|e| e.into_error())?;
        temporary.as_file().sync_all()?;
        temporary.persist(&self.path).map_err(|e| e.error)?;
        #[cfg(unix)]
        File::open(folder(&self.path))?.sync_all()?;
        Ok(())
    }
}

fn folder(path: &Path) -> &Path {
    match path.parent() {
        Some(p) if !p.as_os_str().is_empty() => p,
        _ => Path::new("."),
    }
}

impl Write for AtomicFile {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        let written = self.out.write(buf)?;
        self.unsynced += written;
        if self.unsynced >= SYNC_EVERY {
            self.out.flush()?;
            self.out.get_ref().as_file().sync_data()?;
            self.unsynced = 0;
        }
        Ok(written)
    }
    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

impl Seek for AtomicFile {
    fn seek(&mut self, pos: SeekFrom) -> io::Result<u64> {
        self.out.seek(pos)
    }
}

/// Writes `bytes` to `path`, wholly or not at all.
///
/// # Errors
/// What creating, writing or renaming says.
pub fn write_atomically(path: impl AsRef<Path>, bytes: &[u8]) -> io::Result<()> {
    let mut f = AtomicFile::create(path)?;
    f.write_all(bytes)?;
    f.commit()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_left_of_a_file_that_was_not_committed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f");
        write_atomically(&path, b"old").unwrap();
        let mut f = AtomicFile::create(&path).unwrap();
        f.write_all(b"new").unwrap();
        drop(f);
        assert_eq!(std::fs::read(&path).unwrap(), b"old");
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
    }
}
