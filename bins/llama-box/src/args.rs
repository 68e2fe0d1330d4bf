//! The command line, and what it means.

use std::env;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener};
use std::path::PathBuf;
use std::thread::available_parallelism;

use anyhow::{Context, Result, ensure};

/// Start several instances of `infinity serve` and nginx in front of them, on one port.
///
/// Prints the address when all are ready. An instance that dies is started again. Ctrl-C or SIGTERM
/// lets running requests finish and ends everything; a second one ends it at once.
#[derive(clap::Parser)]
#[command(
    name = "llama-box",
    version,
    after_help = "\
Examples:
  llama-box --instances 2 --port 8080 --model model.gguf
  llama-box --model model.gguf -- --api-key-file keys --max-sequences 32
  curl http://127.0.0.1:8080/v1/models

Each instance answers on a port of its own too (--instance-port), where its /metrics are.

Exit codes: 0 ended as asked, 1 failure, 2 wrong usage."
)]
pub(crate) struct Args {
    /// Instances of the server
    #[arg(short = 'n', long, default_value_t = 2, value_name = "N",
          value_parser = clap::value_parser!(u16).range(1..=64))]
    pub(crate) instances: u16,
    /// What `infinity serve` serves: a GGUF file, a Hugging Face folder, or ORG/NAME
    #[arg(short, long, value_name = "MODEL")]
    model: Option<String>,
    /// The address that nginx listens on
    #[arg(long, default_value = "127.0.0.1", value_name = "ADDRESS")]
    host: IpAddr,
    /// The port that nginx listens on
    #[arg(short, long, default_value_t = 8080, value_name = "P",
          value_parser = clap::value_parser!(u16).range(1..))]
    pub(crate) port: u16,
    /// The first instance's port on 127.0.0.1; the others have those after it [default: PORT + 1]
    #[arg(long, value_name = "P")]
    instance_port: Option<u16>,
    /// Threads of each instance [default: the processor's, divided]
    #[arg(short, long, value_name = "N")]
    threads: Option<usize>,
    /// Seconds that running requests have to finish when all is to end
    #[arg(long, default_value_t = 30.0, value_name = "S")]
    pub(crate) drain: f64,
    /// The program `nginx` [default: the system's]
    #[arg(long, value_name = "PATH")]
    pub(crate) nginx: Option<PathBuf>,
    /// The program `infinity` [default: beside this one, or the system's]
    #[arg(long, value_name = "PATH")]
    infinity: Option<PathBuf>,
    /// Passed to `infinity serve`
    #[arg(last = true, value_name = "FLAGS")]
    flags: Vec<String>,
}

impl Args {
    /// Checks what clap cannot.
    pub(crate) fn check(&self) -> Result<()> {
        let drain = self.drain;
        ensure!((0.0..=86_400.0).contains(&drain), "--drain {drain}: from 0 to 86400 seconds");
        ensure!(self.threads != Some(0), "--threads 0: at least 1");
        let first = u32::from(self.first_port());
        let last = first + u32::from(self.instances) - 1;
        ensure!(
            first > 0 && last <= u32::from(u16::MAX),
            "instances need ports {first} to {last}: --instance-port P chooses others"
        );
        let port = u32::from(self.port);
        ensure!(
            !(first..=last).contains(&port),
            "--port {port} is one of the instances': --instance-port P chooses others"
        );
        Ok(())
    }

    fn first_port(&self) -> u16 {
        // 0, which is refused, where there is none after the last.
        self.instance_port.unwrap_or(self.port.wrapping_add(1))
    }

    /// Where nginx listens.
    pub(crate) fn listen(&self) -> String {
        match self.host {
            IpAddr::V4(host) => format!("{host}:{}", self.port),
            IpAddr::V6(host) => format!("[{host}]:{}", self.port),
        }
    }

    /// Where nginx answers those on this machine.
    pub(crate) fn reached_at(&self) -> SocketAddr {
        let host = match self.host {
            IpAddr::V4(host) if host.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
            IpAddr::V6(host) if host.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
            host => host,
        };
        SocketAddr::from((host, self.port))
    }

    /// The port of each instance.
    pub(crate) fn ports(&self) -> impl Iterator<Item = u16> {
        (0..self.instances).map(|i| self.first_port() + i)
    }

    /// What `infinity` is told to serve the instance on `port`.
    pub(crate) fn instance(&self, port: u16) -> Vec<String> {
        let mut args = vec!["serve".to_owned()];
        args.extend(self.model.clone());
        args.extend(["--host", "127.0.0.1", "--port"].map(str::to_owned));
        args.push(port.to_string());
        args.extend(["--threads".to_owned(), self.threads_each().to_string()]);
        args.extend(["--drain-timeout".to_owned(), self.drain.to_string()]);
        args.extend(self.flags.iter().cloned());
        args
    }

    /// Threads of each instance. More threads than cores would take turns.
    pub(crate) fn threads_each(&self) -> usize {
        let all = available_parallelism().map_or(1, usize::from);
        self.threads.unwrap_or((all / usize::from(self.instances)).max(1))
    }

    /// Where `infinity` is.
    ///
    /// # Errors
    /// If it is not where it was said to be, or nowhere.
    pub(crate) fn infinity(&self) -> Result<PathBuf> {
        if let Some(path) = &self.infinity {
            ensure!(path.is_file(), "--infinity {}: no such file", path.display());
            return Ok(path.clone());
        }
        let beside = env::current_exe().ok().map(|own| own.with_file_name("infinity"));
        let search = env::var_os("PATH").unwrap_or_default();
        beside
            .into_iter()
            .chain(env::split_paths(&search).map(|folder| folder.join("infinity")))
            .find(|path| path.is_file())
            .context("the program infinity is not there: give --infinity PATH")
    }

    /// Tries every port, so that one that is taken is an error at once and not a service that dies.
    ///
    /// # Errors
    /// Names the port.
    pub(crate) fn try_ports(&self) -> Result<()> {
        TcpListener::bind((self.host, self.port))
            .with_context(|| format!("--port {} on {}", self.port, self.host))?;
        for port in self.ports() {
            TcpListener::bind(("127.0.0.1", port)).with_context(|| {
                format!("port {port} of an instance (--instance-port P chooses others)")
            })?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    fn args(text: &str) -> Args {
        Args::try_parse_from(text.split_whitespace()).unwrap_or_else(|e| panic!("{e}"))
    }

    #[test]
    fn instances_are_told_their_ports_and_threads() {
        let args = args("llama-box -n 3 -p 9000 -m m.gguf -t 4 --drain 2.5 -- --api-key k");
        args.check().unwrap();
        assert_eq!(args.ports().collect::<Vec<_>>(), [9001, 9002, 9003]);
        assert_eq!(
            args.instance(9002).join(" "),
            "serve m.gguf --host 127.0.0.1 --port 9002 --threads 4 --drain-timeout 2.5 --api-key k"
        );
    }

    #[test]
    fn threads_are_divided() {
        let all = available_parallelism().unwrap().get();
        assert_eq!(args("llama-box -n 1").threads_each(), all);
        assert_eq!(args("llama-box -n 2").threads_each(), (all / 2).max(1));
        assert_eq!(args("llama-box -n 64").threads_each(), (all / 64).max(1));
    }

    #[test]
    fn addresses_are_written_as_nginx_reads_them() {
        assert_eq!(args("llama-box").listen(), "127.0.0.1:8080");
        assert_eq!(args("llama-box --host ::1 -p 1").listen(), "[::1]:1");
        let reached = |text| args(text).reached_at().to_string();
        assert_eq!(reached("llama-box --host 0.0.0.0 -p 5"), "127.0.0.1:5");
        assert_eq!(reached("llama-box --host :: -p 5"), "[::1]:5");
    }

    #[test]
    fn wrong_usage_is_named() {
        for (text, says) in [
            ("llama-box --drain NaN", "--drain NaN"),
            ("llama-box --threads 0", "--threads 0"),
            ("llama-box -p 65535", "--instance-port"),
            ("llama-box --instance-port 65535", "ports 65535 to 65536"),
            ("llama-box --instance-port 8079", "--port 8080 is one of"),
        ] {
            let error = args(text).check().unwrap_err().to_string();
            assert!(error.contains(says), "{text}: {error}");
        }
        for text in ["llama-box -n 0", "llama-box -n 65", "llama-box -p 0", "llama-box --host x"] {
            assert!(Args::try_parse_from(text.split_whitespace()).is_err(), "{text}");
        }
    }
}
