//! What the fuzz targets share: an entry for libFuzzer, and one that replays a corpus.
//!
//! A target is a file under `src/bin` that calls [`target!`]. Built by `run.sh` (which sets
//! `cfg(fuzzing)`) it is a libFuzzer program; built in the ordinary way, a program that runs the
//! function over the files and folders given, or over the target's seeds.

use std::path::{Path, PathBuf};

#[cfg(fuzzing)]
pub use libfuzzer_sys;

/// Makes the function, which takes the bytes of one input, the target of this program.
///
/// The program's file begins with `#![cfg_attr(fuzzing, no_main)]`.
#[macro_export]
macro_rules! target {
    ($run:expr) => {
        #[cfg(fuzzing)]
        use $crate::libfuzzer_sys;
        #[cfg(fuzzing)]
        libfuzzer_sys::fuzz_target!(|data: &[u8]| $run(data));

        #[cfg(not(fuzzing))]
        fn main() {
            $crate::replay(env!("CARGO_BIN_NAME"), $run);
        }
    };
}

/// The folder of this crate's seeds for a target.
pub fn seeds(target: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus").join(target)
}

/// Runs the function over the files and folders of the command line, or over the target's seeds.
///
/// # Panics
/// If a file cannot be read, and where the function does.
pub fn replay(target: &str, run: fn(&[u8])) {
    let mut paths: Vec<PathBuf> = std::env::args_os().skip(1).map(PathBuf::from).collect();
    if paths.is_empty() {
        paths.push(seeds(target));
    }
    let mut inputs = 0;
    while let Some(path) = paths.pop() {
        if path.is_dir() {
            let entries = path.read_dir().expect("a folder that can be read");
            paths.extend(entries.map(|e| e.expect("an entry that can be read").path()));
        } else {
            eprintln!("{}", path.display());
            run(&std::fs::read(&path).expect("a file that can be read"));
            inputs += 1;
        }
    }
    assert!(inputs > 0, "there are no inputs for {target}");
    println!("{target}: {inputs} inputs replayed");
}
