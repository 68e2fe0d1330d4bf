//! The server on a socket: what slow, numerous and vanishing clients come to, TLS, and how it ends.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use engine::models::{Loader, ModelSpec, Models};
use engine::{Engine, EngineConfig};
use model::Model;
use serve::http::{HttpConfig, ServeError, TlsFiles, serve};
use tensor::Compute;
use tokenizer::Tokenizer;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

struct Server {
    address: SocketAddr,
    engine: Engine,
    end: oneshot::Sender<()>,
    served: JoinHandle<Result<(), ServeError>>,
}

fn bard() -> Engine {
    let path = testkit::workspace().join("assets/bard-f16.gguf");
    let compute = Compute::cpu().with_threads(1);
    let model = Model::open_with(&path, compute, model::Repack::Never).unwrap();
    let tokenizer = Arc::new(Tokenizer::from_path(&path).unwrap());
    Engine::start("bard", model, tokenizer, EngineConfig::default()).unwrap()
}

async fn start(config: HttpConfig) -> Server {
    let engine = bard();
    let spec = ModelSpec { name: "bard".into(), path: "bard".into(), bytes: 1 };
    let of_loader = engine.clone();
    let loader: Loader = Arc::new(move |_: &ModelSpec| Ok(of_loader.clone()));
    let models = Arc::new(Models::new(vec![spec], 1, loader).unwrap());
    let (tell, address) = oneshot::channel();
    let (end, ended) = oneshot::channel::<()>();
    let config = HttpConfig {
        address: SocketAddr::from(([127, 0, 0, 1], 0)),
        preload: vec!["bard".into()],
        ..config
    };
    let bound = move |address| tell.send(address).unwrap();
    let until = async move {
        let _ = ended.await;
    };
    let served = tokio::spawn(serve(config, models, bound, until));
    Server { address: address.await.unwrap(), engine, end, served }
}

impl Server {
    async fn connect(&self) -> TcpStream {
        TcpStream::connect(self.address).await.unwrap()
    }

    /// Everything that comes back until the server closes.
    async fn ask(&self, request: &str) -> String {
        let mut stream = self.connect().await;
        stream.write_all(request.as_bytes()).await.unwrap();
        read_all(&mut stream).await
    }

    async fn ends_well(self) {
        let _ = self.end.send(());
        let ended = tokio::time::timeout(Duration::from_secs(20), self.served).await;
        ended.unwrap().unwrap().unwrap();
    }
}

async fn read_all(stream: &mut TcpStream) -> String {
    let mut bytes = Vec::new();
    let read = tokio::time::timeout(Duration::from_secs(20), stream.read_to_end(&mut bytes));
    // A reset is as good as an end.
    let _ = read.await.expect("the server closes");
    String::from_utf8_lossy(&bytes).into_owned()
}

fn get(path: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
}

fn post(path: &str, body: &str) -> String {
    format!(
        "POST {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-type: application/json\r\n\
         content-length: {}\r\n\r\n{body}",
        body.len()
    )
}

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
        let mut stream = server.connect().await;
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
    let mut silent = server.connect().await;
    assert_eq!(read_all(&mut silent).await, "");
    assert!(server.ask(&get("/health")).await.starts_with("HTTP/1.1 200"));
    server.ends_well().await;
}

/// The error arrives though the body was not read.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_body_that_is_too_large_is_told_so() {
    let server = start(HttpConfig { max_body: 1 << 10, ..HttpConfig::default() }).await;
    let large = post("/v1/completions", &"x".repeat(20 << 20));
    let answer = server.ask(&large).await;
    assert!(answer.starts_with("HTTP/1.1 413"), "{answer}");
    let nowhere = post("/nowhere", &"x".repeat(20 << 20));
    assert!(server.ask(&nowhere).await.starts_with("HTTP/1.1 404"));
    server.ends_well().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_are_counted() {
    let server = start(HttpConfig { max_connections: 2, ..HttpConfig::default() }).await;
    let held = [server.connect().await, server.connect().await];
    tokio::time::sleep(Duration::from_millis(200)).await;
    let refused = server.ask("").await;
    assert!(refused.starts_with("HTTP/1.1 503") && refused.contains("retry-after"), "{refused}");
    drop(held);
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert!(server.ask(&get("/health")).await.starts_with("HTTP/1.1 200"));
    server.ends_well().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_vanishes_leaves_nothing_behind() {
    let server = start(HttpConfig::default()).await;
    let whole = LONG.replace(", \"stream\": true", "").replace("\"stream\": true", "\"n\": 1");
    for body in [LONG, whole.as_str()] {
        let mut stream = server.connect().await;
        stream.write_all(post("/v1/completions", body).as_bytes()).await.unwrap();
        let began = async {
            while server.engine.counts() == (0, 0) {
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(10), began).await.unwrap();
        drop(stream);
        let gone = async {
            while server.engine.counts() != (0, 0) {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(1), gone).await.unwrap();
    }
    server.ends_well().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ending_lets_a_stream_end() {
    let server = start(HttpConfig::default()).await;
    let mut stream = server.connect().await;
    stream.write_all(post("/v1/completions", LONG).as_bytes()).await.unwrap();
    let mut first = [0; 16];
    stream.read_exact(&mut first).await.unwrap();
    let idle = server.connect().await;
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
    let mut stream = server.connect().await;
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
    let mut stream = connector.connect(name, server.connect().await).await.unwrap();
    stream.write_all(get("/health").as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    // Plain HTTP is not spoken on this port.
    assert!(!server.ask(&get("/health")).await.contains("200 OK"));
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
