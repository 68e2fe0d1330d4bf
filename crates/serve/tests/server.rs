//! The server on a socket: what slow and numerous clients come to, TLS, and how it ends.

mod common;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use common::{get, post, read_all, start};
use engine::models::{Loader, ModelSpec, Models};
use serve::http::{HttpConfig, ServeError, TlsFiles, serve};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

const LONG: &str = r#"{"model": "bard", "prompt": "ROMEO:", "max_tokens": 150, "ignore_eos": true,
    "temperature": 0, "stream": true}"#;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_byte_at_a_time_is_given_up() {
    let config = HttpConfig {
        header_timeout: Duration::from_millis(400),
        body_timeout: Duration::from_millis(400),
        ..HttpConfig::default()
    };
    let server = start(config).await;
    let slow_body = format!(
        "{}{}",
        post("/v1/completions", LONG).split("\r\n\r\n").next().unwrap(),
        "\r\n\r\n{"
    );
    for (at_once, slowly) in
        [("", "GET /health HTTP/1.1\r\nhost: somewhere"), (slow_body.as_str(), "   ")]
    {
        let began = Instant::now();
        let mut stream = server.client.connect().await;
        stream.write_all(at_once.as_bytes()).await.unwrap();
        let (mut read, mut write) = stream.split();
        let drip = async {
            for byte in slowly.as_bytes().iter().cycle() {
                if write.write_all(&[*byte]).await.is_err() {
                    break;
                }
                tokio::time::sleep(Duration::from_millis(30)).await;
            }
        };
        let mut answer = Vec::new();
        tokio::select! {
            () = drip => {}
            _ = read.read_to_end(&mut answer) => {}
        }
        let answer = String::from_utf8_lossy(&answer);
        assert!(answer.starts_with("HTTP/1.1 408"), "{answer}");
        assert!(answer.contains(r#""code":"timeout""#), "{answer}");
        assert!(began.elapsed() < Duration::from_secs(10));
    }
    // Who says nothing at all is not spoken to.
    let mut silent = server.client.connect().await;
    assert_eq!(read_all(&mut silent).await, "");
    assert!(server.client.ask(&get("/health")).await.starts_with("HTTP/1.1 200"));
    server.ends_well().await;
}

/// The error arrives though the body was not read.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_body_that_is_too_large_is_told_so() {
    let server = start(HttpConfig { max_body: 1 << 10, ..HttpConfig::default() }).await;
    let large = post("/v1/completions", &"x".repeat(20 << 20));
    let answer = server.client.ask(&large).await;
    assert!(answer.starts_with("HTTP/1.1 413"), "{answer}");
    let nowhere = post("/nowhere", &"x".repeat(20 << 20));
    assert!(server.client.ask(&nowhere).await.starts_with("HTTP/1.1 404"));
    server.ends_well().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_are_counted() {
    let server = start(HttpConfig { max_connections: 2, ..HttpConfig::default() }).await;
    let held = [server.client.connect().await, server.client.connect().await];
    tokio::time::sleep(Duration::from_millis(200)).await;
    let refused = server.client.ask("").await;
    assert!(refused.starts_with("HTTP/1.1 503") && refused.contains("retry-after"), "{refused}");
    drop(held);
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert!(server.client.ask(&get("/health")).await.starts_with("HTTP/1.1 200"));
    server.ends_well().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ending_lets_a_stream_end() {
    let server = start(HttpConfig::default()).await;
    let mut stream = server.client.connect().await;
    stream.write_all(post("/v1/completions", LONG).as_bytes()).await.unwrap();
    let mut first = [0; 16];
    stream.read_exact(&mut first).await.unwrap();
    let idle = server.client.connect().await;
    let rest = tokio::spawn(async move { read_all(&mut stream).await });
    server.ends_well().await;
    let rest = rest.await.unwrap();
    assert!(rest.contains("data: [DONE]"), "{rest}");
    drop(idle);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_drain_has_an_end() {
    let config = HttpConfig { drain_timeout: Duration::from_millis(1), ..HttpConfig::default() };
    let server = start(config).await;
    let mut stream = server.client.connect().await;
    let endless = LONG.replace("150", "250");
    stream.write_all(post("/v1/completions", &endless).as_bytes()).await.unwrap();
    let mut first = [0; 16];
    stream.read_exact(&mut first).await.unwrap();
    let began = Instant::now();
    server.ends_well().await;
    assert!(began.elapsed() < Duration::from_secs(10));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn over_tls() {
    use tokio_rustls::TlsConnector;
    use tokio_rustls::rustls::pki_types::pem::PemObject as _;
    use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName};
    use tokio_rustls::rustls::{ClientConfig, RootCertStore, crypto};

    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/tls");
    let certificate = folder.join("certificate.pem");
    let files = TlsFiles { certificate: certificate.clone(), key: folder.join("key.pem") };
    let server = start(HttpConfig { tls: Some(files), ..HttpConfig::default() }).await;
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(&certificate).unwrap()).unwrap();
    let client = ClientConfig::builder_with_provider(Arc::new(crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let connector = TlsConnector::from(Arc::new(client));
    let name = ServerName::try_from("localhost").unwrap();
    let mut stream = connector.connect(name, server.client.connect().await).await.unwrap();
    stream.write_all(get("/health").as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    // Plain HTTP is not spoken on this port.
    assert!(!server.client.ask(&get("/health")).await.contains("200 OK"));
    server.ends_well().await;
}

#[tokio::test]
async fn what_cannot_start_says_why() {
    let models = || {
        let loader: Loader = Arc::new(|_: &ModelSpec| Err("no such file".into()));
        let spec = ModelSpec { name: "gone".into(), path: "gone".into(), bytes: 1 };
        Arc::new(Models::new(vec![spec], 1, loader).unwrap())
    };
    let local =
        HttpConfig { address: SocketAddr::from(([127, 0, 0, 1], 0)), ..HttpConfig::default() };
    let run = |config| serve(config, models(), |_| {}, std::future::pending());
    let missing = HttpConfig { preload: vec!["gone".into()], ..local.clone() };
    assert!(matches!(run(missing).await, Err(ServeError::Model(_))));
    let files = TlsFiles { certificate: "missing.pem".into(), key: "missing.pem".into() };
    let tls = HttpConfig { tls: Some(files), ..local.clone() };
    let error = run(tls).await.unwrap_err();
    assert!(error.to_string().starts_with("missing.pem"), "{error}");
    let template = HttpConfig { chat_template: Some("{% if".into()), ..local };
    assert!(matches!(run(template).await, Err(ServeError::Template(_))));
}
