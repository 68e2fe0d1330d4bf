//! The server: one HTTP/1.1 connection a request.
//!
//! A connection of its own means that no request waits for another's, and that none fails because the
//! server closed an idle connection at that moment. Making it (and TLS's handshake) is part of the time
//! to the first token.

use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;

use anyhow::{Context, Result, bail, ensure};
use bytes::Bytes;
use http::header::{AUTHORIZATION, CONTENT_TYPE, HOST, HeaderValue};
use http::{Method, Request, Response, Uri};
use hyper::body::{Body, Incoming};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use serde::de::DeserializeOwned;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::pki_types::ServerName;
use tokio_rustls::rustls::{ClientConfig, RootCertStore};

/// Bytes that an answer may have which is read as a whole.
const MAX_BODY: usize = 16 << 20;

/// Where requests go.
pub(super) struct Target {
    host: String,
    port: u16,
    /// What stands before `/v1`, often nothing.
    prefix: String,
    authority: HeaderValue,
    bearer: Option<HeaderValue>,
    tls: Option<TlsConnector>,
}

/// Why a request got no answer.
#[derive(Debug, thiserror::Error)]
pub(super) enum Transport {
    /// There is no connection.
    #[error("connect: {0}")]
    Connect(#[source] std::io::Error),
    /// The path is none.
    #[error("request: {0}")]
    Request(#[from] http::Error),
    /// The connection broke off, or what came was not HTTP.
    #[error("{}", innermost(.0))]
    Http(#[from] hyper::Error),
    /// An answer that is read as a whole does not end.
    #[error("more than {MAX_BODY} bytes")]
    TooLong,
}

/// What went wrong at the bottom: hyper's own words name the layer only.
fn innermost(e: &hyper::Error) -> String {
    let mut cause: &dyn std::error::Error = e;
    while let Some(source) = cause.source() {
        cause = source;
    }
    cause.to_string()
}

impl Target {
    /// `url` is that of the server, with or without `/v1` at its end.
    ///
    /// # Errors
    /// If it is not an http or https URL, or the key holds what a header cannot.
    pub(super) fn new(url: &str, api_key: Option<&str>) -> Result<Self> {
        let uri: Uri = url.parse().with_context(|| format!("--serve {url}: not a URL"))?;
        let host = uri.host().unwrap_or_default().trim_matches(['[', ']']).to_owned();
        let tls = match uri.scheme_str() {
            Some("http") => false,
            Some("https") => true,
            _ => bail!("--serve {url}: it must begin with http:// or https://"),
        };
        ensure!(!host.is_empty() && uri.query().is_none(), "--serve {url}: expected SCHEME://HOST");
        let authority = uri.authority().map_or("", |a| a.as_str());
        ensure!(!authority.contains('@'), "--serve: a key is given by --api-key, not in the URL");
        let path = uri.path().trim_end_matches('/');
        let bearer = match api_key {
            Some(key) => {
                let mut value = HeaderValue::from_str(&format!("Bearer {key}"))
                    .context("--api-key: only visible ASCII characters")?;
                value.set_sensitive(true);
                Some(value)
            }
            None => None,
        };
        Ok(Self {
            port: uri.port_u16().unwrap_or(if tls { 443 } else { 80 }),
            prefix: path.strip_suffix("/v1").unwrap_or(path).to_owned(),
            authority: HeaderValue::from_str(authority)?,
            host,
            bearer,
            tls: tls.then(tls_connector).transpose()?,
        })
    }

    /// Sends a request and returns when the head of the answer is there.
    pub(super) async fn send(
        &self,
        method: Method,
        path: &str,
        body: String,
    ) -> Result<Response<Incoming>, Transport> {
        let mut request = Request::builder()
            .method(method)
            .uri(format!("{}{path}", self.prefix))
            .header(HOST, &self.authority)
            .header(CONTENT_TYPE, "application/json");
        if let Some(bearer) = &self.bearer {
            request = request.header(AUTHORIZATION, bearer);
        }
        let request = request.body(body)?;
        let connect = TcpStream::connect((self.host.as_str(), self.port));
        let tcp = connect.await.map_err(Transport::Connect)?;
        tcp.set_nodelay(true).map_err(Transport::Connect)?;
        match &self.tls {
            None => exchange(tcp, request).await,
            Some(tls) => {
                let name = ServerName::try_from(self.host.clone());
                let name = name.map_err(std::io::Error::other).map_err(Transport::Connect)?;
                let stream = tls.connect(name, tcp).await.map_err(Transport::Connect)?;
                exchange(stream, request).await
            }
        }
    }

    /// The same, with the answer read as JSON.
    ///
    /// # Errors
    /// If there is none, its status is not 200, or it is something else.
    pub(super) async fn json<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: String,
    ) -> Result<T> {
        let response = self.send(method, path, body).await.with_context(|| path.to_owned())?;
        let status = response.status();
        let body = whole(response.into_body()).await.with_context(|| path.to_owned())?;
        ensure!(status == 200, "{path}: {status}: {}", super::stream::error_message(&body));
        serde_json::from_slice(&body).with_context(|| format!("{path}: the answer"))
    }
}

fn tls_connector() -> Result<TlsConnector> {
    let roots = RootCertStore::from_iter(webpki_roots::TLS_SERVER_ROOTS.iter().cloned());
    let provider = Arc::new(tokio_rustls::rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(TlsConnector::from(Arc::new(config)))
}

async fn exchange<S>(stream: S, request: Request<String>) -> Result<Response<Incoming>, Transport>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    // Drives the connection until answer and sender are gone; an error reaches the answer's reader.
    tokio::spawn(connection);
    Ok(sender.send_request(request).await?)
}

/// The next bytes of an answer; `None` at its end.
pub(super) async fn next_bytes(body: &mut Incoming) -> Result<Option<Bytes>, Transport> {
    loop {
        match poll_fn(|cx| Pin::new(&mut *body).poll_frame(cx)).await {
            None => return Ok(None),
            Some(frame) => {
                // Trailers are not data.
                if let Ok(data) = frame?.into_data() {
                    return Ok(Some(data));
                }
            }
        }
    }
}

/// All bytes of an answer.
pub(super) async fn whole(mut body: Incoming) -> Result<Vec<u8>, Transport> {
    let mut all = Vec::new();
    while let Some(bytes) = next_bytes(&mut body).await? {
        if all.len() + bytes.len() > MAX_BODY {
            return Err(Transport::TooLong);
        }
        all.extend_from_slice(&bytes);
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_read_with_and_without_v1() {
        let target = |url| Target::new(url, None).map(|t| (t.host, t.port, t.prefix));
        let of = |host: &str, port, prefix: &str| (host.to_owned(), port, prefix.to_owned());
        assert_eq!(target("http://localhost:8000").unwrap(), of("localhost", 8000, ""));
        assert_eq!(target("http://[::1]:1/v1/").unwrap(), of("::1", 1, ""));
        assert_eq!(target("https://x.example/api/v1").unwrap(), of("x.example", 443, "/api"));
        for (url, says) in [
            ("localhost:8000", "must begin with http"),
            ("ftp://x", "must begin with http"),
            ("", "not a URL"),
            ("http://", "not a URL"),
            ("http://x?y=1", "expected SCHEME"),
            ("http://key@x", "--api-key"),
        ] {
            let error = format!("{:#}", target(url).unwrap_err());
            assert!(error.contains(says), "{url}: {error}");
        }
        assert!(Target::new("http://x", Some("a\nb")).is_err());
    }
}
