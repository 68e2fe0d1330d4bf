//! The crate, packaged on its own, carries what it embeds, and builds.
#![cfg(unix)]

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;

/// It, and what it needs of this workspace.
const PACKAGES: [&str; 3] = ["blocks", "files", "cuda-kernels"];

/// Files below a folder of the crate.
fn below(crate_root: &Path, folder: &str) -> BTreeSet<String> {
    let files = std::fs::read_dir(crate_root.join(folder)).unwrap();
    let name = |file: std::fs::DirEntry| file.file_name().into_string().unwrap();
    files.map(|file| format!("{folder}/{}", name(file.unwrap()))).collect()
}

fn run(program: &str, folder: &Path, args: &[&str]) {
    let mut command = Command::new(program);
    // What cargo says to the programs of this workspace is not for another.
    command.args(args).current_dir(folder).env("CARGO_NET_OFFLINE", "true");
    let out = command.env_remove("CARGO_TARGET_DIR").output().unwrap();
    let said = String::from_utf8_lossy(&out.stderr);
    assert!(out.status.success(), "{program} {args:?}: {said}");
}

#[test]
fn the_crate_is_packaged_with_its_kernels_and_builds() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(2).unwrap();
    // A test program that was copied to another machine has neither.
    let Some(cargo) = option_env!("CARGO").filter(|cargo| Path::new(cargo).exists()) else {
        println!("skipped: no cargo");
        return;
    };
    if !root.join("Cargo.lock").exists() {
        println!("skipped: no sources");
        return;
    }
    // The same workspace, but for what keeps its crates from being published: cargo then lets packages that are not
    // published find each other.
    let folder = tempfile::tempdir().unwrap();
    let (workspace, packages) = (folder.path().join("workspace"), folder.path().join("packages"));
    std::fs::create_dir_all(&workspace).unwrap();
    std::fs::create_dir_all(&packages).unwrap();
    for entry in std::fs::read_dir(root).unwrap().map(|entry| entry.unwrap()) {
        if ["benches", "bins", "crates"].iter().any(|name| entry.file_name() == *name) {
            let to = workspace.join(entry.file_name());
            std::os::unix::fs::symlink(entry.path(), to).unwrap();
        }
    }
    std::fs::copy(root.join("Cargo.lock"), workspace.join("Cargo.lock")).unwrap();
    let manifest = std::fs::read_to_string(root.join("Cargo.toml")).unwrap();
    let manifest = manifest.replace("publish = false", "publish = true");
    std::fs::write(workspace.join("Cargo.toml"), manifest).unwrap();

    let made = folder.path().join("target");
    let made_at = made.to_str().unwrap();
    let mut args = vec!["package", "--no-verify", "--allow-dirty", "--target-dir", made_at];
    args.extend(PACKAGES.iter().flat_map(|name| ["-p", name]));
    run(cargo, &workspace, &args);
    for name in PACKAGES {
        let file = format!("{}/package/{name}-0.1.0.crate", made.display());
        run("tar", &packages, &["-xzf", &file]);
    }
    let package = packages.join("cuda-kernels-0.1.0");
    for carried in ["kernels", "emulator"] {
        let sources = below(Path::new(env!("CARGO_MANIFEST_DIR")), carried);
        assert_eq!(below(&package, carried), sources);
    }

    let patches: Vec<String> = PACKAGES[..2]
        .iter()
        .map(|name| format!("patch.crates-io.{name}.path='{}/{name}-0.1.0'", packages.display()))
        .collect();
    // Kept from one run to the next: all but these packages are the same.
    let kept = concat!(env!("CARGO_TARGET_TMPDIR"), "/package");
    let mut args = vec!["check", "--lib", "--all-features", "--target-dir", kept];
    args.extend(patches.iter().flat_map(|patch| ["--config", patch]));
    run(cargo, &package, &args);
}
