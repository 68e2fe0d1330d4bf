//! The OpenAI API over HTTP.
//!
//! [`serve`] listens, and returns when it was told to end and has drained. Requests are read and
//! refused by the crate `openai-api`, translated (`chat_plan`, `completions`), answered by an
//! [`Engine`](crate::engine::Engine), and written as JSON or as server-sent events. A client that goes
//! away drops its [`Generation`](crate::engine::Generation), which cancels it.
//!
//! | endpoint | |
//! |---|---|
//! | `POST /v1/completions`, `/v1/chat/completions`, `/v1/responses`, `/v1/embeddings` | the API |
//! | `GET /v1/models`, `/v1/models/NAME` | what is served |
//! | `POST /tokenize`, `/detokenize` | vLLM's |
//! | `GET /live` | snapshots for the page, four a second |
//! | `GET /health` | 200 if every engine steps |
//! | `GET /readyz` | 200 if requests are taken: not while loading, not while draining |
//! | `GET /metrics` | Prometheus |
//! | `GET /` | the page |
//!
//! Those above `/health` want a key where the server has keys. Every error has OpenAI's shape.

mod answering;
mod app;
mod auth;
mod body;
mod chat;
mod chat_grammar;
mod chat_plan;
mod chat_prompt;
mod chat_text;
mod collect;
mod completions;
mod config;
mod connection;
mod context;
mod edge;
mod embeddings;
mod failure;
mod logprobs;
mod models;
mod options;
mod prompts;
mod responses;
mod router;
mod status;
mod stream;
#[cfg(test)]
mod tests;
mod tls;
mod tokens;
mod trace;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::sync::watch;

pub use self::config::{ApiKey, HttpConfig, Rate, TlsFiles};
pub use self::tls::TlsError;
pub use self::trace::{SpanHead, Tracer};
use crate::metrics;
use crate::models::{Models, ModelsError};
use app::App;

/// Why a server does not start, or does not end well.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ServeError {
    /// The address is not to be had.
    #[error("cannot listen on {address}: {source}")]
    Bind {
        /// The address.
        address: SocketAddr,
        /// What the system says.
        source: std::io::Error,
    },
    /// The certificate or its key.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// A model that was to be loaded at the start.
    #[error(transparent)]
    Model(#[from] ModelsError),
    /// The chat template that the server was given.
    #[error("the chat template: {0}")]
    Template(#[from] tokenizer::Error),
    /// The system does not tell of signals.
    #[error("signals: {0}")]
    Signals(#[source] std::io::Error),
}

/// How long connections may take to end after the last answer.
const CLOSING: Duration = Duration::from_secs(5);
/// How long spans may take to be delivered after the last connection.
const DELIVERING: Duration = Duration::from_secs(5);
/// How often recorded times are moved into their histograms.
const UPKEEP: Duration = Duration::from_secs(5);

/// Serves until `end` is ready, then drains: `/readyz` says 503 and new requests are refused with
/// 503, those that run may go on for [`HttpConfig::drain_timeout`].
///
/// `bound` is told the address, before any model is loaded. The metrics' recorder is the caller's to
/// install ([`metrics::install`]), before engines are made.
///
/// # Errors
/// [`ServeError`], except where the drain takes too long, which is logged: the rest is cut off.
pub async fn serve(
    config: HttpConfig,
    models: Arc<Models>,
    bound: impl FnOnce(SocketAddr),
    end: impl Future<Output = ()>,
) -> Result<(), ServeError> {
    if let Some(source) = &config.chat_template {
        tokenizer::template::ChatTemplate::new(source)?;
    }
    let tls = config.tls.as_ref().map(tls::acceptor).transpose()?;
    let bind = |source| ServeError::Bind { address: config.address, source };
    let listener = TcpListener::bind(config.address).await.map_err(bind)?;
    bound(listener.local_addr().map_err(bind)?);

    let app = Arc::new(App::new(config, models));
    let router = router::router(Arc::clone(&app));
    let (close, closing) = watch::channel(false);
    let accept = connection::accept(listener, tls, router, Arc::clone(&app), closing, CLOSING);
    let until_end = async {
        tokio::pin!(end);
        tokio::select! {
            loaded = preload(&app) => {
                loaded?;
                tokio::select! {
                    () = &mut end => {}
                    () = upkeep() => {}
                }
            }
            () = &mut end => {}
        }
        drain(&app).await;
        // Connections that are idle, and those that have just had their last answer.
        let _ = close.send(true);
        Ok(())
    };
    let ((), ended) = tokio::join!(accept, async {
        let ended: Result<(), ServeError> = until_end.await;
        if ended.is_err() {
            let _ = close.send(true);
        }
        ended
    });
    deliver(&app).await;
    ended
}

/// Delivers the spans that wait, on a thread that may block.
async fn deliver(app: &App) {
    if let Some(tracer) = app.config.tracer.clone() {
        let delivered = tokio::task::spawn_blocking(move || tracer.shutdown(DELIVERING));
        if let Err(error) = delivered.await {
            tracing::error!(%error, "the tracer panicked");
        }
    }
}

async fn preload(app: &App) -> Result<(), ServeError> {
    for name in &app.config.preload {
        app.models.engine(name).await?;
    }
    app.set_ready();
    Ok(())
}

async fn upkeep() {
    loop {
        tokio::time::sleep(UPKEEP).await;
        metrics::upkeep();
    }
}

async fn drain(app: &App) {
    app.set_draining();
    tracing::info!("draining");
    if !app.models.drain(app.config.drain_timeout).await {
        tracing::warn!("requests were cut off: they took longer than the drain may");
    }
}

/// Ready when the process is told to end: SIGTERM, or Ctrl-C.
///
/// # Errors
/// [`ServeError::Signals`], at once rather than when awaited.
pub fn termination() -> Result<impl Future<Output = ()>, ServeError> {
    #[cfg(unix)]
    {
        use tokio::signal::unix::{SignalKind, signal};
        let mut terminate = signal(SignalKind::terminate()).map_err(ServeError::Signals)?;
        let mut interrupt = signal(SignalKind::interrupt()).map_err(ServeError::Signals)?;
        Ok(async move {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
        })
    }
    #[cfg(not(unix))]
    Ok(async {
        // Where the system does not tell of Ctrl-C, it ends the process itself.
        let _ = tokio::signal::ctrl_c().await;
    })
}
