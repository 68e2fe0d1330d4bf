//! The program as people run it, on bard's little sister.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::Value;

/// The model, a text, and a folder for temporary files that must be empty in the end.
struct Setup {
    oracle: PathBuf,
    folder: tempfile::TempDir,
}

impl Setup {
    fn new() -> Option<Self> {
        let oracle = testkit::shared("oracle")?;
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("tmp")).unwrap();
        let text = std::fs::read_to_string(oracle.join("shakespeare-heldout.txt")).unwrap();
        std::fs::write(folder.path().join("short.txt"), &text[..8000]).unwrap();
        Some(Self { oracle, folder })
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn command(&self, model: &Path, text: &Path, more: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_ppl"));
        command.env("TMPDIR", self.path("tmp"));
        command.arg("--model").arg(model).arg("--text").arg(text).args(more);
        command
    }

    /// Runs on the short text.
    fn run(&self, model: &str, more: &[&str]) -> Output {
        let text = self.path("short.txt");
        let out = self.command(&self.oracle.join(model), &text, more).output().unwrap();
        self.assert_clean();
        out
    }

    fn json(&self, model: &str, more: &[&str]) -> Value {
        let out = self.run(model, &[more, &["--json"]].concat());
        assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
        serde_json::from_slice(&out.stdout).unwrap()
    }

    fn assert_clean(&self) {
        let left: Vec<_> = std::fs::read_dir(self.path("tmp")).unwrap().collect();
        assert!(left.is_empty(), "{left:?}");
    }
}

const DRAFT: &str = "gguf/bard-draft-f16.gguf";

/// The whole held-out text: llama.cpp's figure, and formats in their order.
#[test]
fn the_table_is_what_llama_cpp_says() {
    let Some(s) = Setup::new() else { return };
    let expected: Value =
        serde_json::from_slice(&std::fs::read(s.oracle.join("expected.json")).unwrap()).unwrap();
    let row = expected["perplexity"].as_array().unwrap().iter().find(|row| {
        row["file"] == DRAFT && row["ctx"] == 256 && row["text"] == "shakespeare-heldout.txt"
    });
    let want = row.unwrap();
    let more = ["--quants", "fp16,q8_0,q4_k_m", "--context", "256", "--json"];
    let text = s.oracle.join("shakespeare-heldout.txt");
    let out = s.command(&s.oracle.join(DRAFT), &text, &more).output().unwrap();
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    s.assert_clean();
    let report: Value = serde_json::from_slice(&out.stdout).unwrap();
    let formats = report["formats"].as_array().unwrap();
    let names: Vec<_> = formats.iter().map(|f| f["format"].as_str().unwrap()).collect();
    assert_eq!(names, ["F16", "Q8_0", "Q4_K_M"]);
    assert_eq!(report["base"], "F16");

    let f16 = &formats[0]["figures"][0];
    let close = |got: &Value, want: &Value, within: f64| {
        let (got, want) = (got.as_f64().unwrap(), want.as_f64().unwrap());
        assert!((got / want - 1.0).abs() < within, "{got} against {want}");
    };
    close(&f16["perplexity"]["value"], &want["ppl"], 3e-3);
    close(&f16["perplexity"]["error"], &want["error"], 1e-2);
    assert!(f16["against_base"].is_null());
    assert_eq!(f16["protocol"], "llama.cpp");
    assert_eq!(f16["targets"], 92 * 127);

    let number = |f: &Value, key: &str| f[key].as_f64().unwrap();
    let kl = |f: &Value| f["figures"][0]["against_base"]["kl"]["mean"]["value"].as_f64().unwrap();
    let (q8, q4) = (&formats[1], &formats[2]);
    assert!(0.0 < kl(q8) && kl(q8) < 1e-3 && kl(q8) < kl(q4) && kl(q4) < 0.1);
    assert!((number(&formats[0], "bits_per_weight") - 16.0).abs() < 0.3);
    assert!((number(q8, "bits_per_weight") - 8.5).abs() < 0.3);
    for format in formats {
        assert!(number(format, "tokens_per_second") > 0.0);
        assert!(number(format, "load_seconds") < 10.0);
    }
    let file = std::fs::metadata(s.oracle.join(DRAFT)).unwrap().len();
    assert_eq!(formats[0]["bytes"], file);
    if cfg!(target_os = "linux") {
        for format in formats {
            let peak = number(format, "peak_bytes");
            assert!(peak > 1e6 && peak < 200e6, "{peak}");
        }
    }
}

#[test]
fn a_folder_gives_the_figures_of_its_gguf_file() {
    let Some(s) = Setup::new() else { return };
    let more = ["--quants", "f16,q4_0", "--protocol", "window", "--context", "128"];
    let (file, folder) = (s.json(DRAFT, &more), s.json("bard-draft", &more));
    for i in 0..2 {
        for key in ["perplexity", "against_base", "targets", "tokenizer", "protocol"] {
            let of = |r: &Value| r["formats"][i]["figures"][0][key].clone();
            assert_eq!(of(&file), of(&folder), "{i}, {key}");
        }
    }
    assert_eq!(file["formats"][0]["figures"][0]["bos"], false);
}

#[test]
fn reports_are_written() {
    let Some(s) = Setup::new() else { return };
    for name in ["r.html", "r.md", "r.json"] {
        let report = s.path(name);
        let more = ["--quants", "q8_0", "--protocol", "stride", "--context", "64,96"];
        let report_path = report.to_str().unwrap();
        let out = s.run(
            DRAFT,
            &[&more[..], &["--threads", "1", "--exact", "--report", report_path]].concat(),
        );
        assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
        let (table, report) =
            (String::from_utf8(out.stdout).unwrap(), std::fs::read_to_string(&report).unwrap());
        for part in ["Q8_0", "stride 32", "stride 48", "1 thread, activations in f32"] {
            assert!(table.contains(part), "{part}: {table}");
        }
        match name {
            "r.html" => {
                assert!(report.contains("<svg") && report.contains("context 64, stride 32"))
            }
            "r.md" => assert!(report.contains("| Q8_0 |")),
            _ => {
                let json: Value = serde_json::from_str(&report).unwrap();
                assert_eq!(json["formats"][0]["figures"][1]["stride"], 48);
            }
        }
    }
}

/// Exit code 2 and one line for wrong usage, 1 and one line for what fails.
#[test]
fn errors_are_one_line_and_a_code() {
    let Some(s) = Setup::new() else { return };
    let usage: [(&[&str], &str); 11] = [
        (&["--tasks", "t.jsonl"], "--tasks is not available yet"),
        (&["--calibrate", "t.txt"], "--calibrate is not available yet"),
        (&["--quants", "gptq-4bit"], "gptq-4bit is not available yet"),
        (&["--quants", "f16,awq-4bit"], "awq-4bit is not available yet"),
        (&["--quants", "q9"], "unknown file type 'q9'"),
        (&["--quants", "f16,fp16"], "names F16 twice"),
        (&["--quants", ","], "names no format"),
        (&["--report", "r.pdf"], "must end in .html, .md or .json"),
        (&["--context", "2"], "too small"),
        (&["--context", "256,256"], "names 256 twice"),
        (&["--stride", "5"], "--stride belongs to"),
    ];
    for (more, message) in usage {
        let out = s.run(DRAFT, more);
        let said = String::from_utf8(out.stderr).unwrap();
        assert_eq!(out.status.code(), Some(2), "{more:?}: {said}");
        assert!(said.contains(message) && said.lines().count() == 1, "{more:?}: {said}");
        assert!(out.stdout.is_empty());
    }
    assert_eq!(s.run(DRAFT, &["--protocol", "other"]).status.code(), Some(2));

    let fails = |model: &str, more: &[&str], message: &str| {
        let out = s.run(model, more);
        let said = String::from_utf8(out.stderr).unwrap();
        assert_eq!(out.status.code(), Some(1), "{more:?}: {said}");
        assert!(said.contains(message) && said.lines().count() == 1, "{more:?}: {said}");
    };
    fails("no-such.gguf", &[], "no-such.gguf");
    fails("expected.json", &[], "expected.json");
    fails(DRAFT, &["--context", "100000"], "give a longer text");
    fails(DRAFT, &["--quants", "iq1_s"], "IQ1_S cannot be made");
    fails("gguf/bard-Q4_K_M.gguf", &["--quants", "q8_0"], "--allow-requantize");
    fails("minilm", &[], "encoder");
}

/// A quantized model is its own base.
#[test]
fn what_is_quantized_already_is_measured_as_it_is() {
    let Some(s) = Setup::new() else { return };
    let report = s.json("gguf/bard-IQ3_S.gguf", &["--quants", "iq3_s", "--context", "128"]);
    assert_eq!(report["base"], "IQ3_S");
    assert!(report["formats"][0]["figures"][0]["against_base"].is_null());

    let more = ["--quants", "q4_0", "--context", "128", "--allow-requantize"];
    let report = s.json("gguf/bard-Q8_0.gguf", &more);
    assert_eq!(report["base"], "Q8_0");
    assert!(report["formats"][0]["figures"][0]["against_base"]["ratio"]["error"].is_number());
}

/// Ctrl-C in the middle leaves neither files nor processes behind.
#[cfg(unix)]
#[test]
fn an_interrupt_leaves_nothing_behind() {
    use std::time::{Duration, Instant};

    let Some(s) = Setup::new() else { return };
    let text = s.oracle.join("wikitext-excerpt.txt");
    let model = s.oracle.join("gguf/bard-f16.gguf");
    let mut ppl = s.command(&model, &text, &["--quants", "q8_0"]).spawn().unwrap();
    let deadline = Instant::now() + Duration::from_secs(60);
    let at_work = || {
        let folders = std::fs::read_dir(s.path("tmp")).unwrap().flatten();
        folders.into_iter().any(|f| f.path().join("job.json").exists())
    };
    while !at_work() {
        assert!(Instant::now() < deadline, "it never began");
        std::thread::sleep(Duration::from_millis(5));
    }
    std::thread::sleep(Duration::from_millis(100));
    let pid = ppl.id().to_string();
    let children = Command::new("pgrep").args(["-P", &pid]).output();
    assert!(Command::new("kill").args(["-INT", &pid]).status().unwrap().success());
    assert_eq!(ppl.wait().unwrap().code(), Some(130));
    s.assert_clean();
    // The process that measured is gone as well (where pgrep is there to name it).
    for child in children.iter().flat_map(|o| std::str::from_utf8(&o.stdout).unwrap().lines()) {
        let gone = || !Command::new("kill").args(["-0", child]).output().unwrap().status.success();
        assert!(gone(), "process {child} is still there");
    }
}
