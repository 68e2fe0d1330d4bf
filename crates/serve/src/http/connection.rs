//! Connections: accepted up to a number, each with a time limit on the heads of its requests.

use std::future::poll_fn;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use openai_api::ApiError;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio_rustls::TlsAcceptor;
use tower::ServiceExt as _;

use super::app::App;
use super::edge::Peer;
use super::failure::SOON;

/// How long a connection may take over a goodbye.
const GOODBYE: Duration = Duration::from_secs(2);
/// Bytes that are still read from a client who is told that nothing more is wanted.
const LINGER: usize = 64 << 20;

/// Accepts connections until `closing` says otherwise, then waits for those that there are, for at
/// most `patience`.
pub(crate) async fn accept(
    listener: TcpListener,
    tls: Option<TlsAcceptor>,
    router: Router,
    app: Arc<App>,
    mut closing: watch::Receiver<bool>,
    patience: Duration,
) {
    let most = app.config.max_connections.clamp(1, Semaphore::MAX_PERMITS >> 1);
    let room = Arc::new(Semaphore::new(most));
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            _ = closing.wait_for(|closing| *closing) => break,
        };
        let (stream, peer) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                // Too many files are open, perhaps: they will be fewer.
                tracing::warn!(%error, "a connection was not accepted");
                tokio::time::sleep(Duration::from_millis(50)).await;
                continue;
            }
        };
        // Answers are small and are wanted at once. A socket that refuses is served all the same.
        let _ = stream.set_nodelay(true);
        match Arc::clone(&room).try_acquire_owned() {
            Ok(permit) => {
                let connection = Connection {
                    router: router.clone(),
                    peer,
                    header_timeout: app.config.header_timeout,
                    closing: closing.clone(),
                    _permit: permit,
                };
                tokio::spawn(connection.run(stream, tls.clone()));
            }
            Err(_) => {
                tokio::spawn(turn_away(stream, tls.is_some()));
            }
        }
    }
    drop(listener);
    let all = room.acquire_many(most as u32);
    if tokio::time::timeout(patience, all).await.is_err() {
        tracing::warn!("connections were cut off");
    }
}

/// Says that there are too many connections. Over TLS it is not worth a handshake.
async fn turn_away(mut stream: TcpStream, tls: bool) {
    if !tls {
        let error =
            ApiError::Unavailable { state: "full: too many connections", retry_after: SOON };
        goodbye(&mut stream, &error).await;
        close(&mut stream).await;
    }
}

/// Writes an error where there is no request to answer.
async fn goodbye(stream: &mut (impl AsyncWrite + Unpin), error: &ApiError) {
    let body = serde_json::to_string(&error.body()).unwrap_or_default();
    let reason = match error.status() {
        408 => "408 Request Timeout",
        _ => "503 Service Unavailable",
    };
    let retry = match error.retry_after() {
        Some(wait) => format!("retry-after: {}\r\n", wait.as_secs().max(1)),
        None => String::new(),
    };
    let response = format!(
        "HTTP/1.1 {reason}\r\ncontent-type: application/json\r\ncontent-length: {}\r\n{retry}\
         connection: close\r\n\r\n{body}",
        body.len()
    );
    // Whoever does not listen to it has gone already.
    let _ = tokio::time::timeout(GOODBYE, stream.write_all(response.as_bytes())).await;
}

/// Closes, and reads for a while what the client still sends: were it left unread, the system would
/// reset the connection, and the client might not see its answer.
async fn close(stream: &mut (impl AsyncRead + AsyncWrite + Unpin)) {
    let linger = async {
        stream.shutdown().await?;
        let mut bytes = vec![0; 16 << 10];
        let mut left = LINGER;
        while left > 0 {
            match stream.read(&mut bytes).await? {
                0 => break,
                n => left = left.saturating_sub(n),
            }
        }
        std::io::Result::Ok(())
    };
    // A connection that fails is closed as well.
    let _ = tokio::time::timeout(GOODBYE, linger).await;
}

struct Connection {
    router: Router,
    peer: SocketAddr,
    header_timeout: Duration,
    closing: watch::Receiver<bool>,
    _permit: OwnedSemaphorePermit,
}

impl Connection {
    async fn run(self, stream: TcpStream, tls: Option<TlsAcceptor>) {
        let Some(tls) = tls else { return self.serve(stream).await };
        match tokio::time::timeout(self.header_timeout, tls.accept(stream)).await {
            Ok(Ok(stream)) => self.serve(stream).await,
            Ok(Err(error)) => tracing::debug!(%error, "a TLS handshake failed"),
            Err(_) => tracing::debug!("a TLS handshake took too long"),
        }
    }

    async fn serve(mut self, stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static) {
        let (router, peer) = (self.router, Peer(self.peer.ip()));
        let service = service_fn(move |request: hyper::Request<Incoming>| {
            let mut request = request.map(Body::new);
            request.extensions_mut().insert(peer);
            // hyper wants a future that can be moved.
            Box::pin(router.clone().oneshot(request))
        });
        let mut connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(self.header_timeout)
            .max_buf_size(64 << 10)
            .serve_connection(TokioIo::new(stream), service);
        let mut closing = false;
        let result = loop {
            tokio::select! {
                result = poll_fn(|cx| connection.poll_without_shutdown(cx)) => break result,
                _ = self.closing.wait_for(|closing| *closing), if !closing => {
                    closing = true;
                    Pin::new(&mut connection).graceful_shutdown();
                }
            }
        };
        let timed_out = result.as_ref().is_err_and(hyper::Error::is_timeout);
        if let Err(error) = result {
            tracing::debug!(%error, "a connection ended");
        }
        let parts = connection.into_parts();
        let mut stream = parts.io.into_inner();
        // A head that began and did not end. A connection that was idle is closed without a word.
        if timed_out && !parts.read_buf.is_empty() {
            goodbye(&mut stream, &ApiError::Timeout { limit: self.header_timeout }).await;
        }
        close(&mut stream).await;
    }
}
