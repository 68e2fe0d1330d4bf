//! A server on loopback over the small embedded model, a client that writes HTTP by hand, and a look at
//! what must be as it was when all is over.
#![allow(dead_code, unused_imports)] // each test file uses a part

mod beside;
mod client;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use engine::models::{Loader, ModelSpec, Models};
use engine::{Engine, EngineConfig};
use model::Model;
use serde_json::Value;
use serve::http::{HttpConfig, ServeError, serve};
use tensor::Compute;
use tokenizer::Tokenizer;
use tokio::sync::{Mutex, MutexGuard, oneshot};
use tokio::task::JoinHandle;

pub(crate) use beside::Beside;
pub(crate) use client::{Answer, Client, get, post, post_bytes, read_all};

/// The embedded model.
pub(crate) fn bard() -> PathBuf {
    testkit::workspace().join("assets/bard-f16.gguf")
}

/// An engine over a model with the embedded one's vocabulary.
pub(crate) fn engine_of(path: &Path, config: EngineConfig) -> Engine {
    let compute = Compute::cpu().with_threads(1);
    let model = Model::open_with(path, compute, model::Repack::Never).unwrap();
    let tokenizer = Arc::new(Tokenizer::from_path(path).unwrap());
    Engine::start("bard", model, tokenizer, config).unwrap()
}

/// Models of which there is one, and it is running.
pub(crate) fn models(engine: &Engine) -> Arc<Models> {
    let spec = ModelSpec { name: "bard".into(), path: "bard".into(), bytes: 1 };
    let engine = engine.clone();
    let loader: Loader = Arc::new(move |_: &ModelSpec| Ok(engine.clone()));
    Arc::new(Models::new(vec![spec], 1, loader).unwrap())
}

/// On loopback, at a port that is free, ready when the model is.
pub(crate) fn local(config: HttpConfig) -> HttpConfig {
    let address = SocketAddr::from(([127, 0, 0, 1], 0));
    HttpConfig { address, preload: vec!["bard".into()], ..config }
}

/// Waits until no other test of this file counts descriptors, bytes or seconds.
pub(crate) async fn alone() -> MutexGuard<'static, ()> {
    static ONE: Mutex<()> = Mutex::const_new(());
    ONE.lock().await
}

/// A server in this process, and its engine.
pub(crate) struct Server {
    pub(crate) client: Client,
    pub(crate) engine: Engine,
    end: oneshot::Sender<()>,
    served: JoinHandle<Result<(), ServeError>>,
}

pub(crate) async fn start(http: HttpConfig) -> Server {
    start_with(http, EngineConfig::default()).await
}

pub(crate) async fn start_with(http: HttpConfig, engine: EngineConfig) -> Server {
    start_over(http, engine_of(&bard(), engine)).await
}

pub(crate) async fn start_over(http: HttpConfig, engine: Engine) -> Server {
    let (tell, address) = oneshot::channel();
    let (end, ended) = oneshot::channel::<()>();
    let bound = move |address| tell.send(address).unwrap();
    let until = async move {
        let _ = ended.await;
    };
    let served = tokio::spawn(serve(local(http), models(&engine), bound, until));
    let client = Client(address.await.unwrap());
    Server { client, engine, end, served }
}

/// What a server holds.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Held {
    /// Blocks that sequences have.
    blocks: usize,
    /// Requests that wait, and that run.
    requests: (usize, usize),
    /// Files and sockets that the process has open, where the system tells.
    descriptors: usize,
}

impl Server {
    /// What it holds now.
    pub(crate) async fn held(&self) -> Held {
        let blocks = self.engine.snapshot().await.unwrap().blocks.used;
        let descriptors = std::fs::read_dir("/proc/self/fd").map_or(0, Iterator::count);
        Held { blocks, requests: self.engine.counts(), descriptors }
    }

    /// What it holds when nobody asks for anything, after a first request.
    pub(crate) async fn idle(&self) -> Held {
        let warm = serde_json::json!({"model": "bard", "prompt": "O", "max_tokens": 2});
        self.client.post("/v1/completions", &warm).await.ok();
        let began = Instant::now();
        loop {
            let held = self.held().await;
            tokio::time::sleep(Duration::from_millis(50)).await;
            if held == self.held().await && held.requests == (0, 0) {
                assert_eq!(held.blocks, 0);
                return held;
            }
            assert!(began.elapsed() < Duration::from_secs(10), "{held:?}");
        }
    }

    /// Waits until it holds no more than `before`.
    pub(crate) async fn lets_go(&self, before: Held, within: Duration) {
        let began = Instant::now();
        loop {
            let held = self.held().await;
            if held.blocks == before.blocks
                && held.requests == before.requests
                && held.descriptors <= before.descriptors
            {
                return;
            }
            assert!(began.elapsed() < within, "{held:?} after {within:?}, before {before:?}");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// Waits until so many requests wait and run.
    pub(crate) async fn has(&self, requests: (usize, usize)) {
        let reached = async {
            while self.engine.counts() != requests {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        let reached = tokio::time::timeout(Duration::from_secs(20), reached).await;
        assert!(reached.is_ok(), "{:?} instead of {requests:?}", self.engine.counts());
    }

    pub(crate) async fn ends_well(self) {
        let _ = self.end.send(());
        let ended = tokio::time::timeout(Duration::from_secs(20), self.served).await;
        ended.unwrap().unwrap().unwrap();
    }
}

/// A request with more fields.
pub(crate) fn with(mut base: Value, more: Value) -> Value {
    let Value::Object(more) = more else { panic!("an object") };
    base.as_object_mut().unwrap().extend(more);
    base
}
