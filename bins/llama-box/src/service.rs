//! Keeping one program running.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitStatus;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use rustix::process::Signal;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep};

use crate::backoff::Backoff;
use crate::health;
use crate::process::Process;

/// A program that is started again when it dies.
pub(crate) struct Service {
    pub(crate) name: String,
    /// What is sent when it is ready.
    pub(crate) number: usize,
    pub(crate) program: PathBuf,
    pub(crate) args: Vec<String>,
    /// Where it answers.
    pub(crate) address: SocketAddr,
    /// The path that says it is ready.
    pub(crate) ready: &'static str,
    /// Whether [`health::HEALTH`] is watched.
    pub(crate) watched: bool,
    /// The signal upon which it finishes what it has and ends.
    pub(crate) stop: Signal,
    /// How long that may take.
    pub(crate) drain: Duration,
}

/// Why a run is over.
enum Over {
    Ended(ExitStatus),
    Wedged,
    Stopped,
}

impl Service {
    /// Runs the program until `stop` turns true; sends its number each time it is ready. Whether it
    /// ended well when it was stopped.
    ///
    /// # Errors
    /// If it cannot be started, or ends before it was ready for the first time: what is wrong
    /// then, another attempt does not mend.
    pub(crate) async fn run(
        self,
        mut stop: watch::Receiver<bool>,
        ready: mpsc::UnboundedSender<usize>,
    ) -> Result<bool> {
        let mut backoff = Backoff::default();
        let mut was_ready = false;
        let name = &self.name;
        loop {
            let began = Instant::now();
            let mut process = Process::start(name, &self.program, &self.args)
                .with_context(|| self.program.display().to_string())?;
            let id = process.id().unwrap_or_default();
            let watch = async {
                health::until_well(self.address, self.ready).await;
                was_ready = true;
                eprintln!("llama-box: {name} is ready at {} (process {id})", self.address);
                // Nobody listens once all were ready.
                let _ = ready.send(self.number);
                if !self.watched {
                    std::future::pending::<()>().await;
                }
                health::until_wedged(self.address).await;
            };
            let over = tokio::select! {
                status = process.wait() => Over::Ended(status?),
                () = watch => Over::Wedged,
                _ = stop.wait_for(|&stop| stop) => Over::Stopped,
            };
            match over {
                Over::Stopped => return Ok(process.stop(self.stop, self.drain).await),
                Over::Ended(status) => eprintln!("llama-box: {name} ended with {status}"),
                Over::Wedged => {
                    eprintln!("llama-box: {name} no longer works: killed");
                    process.kill().await;
                }
            }
            if !was_ready {
                bail!("{name} ended before it was ready");
            }
            let wait = backoff.after(began.elapsed());
            eprintln!("llama-box: {name} starts again in {wait:?}");
            tokio::select! {
                () = sleep(wait) => {}
                _ = stop.wait_for(|&stop| stop) => return Ok(true),
            }
        }
    }
}
