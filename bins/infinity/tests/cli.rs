//! The program as a user runs it: on the embedded model's files and on the reference folders.

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use serde_json::{Value, json};

fn infinity(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_infinity")).args(args).stdin(Stdio::null()).output().unwrap()
}

fn succeed(args: &[&str]) -> String {
    let out = infinity(args);
    assert!(out.status.success(), "{args:?}: {}", String::from_utf8_lossy(&out.stderr));
    String::from_utf8(out.stdout).unwrap()
}

/// Fails with this exit code and one line on standard error that holds `part`.
fn fail(args: &[&str], part: &str) {
    let out = infinity(args);
    let stderr = String::from_utf8(out.stderr).unwrap();
    assert_eq!(out.status.code(), Some(1), "{args:?}: {stderr}");
    assert_eq!(stderr.trim_end().lines().count(), 1, "{args:?}: {stderr}");
    assert!(stderr.contains(part), "{args:?}: {stderr}");
}

fn bard() -> PathBuf {
    testkit::workspace().join("assets/bard-f16.gguf")
}

fn text(p: &Path) -> &str {
    p.to_str().unwrap()
}

#[test]
fn greedy_text_is_the_same_each_time_and_seeds_decide_the_rest() {
    let model = bard();
    let run = |more: &[&str]| -> Value {
        let mut args = vec!["generate", text(&model), "--prompt", "The king", "-n", "24", "--json"];
        args.extend(more);
        serde_json::from_str(&succeed(&args)).unwrap()
    };
    let greedy = run(&["--temperature", "0"]);
    assert_eq!(greedy["ids"], run(&["--temperature", "0", "--threads", "1"])["ids"]);
    assert_eq!(run(&["--seed", "5"])["ids"], run(&["--seed", "5"])["ids"]);
    let seeds: Vec<Value> =
        (0..6).map(|s| run(&["--seed", &s.to_string()])["ids"].clone()).collect();
    assert!(seeds.iter().any(|ids| *ids != seeds[0]), "six seeds, one text");
    assert_eq!(greedy["finish_reason"], "length");
}

#[test]
fn repacked_weights_are_kept_shown_and_removed() {
    let folder = tempfile::tempdir().unwrap();
    let (small, cache) = (folder.path().join("q8.gguf"), folder.path().join("kept"));
    succeed(&["quantize", text(&bard()), text(&small), "Q8_0"]);
    let run = |more: &[&str]| {
        let mut args = vec!["generate", text(&small), "-p", "The king", "-n", "8", "--json"];
        args.extend(["--temperature", "0"]);
        args.extend(more);
        let out = infinity(&args);
        let stderr = String::from_utf8(out.stderr).unwrap();
        assert!(out.status.success(), "{stderr}");
        let report: Value = serde_json::from_slice(&out.stdout).unwrap();
        (report["ids"].clone(), stderr)
    };
    let keep = format!("--repack-cache={}", text(&cache));
    let (want, quiet) = run(&["--repack", "never"]);
    assert_eq!(quiet, "");
    for _ in 0..2 {
        assert_eq!(run(&[&keep]), (want.clone(), String::new()));
    }
    let (ids, said) = run(&[&keep, "--warm-up"]);
    assert!(ids == want && said.starts_with("[warmed up") && said.lines().count() == 1, "{said}");
    let show = |more: &[&str]| -> Value {
        let args = [&["cache", text(&cache), "--json"], more].concat();
        serde_json::from_str(&succeed(&args)).unwrap()
    };
    let shown = show(&[]);
    assert_eq!(shown["files"].as_array().unwrap().len(), 1);
    assert!(shown["bytes"].as_u64().unwrap() > 1_000_000, "{shown}");
    assert_eq!(show(&["--clear"])["bytes_removed"], shown["bytes"]);
    assert_eq!(show(&[])["bytes"], 0);
    // A place that cannot be written to costs a warning, not the answer.
    let blocked = format!("--repack-cache={}/x", text(&small));
    let (ids, said) = run(&[&blocked]);
    assert!(ids == want && said.contains("not kept in a file"), "{said}");
    fail(&["generate", text(&small), "-p", "x", "--repack", "never", &keep], "--repack-cache");
}

#[test]
fn a_profile_tells_where_the_time_went() {
    let folder = tempfile::tempdir().unwrap();
    let (model, small, file) =
        (bard(), folder.path().join("q8.gguf"), folder.path().join("trace.json"));
    succeed(&["quantize", text(&model), text(&small), "Q8_0"]);
    let args =
        ["generate", text(&small), "-p", "The king", "-n", "4", "--temperature", "0", "--json"];
    let plain = infinity(&args);
    let table = infinity(&[&args[..], &["--profile"]].concat());
    let text_of = |out: &Output| -> Value {
        serde_json::from_slice::<Value>(&out.stdout).unwrap()["text"].clone()
    };
    assert_eq!(text_of(&table), text_of(&plain));
    assert!(plain.stderr.is_empty());
    let lines = String::from_utf8(table.stderr).unwrap();
    let calls = |name: &str| -> usize {
        let mut decode = lines.lines().skip_while(|l| !l.starts_with("decode"));
        let line = decode.find(|l| l.starts_with(name)).unwrap_or_else(|| panic!("{lines}"));
        line[name.len()..].split_whitespace().next().unwrap().parse().unwrap()
    };
    // Four tokens are chosen, and three of them are fed again through six layers of seven products,
    // of which those with the same activations are one.
    assert_eq!((calls("decode"), calls("  sampling"), calls("  attention")), (4, 4, 18));
    assert_eq!((calls("  linear Q8_0"), calls("    quantize activations int8")), (72, 72));

    succeed(&[&args[..], &[&format!("--profile={}", text(&file))]].concat());
    let events: Vec<Value> = serde_json::from_slice(&std::fs::read(&file).unwrap()).unwrap();
    let attention: Vec<&Value> = events.iter().filter(|e| e["name"] == "attention").collect();
    assert_eq!(attention.len(), 24);
    assert!(attention.iter().all(|e| e["ph"] == "X" && e["dur"].as_f64().unwrap() > 0.0));
}

#[test]
fn tokens_go_there_and_back() {
    let folder = tempfile::tempdir().unwrap();
    let (model, file) = (bard(), folder.path().join("text.txt"));
    let words = "naïve café — “quotes” 日本語 🙂\n\tTo be";
    std::fs::write(&file, words).unwrap();
    let ids = succeed(&["tokenize", text(&model), "--file", text(&file), "--json"]);
    let ids_file = folder.path().join("ids.json");
    std::fs::write(&ids_file, &ids).unwrap();
    assert_eq!(succeed(&["detokenize", text(&model), "--tokens", text(&ids_file)]), words);
}

#[test]
fn logits_of_a_folder_without_a_tokenizer_are_those_of_transformers() {
    let Some(arch) = testkit::shared("oracle/arch") else { return };
    let folder = tempfile::tempdir().unwrap();
    for name in ["llama", "gpt2", "bert"] {
        let golden = std::fs::read(arch.join(name).join("golden.safetensors")).unwrap();
        let golden = safetensors::SafeTensors::deserialize(&golden).unwrap();
        let ids = golden.tensor("input_ids").unwrap();
        let ids: Vec<i64> =
            ids.data().chunks(8).map(|b| i64::from_le_bytes(b.try_into().unwrap())).collect();
        let (tokens, out) = (folder.path().join("ids.json"), folder.path().join("out.safetensors"));
        std::fs::write(&tokens, json!(ids).to_string()).unwrap();
        succeed(&[
            "logits",
            text(&arch.join(name)),
            "--tokens",
            text(&tokens),
            "--out",
            text(&out),
        ]);
        let what = if name == "bert" { "last_hidden_state" } else { "logits" };
        let made = std::fs::read(&out).unwrap();
        let made = safetensors::SafeTensors::deserialize(&made).unwrap();
        let (made, want) = (made.tensor(what).unwrap(), golden.tensor(what).unwrap());
        assert_eq!(made.shape(), &want.shape()[1..], "{name}");
        let f32s = |b: &[u8]| -> Vec<f32> {
            b.chunks(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect()
        };
        let worst = f32s(made.data())
            .iter()
            .zip(f32s(want.data()))
            .fold(0f32, |m, (a, b)| m.max((a - b).abs()));
        assert!(worst < 1e-4, "{name}: {worst}");
    }
}

#[test]
fn activations_are_rounded_as_asked() {
    let folder = tempfile::tempdir().unwrap();
    let (tokens, out) = (folder.path().join("ids.json"), folder.path().join("out.safetensors"));
    std::fs::write(&tokens, "[1, 300, 17, 42, 5, 6, 7, 1000]").unwrap();
    let logits = |model: &Path, more: &[&str]| -> Vec<f32> {
        let args = ["logits", text(model), "--tokens", text(&tokens), "--out", text(&out)];
        succeed(&[&args[..], more].concat());
        let made = std::fs::read(&out).unwrap();
        let made = safetensors::SafeTensors::deserialize(&made).unwrap();
        let bytes = made.tensor("logits").unwrap().data().to_vec();
        bytes.chunks(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect()
    };
    let apart = |a: &[f32], b: &[f32]| {
        let squares = |x: &mut dyn Iterator<Item = f32>| x.map(|x| x * x).sum::<f32>();
        (squares(&mut a.iter().zip(b).map(|(a, b)| a - b)) / squares(&mut a.iter().copied())).sqrt()
    };
    // F16 weights take activations as they are unless bf16 is asked for.
    let exact = logits(&bard(), &["--exact"]);
    assert_eq!(exact, logits(&bard(), &["--activations", "f32"]));
    assert_eq!(exact, logits(&bard(), &[]));
    let rounded = apart(&exact, &logits(&bard(), &["--activations", "bf16"]));
    assert!((1e-4..3e-2).contains(&rounded), "{rounded}");
    // Quantized weights meet activations in int8, and bf16 changes nothing about that.
    let small = folder.path().join("q8.gguf");
    succeed(&["quantize", text(&bard()), text(&small), "Q8_0"]);
    let int8 = logits(&small, &[]);
    assert_eq!(int8, logits(&small, &["--activations", "bf16"]));
    let rounded = apart(&logits(&small, &["--exact"]), &int8);
    assert!((1e-4..3e-2).contains(&rounded), "{rounded}");
    let both = infinity(&["generate", text(&small), "--exact", "--activations", "bf16"]);
    assert_eq!(both.status.code(), Some(2));
}

#[test]
fn a_model_is_quantized_and_runs() {
    let folder = tempfile::tempdir().unwrap();
    let (model, out) = (bard(), folder.path().join("q4.gguf"));
    let dry = succeed(&["quantize", text(&model), text(&out), "Q4_K_M", "--dry-run"]);
    assert!(dry.contains("token_embd.weight") && !out.exists(), "{dry}");
    succeed(&["quantize", text(&model), text(&out), "q4_k_m"]);
    let before = std::fs::metadata(&model).unwrap().len();
    let after = std::fs::metadata(&out).unwrap().len();
    assert!(after * 3 < before, "{before} -> {after}");
    let told =
        succeed(&["generate", text(&out), "--prompt", "ROMEO:", "-n", "8", "--temperature", "0"]);
    assert!(!told.trim().is_empty());
    // Onto itself would destroy the input.
    fail(&["quantize", text(&out), text(&out), "Q8_0"], "same file");
}

#[test]
fn a_folder_becomes_gguf_and_a_folder_again() {
    let Some(folder) = testkit::shared("oracle/bard-draft") else { return };
    let dir = tempfile::tempdir().unwrap();
    let (gguf, back) = (dir.path().join("draft.gguf"), dir.path().join("draft"));
    succeed(&["convert", text(&folder), text(&gguf)]);
    succeed(&["convert", text(&gguf), text(&back)]);
    let run = |model: &Path| -> Value {
        let args = [
            "generate",
            text(model),
            "--prompt",
            "The king",
            "-n",
            "16",
            "--temperature",
            "0",
            "--json",
        ];
        serde_json::from_str(&succeed(&args)).unwrap()
    };
    let (a, b, c) = (run(&folder), run(&gguf), run(&back));
    assert_eq!(a["ids"], b["ids"]);
    assert_eq!(a["ids"], c["ids"]);
}

#[test]
fn a_chat_request_becomes_a_prompt() {
    let Some(templates) = testkit::shared("data/templates") else { return };
    let dir = tempfile::tempdir().unwrap();
    let request = dir.path().join("request.json");
    let body =
        json!({ "messages": [{ "role": "user", "content": "Hi" }], "add_generation_prompt": true });
    std::fs::write(&request, body.to_string()).unwrap();
    let jinja = templates.join("Qwen-Qwen2.5-7B-Instruct.jinja");
    let prompt = succeed(&["template", text(&jinja), "--request", text(&request)]);
    assert!(
        prompt.ends_with("<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"),
        "{prompt}"
    );
}

#[test]
fn benches_report_the_fraction_of_the_floor() {
    let model = bard();
    let folder = tempfile::tempdir().unwrap();
    let roofline = folder.path().join("roofline.svg");
    let sizes = ["--prefill", "32,1025", "--depth", "0,16", "--batch", "2", "--decode", "4"];
    let mut args = vec!["bench", text(&model), "--repetitions", "2", "--json"];
    args.extend(sizes);
    args.extend(["--roofline", text(&roofline)]);
    let report: Value = serde_json::from_str(&succeed(&args)).unwrap();
    let figures = report["figures"].as_array().unwrap();
    let names: Vec<&str> = figures.iter().map(|f| f["what"].as_str().unwrap()).collect();
    let expected =
        ["prefill 32", "decode at depth 0", "decode at depth 16", "decode 2 at depth 16"];
    assert_eq!(names, expected);
    for figure in figures {
        let fraction = figure["fraction_of_floor"].as_f64().unwrap();
        assert!(fraction > 0.0 && fraction < 3.0, "{figure}");
        let of = |key: &str| figure[key].as_f64().unwrap();
        assert!(of("min") <= of("median") && of("median") <= of("max"), "{figure}");
    }
    // bard was made for 1024 positions.
    assert_eq!(report["skipped"][0]["what"], "prefill 1025");
    let picture = std::fs::read_to_string(&roofline).unwrap();
    assert_eq!(picture.matches("<circle").count(), 4);
    assert!(picture.contains("f32 FMA") && picture.contains("GB/s"));
}

#[test]
fn the_cache_and_attention_are_compared_in_processes_of_their_own() {
    let model = bard();
    let folder = tempfile::tempdir().unwrap();
    let plot = folder.path().join("compared.svg");
    let report = succeed(&[
        "bench",
        text(&model),
        "--kv-cache",
        "on,off",
        "--attention",
        "naive,tiled",
        "--lengths",
        "64,2000",
        "--decode",
        "4",
        "--repetitions",
        "1",
        "--plot",
        text(&plot),
        "--json",
    ]);
    let report: Value = serde_json::from_str(&report).unwrap();
    let measured = report["measured"].as_array().unwrap();
    assert_eq!((measured.len(), &report["left_out"]), (4, &json!([2000])));
    for m in measured {
        assert!(m["seconds_per_token"].as_f64().unwrap() > 0.0, "{m}");
    }
    assert!(measured.iter().any(|m| m["kv_cache"] == "off" && m["attention"] == "naive"));
    let picture = std::fs::read_to_string(&plot).unwrap();
    assert!(picture.contains("cache on, tiled attention"));
}

#[test]
fn ceilings_name_the_processor_and_every_rate() {
    let report = succeed(&["ceilings", "--threads", "1", "--time", "5", "--json"]);
    let report: Value = serde_json::from_str(&report).unwrap();
    assert!(!report["processor"].as_str().unwrap().is_empty());
    assert_eq!(report["rates"][0]["unit"], "f32 FMA");
    let reading = report["reading"].as_array().unwrap();
    assert_eq!(reading.last().unwrap()["from"], "memory");
    for r in reading {
        assert!(r["bytes_per_second"].as_f64().unwrap() > 1e8, "{r}");
    }
}

#[test]
fn mistakes_are_told_in_one_line() {
    let dir = tempfile::tempdir().unwrap();
    let junk = dir.path().join("junk.gguf");
    std::fs::write(&junk, b"GGUFjunk").unwrap();
    let empty = dir.path().join("empty");
    std::fs::create_dir(&empty).unwrap();
    let odd = dir.path().join("odd");
    std::fs::create_dir(&odd).unwrap();
    std::fs::write(
        odd.join("config.json"),
        r#"{"model_type":"perceiver","architectures":["Perceiver"]}"#,
    )
    .unwrap();
    let model = bard();
    fail(&["generate", "nowhere.gguf", "--prompt", "x"], "nowhere.gguf");
    fail(&["generate", "org/never-pulled", "--prompt", "x"], "infinity pull");
    fail(&["generate", text(&junk), "--prompt", "x"], "junk.gguf");
    fail(&["generate", text(&empty), "--prompt", "x"], "config.json");
    fail(&["generate", text(&odd), "--prompt", "x"], "Perceiver");
    fail(&["generate", text(&model), "--prompt", "x", "--temperature", "NaN"], "temperature");
    fail(&["generate", text(&model), "--prompt", "x", "--device", "cuda:0"], "cuda:0");
    fail(&["generate", text(&model), "--prompt", "x", "--threads", "0"], "--threads");
    fail(&["generate", text(&model), "--prompt", "x", "--kv-type", "q4_k"], "Q4_K");
    fail(&["bench", text(&model), "--decode", "0"], "--decode");
    fail(&["bench", text(&model), "--kv-cache", "on", "--lengths", "none"], "--lengths");
    fail(&["ceilings", "--threads", "0"], "--threads");
    fail(&["chat", text(&model)], "chat template");
    fail(&["quantize", text(&model), text(&dir.path().join("o.gguf")), "Q9_Z"], "Q9_Z");
    let usage = infinity(&["generate"]);
    assert_eq!(usage.status.code(), Some(2));
}
