//! How the server listens, whom it lets in, and what a client may cost.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use openai_api::JsonLimits;

use super::trace::Tracer;

/// How the server listens, whom it lets in, and what a client may cost.
#[derive(Clone, Debug)]
pub struct HttpConfig {
    /// Where to listen; port 0 takes any that is free.
    pub address: SocketAddr,
    /// Speak TLS.
    pub tls: Option<TlsFiles>,
    /// Who may ask; everybody if there are none.
    pub api_keys: Vec<ApiKey>,
    /// Requests a second of each key or, where none are needed, of each address.
    pub rate: Option<Rate>,
    /// Origins whose pages may ask (`https://example.org`, or `*`).
    pub cors_origins: Vec<String>,
    /// A chat template in place of the models' own.
    pub chat_template: Option<String>,
    /// Models to load before the server says that it is ready.
    pub preload: Vec<String>,
    /// Bytes of a body.
    pub max_body: usize,
    /// What a body may hold.
    pub json: JsonLimits,
    /// Prompts of one request of `/v1/completions`.
    pub max_prompts: usize,
    /// Connections at once.
    pub max_connections: usize,
    /// Within this the head of a request must be there; a connection that is idle longer is closed.
    pub header_timeout: Duration,
    /// Within this a request's body must be there.
    pub body_timeout: Duration,
    /// A stream says something at least as often.
    pub keep_alive: Duration,
    /// Within this the engine must make a step for `/health` to be content.
    pub health_patience: Duration,
    /// How long requests that run when the server is told to end may go on.
    pub drain_timeout: Duration,
    /// Who records a span for each request.
    pub tracer: Option<Arc<dyn Tracer>>,
}

impl Default for HttpConfig {
    /// On loopback, port 8000, without TLS and keys; bodies of up to 8 MiB, 128 prompts, 1024
    /// connections.
    fn default() -> Self {
        Self {
            address: SocketAddr::from(([127, 0, 0, 1], 8000)),
            tls: None,
            api_keys: Vec::new(),
            rate: None,
            cors_origins: Vec::new(),
            chat_template: None,
            preload: Vec::new(),
            max_body: 8 << 20,
            json: JsonLimits::default(),
            max_prompts: 128,
            max_connections: 1024,
            header_timeout: Duration::from_secs(30),
            body_timeout: Duration::from_secs(30),
            keep_alive: Duration::from_secs(15),
            health_patience: Duration::from_secs(10),
            drain_timeout: Duration::from_secs(30),
            tracer: None,
        }
    }
}

/// A certificate chain and its private key, in PEM.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsFiles {
    /// The chain, the server's own certificate first.
    pub certificate: PathBuf,
    /// The key.
    pub key: PathBuf,
}

/// A key and whose it is.
#[derive(Clone, PartialEq, Eq)]
pub struct ApiKey {
    /// The name of the tenant, which appears in metrics and logs.
    pub tenant: String,
    /// The secret, which appears nowhere.
    pub key: String,
}

impl std::fmt::Debug for ApiKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ApiKey").field("tenant", &self.tenant).finish_non_exhaustive()
    }
}

/// A token bucket: so many requests at once, so many a second from then on.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rate {
    /// Requests a second, above 0.
    pub per_second: f64,
    /// Requests at once, at least 1.
    pub burst: f64,
}
