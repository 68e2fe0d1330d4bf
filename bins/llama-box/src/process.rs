//! A child process in a process group of its own.
//!
//! Ctrl-C in a terminal goes to the whole foreground group; instances must not see it before nginx has
//! sent its last request. And nginx is several processes: whatever is left of a group when its handle
//! is dropped is killed with it.

use std::ffi::OsStr;
use std::io;
use std::path::Path;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process, kill_process_group};
use tokio::io::{AsyncBufReadExt, AsyncRead, BufReader};
use tokio::process::{Child, Command};
use tokio::time::timeout;

/// A process that runs, or has ended and was not forgotten yet.
pub(crate) struct Process {
    name: String,
    child: Child,
    pid: Option<Pid>,
}

impl Process {
    /// Starts a program. Each line that it writes goes to standard error behind `name`.
    pub(crate) fn start(
        name: &str,
        program: &Path,
        args: &[impl AsRef<OsStr>],
    ) -> io::Result<Self> {
        let mut child = Command::new(program)
            .args(args)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0)
            .spawn()?;
        let pid = child.id().and_then(|id| Pid::from_raw(id.cast_signed()));
        let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
        stdout.map(|out| tokio::spawn(relay(name.to_owned(), out)));
        stderr.map(|err| tokio::spawn(relay(name.to_owned(), err)));
        Ok(Self { name: name.to_owned(), child, pid })
    }

    pub(crate) fn id(&self) -> Option<u32> {
        self.child.id()
    }

    /// Waits for its end.
    pub(crate) async fn wait(&mut self) -> io::Result<ExitStatus> {
        let status = self.child.wait().await?;
        self.kill_group();
        Ok(status)
    }

    /// Asks it to end by `signal`, kills it after `limit`. Whether it ended by itself, with success.
    pub(crate) async fn stop(&mut self, signal: Signal, limit: Duration) -> bool {
        if let Some(pid) = self.pid {
            // It may have ended already.
            let _ = kill_process(pid, signal);
        }
        match timeout(limit, self.wait()).await {
            Ok(Ok(status)) if status.success() => true,
            Ok(Ok(status)) => {
                eprintln!("llama-box: {} ended with {status}", self.name);
                false
            }
            Ok(Err(_)) | Err(_) => {
                eprintln!("llama-box: {} did not end in {limit:?}: killed", self.name);
                self.kill().await;
                false
            }
        }
    }

    /// Ends it at once.
    pub(crate) async fn kill(&mut self) {
        self.kill_group();
        // Nothing survives SIGKILL; this removes its entry in the table of processes.
        let _ = self.child.wait().await;
    }

    /// Kills what is left of the group. The number of a group is not used again while one of its
    /// processes is there, and is tried once only.
    fn kill_group(&mut self) {
        if let Some(pid) = self.pid.take() {
            let _ = kill_process_group(pid, Signal::KILL);
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill_group();
    }
}

async fn relay(name: String, from: impl AsyncRead + Unpin) {
    let mut from = BufReader::new(from);
    let mut line = Vec::new();
    while matches!(from.read_until(b'\n', &mut line).await, Ok(1..)) {
        eprintln!("{name}: {}", String::from_utf8_lossy(&line).trim_end());
        line.clear();
    }
}
