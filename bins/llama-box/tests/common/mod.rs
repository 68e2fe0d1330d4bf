//! A running `llama-box`, and requests to it.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU16, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

/// Whether the system has nginx; in CI it must.
pub(crate) fn has_nginx() -> bool {
    let found =
        Command::new("nginx").arg("-v").output().is_ok() || Path::new("/usr/sbin/nginx").exists();
    if !found {
        assert!(std::env::var_os("CI").is_none(), "nginx must be present in CI");
        println!("skipped: nginx is not installed");
    }
    found
}

/// The first of four ports that nobody has, and that no other test here gets.
pub(crate) fn free_ports() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let start = 20_000 + (std::process::id() % 1000) as u16 * 10;
    loop {
        let first = start + 4 * NEXT.fetch_add(1, Ordering::Relaxed);
        if (first..first + 4).all(|port| TcpListener::bind(("127.0.0.1", port)).is_ok()) {
            return first;
        }
    }
}

/// A running `llama-box`.
pub(crate) struct Running {
    child: Child,
    pub(crate) port: u16,
    /// What it has said on standard error.
    log: Arc<Mutex<Vec<String>>>,
    /// Its temporary files go here.
    temporary: tempfile::TempDir,
}

impl Running {
    /// Starts two instances of `infinity` and returns when the address was printed.
    pub(crate) fn start(infinity: &Path, more: &[&str]) -> Self {
        let (port, temporary) = (free_ports(), tempfile::tempdir().unwrap());
        let mut child = Command::new(env!("CARGO_BIN_EXE_llama-box"))
            .args(["--instances", "2", "--port", &port.to_string(), "--infinity"])
            .arg(infinity)
            .args(more)
            .env("TMPDIR", temporary.path())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let log = Arc::new(Mutex::new(Vec::new()));
        let (lines, into) = (BufReader::new(child.stderr.take().unwrap()).lines(), log.clone());
        thread::spawn(move || {
            lines.map_while(Result::ok).for_each(|line| into.lock().unwrap().push(line));
        });
        let mut said = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut said).unwrap();
        let running = Self { child, port, log, temporary };
        let address = format!("http://127.0.0.1:{port} (2 instances, ");
        assert!(said.starts_with(&address), "{said:?}\n{:#?}", running.log.lock().unwrap());
        running
    }

    /// The process that was ready last, of the instance of that name or of nginx.
    pub(crate) fn process(&self, name: &str) -> Pid {
        let start = format!("llama-box: {name} is ready");
        self.wait_for(&start, 1);
        let log = self.log.lock().unwrap();
        let line = log.iter().rfind(|l| l.starts_with(&start)).expect("it was ready");
        let id = line.rsplit("(process ").next().unwrap().trim_end_matches(')');
        Pid::from_raw(id.parse().unwrap()).unwrap()
    }

    /// Waits until it has said a line with `what` in it `times` times.
    pub(crate) fn wait_for(&self, what: &str, times: usize) {
        let until = Instant::now() + Duration::from_secs(60);
        while self.log.lock().unwrap().iter().filter(|l| l.contains(what)).count() < times {
            assert!(Instant::now() < until, "{what}: {:#?}", self.log.lock().unwrap());
            thread::sleep(Duration::from_millis(20));
        }
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    /// Waits for its end, which leaves nothing behind.
    pub(crate) fn wait(mut self) -> ExitStatus {
        let status = self.child.wait().unwrap();
        let left: Vec<_> = std::fs::read_dir(self.temporary.path()).unwrap().collect();
        assert!(left.is_empty(), "{left:?}");
        for port in self.port..self.port + 3 {
            assert!(TcpListener::bind(("127.0.0.1", port)).is_ok(), "{port} is still taken");
        }
        status
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // After a failed assertion: it ends its children with itself.
        if matches!(self.child.try_wait(), Ok(None)) {
            self.signal(Signal::TERM);
            self.signal(Signal::TERM);
            let _ = self.child.wait();
        }
    }
}

/// What a client got.
#[derive(Debug, PartialEq)]
pub(crate) enum Got {
    /// A whole stream.
    Whole(String),
    /// A stream that began and broke off.
    Begun,
    /// Another status than 200, with the head of the answer.
    Status(u16, String),
    /// Not a byte.
    Nothing,
}

/// Posts `body` to the completions and reads the stream.
pub(crate) fn complete(port: u16, body: &str) -> Got {
    let answer = exchange(port, "POST /v1/completions", body).unwrap_or_default();
    let text = String::from_utf8_lossy(&answer).into_owned();
    match text.split(' ').nth(1).and_then(|status| status.parse().ok()) {
        Some(200) if text.contains("data: [DONE]") => Got::Whole(text),
        Some(200) => Got::Begun,
        Some(status) => Got::Status(status, text),
        None => Got::Nothing,
    }
}

/// Keeps `clients` clients posting `body` while `during` runs; what they got. They begin one after
/// another, so that at any time some wait for their first byte and some have it.
pub(crate) fn under_load(port: u16, clients: usize, body: &str, during: impl FnOnce()) -> Vec<Got> {
    let over = AtomicBool::new(false);
    let client = &|number: usize| {
        thread::sleep(number as u32 * Duration::from_millis(25));
        let mut got = Vec::new();
        while !over.load(Ordering::Relaxed) {
            got.push(complete(port, body));
        }
        got
    };
    thread::scope(|scope| {
        let clients: Vec<_> = (0..clients).map(|i| scope.spawn(move || client(i))).collect();
        during();
        over.store(true, Ordering::Relaxed);
        clients.into_iter().flat_map(|c| c.join().unwrap()).collect()
    })
}

/// How many were whole, and how many broke off after they had begun. There is nothing else: no
/// request without an answer, no error.
pub(crate) fn whole_and_begun(got: &[Got]) -> (usize, usize) {
    let lost: Vec<&Got> =
        got.iter().filter(|g| matches!(g, Got::Nothing | Got::Status(..))).collect();
    assert!(lost.is_empty(), "{} of {}, such as {:?}", lost.len(), got.len(), lost[0]);
    let begun = got.iter().filter(|g| **g == Got::Begun).count();
    println!("{} whole, {begun} had begun when the instance was killed", got.len() - begun);
    (got.len() - begun, begun)
}

/// Sends a request and reads until the connection is closed or broken.
pub(crate) fn exchange(port: u16, what: &str, body: &str) -> std::io::Result<Vec<u8>> {
    let mut stream = TcpStream::connect(("127.0.0.1", port))?;
    stream.set_read_timeout(Some(Duration::from_secs(60)))?;
    let length = body.len();
    write!(
        stream,
        "{what} HTTP/1.0\r\nHost: x\r\nContent-Type: application/json\r\n\
         Content-Length: {length}\r\n\r\n{body}"
    )?;
    let mut answer = Vec::new();
    // A connection that breaks leaves what came before.
    let _ = stream.read_to_end(&mut answer);
    Ok(answer)
}
