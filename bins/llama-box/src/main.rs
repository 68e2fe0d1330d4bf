//! `llama-box`: several instances of the server behind nginx, on one port, without containers.
#![forbid(unsafe_code)]

mod args;
mod backoff;
mod health;
mod nginx;
mod process;
mod service;

use std::collections::BTreeSet;
use std::fs::Permissions;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use args::Args;
use clap::Parser;
use rustix::process::Signal;
use service::Service;
use tokio::signal::unix::{self, SignalKind};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;

fn main() -> ExitCode {
    let args = Args::parse();
    if let Err(error) = args.check() {
        eprintln!("llama-box: {error:#}");
        return ExitCode::from(2);
    }
    match run(&args) {
        Ok(true) => ExitCode::SUCCESS,
        // What did not end well has been said.
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            let line = format!("{error:#}").replace('\n', " ");
            eprintln!("llama-box: {line}");
            ExitCode::FAILURE
        }
    }
}

/// Runs everything until a signal comes. Whether all ended well.
fn run(args: &Args) -> Result<bool> {
    let nginx = nginx::find(args.nginx.as_deref())?;
    let infinity = args.infinity()?;
    args.try_ports()?;
    // nginx's workers may run as another user, who must get through.
    let dir = tempfile::Builder::new()
        .prefix("llama-box-")
        .permissions(Permissions::from_mode(0o711))
        .tempdir()
        .context("a temporary folder")?;
    let conf = dir.path().join("nginx.conf");
    let servers: Vec<String> = args.ports().map(|port| format!("127.0.0.1:{port}")).collect();
    let text = nginx::Conf {
        origin: "Made by llama-box for this run.",
        dir: &dir.path().display().to_string(),
        listen: &args.listen(),
        servers: &servers,
    }
    .render();
    std::fs::write(&conf, text).with_context(|| conf.display().to_string())?;
    nginx::check(&nginx, &conf)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let ended_well = runtime.block_on(supervise(args, infinity, nginx, nginx::args(&conf)));
    // Ends what is left, before its folder goes.
    drop(runtime);
    dir.close()?;
    ended_well
}

async fn supervise(
    args: &Args,
    infinity: PathBuf,
    nginx: PathBuf,
    nginx_args: Vec<String>,
) -> Result<bool> {
    let mut signals = Signals::new()?;
    let drain = Duration::from_secs_f64(args.drain);
    let (ready, mut is_ready) = mpsc::unbounded_channel();
    let (stop_instances, stop) = watch::channel(false);
    let mut instances = JoinSet::new();
    for (port, number) in args.ports().zip(1..) {
        let service = Service {
            name: format!("instance {number}"),
            number,
            program: infinity.clone(),
            args: args.instance(port),
            address: SocketAddr::from((Ipv4Addr::LOCALHOST, port)),
            ready: health::READY,
            watched: true,
            stop: Signal::TERM,
            // An instance cancels at that time what still runs, and ends.
            drain: drain + Duration::from_secs(5),
        };
        instances.spawn(service.run(stop.clone(), ready.clone()));
    }
    // nginx is number 0, and starts when the others are ready.
    let mut waiting: BTreeSet<usize> = (0..=args.instances.into()).collect();
    let mut front = JoinSet::new();
    let (stop_front, stop) = watch::channel(false);
    let mut to_start = Some(Service {
        name: "nginx".to_owned(),
        number: 0,
        program: nginx,
        args: nginx_args,
        address: args.reached_at(),
        ready: health::READY,
        watched: false,
        stop: Signal::QUIT,
        drain,
    });
    loop {
        tokio::select! {
            Some(number) = is_ready.recv() => {
                let first_time = waiting.remove(&number);
                if number == 0 && first_time {
                    let (n, threads) = (args.instances, args.threads_each());
                    println!("http://{} ({n} instances, {threads} threads each)", args.listen());
                } else if waiting.len() == 1 && let Some(service) = to_start.take() {
                    front.spawn(service.run(stop.clone(), ready.clone()));
                }
            }
            Some(over) = instances.join_next() => { over??; }
            Some(over) = front.join_next() => { over??; }
            () = signals.next() => break,
        }
    }
    eprintln!("llama-box: running requests have {drain:?} to finish");
    let end = async {
        // nginx first: it takes no more requests, and finishes those that the instances still answer.
        let mut well = true;
        stop_front.send_replace(true);
        while let Some(over) = front.join_next().await {
            well &= over??;
        }
        stop_instances.send_replace(true);
        while let Some(over) = instances.join_next().await {
            well &= over??;
        }
        Ok(well)
    };
    tokio::select! {
        well = end => well,
        () = signals.next() => bail!("a second signal: ended at once"),
    }
}

/// SIGINT and SIGTERM.
struct Signals {
    interrupt: unix::Signal,
    terminate: unix::Signal,
}

impl Signals {
    fn new() -> std::io::Result<Self> {
        Ok(Self {
            interrupt: unix::signal(SignalKind::interrupt())?,
            terminate: unix::signal(SignalKind::terminate())?,
        })
    }

    async fn next(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }
}
