//! `infinity pull` against a small hub on loopback: whole, resumed, refused.

use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Command, Output};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

/// A hub with one model; its weight file breaks off once in the middle.
struct Hub {
    endpoint: String,
    ranges: Arc<Mutex<Vec<String>>>,
}

fn weights() -> Vec<u8> {
    (0..200_000u32).flat_map(|i| i.to_le_bytes()).collect()
}

fn hub(breaks: usize) -> Hub {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    let ranges = Arc::new(Mutex::new(Vec::new()));
    let (seen, left) = (ranges.clone(), Arc::new(AtomicUsize::new(breaks)));
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let (seen, left) = (seen.clone(), left.clone());
            std::thread::spawn(move || serve(&stream, &seen, &left));
        }
    });
    Hub { endpoint, ranges }
}

fn serve(mut stream: &TcpStream, seen: &Mutex<Vec<String>>, breaks: &AtomicUsize) {
    let mut lines = BufReader::new(stream).lines();
    while let Some(Ok(request)) = lines.next() {
        let path = request.split(' ').nth(1).unwrap_or("").to_owned();
        let mut range = None;
        for line in lines.by_ref() {
            let Ok(line) = line else { return };
            if line.is_empty() {
                break;
            }
            if let Some(r) = line.to_ascii_lowercase().strip_prefix("range: bytes=") {
                range = Some(r.to_owned());
            }
        }
        let body = match path.as_str() {
            "/api/models/org/tiny/revision/main" => format!(
                r#"{{"sha":"{COMMIT}","siblings":[{{"rfilename":"config.json"}},{{"rfilename":"model.safetensors"}},{{"rfilename":"README.md"}}]}}"#
            )
            .into_bytes(),
            "/org/tiny/resolve/main/config.json" => b"{\"model_type\":\"llama\"}".to_vec(),
            "/org/tiny/resolve/main/model.safetensors" => weights(),
            _ => {
                let _ = stream.write_all(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n");
                continue;
            }
        };
        let Some(range) = range else {
            let head = format!(
                "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n",
                body.len()
            );
            let _ = stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(&body));
            continue;
        };
        let (start, end) = range.split_once('-').unwrap();
        let start: usize = start.parse().unwrap();
        let end = end.parse().map_or(body.len(), |e: usize| (e + 1).min(body.len()));
        let head = format!(
            "HTTP/1.1 206 Partial Content\r\nETag: \"{:x}\"\r\nX-Repo-Commit: {COMMIT}\r\nContent-Range: bytes {start}-{}/{}\r\nContent-Length: {}\r\n\r\n",
            body.len(),
            end - 1,
            body.len(),
            end - start
        );
        let mut part = &body[start..end];
        if part.len() > 1000 {
            seen.lock().unwrap().push(range);
            if breaks.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |n| n.checked_sub(1)).is_ok()
            {
                part = &part[..part.len() / 2];
                let _ = stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(part));
                let _ = stream.shutdown(std::net::Shutdown::Both);
                return;
            }
        }
        let _ = stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(part));
    }
}

fn pull(hub: &Hub, home: &Path, model: &str) -> Output {
    Command::new(env!("CARGO_BIN_EXE_infinity"))
        .args(["pull", model, "--json"])
        .env("HF_ENDPOINT", &hub.endpoint)
        .env("HF_HOME", home)
        .env_remove("HF_TOKEN")
        .output()
        .unwrap()
}

#[test]
fn a_broken_download_goes_on_where_it_stopped() {
    let (hub, home) = (hub(1), tempfile::tempdir().unwrap());
    let out = pull(&hub, home.path(), "org/tiny");
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    let told: serde_json::Value = serde_json::from_slice(&out.stdout).unwrap();
    let folder = Path::new(told["folder"].as_str().unwrap());
    assert_eq!(std::fs::read(folder.join("model.safetensors")).unwrap(), weights());
    assert!(folder.join("config.json").exists() && !folder.join("README.md").exists());
    let ranges = hub.ranges.lock().unwrap();
    assert_eq!(ranges[0], "0-");
    assert_ne!(ranges[1], "0-", "the second request goes on");
}

#[test]
fn an_interrupted_pull_keeps_what_arrived_for_the_next() {
    let (hub, home) = (hub(0), tempfile::tempdir().unwrap());
    // What an earlier process left behind: the first bytes of the file under its etag.
    let blobs = home.path().join("hub/models--org--tiny/blobs");
    std::fs::create_dir_all(&blobs).unwrap();
    let whole = weights();
    std::fs::write(blobs.join(format!("{:x}.part", whole.len())), &whole[..300_000]).unwrap();
    let out = pull(&hub, home.path(), "org/tiny");
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    assert_eq!(*hub.ranges.lock().unwrap(), ["300000-"]);
    let told: serde_json::Value = serde_json::from_slice(&out.stdout).unwrap();
    let folder = Path::new(told["folder"].as_str().unwrap());
    assert_eq!(std::fs::read(folder.join("model.safetensors")).unwrap(), whole);
}

#[test]
fn what_is_not_there_is_said_in_one_line() {
    let (hub, home) = (hub(0), tempfile::tempdir().unwrap());
    for model in ["org/none", "no-slash", "../up"] {
        let out = pull(&hub, home.path(), model);
        assert_eq!(out.status.code(), Some(1), "{model}");
        let stderr = String::from_utf8(out.stderr).unwrap();
        assert_eq!(stderr.trim_end().lines().count(), 1, "{stderr}");
        assert!(stderr.contains(model), "{stderr}");
    }
}
