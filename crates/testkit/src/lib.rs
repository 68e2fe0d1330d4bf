//! What the tests of several crates share: where the reference data lies, and files that are wrong.
#![forbid(unsafe_code)]

pub mod bounds;
pub mod gguf;
pub mod hostile;
pub mod openapi;

use std::path::{Path, PathBuf};

/// The root of the workspace: where it was built, or what `INFINITY_WORKSPACE` says, so that test programs
/// run on a machine that has only a copy.
pub fn workspace() -> PathBuf {
    if let Some(root) = std::env::var_os("INFINITY_WORKSPACE") {
        return root.into();
    }
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .ancestors()
        .nth(2)
        .expect("crates/testkit lies in it")
        .to_owned()
}

/// Prints why a test is skipped that needs a GPU.
///
/// # Panics
/// Where the variable `REQUIRE_GPU` is set.
pub fn skip_without_gpu(why: impl std::fmt::Display) {
    assert!(std::env::var_os("REQUIRE_GPU").is_none(), "REQUIRE_GPU is set, but {why}");
    println!("skipped: no GPU ({why})");
}

/// A file or folder of the reference data that lies in `shared` beside the workspace, or where
/// `INFINITY_SHARED` says.
///
/// Where it is absent this prints why the test is skipped and returns `None`; in CI (the variable
/// `CI` is set) it must be present.
///
/// # Panics
/// In CI, if it is absent.
pub fn shared(path: &str) -> Option<PathBuf> {
    let shared = match std::env::var_os("INFINITY_SHARED") {
        Some(folder) => Some(PathBuf::from(folder)),
        None => workspace().parent().map(|p| p.join("shared")),
    };
    let found = shared.map(|folder| folder.join(path)).filter(|p| p.exists());
    if found.is_none() {
        assert!(std::env::var_os("CI").is_none(), "shared/{path} must be present in CI");
        println!("skipped: shared/{path} is not beside the workspace");
    }
    found
}
