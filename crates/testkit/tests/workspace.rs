//! The invariants of the workspace that a machine can check: the crate graph, the dependencies'
//! licences and Rust versions, where unsafe code may live, and links between documents.
//!
//! What is not here: `cargo deny` (advisories need the network) and the look at each crate from
//! outside, which `outside/run.sh` does.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;
use testkit::workspace;

/// The crates by rank: an edge goes to a lower rank only. One line of ARCHITECTURE.md's graph each.
const RANKS: &[&[&str]] = &[
    &["blocks", "files", "openai-api", "workload"],
    &["cpu-kernels", "cuda-kernels", "gguf"],
    &["tensor"],
    &["quant-core", "paged-kv"],
    &["sampling", "tokenizer", "scheduler"],
    &["model", "constrain"],
    &["engine", "eval"],
    &["compress", "serve"],
    &["infinity-cli", "gguf-peek-cli", "kv-sim-cli", "llama-box-cli", "paged-attn-cli", "ppl-cli"],
    &["benches"],
];

/// Crates that know no model: they work on matrices, distributions, logits.
const MODEL_FREE: &[&str] = &[
    "sampling",
    "quant-core",
    "cpu-kernels",
    "cuda-kernels",
    "blocks",
    "files",
    "gguf",
    "paged-kv",
    "scheduler",
    "workload",
];

/// Where SIMD, mmap and CUDA live. Every other crate forbids unsafe code.
const MAY_BE_UNSAFE: &[&str] = &["files", "cpu-kernels", "cuda-kernels", "tensor"];

/// The same exceptions as in `deny.toml`.
const EXCEPTIONS: &[(&str, &str)] = &[("option-ext", "MPL-2.0")];

/// The same list as in `deny.toml`.
const LICENCES: &[&str] = &[
    "MIT",
    "Apache-2.0",
    "Apache-2.0 WITH LLVM-exception",
    "BSD-2-Clause",
    "BSD-3-Clause",
    "ISC",
    "Zlib",
    "Unicode-3.0",
    "CDLA-Permissive-2.0",
];

fn metadata() -> Value {
    let rustc = std::env::var("RUSTC").unwrap_or_else(|_| "rustc".into());
    let version = Command::new(rustc).arg("-vV").output().expect("rustc runs").stdout;
    let version = String::from_utf8(version).expect("utf-8");
    let host = version.lines().find_map(|l| l.strip_prefix("host: ")).expect("it names its host");
    let out = Command::new(env!("CARGO"))
        .args(["metadata", "--format-version=1", "--locked", "--filter-platform", host])
        .current_dir(workspace())
        .output()
        .expect("cargo runs");
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    serde_json::from_slice(&out.stdout).expect("JSON")
}

fn text<'a>(value: &'a Value, key: &str) -> &'a str {
    value[key].as_str().unwrap_or_default()
}

fn list<'a>(value: &'a Value, key: &str) -> &'a [Value] {
    value[key].as_array().map(Vec::as_slice).unwrap_or_default()
}

fn members(metadata: &Value) -> Vec<&Value> {
    let ids: BTreeSet<&str> =
        list(metadata, "workspace_members").iter().filter_map(Value::as_str).collect();
    let found: Vec<&Value> =
        list(metadata, "packages").iter().filter(|p| ids.contains(text(p, "id"))).collect();
    assert!(!found.is_empty());
    found
}

#[test]
fn edges_of_the_crate_graph_point_down() {
    let metadata = metadata();
    let rank: BTreeMap<&str, usize> = RANKS
        .iter()
        .enumerate()
        .flat_map(|(rank, names)| names.iter().map(move |name| (*name, rank)))
        .collect();
    let mut wrong = Vec::new();
    for package in members(&metadata) {
        let name = text(package, "name");
        if name == "testkit" {
            continue;
        }
        let Some(own) = rank.get(name) else {
            wrong.push(format!("{name} has no rank: add it here and to ARCHITECTURE.md"));
            continue;
        };
        for dependency in list(package, "dependencies") {
            let used = text(dependency, "name");
            if dependency["path"].is_null() || text(dependency, "kind") == "dev" {
                continue;
            }
            if rank.get(used).is_none_or(|used| used >= own) {
                wrong.push(format!("{name} -> {used} does not point down"));
            }
            if MODEL_FREE.contains(&name) && matches!(used, "model" | "tokenizer") {
                wrong.push(format!("{name} must know no model, and uses {used}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

/// What serves or parses arguments is at the profile's own level, and quicker to build.
#[test]
fn crates_that_compute_are_optimised_in_tests() {
    let manifest = std::fs::read_to_string(workspace().join("Cargo.toml")).unwrap();
    for package in members(&metadata()) {
        let name = text(package, "name");
        let computes = !matches!(name, "serve" | "openai-api") && !name.ends_with("-cli");
        let listed = manifest.contains(&format!("\n{name}.opt-level = 2\n"));
        assert_eq!(listed, computes, "{name}, in [profile.dev.package]");
    }
}

#[test]
fn blocks_depends_on_little() {
    let metadata = metadata();
    let packages = members(&metadata);
    let blocks = packages.iter().find(|p| text(p, "name") == "blocks").expect("it is a member");
    let used: BTreeSet<&str> = list(blocks, "dependencies")
        .iter()
        .filter(|d| d["kind"].is_null())
        .map(|d| text(d, "name"))
        .collect();
    assert!(used.is_subset(&BTreeSet::from(["bytemuck", "half", "thiserror"])), "{used:?}");
}

#[test]
fn dependencies_have_permissive_licences_and_build_on_the_stated_rust() {
    let metadata = metadata();
    let root = std::fs::read_to_string(workspace().join("Cargo.toml")).expect("it is there");
    let msrv = root
        .lines()
        .find_map(|l| l.strip_prefix("rust-version = \"")?.split('"').next())
        .expect("the workspace states its MSRV");
    let mut wrong = Vec::new();
    for package in list(&metadata, "packages") {
        let name = format!("{} {}", text(package, "name"), text(package, "version"));
        let excepted = EXCEPTIONS.contains(&(text(package, "name"), text(package, "license")));
        if !permitted(text(package, "license")) && !excepted {
            wrong.push(format!("{name}: licence '{}'", text(package, "license")));
        }
        if minor(text(package, "rust_version")) > minor(msrv) {
            wrong.push(format!("{name}: needs Rust {}", text(package, "rust_version")));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

/// Whether an SPDX expression can be met by [`LICENCES`]. AND binds tighter than OR.
fn permitted(expression: &str) -> bool {
    let plain = expression.replace('/', " OR ");
    let allowed = |licence: &str| LICENCES.contains(&licence.trim());
    if plain.contains('(') {
        // `(A OR B) AND C`: each group needs one that is allowed.
        plain.replace(['(', ')'], "").split(" AND ").all(|group| group.split(" OR ").any(allowed))
    } else {
        plain.split(" OR ").any(|all| all.split(" AND ").all(allowed))
    }
}

#[test]
fn licence_expressions_are_read_as_meant() {
    for good in [
        "MIT OR Apache-2.0",
        "MIT/Apache-2.0",
        "GPL-3.0 OR MIT",
        "(MIT OR Apache-2.0) AND Unicode-3.0",
        "Apache-2.0 AND ISC",
    ] {
        assert!(permitted(good), "{good}");
    }
    for bad in ["", "GPL-3.0", "MIT AND GPL-3.0", "(MIT OR Apache-2.0) AND GPL-3.0"] {
        assert!(!permitted(bad), "{bad}");
    }
}

/// 89 of "1.89" and of "1.89.0"; 0 where none is stated.
fn minor(version: &str) -> u32 {
    version.split('.').nth(1).and_then(|m| m.parse().ok()).unwrap_or(0)
}

#[test]
fn unsafe_code_lives_where_simd_mmap_and_cuda_are() {
    let metadata = metadata();
    let mut wrong = Vec::new();
    for package in members(&metadata) {
        if MAY_BE_UNSAFE.contains(&text(package, "name")) {
            continue;
        }
        for target in list(package, "targets") {
            let root = text(target, "src_path");
            if !matches!(target["kind"][0].as_str(), Some("lib" | "bin")) {
                continue;
            }
            let source = std::fs::read_to_string(root).expect("cargo names it");
            if !source.contains("#![forbid(unsafe_code)]") {
                wrong.push(root.to_owned());
            }
        }
    }
    assert!(wrong.is_empty(), "these do not forbid unsafe code: {wrong:#?}");
}

/// Every Markdown file below a folder, but not what was built there.
fn documents(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).expect("a folder").map(|e| e.expect("an entry").path()) {
        let name = entry.file_name().and_then(|n| n.to_str()).unwrap_or_default();
        if entry.is_dir() {
            if !name.starts_with('.') && name != "target" && name != "book" {
                documents(&entry, found);
            }
        } else if name.ends_with(".md") {
            found.push(entry);
        }
    }
}

/// The targets of `[text](target)` outside code blocks and code spans.
fn links(markdown: &str) -> Vec<String> {
    let mut fenced = false;
    let mut prose = String::new();
    for line in markdown.lines() {
        if line.trim_start().starts_with("```") {
            fenced = !fenced;
        } else if !fenced {
            prose.push_str(line);
            prose.push('\n');
        }
    }
    // Code spans become a letter, so that a link whose text is code stays a link.
    let prose: String = prose
        .split('`')
        .enumerate()
        .map(|(i, piece)| if i % 2 == 0 { piece } else { "c" })
        .collect();
    prose.split("](").skip(1).filter_map(|rest| Some(rest.split_once(')')?.0.to_owned())).collect()
}

#[test]
fn links_are_found_outside_code_only() {
    assert_eq!(links("see [a](x.md), [`b`](y.md#z)"), ["x.md", "y.md#z"]);
    assert_eq!(links("`v[i](x)` and\n```\n[a](b)\n```\n"), [""; 0]);
}

#[test]
fn links_between_documents_lead_somewhere() {
    let mut files = Vec::new();
    documents(&workspace(), &mut files);
    assert!(files.iter().any(|f| f.ends_with("README.md")));
    let mut broken = Vec::new();
    for file in &files {
        let markdown = std::fs::read_to_string(file).expect("utf-8");
        for link in links(&markdown) {
            let path = link.split('#').next().unwrap_or_default();
            if path.is_empty() || link.contains("://") || link.starts_with("mailto:") {
                continue;
            }
            if !file.parent().expect("a folder").join(path).exists() {
                broken.push(format!("{}: {link}", file.display()));
            }
        }
    }
    assert!(broken.is_empty(), "{broken:#?}");
}

#[test]
fn every_chapter_is_in_the_books_summary() {
    let source = workspace().join("docs/src");
    let summary = std::fs::read_to_string(source.join("SUMMARY.md")).expect("the book has one");
    let listed: BTreeSet<String> = links(&summary).into_iter().collect();
    let mut files = Vec::new();
    documents(&source, &mut files);
    let missing: Vec<String> = files
        .iter()
        .map(|f| f.strip_prefix(&source).expect("below it").display().to_string())
        .filter(|f| f != "SUMMARY.md" && !listed.contains(f))
        .collect();
    assert!(missing.is_empty(), "not in SUMMARY.md: {missing:?}");
}
