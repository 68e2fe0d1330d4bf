//! The crate, packaged on its own, carries what it embeds.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;

/// Files below a folder of the crate.
fn below(folder: &str) -> Vec<String> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(folder);
    let files = std::fs::read_dir(&path).unwrap().map(|file| file.unwrap().file_name());
    files.map(|name| format!("{folder}/{}", name.to_string_lossy())).collect()
}

#[test]
fn a_package_has_the_kernels_and_the_emulator() {
    // A test program that was copied to another machine has neither.
    let Some(cargo) = option_env!("CARGO").filter(|cargo| Path::new(cargo).exists()) else {
        println!("skipped: no cargo");
        return;
    };
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR")).join("Cargo.toml");
    if !manifest.exists() {
        println!("skipped: no sources");
        return;
    }
    let out = Command::new(cargo)
        .args(["package", "--list", "--allow-dirty", "--offline", "--manifest-path"])
        .arg(manifest)
        .output()
        .unwrap();
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    let listed = String::from_utf8(out.stdout).unwrap().replace('\\', "/");
    let listed: BTreeSet<&str> = listed.lines().collect();
    let sources = [below("kernels"), below("emulator")].concat();
    assert!(sources.len() > cuda_kernels::source::ALL.len(), "{sources:?}");
    let missing: Vec<&String> = sources.iter().filter(|s| !listed.contains(s.as_str())).collect();
    assert!(missing.is_empty(), "not in the package: {missing:?}");
}
