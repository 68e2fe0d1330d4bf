use std::io;
use std::path::Path;

/// Bytes that this user may still write to the disk of `folder`; `None` where nobody tells.
///
/// # Errors
/// What asking for them says, if there is no such folder for example.
pub fn free_space(folder: impl AsRef<Path>) -> io::Result<Option<u64>> {
    #[cfg(unix)]
    {
        let stat = rustix::fs::statvfs(folder.as_ref())?;
        Ok(stat.f_bavail.checked_mul(stat.f_frsize))
    }
    #[cfg(not(unix))]
    {
        folder.as_ref().metadata()?;
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_that_is_there_has_a_disk() {
        let folder = tempfile::tempdir().unwrap();
        let free = free_space(folder.path()).unwrap();
        assert!(free.is_none_or(|free| free > 0));
        assert!(free_space(folder.path().join("none")).is_err());
    }
}
