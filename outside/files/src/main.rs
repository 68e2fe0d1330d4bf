//! Replaces a file while an old mapping of it is being read: the reader keeps the old bytes.

use std::io::Write;

fn main() -> std::io::Result<()> {
    let path = std::env::temp_dir().join(format!("outside-files-{}", std::process::id()));
    files::write_atomically(&path, b"old")?;
    let reader = files::MappedFile::open(&path)?;

    let mut writer = files::AtomicFile::create(&path)?;
    writer.write_all(b"new, and longer")?;
    assert_eq!(std::fs::read(&path)?, b"old", "nothing shows before the commit");
    writer.commit()?;

    assert_eq!(reader.bytes(), b"old", "a mapping keeps what it mapped");
    println!("then {} bytes, now {}", reader.bytes().len(), std::fs::metadata(&path)?.len());
    std::fs::remove_file(path)
}
