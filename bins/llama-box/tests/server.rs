//! The real server behind the real nginx.

mod common;

use std::path::Path;
use std::process::Command;
use std::thread;
use std::time::Duration;

use common::{Got, Running, complete, has_nginx, under_load, whole_and_begun};
use rustix::process::{Signal, kill_process};

/// `infinity` where `llama-box` looks for it: beside itself. Building all tests of the workspace builds it.
fn has_infinity() -> bool {
    let beside = Path::new(env!("CARGO_BIN_EXE_llama-box")).with_file_name("infinity");
    let serves = Command::new(&beside).args(["serve", "--help"]).output();
    let found = serves.is_ok_and(|out| out.status.success());
    if !found {
        assert!(std::env::var_os("CI").is_none(), "infinity must have been built in CI");
        println!("skipped: cargo build -p infinity-cli builds the server");
    }
    found
}

/// The text of a stream of completions.
fn text(got: &Got) -> Option<String> {
    let Got::Whole(stream) = got else { return None };
    let chunks = stream.lines().filter_map(|line| line.strip_prefix("data: {"));
    let texts = chunks.filter_map(|chunk| {
        let chunk: serde_json::Value = serde_json::from_str(&format!("{{{chunk}")).ok()?;
        Some(chunk["choices"][0]["text"].as_str()?.to_owned())
    });
    Some(texts.collect())
}

#[test]
fn a_killed_server_loses_nothing_that_had_not_begun() {
    if !has_nginx() || !has_infinity() {
        return;
    }
    let infinity = Path::new(env!("CARGO_BIN_EXE_llama-box")).with_file_name("infinity");
    let model = testkit::workspace().join("assets/bard-f16.gguf");
    let running =
        Running::start(&infinity, &["--model", model.to_str().unwrap(), "--threads", "1"]);
    let port = running.port;
    let body = "{\"model\": \"bard-f16\", \"prompt\": \"Once more unto the breach\", \"max_tokens\": 24, \
                \"temperature\": 0, \"ignore_eos\": true, \"stream\": true}";
    let alone = text(&complete(port, body)).expect("an answer");
    let got = under_load(port, 8, body, || {
        thread::sleep(Duration::from_secs(1));
        kill_process(running.process("instance 1"), Signal::KILL).unwrap();
        running.wait_for("llama-box: instance 1 is ready", 2);
        thread::sleep(Duration::from_secs(1));
    });
    let (whole, begun) = whole_and_begun(&got);
    assert!(whole >= 8 && begun <= 8, "{whole} whole, {begun} begun");
    // Whoever answered, and whomever else they answered.
    assert!(got.iter().filter_map(text).all(|t| t == alone), "{alone}");

    let last = thread::spawn(move || complete(port, body));
    thread::sleep(Duration::from_millis(100));
    running.signal(Signal::TERM);
    assert_eq!(text(&last.join().unwrap()), Some(alone));
    assert!(running.wait().success());
}
