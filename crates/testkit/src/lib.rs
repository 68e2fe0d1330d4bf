//! What the tests of several crates share: where the reference data lies, and files that are wrong.
#![forbid(unsafe_code)]

pub mod bounds;
pub mod gguf;
pub mod hostile;
pub mod openapi;

use std::path::{Path, PathBuf};

/// The root of the workspace.
pub fn workspace() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .ancestors()
        .nth(2)
        .expect("crates/testkit lies in it")
        .to_owned()
}

/// A file or folder of the reference data that lies in `shared` beside the workspace.
///
/// Where it is absent this prints why the test is skipped and returns `None`; in CI (the variable
/// `CI` is set) it must be present.
///
/// # Panics
/// In CI, if it is absent.
pub fn shared(path: &str) -> Option<PathBuf> {
    let found = workspace().parent().map(|p| p.join("shared").join(path)).filter(|p| p.exists());
    if found.is_none() {
        assert!(std::env::var_os("CI").is_none(), "shared/{path} must be present in CI");
        println!("skipped: shared/{path} is not beside the workspace");
    }
    found
}
