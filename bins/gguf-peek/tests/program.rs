//! The program as people run it.

use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use blocks::DType;
use gguf::{Array, Builder};

fn peek(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_gguf-peek")).args(args).output().unwrap()
}

fn text(output: &Output) -> (i32, String, String) {
    let utf8 = |b: &[u8]| String::from_utf8(b.to_vec()).unwrap();
    (output.status.code().unwrap(), utf8(&output.stdout), utf8(&output.stderr))
}

fn ok(args: &[&str]) -> String {
    let (code, out, err) = text(&peek(args));
    assert_eq!((code, err.as_str()), (0, ""), "{args:?}\n{out}");
    out
}

fn json(args: &[&str]) -> serde_json::Value {
    serde_json::from_str(&ok(args)).unwrap()
}

/// A file of two tensors, one of them with these values.
fn write(path: &Path, values: &[f32]) {
    let mut b = Builder::new();
    b.set("general.name", "evil \u{1b}[2J name");
    b.set("list", Array::from_strings([&b"a\x07"[..], b"\xff"]));
    b.tensor("blk.0.x.weight", [2, values.len() / 2], DType::F32).unwrap();
    b.tensor("blk.0.\u{1b}]0;y.weight", [32], DType::Q8_0).unwrap();
    let mut w = b.create(path).unwrap();
    w.append(&values.iter().flat_map(|v| v.to_le_bytes()).collect::<Vec<_>>()).unwrap();
    w.append(&[0; 34]).unwrap();
    w.commit().unwrap();
}

fn sample() -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("m.gguf");
    write(&path, &[1.0, -2.0, 0.5, 0.0]);
    (dir, path)
}

#[test]
fn a_real_model_reads_as_promised() {
    let Some(path) = testkit::shared("oracle/gguf/bard-Q4_K_M.gguf") else { return };
    let path = path.to_str().unwrap();
    let out = ok(&[path]);
    let file = gguf::Gguf::open(path).unwrap();
    let (n, keys) = (file.tensors().len(), file.metadata().len());
    let lines: Vec<&str> = out.lines().collect();
    assert_eq!(lines[0], "--- GGUF Header ---");
    assert_eq!(lines[1], format!("Magic: GGUF   Version: 3   Tensors: {n}   Metadata KV: {keys}"));
    for line in [
        "--- Metadata ---",
        "general.architecture: llama",
        "llama.rope.freq_base: 10000",
        "tokenizer.ggml.tokens: [\"<unk>\", \"<s>\", \"</s>\", ",
        "--- Tensors ---",
        "token_embd.weight: [2048, 256] (",
        "blk.2.ffn_down.weight: [256, 768] (Q6_K)",
    ] {
        assert!(lines.iter().any(|l| l.starts_with(line)), "{line}\n{out}");
    }
    assert!(lines.iter().all(|l| l.len() < 400), "long values are abbreviated");

    let stats = json(&[path, "--stats", "--json"]);
    let all = &stats["stats"]["all"];
    let bytes: usize = file.tensors().iter().map(|t| t.size).sum();
    assert_eq!(all["bytes"], bytes);
    assert_eq!(stats["tensors"].as_array().unwrap().len(), n);
    assert_eq!(stats["metadata"]["tokenizer.ggml.tokens"].as_array().unwrap().len(), 2048);
    let by = |key: &str| stats["stats"][key].as_array().unwrap().clone();
    for key in ["by_type", "by_family"] {
        assert_eq!(by(key).iter().map(|g| g["bytes"].as_u64().unwrap()).sum::<u64>(), bytes as u64);
    }
    assert!(by("by_family").iter().any(|g| g["name"] == "attn_q" && g["tensors"] == 6));
    assert!(ok(&[path, "--stats"]).contains("Bits a weight: "));
    assert!(ok(&[path, "--check"]).contains("values: ok"));
    assert!(ok(&[path, "--tensors"]).lines().count() == n + 1);
}

#[test]
fn statistics_are_those_of_the_values() {
    let (_dir, path) = sample();
    let stats = json(&[path.to_str().unwrap(), "--stats", "--json"]);
    let x = &stats["stats"]["by_family"][0];
    assert_eq!((&x["name"], &x["min"], &x["max"]), (&"x".into(), &(-2.0).into(), &1.0.into()));
    assert_eq!(x["mean"], -0.125);
    assert_eq!(x["rms"].as_f64().unwrap(), (5.25f64 / 4.0).sqrt());
    assert_eq!(x["bits_per_weight"], 32.0);
    assert_eq!(stats["stats"]["by_type"][1]["bits_per_weight"], 8.5);
    assert_eq!(stats["stats"]["all"]["elements"], 36);
}

#[test]
fn nothing_reaches_the_terminal_unescaped() {
    let (_dir, path) = sample();
    let path = path.to_str().unwrap();
    for args in [&[path][..], &[path, "--tensors"], &[path, "--stats"], &[path, "--json"]] {
        let out = ok(args);
        assert!(out.chars().all(|c| c == '\n' || !c.is_control()), "{out:?}");
    }
    assert!(ok(&[path]).contains(r#"list: ["a\u{7}", "\xff"]"#));
    let (code, _, err) = text(&peek(&["no\x1b[31m\nfile"]));
    assert_eq!(code, 1);
    assert!(err.starts_with("gguf-peek: no\\u{1b}[31m\\nfile: "), "{err}");
    assert_eq!(err.lines().count(), 1);
}

#[test]
fn check_finds_nan_and_infinity() {
    let (_dir, path) = sample();
    write(&path, &[1.0, 2.0, f32::NAN, f32::NEG_INFINITY]);
    let path = path.to_str().unwrap();
    let (code, out, _) = text(&peek(&[path, "--check"]));
    assert_eq!(code, 1);
    let fault =
        "tensor 'blk.0.x.weight' has 1 NaN and 1 infinite values, the first at row 1, column 0";
    assert!(out.contains(fault), "{out}");
    let (code, out, _) = text(&peek(&[path, "--check", "--json"]));
    assert_eq!(code, 1);
    let found: serde_json::Value = serde_json::from_str(&out).unwrap();
    assert_eq!(found["check"], serde_json::json!({ "ok": false, "faults": [fault] }));
}

#[test]
fn check_finds_damage() {
    let (_dir, path) = sample();
    let whole = std::fs::read(&path).unwrap();
    std::fs::write(&path, &whole[..whole.len() - 40]).unwrap();
    let path = path.to_str().unwrap();
    let (code, out, err) = text(&peek(&[path, "--check"]));
    assert_eq!((code, out.as_str(), err.lines().count()), (1, "", 1), "{err}");
    assert!(err.contains("needs 34 bytes at offset 32"), "{err}");
    let (code, out, _) = text(&peek(&[path, "--check", "--json"]));
    assert_eq!(code, 1);
    assert!(out.contains("\"ok\": false"), "{out}");
}

#[test]
fn wrong_usage_is_2_and_help_has_an_example() {
    assert_eq!(peek(&[]).status.code(), Some(2));
    assert_eq!(peek(&["f", "--nonsense"]).status.code(), Some(2));
    assert!(ok(&["--help"]).contains("gguf-peek model.gguf --stats"));
}

#[test]
fn a_closed_pipe_is_no_failure() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("long.gguf");
    let mut b = Builder::new();
    for i in 0..20_000 {
        b.set(format!("key.{i}"), "x".repeat(90));
    }
    b.create(&path).unwrap().commit().unwrap();
    let mut child = Command::new(env!("CARGO_BIN_EXE_gguf-peek"))
        .arg(&path)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut first = [0; 19];
    child.stdout.take().unwrap().read_exact(&mut first).unwrap();
    assert_eq!(&first, b"--- GGUF Header ---");
    let output = child.wait_with_output().unwrap();
    assert_eq!((output.status.code(), output.stderr.as_slice()), (Some(0), &b""[..]));
}
