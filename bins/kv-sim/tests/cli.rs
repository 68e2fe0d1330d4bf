//! The program as people run it.

use std::path::Path;
use std::process::{Command, Output};

use serde_json::Value;

fn kv_sim(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_kv-sim")).args(args).output().unwrap()
}

fn parts(output: &Output) -> (i32, String, String) {
    let utf8 = |b: &[u8]| String::from_utf8(b.to_vec()).unwrap();
    (output.status.code().unwrap(), utf8(&output.stdout), utf8(&output.stderr))
}

fn ok(args: &[&str]) -> String {
    let (code, out, err) = parts(&kv_sim(args));
    assert_eq!((code, err.as_str()), (0, ""), "{args:?}\n{out}");
    out
}

/// The exit code, and that there is one line of error and nothing else.
fn refused(args: &[&str]) -> (i32, String) {
    let (code, out, err) = parts(&kv_sim(args));
    assert_eq!(out, "", "{args:?}");
    assert!(err.starts_with("kv-sim: ") && err.matches('\n').count() == 1, "{args:?}: {err}");
    (code, err)
}

#[test]
fn the_comparison_is_told_as_promised() {
    let args = ["--total-vram", "16GB", "--requests", "50"];
    let out = ok(&args);
    assert_eq!(out, ok(&args), "the same seed gives the same output");
    for says in [
        "50 requests (lengths as in ShareGPT, 25 a second, seed 42)",
        "819,200 bytes a token",
        "--- first-fit ---",
        "ERROR - Out of Memory (need 0.92 GB, largest hole 0.42 GB, 2.10 GB free in all)",
        "--- pages ---",
        "reserve-maximum",
        "external fragmentation",
    ] {
        assert!(out.contains(says), "{says}\n{out}");
    }
    // With more requests than fit, pages let them wait, and preempt.
    let busy = ok(&["--requests", "200", "--rate", "10", "--log", "pages"]);
    assert!(busy.contains("waiting gracefully for release (need "), "{busy}");
    assert!(busy.contains("preempted at ") && busy.contains("resumes at "));
    assert!(!busy.contains("--- first-fit"));
}

#[test]
fn json_says_what_the_table_says() {
    let json: Value = serde_json::from_str(&ok(&["--json"])).unwrap();
    assert_eq!(json["plan"]["bytes_per_token"], 819_200);
    let runs = json["runs"].as_array().unwrap();
    let of = |name: &str| {
        let run = runs.iter().find(|r| r["summary"]["allocator"] == name).unwrap();
        run["summary"]["generated_in_time"].as_f64().unwrap()
    };
    assert!(of("pages") >= 2.5 * of("reserve-maximum"));
    let first = &runs[0];
    assert_eq!(first["summary"]["allocator"], "first-fit");
    let gave_up = first["events"].as_array().unwrap().iter().filter(|e| e["what"] == "gives-up");
    assert_eq!(
        gave_up.count() as u64,
        first["summary"]["outcomes"]["out_of_memory"].as_u64().unwrap()
    );
}

#[test]
fn the_shape_gives_the_bytes_of_a_token() {
    // Llama 3 8B.
    let llama3 = ["--layers", "32", "--kv-heads", "8", "--weights", "16GB"];
    for (kv_type, bytes) in [("f16", "131,072"), ("q8_0", "69,632")] {
        let out = ok(&[&llama3[..], &["--kv-type", kv_type, "--log", "--requests", "5"]].concat());
        assert!(out.contains(&format!("{bytes} bytes a token")), "{out}");
        assert!(!out.contains("---"), "--log without names tells nothing one by one");
    }
}

#[test]
fn pictures_stand_alone() {
    let dir = tempfile::tempdir().unwrap();
    let (svg, html) = (dir.path().join("maps.svg"), dir.path().join("maps.html"));
    ok(&["--svg", svg.to_str().unwrap(), "--html", html.to_str().unwrap()]);
    let read = |path: &Path| std::fs::read_to_string(path).unwrap();
    let (svg, html) = (read(&svg), read(&html));
    for (text, starts) in [(&svg, "<svg xmlns="), (&html, "<!DOCTYPE html>")] {
        assert!(text.starts_with(starts));
        assert!(text.contains("prefers-color-scheme"));
        for part in ["src=", "href=", "url(", "@import", "<link", "fetch("] {
            assert!(!text.contains(part), "{part}");
        }
        // The name of the namespace is the only address.
        assert_eq!(text.matches("://").count(), usize::from(starts.starts_with("<svg")));
    }
    assert_eq!(svg.matches("<path class=\"held\"").count(), 4);
    let data = html.split("<script type=\"application/json\" id=\"data\">").nth(1).unwrap();
    let data: Value = serde_json::from_str(data.split("</script>").next().unwrap()).unwrap();
    assert_eq!(data["requests"].as_array().unwrap().len(), 50);
    let names: Vec<_> =
        data["runs"].as_array().unwrap().iter().map(|r| r["name"].clone()).collect();
    assert_eq!(names, ["first-fit", "best-fit", "reserve-maximum", "pages"]);
    assert!(!html.contains("{{"), "every place was filled");
}

#[test]
fn a_sweep_shows_each_block_size() {
    let out = ok(&["--sweep", "block-size", "--system-prompt", "100"]);
    let sizes: Vec<&str> = out
        .lines()
        .skip_while(|l| !l.starts_with("block size"))
        .skip(1)
        .map(|l| l.split_whitespace().next().unwrap())
        .collect();
    assert_eq!(sizes, ["1", "2", "4", "8", "16", "32", "64", "128", "256"]);
    let json: Value = serde_json::from_str(&ok(&["--sweep", "block-size", "--json"])).unwrap();
    assert_eq!(json["sweep"].as_array().unwrap().len(), 9);
}

#[test]
fn a_trace_of_ones_own_is_played_and_a_broken_one_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("t.jsonl");
    let path = path.to_str().unwrap();
    std::fs::write(path, "{\"arrival\":0,\"prompt\":10,\"output\":5}\n").unwrap();
    assert!(ok(&["--trace", path, "--log", "pages"]).contains("10 + 5     tokens: starts after"));
    std::fs::write(path, "{\"arrival\":0,\"prompt\":10,\"output\":5}\n[[[[").unwrap();
    let (code, error) = refused(&["--trace", path]);
    assert!(code == 1 && error.contains("line 2: "), "{error}");
    std::fs::write(path, [0xff, 0, b'\n']).unwrap();
    assert_eq!(refused(&["--trace", path]).0, 1);
    assert_eq!(refused(&["--trace", "no-such-file"]).0, 1);
    assert_eq!(refused(&["--trace", dir.path().to_str().unwrap()]).0, 1);
}

#[test]
fn wrong_usage_is_named() {
    for args in [
        &["--requests", "0"][..],
        &["--requests", "1000000000"],
        &["--rate", "0"],
        &["--rate", "NaN"],
        &["--patience", "-1"],
        &["--patience", "1e300"],
        &["--block-size", "0"],
        &["--block-size", "100000"],
        &["--total-vram", "0"],
        &["--total-vram", "9000000TB", "--layers", "1", "--kv-heads", "1"],
        &["--layers", "0"],
        &["--head-dim", "18446744073709551615"],
        &["--head-dim", "48", "--kv-type", "q8_0"],
        &["--kv-type", "q4_k"],
        &["--max-model-len", "1"],
        &["--system-prompt", "2047"],
        &["--system-prompt", "18446744073709551615"],
        &["--bandwidth", "0"],
        &["--tflops", "inf"],
    ] {
        let (code, error) = match args.contains(&"-1") {
            // clap takes it for an option.
            true => (kv_sim(args).status.code().unwrap(), String::new()),
            false => refused(args),
        };
        assert_eq!(code, 2, "{args:?}: {error}");
    }
    for args in [&["--total-vram", "lots"][..], &["--allocators", "x"], &["--sweep", "x"], &["x"]] {
        let (code, _, err) = parts(&kv_sim(args));
        assert!(code == 2 && err.contains("error"), "{args:?}: {err}");
    }
}
