//! Perplexity on a GPU against the processor's: where `cuda:0` can be used, which is a build with `tensor/cuda` and an NVIDIA
//! GPU, or with `tensor/cuda-emulator` and `INFINITY_EMULATE_CUDA` set. With `REQUIRE_GPU` set its absence is a failure.

use std::path::Path;
use std::process::Command;

use serde_json::Value;
use tensor::Device;

/// Of the perplexity: what 16-bit arithmetic may cost.
const TOLERANCE: f64 = 5e-3;

/// The perplexity of bard, and the machine.
fn measured(text: &Path, more: &[&str]) -> (f64, String) {
    let model = testkit::workspace().join("assets/bard-f16.gguf");
    let mut ppl = Command::new(env!("CARGO_BIN_EXE_ppl"));
    ppl.arg("--model").arg(model).arg("--text").arg(text).args(more);
    let out = ppl.args(["--quants", "f16", "--context", "64", "--json"]).output().unwrap();
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    let report: Value = serde_json::from_slice(&out.stdout).unwrap();
    let figure = &report["formats"][0]["figures"][0];
    let machine = report["machine"].as_str().unwrap().to_owned();
    (figure["perplexity"]["value"].as_f64().unwrap(), machine)
}

#[test]
fn perplexity_is_the_processors_within_half_a_percent() {
    if let Err(why) = Device::Cuda(0).available() {
        return testkit::skip_without_gpu(why);
    }
    let text = testkit::workspace().join("assets/shakespeare-heldout.txt");
    let short = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(short.path(), &std::fs::read(text).unwrap()[..700]).unwrap();
    let (want, _) = measured(short.path(), &["--exact"]);
    let (got, machine) = measured(short.path(), &["--device", "cuda:0"]);
    assert!(!machine.contains("thread"), "{machine}");
    println!("{got} on {machine}, {want} here");
    assert!((got / want - 1.0).abs() <= TOLERANCE, "{got}, not {want}");
}
