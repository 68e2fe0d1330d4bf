//! The folder of temporary files and the process that measures: both end with the program, also where
//! it ends by Ctrl-C.

use std::path::{Path, PathBuf};
use std::process::{Child, ExitStatus};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use anyhow::{Context, Result};

/// A temporary folder and at most one process at work in it.
pub(crate) struct Workspace {
    folder: tempfile::TempDir,
    child: Arc<Mutex<Option<Child>>>,
}

impl Workspace {
    /// Makes the folder, where the system's temporary files go (`TMPDIR`), and takes over Ctrl-C and
    /// SIGTERM.
    pub(crate) fn new() -> Result<Self> {
        let folder = tempfile::Builder::new()
            .prefix("ppl-")
            .tempdir()
            .context("no temporary folder can be made; set TMPDIR to one that can be written")?;
        let child: Arc<Mutex<Option<Child>>> = Arc::default();
        let (path, process) = (folder.path().to_owned(), Arc::clone(&child));
        ctrlc::set_handler(move || {
            let mut process = lock(&process);
            end(&mut process);
            remove(&path);
            eprintln!("ppl: interrupted");
            // What a shell reports for a program ended by SIGINT. The lock is held: nothing starts anew.
            std::process::exit(130);
        })
        .context("signals cannot be handled")?;
        Ok(Self { folder, child })
    }

    /// A file in the folder.
    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Remembers the process, to be ended with the program.
    pub(crate) fn watch(&self, child: Child) {
        *lock(&self.child) = Some(child);
    }

    /// Waits for the process, which has closed its output.
    pub(crate) fn wait(&self) -> Result<ExitStatus> {
        let child = lock(&self.child).take();
        let mut child = child.context("no process is at work")?;
        Ok(child.wait()?)
    }
}

impl Drop for Workspace {
    fn drop(&mut self) {
        end(&mut lock(&self.child));
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn end(child: &mut Option<Child>) {
    if let Some(mut child) = child.take() {
        // It may have ended by itself.
        let _ = child.kill();
        let _ = child.wait();
    }
}

/// Removes the folder, once more if a file appeared meanwhile.
fn remove(folder: &Path) {
    for _ in 0..5 {
        if std::fs::remove_dir_all(folder).is_ok() || !folder.exists() {
            return;
        }
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
}
