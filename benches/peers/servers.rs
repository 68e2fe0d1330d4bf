//! Servers under load: each program's own server, measured by `infinity bench --serve`.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::cases::Case;
use crate::programs::{Kind, Measured, Program, Unit, shown, succeeded, words};

/// How long a server may take until it answers.
const READY: Duration = Duration::from_secs(120);

/// A closed loop of requests.
#[derive(clap::Args, Clone, Debug)]
pub(crate) struct Load {
    /// serve: numbers of clients, each of which sends when its last request has ended
    #[arg(long, value_delimiter = ',', default_value = "1,4,16,64", value_name = "N,N")]
    clients: Vec<usize>,
    /// serve: requests of each client, at least eight in all
    #[arg(long, default_value_t = 2, value_name = "N")]
    requests_a_client: usize,
    /// serve: tokens of a prompt
    #[arg(long, default_value = "64..256", value_name = "LENGTHS")]
    prompt_tokens: String,
    /// serve: tokens of an answer
    #[arg(long, default_value = "32..96", value_name = "LENGTHS")]
    output_tokens: String,
    /// serve: tokens that one sequence has room for; llama-server divides its context by clients
    #[arg(long, default_value_t = 512, value_name = "N")]
    max_model_len: usize,
}

impl Load {
    /// The command lines of a program's server for the largest number of clients, and of the load.
    pub(crate) fn commands(&self, program: &Program, case: &Case, threads: usize) -> String {
        let most = self.clients.iter().copied().max().unwrap_or(1);
        let (path, args) = self.server(program, case, threads, most, "PORT");
        let load = self.load("http://127.0.0.1:PORT", most);
        let load = shown(case, Path::new("infinity"), &load);
        format!("{}\n{load}", shown(case, &path, &args))
    }

    /// Starts a server for each number of clients, and puts it under load.
    pub(crate) fn measure(
        &self,
        program: &Program,
        generator: &Path,
        case: &Case,
        threads: usize,
    ) -> Result<Vec<Measured>> {
        let mut measured = Vec::new();
        for &clients in &self.clients {
            let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port();
            let (path, args) = self.server(program, case, threads, clients, &port.to_string());
            // Ours is well before its model is there.
            let ready = if program.kind == Kind::Infinity { "/readyz" } else { "/health" };
            let server = Server::start(&path, &args, port, ready)?;
            let load = self.load(&format!("http://127.0.0.1:{port}"), clients);
            let out = Command::new(generator).args(load).stdin(Stdio::null()).output()?;
            succeeded(&out)?;
            let report: Value = serde_json::from_slice(&out.stdout).context("the load's report")?;
            let figures = &report["loads"][0];
            if figures["complete"] != figures["requests"] {
                bail!("of {} requests {} ended well", figures["requests"], figures["complete"]);
            }
            let mut add = |name: &str, value: Option<f64>, unit| {
                let figure = format!("{clients} clients{name}");
                let value = value.with_context(|| format!("no figure for {figure}"))?;
                measured.push(Measured { figure, value, unit, of_floor: None });
                anyhow::Ok(())
            };
            add("", figures["output_tokens_per_second"].as_f64(), Unit::TokensPerSecond)?;
            add(", first token p50, s", figures["ttft"]["p50"].as_f64(), Unit::Seconds)?;
            add(", between tokens p99, s", figures["itl"]["p99"].as_f64(), Unit::Seconds)?;
            add(", until ready, s", Some(server.ready.as_secs_f64()), Unit::Seconds)?;
            add(", most memory, MB", server.most_memory(), Unit::Megabytes)?;
        }
        Ok(measured)
    }

    fn server(
        &self,
        program: &Program,
        case: &Case,
        threads: usize,
        clients: usize,
        port: &str,
    ) -> (PathBuf, Vec<String>) {
        let model = case.model.display().to_string();
        let context = self.max_model_len;
        if program.kind == Kind::Infinity {
            let mut args = words("serve MODEL");
            args[1] = model;
            args.extend(words(&format!("--port {port} --threads {threads}")));
            args.extend(program.flags.iter().cloned());
            return (program.place.clone(), args);
        }
        let mut args = vec!["-m".to_owned(), model];
        args.extend(words(&format!(
            "--port {port} -t {threads} -fa on -b 512 -ub 512 -np {clients} -c {} --no-webui",
            context * clients
        )));
        args.extend(words(match program.kind {
            Kind::IkLlamaCpp => "-rtr",
            // Prompts have nothing in common: what it would keep of them is never asked for.
            _ => "--cache-ram 0",
        }));
        (program.place.join("llama-server"), args)
    }

    fn load(&self, url: &str, clients: usize) -> Vec<String> {
        let Self { prompt_tokens, output_tokens, max_model_len, .. } = self;
        let requests = (self.requests_a_client * clients).max(8);
        words(&format!(
            "bench --serve {url} --clients {clients} --requests {requests} --prompt-tokens \
             {prompt_tokens} --output-tokens {output_tokens} --max-model-len {max_model_len} --json"
        ))
    }
}

/// A server's process, which ends with this.
struct Server {
    process: Child,
    /// From its start until it answered.
    ready: Duration,
}

impl Server {
    /// Starts a server and waits until it answers 200 there.
    fn start(path: &Path, args: &[String], port: u16, ready: &str) -> Result<Self> {
        let began = Instant::now();
        let process = Command::new(path)
            .args(args)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            // Some peers write logs where they run.
            .current_dir(std::env::temp_dir())
            .spawn()
            .with_context(|| path.display().to_string())?;
        let mut server = Self { process, ready: Duration::ZERO };
        while !is_ready(port, ready) {
            if let Some(status) = server.process.try_wait()? {
                bail!("the server ended: {status}");
            }
            if began.elapsed() > READY {
                bail!("the server was not ready within {} s", READY.as_secs());
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        server.ready = began.elapsed();
        Ok(server)
    }

    /// The most resident memory so far, mapped files among it, in megabytes, where the system says.
    fn most_memory(&self) -> Option<f64> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.process.id())).ok()?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
        let kibibytes: f64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
        Some(kibibytes * 1024.0 / 1e6)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Whether a path is answered with 200.
fn is_ready(port: u16, path: &str) -> bool {
    let ask = || -> std::io::Result<Vec<u8>> {
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let mut stream = TcpStream::connect_timeout(&address, Duration::from_secs(1))?;
        stream.set_read_timeout(Some(Duration::from_secs(5)))?;
        let request =
            format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes())?;
        let mut start = vec![0; 12];
        stream.read_exact(&mut start)?;
        Ok(start)
    };
    ask().is_ok_and(|start| start == b"HTTP/1.1 200")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_is_ready_when_it_says_so() {
        for (status, ready) in [("200 OK", true), ("503 Service Unavailable", false)] {
            let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
            let port = listener.local_addr().unwrap().port();
            let answer = std::thread::spawn(move || {
                let (mut stream, _) = listener.accept().unwrap();
                // To its end: what is not read when a connection is closed resets it.
                let mut request = Vec::new();
                while !request.ends_with(b"\r\n\r\n") {
                    let mut byte = [0];
                    stream.read_exact(&mut byte).unwrap();
                    request.extend(byte);
                }
                // In one piece: who asked leaves once the status is there.
                let answer = format!("HTTP/1.1 {status}\r\nContent-Length: 0\r\n\r\n");
                stream.write_all(answer.as_bytes()).unwrap();
            });
            assert_eq!(is_ready(port, "/health"), ready);
            answer.join().unwrap();
        }
        assert!(!is_ready(1, "/health"));
    }

    #[test]
    fn a_server_that_ends_is_not_waited_for() {
        let began = Instant::now();
        assert!(Server::start(Path::new("/bin/false"), &[], 1, "/health").is_err());
        assert!(began.elapsed() < READY / 2);
    }
}
