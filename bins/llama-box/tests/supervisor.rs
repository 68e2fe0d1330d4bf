//! Two stand-ins for the server behind the real nginx: what is retried, what is started again, how all
//! ends. The stand-in is this program, called again: see `instance`.

mod common;

use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use common::{
    Got, Running, complete, exchange, free_ports, has_nginx, under_load, whole_and_begun,
};
use rustix::process::{Signal, kill_process};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::sleep;

/// Requests that run in the stand-in.
static RUNNING: AtomicUsize = AtomicUsize::new(0);
static DRAINING: AtomicBool = AtomicBool::new(false);

/// Not a test: the stand-in's process. It has the life of a server: ready, then draining, then gone.
#[test]
#[ignore = "the process that the other tests start"]
fn instance() {
    let Ok(args) = std::env::var("STAND_IN_ARGS") else { return };
    let mut args = args.split_whitespace();
    let port: u16 = args.by_ref().skip_while(|a| *a != "--port").nth(1).unwrap().parse().unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let listener = TcpListener::bind(("127.0.0.1", port)).await.unwrap();
        let mut terminate = signal(SignalKind::terminate()).unwrap();
        loop {
            tokio::select! {
                Ok((stream, _)) = listener.accept() => {
                    tokio::spawn(async move { answer(stream, port).await.ok() });
                }
                _ = terminate.recv() => break,
            }
        }
        DRAINING.store(true, Ordering::Relaxed);
        while RUNNING.load(Ordering::Relaxed) > 0 {
            sleep(Duration::from_millis(10)).await;
        }
    });
}

/// Prefill for a fifth of a second without a byte, then ten chunks. The words `full`, `drain` and
/// `break` in a body ask for other things.
async fn answer(mut stream: TcpStream, port: u16) -> std::io::Result<()> {
    let mut request = Vec::new();
    loop {
        let mut piece = [0; 4096];
        let n = stream.read(&mut piece).await?;
        request.extend_from_slice(&piece[..n]);
        // Every body here ends with a brace.
        if n == 0
            || request.ends_with(b"\r\n\r\n") && request.starts_with(b"GET")
            || request.ends_with(b"}")
        {
            break;
        }
    }
    let request = String::from_utf8_lossy(&request);
    let says = |word: &str| request.contains(word);
    let status = |status: &str| {
        format!(
            "HTTP/1.1 {status}\r\nRetry-After: 7\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
        )
    };
    let short = match () {
        () if DRAINING.load(Ordering::Relaxed) => Some("503 Service Unavailable"),
        () if request.starts_with("GET") => Some("200 OK"),
        () if says("full") => Some("429 Too Many Requests"),
        // The instance of that port refuses, the other does not.
        () if says(&format!("drain {port}")) => Some("503 Service Unavailable"),
        () => None,
    };
    if let Some(short) = short {
        return stream.write_all(status(short).as_bytes()).await;
    }
    RUNNING.fetch_add(1, Ordering::Relaxed);
    let _running = Decrement;
    sleep(Duration::from_millis(200)).await;
    let head = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n";
    stream.write_all(head.as_bytes()).await?;
    for chunk in 0..10 {
        stream.write_all(format!("data: {port} {chunk}\n\n").as_bytes()).await?;
        sleep(Duration::from_millis(20)).await;
    }
    stream.write_all(b"data: [DONE]\n\n").await
}

struct Decrement;

impl Drop for Decrement {
    fn drop(&mut self) {
        RUNNING.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A program `infinity` that starts the stand-in.
fn stand_in() -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("infinity");
    let own = std::env::current_exe().unwrap();
    let script = format!(
        "#!/bin/sh\nSTAND_IN_ARGS=\"$*\" exec '{}' --exact instance --ignored --nocapture\n",
        own.display()
    );
    std::fs::write(&path, script).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
    (dir, path)
}

#[test]
fn a_killed_instance_loses_nothing_that_had_not_begun() {
    if !has_nginx() {
        return;
    }
    let (_dir, infinity) = stand_in();
    let running = Running::start(&infinity, &[]);
    let port = running.port;
    let got = under_load(port, 16, "{}", || {
        thread::sleep(Duration::from_millis(900));
        kill_process(running.process("instance 1"), Signal::KILL).unwrap();
        running.wait_for("llama-box: instance 1 is ready", 2);
        thread::sleep(Duration::from_secs(1));
    });
    let (whole, begun) = whole_and_begun(&got);
    // Half of 16 clients' requests at most were on that instance.
    assert!(begun <= 12 && whole >= 32, "{whole} whole, {begun} begun");

    // Both instances get requests again, once nginx asks the new one.
    thread::sleep(Duration::from_secs(5));
    let served_by: Vec<Got> = thread::scope(|scope| {
        let all: Vec<_> = (0..8).map(|_| scope.spawn(|| complete(port, "{}"))).collect();
        all.into_iter().map(|c| c.join().unwrap()).collect()
    });
    for instance in [port + 1, port + 2] {
        let mark = format!("data: {instance} ");
        assert!(
            served_by.iter().any(|g| matches!(g, Got::Whole(t) if t.contains(&mark))),
            "{mark}"
        );
    }

    // What runs when the end is asked for, ends well.
    let last = thread::spawn(move || complete(port, "{}"));
    thread::sleep(Duration::from_millis(100));
    running.signal(Signal::TERM);
    assert!(matches!(last.join().unwrap(), Got::Whole(_)));
    assert!(running.wait().success());
}

#[test]
fn refusals_are_passed_on_and_draining_instances_avoided() {
    if !has_nginx() {
        return;
    }
    let (_dir, infinity) = stand_in();
    let running = Running::start(&infinity, &[]);
    let port = running.port;
    // A full queue is the answer, however often: no instance is taken out for it.
    for _ in 0..12 {
        let Got::Status(429, head) = complete(port, "{\"full\"}") else { panic!("429") };
        assert!(head.contains("Retry-After: 7"), "{head}");
    }
    assert!(matches!(complete(port, "{}"), Got::Whole(_)));
    // An instance that drains is not what the user sees.
    for instance in [port + 1, port + 2] {
        for _ in 0..2 {
            let body = format!("{{\"drain {instance}\"}}");
            assert!(matches!(complete(port, &body), Got::Whole(_)), "{body}");
        }
    }
    // Nobody's figures.
    assert_eq!(status(port, "GET /metrics", ""), 404);
    // Over the limit of the body.
    assert_eq!(status(port, "POST /v1/completions", &format!("{}{{}}", " ".repeat(9 << 20))), 413);
    running.signal(Signal::INT);
    assert!(running.wait().success());
}

fn status(port: u16, what: &str, body: &str) -> u16 {
    let answer = exchange(port, what, body).unwrap_or_default();
    String::from_utf8_lossy(&answer).split(' ').nth(1).and_then(|s| s.parse().ok()).unwrap_or(0)
}

#[test]
fn nginx_is_started_again_and_a_second_signal_ends_all() {
    if !has_nginx() {
        return;
    }
    let (_dir, infinity) = stand_in();
    let running = Running::start(&infinity, &[]);
    let port = running.port;
    kill_process(running.process("nginx"), Signal::KILL).unwrap();
    running.wait_for("llama-box: nginx is ready", 2);
    assert!(matches!(complete(port, "{}"), Got::Whole(_)));
    let cut = thread::spawn(move || complete(port, "{}"));
    thread::sleep(Duration::from_millis(300));
    running.signal(Signal::TERM);
    running.wait_for("to finish", 1);
    running.signal(Signal::TERM);
    assert_eq!(running.wait().code(), Some(1));
    assert_eq!(cut.join().unwrap(), Got::Begun);
}

/// The exit code and the one line of error.
fn refused(args: &[&str]) -> (i32, String) {
    let out = Command::new(env!("CARGO_BIN_EXE_llama-box")).args(args).output().unwrap();
    let said = String::from_utf8(out.stderr).unwrap();
    assert!(out.stdout.is_empty(), "{args:?}");
    (out.status.code().unwrap(), said)
}

#[test]
fn what_is_missing_is_said_in_a_line() {
    let (code, said) = refused(&["--nginx", "/nowhere/nginx"]);
    assert_eq!((code, said.as_str()), (1, "llama-box: --nginx /nowhere/nginx: no such file\n"));
    let out =
        Command::new(env!("CARGO_BIN_EXE_llama-box")).env("PATH", "/nowhere").output().unwrap();
    let said = String::from_utf8(out.stderr).unwrap();
    if !has_nginx() {
        assert!(
            said.contains("apt-get install nginx") && said.matches('\n').count() == 1,
            "{said}"
        );
        return;
    }
    assert_eq!(
        refused(&["--infinity", "/nowhere"]).1,
        "llama-box: --infinity /nowhere: no such file\n"
    );
    let port = free_ports().to_string();
    // It ends at once, so no attempt is repeated and nginx is not started.
    let (code, said) = refused(&["--infinity", "/bin/false", "--port", &port]);
    assert!(code == 1 && said.ends_with("ended before it was ready\n"), "{said}");
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    let (code, said) = refused(&["--infinity", "/bin/false", "--port", &port]);
    assert!(
        code == 1 && said.starts_with(&format!("llama-box: --port {port} on 127.0.0.1: ")),
        "{said}"
    );
}
