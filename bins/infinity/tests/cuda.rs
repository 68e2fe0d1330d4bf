//! The program on a GPU: where `cuda:0` can be used, which is a build with `tensor/cuda` and an NVIDIA GPU, or with
//! `tensor/cuda-emulator` and `INFINITY_EMULATE_CUDA` set. With `REQUIRE_GPU` set its absence is a failure.

use std::process::{Command, Stdio};

use serde_json::Value;

/// Standard output and error of a run that succeeds.
fn infinity(args: &[&str]) -> [String; 2] {
    let program = env!("CARGO_BIN_EXE_infinity");
    let out = Command::new(program).args(args).stdin(Stdio::null()).output().unwrap();
    let [stdout, stderr] = [out.stdout, out.stderr].map(|s| String::from_utf8(s).unwrap());
    assert!(out.status.success(), "{args:?}: {stderr}");
    [stdout, stderr]
}

fn gpu() -> bool {
    let devices: Value = serde_json::from_str(&infinity(&["devices", "--json"])[0]).unwrap();
    match &devices["no_gpu"] {
        Value::Null => true,
        why => {
            testkit::skip_without_gpu(why);
            false
        }
    }
}

/// Where there is no driver each command says so: one line, exit code 1.
#[test]
fn what_is_missing_is_said_in_a_line() {
    let program = |args: &[&str]| {
        let mut program = Command::new(env!("CARGO_BIN_EXE_infinity"));
        program
            .args(args)
            .stdin(Stdio::null())
            .env_remove("INFINITY_EMULATE_CUDA")
            .output()
            .unwrap()
    };
    let report = program(&["devices", "--json"]);
    let devices: Value = serde_json::from_slice(&report.stdout).unwrap();
    let Some(missing) = devices["no_gpu"].as_str() else {
        println!("skipped: there is a GPU");
        return;
    };
    // Only a build with the feature can have an emulator.
    if std::env::var_os("INFINITY_EMULATE_CUDA").is_some() && gpu() {
        assert!(missing.contains("NVIDIA driver"), "{missing}");
    }
    let model = testkit::workspace().join("assets/bard-draft-f16.gguf");
    let model = model.to_str().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let [ids, out] = ["ids.json", "out.safetensors"].map(|name| folder.path().join(name));
    std::fs::write(&ids, "[1, 2]").unwrap();
    let [ids, out] = [&ids, &out].map(|path| path.to_str().unwrap());
    let file = folder.path().join("model.gguf");
    let commands: [&[&str]; 6] = [
        &["generate", model, "-p", "The king"],
        &["chat", model],
        &["bench", model],
        &["serve", model, "--port", "0"],
        &["logits", model, "--tokens", ids, "--out", out],
        &["quantize", model, file.to_str().unwrap(), "Q4_0"],
    ];
    for command in commands {
        for (device, why) in
            [("cuda:0", missing.to_owned()), ("cuda:7", missing.replace("cuda:0", "cuda:7"))]
        {
            let run = program(&[command, &["--device", device]].concat());
            let said = String::from_utf8(run.stderr).unwrap();
            assert_eq!(run.status.code(), Some(1), "{command:?}: {said}");
            assert_eq!(String::from_utf8(run.stdout).unwrap(), "", "{command:?}");
            // A server listens while its model is loaded, and says where.
            let mut errors = said.lines().filter(|line| !line.starts_with("listening on "));
            let one = errors.next().is_some_and(|line| line.contains(&why));
            assert!(one && errors.next().is_none(), "{command:?}: {said}");
        }
    }
}

/// The emulator's second GPU has little memory.
#[test]
fn too_little_memory_is_said_in_a_line() {
    if std::env::var_os("INFINITY_EMULATE_CUDA").is_none() || !gpu() {
        println!("skipped: no emulator");
        return;
    }
    let model = testkit::workspace().join("assets/bard-f16.gguf");
    let args = ["generate", model.to_str().unwrap(), "--device", "cuda:1", "-p", "The king"];
    let out = Command::new(env!("CARGO_BIN_EXE_infinity")).args(args).output().unwrap();
    let said = String::from_utf8(out.stderr).unwrap();
    assert_eq!(out.status.code(), Some(1), "{said}");
    assert!(said.lines().count() == 1 && said.contains("cuda:1: out of memory: "), "{said}");
    assert!(said.contains("bytes needed, 8388608 free"), "{said}");
}

/// Of a mixture, some of whose types only the processor makes.
#[test]
fn a_file_is_quantized_to_the_bytes_of_the_processor() {
    if !gpu() {
        return;
    }
    let model = testkit::workspace().join("assets/bard-draft-f16.gguf");
    let folder = tempfile::tempdir().unwrap();
    let made = |device: &str| {
        let out = folder.path().join(device.replace(':', "-"));
        let [model, to] = [&model, &out].map(|path| path.to_str().unwrap());
        let mut args = vec!["quantize", model, to, "Q4_K_M", "--device", device, "--profile"];
        args.extend(["--tensor-type", "attn_q=iq4_nl"]);
        args.extend(["--tensor-type", r"blk\.0\.ffn_down=iq4_xs"]);
        let [_, profile] = infinity(&args);
        (std::fs::read(&out).unwrap(), profile)
    };
    let ((by_processor, none), (by_gpu, profile)) = (made("cpu"), made("cuda:0"));
    assert!(by_processor == by_gpu);
    assert!(!none.contains("by kernel"), "{none}");
    let made = |kernel| launches(&profile, kernel);
    assert!(made("quantize_iq4_nl") > 0 && made("quantize_q5_0") > 0, "{profile}");
    assert!(made("quantize_q4_k") + made("quantize_q6_k") > 0, "{profile}");
}

/// How often the table of a profile says that a kernel was launched.
fn launches(profile: &str, kernel: &str) -> usize {
    let count = |line: &str| line.strip_prefix(kernel)?.split_whitespace().next()?.parse().ok();
    profile.lines().find_map(count).unwrap_or(0)
}

#[test]
fn a_profile_shows_kernels_and_changes_no_token() {
    if !gpu() {
        return;
    }
    let model = testkit::workspace().join("assets/bard-draft-f16.gguf");
    let mut args = vec!["generate", model.to_str().unwrap(), "--device", "cuda:0", "--json"];
    args.extend(["-p", "The king", "-n", "6", "--temperature", "0"]);
    // Of graphs, and of the same launches one by one.
    let [plain, quiet] = infinity(&args);
    assert!(!quiet.contains("kernel"), "{quiet}");
    args.push("--profile");
    let [profiled, table] = infinity(&args);
    let ids = |report: &str| serde_json::from_str::<Value>(report).unwrap()["ids"].clone();
    assert_eq!(ids(&plain), ids(&profiled));
    assert!(table.contains("cuda:0, by kernel:"), "{table}");
    assert!(table.contains("device busy") && table.contains("waiting between"), "{table}");
    // The prompt, then a step a token but for the last, all of the same layers.
    let turned = launches(&table, "turn_and_store_f16_4");
    assert!(turned >= 6 && turned.is_multiple_of(6), "{table}");
    assert_eq!(launches(&table, "graph replay"), 0, "{table}");
    assert!(launches(&table, "download") >= 6, "{table}");
    // Tokens are drawn there, but for those whose chain only the host has.
    assert_eq!(launches(&table, "sample"), 6, "{table}");
    args.extend(["--repetition-penalty", "1.2"]);
    let [_, table] = infinity(&args);
    assert_eq!(launches(&table, "sample"), 0, "{table}");

    let mut args = vec!["bench", model.to_str().unwrap(), "--device", "cuda:0", "--profile"];
    args.extend(["--prefill", "40", "--depth", "none", "--batch", "3", "-n", "4"]);
    args.extend(["--repetitions", "1"]);
    let [_, table] = infinity(&args);
    assert!(launches(&table, "attention_prefill_f16_64") > 0, "{table}");
    assert!(launches(&table, "attention_decode_f16_64") > 0, "{table}");
}

#[test]
fn a_random_model_is_measured_against_its_floor() {
    if !gpu() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    for weights in ["BF16", "Q4_K"] {
        let csv = folder.path().join(format!("{weights}.csv"));
        let roofline = folder.path().join(format!("{weights}.svg"));
        let mut args = vec!["bench", "--random", "llama-3-8b/16", "--device", "cuda:0"];
        args.extend(["--weights", weights, "--repetitions", "1", "-n", "1"]);
        args.extend(["--prefill", "33", "--depth", "none", "--batch", "2", "--batch-depth", "3"]);
        args.extend(["--csv", csv.to_str().unwrap(), "--roofline", roofline.to_str().unwrap()]);
        let [table, _] = infinity(&args);
        assert!(table.contains("tensor cores (bf16)") && table.contains("cuda:0"), "{table}");
        let csv = std::fs::read_to_string(csv).unwrap();
        for line in ["prefill 33,", "decode 2 at depth 3,"] {
            let line = csv.lines().find(|l| l.contains(line)).unwrap_or_else(|| panic!("{csv}"));
            let of_floor: f64 = line.split(',').nth(4).unwrap().parse().unwrap();
            assert!(of_floor > 0.0 && of_floor < 1.0, "{line}");
        }
        assert!(std::fs::read_to_string(roofline).unwrap().contains("decode 2 at depth 3"));
    }
}
