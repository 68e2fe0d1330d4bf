//! A server that is a process: what becomes of it when it is told to end, when its model's file is cut
//! off under it, and that it does not mind what the date is.
#![cfg(unix)]

mod common;

use std::io::{BufRead as _, BufReader};
use std::net::SocketAddr;
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use common::{Answer, Client, bard, engine_of, local, models};
use engine::EngineConfig;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::json;
use serve::http::{HttpConfig, serve, termination};

const MODEL: &str = "SERVED_MODEL";
const SAYS: &str = "listens at ";

/// No test of its own: the server that the others start.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn server() {
    let Some(model) = std::env::var_os(MODEL) else { return };
    let end = termination().unwrap();
    let models = models(&engine_of(Path::new(&model), EngineConfig::default()));
    let bound = |address| println!("{SAYS}{address}");
    serve(local(HttpConfig::default()), models, bound, end).await.unwrap();
}

struct Process {
    child: Child,
    client: Client,
}

impl Process {
    fn start(model: &Path) -> Self {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "server", "--nocapture"])
            .env(MODEL, model)
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let address = lines.find_map(|line| {
            let line = line.unwrap();
            line.split_once(SAYS).map(|(_, address)| address.parse::<SocketAddr>().unwrap())
        });
        // What it says later goes nowhere, and must go somewhere.
        std::thread::spawn(move || lines.for_each(drop));
        Self { child, client: Client(address.expect("it says where it listens")) }
    }

    fn ends(mut self) -> ExitStatus {
        let began = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
            assert!(began.elapsed() < Duration::from_secs(20), "it does not end");
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // After a failed assertion it would go on for ever.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn stream(tokens: usize) -> serde_json::Value {
    json!({"model": "bard", "prompt": "ROMEO:", "max_tokens": tokens, "ignore_eos": true,
        "temperature": 0, "stream": true})
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn told_to_end_it_drains_and_ends_with_success() {
    let process = Process::start(&bard());
    let client = process.client;
    let want = client.post("/v1/completions", &stream(240)).await.streamed();
    assert_eq!(client.get("/readyz").await.status, 200);
    let mut running = Vec::new();
    for _ in 0..6 {
        running.push(client.begun("/v1/completions", &stream(240)).await);
    }
    kill_process(Pid::from_child(&process.child), Signal::TERM).unwrap();
    let began = Instant::now();
    while client.get("/readyz").await.status != 503 {
        assert!(began.elapsed() < Duration::from_secs(1), "it does not hear");
    }
    let refused = client.post("/v1/completions", &stream(1)).await;
    assert_eq!(refused.error(503)["code"], "unavailable");
    assert!(refused.header("retry-after").is_some());
    for stream in running {
        assert_eq!(Answer::on(stream).await.streamed(), want);
    }
    assert_eq!(process.ends().code(), Some(0));
}

/// Weights are read where the file lies. A file that is shortened in place ends the process by a signal
/// that a supervisor sees (`files::MappedFile` says so): nobody gets a wrong answer, and nobody waits.
#[cfg(target_os = "linux")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_that_is_cut_off_ends_the_process() {
    use tokio::io::AsyncReadExt as _;

    let folder = tempfile::tempdir().unwrap();
    let model: PathBuf = folder.path().join("model.gguf");
    std::fs::copy(bard(), &model).unwrap();
    let process = Process::start(&model);
    process.client.post("/v1/completions", &stream(2)).await.chunks();
    std::fs::File::options().write(true).open(&model).unwrap().set_len(4096).unwrap();
    let mut stream = process.client.begin("/v1/completions", &stream(200)).await;
    let mut answer = Vec::new();
    let ended = stream.read_to_end(&mut answer);
    let _ = tokio::time::timeout(Duration::from_secs(20), ended).await.expect("an end");
    assert!(!String::from_utf8_lossy(&answer).contains("[DONE]"));
    assert_eq!(process.ends().signal(), Some(Signal::BUS.as_raw()));
    // And what is too short from the beginning is not served.
    assert!(model::Model::open(&model).is_err());
}

/// A date that jumps ends nothing: what limits times asks the monotonic clock, and the date is asked
/// for where answers tell it.
#[test]
fn the_date_is_only_told() {
    let root = testkit::workspace();
    // When a model was loaded, when an answer was made, when a span began.
    let told = ["engine/src/lib.rs", "serve/src/http/app.rs", "serve/src/otel.rs"];
    let mut folders: Vec<PathBuf> = ["serve", "engine", "scheduler", "paged-kv"]
        .map(|name| root.join("crates").join(name).join("src"))
        .into();
    let mut read = 0;
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|e| e == "rs") {
                let asks = std::fs::read_to_string(&path).unwrap().contains("SystemTime");
                assert!(!asks || told.iter().any(|t| path.ends_with(t)), "{}", path.display());
                read += usize::from(asks);
            }
        }
    }
    assert!(read >= 2, "the date is not asked for at all");
}
