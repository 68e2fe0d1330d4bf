//! A client that writes HTTP by hand, so that it can do what no good client does.

use std::net::SocketAddr;
use std::time::Duration;

use openai_api::sse::{SseEvent, SseReader};
use serde_json::Value;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

/// Where a server is.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Client(pub(crate) SocketAddr);

impl Client {
    pub(crate) async fn connect(self) -> TcpStream {
        TcpStream::connect(self.0).await.unwrap()
    }

    /// Everything that comes back until the server closes.
    pub(crate) async fn ask(self, request: &str) -> String {
        let mut stream = self.connect().await;
        stream.write_all(request.as_bytes()).await.unwrap();
        read_all(&mut stream).await
    }

    /// The answer to a request, which may come before all of the request was sent.
    pub(crate) async fn send(self, request: &[u8]) -> Answer {
        let mut stream = self.connect().await;
        let (mut read, mut write) = stream.split();
        let mut bytes = Vec::new();
        let both = async { tokio::join!(write.write_all(request), read.read_to_end(&mut bytes)) };
        // A server that has closed takes nothing more; whether it answered is seen below.
        let _ = tokio::time::timeout(Duration::from_secs(60), both).await.expect("it closes");
        Answer::of(&bytes).unwrap_or_else(|| panic!("{:?}", String::from_utf8_lossy(&bytes)))
    }

    pub(crate) async fn get(self, path: &str) -> Answer {
        self.send(get(path).as_bytes()).await
    }

    pub(crate) async fn post(self, path: &str, body: &Value) -> Answer {
        self.send(post(path, &body.to_string()).as_bytes()).await
    }

    /// A request that is sent, and whose answer nobody reads yet.
    pub(crate) async fn begin(self, path: &str, body: &Value) -> TcpStream {
        let mut stream = self.connect().await;
        stream.write_all(post(path, &body.to_string()).as_bytes()).await.unwrap();
        stream
    }

    /// A request whose answer has begun to come.
    pub(crate) async fn begun(self, path: &str, body: &Value) -> TcpStream {
        let stream = self.begin(path, body).await;
        stream.peek(&mut [0]).await.unwrap();
        stream
    }
}

/// Everything that comes until the server closes.
async fn read_bytes(stream: &mut TcpStream) -> Vec<u8> {
    let mut bytes = Vec::new();
    let read = tokio::time::timeout(Duration::from_secs(30), stream.read_to_end(&mut bytes));
    // A reset is as good as an end.
    let _ = read.await.expect("the server closes");
    bytes
}

pub(crate) async fn read_all(stream: &mut TcpStream) -> String {
    String::from_utf8_lossy(&read_bytes(stream).await).into_owned()
}

pub(crate) fn get(path: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
}

pub(crate) fn post(path: &str, body: &str) -> String {
    String::from_utf8(post_bytes(path, body.as_bytes())).unwrap()
}

pub(crate) fn post_bytes(path: &str, body: &[u8]) -> Vec<u8> {
    let head = format!(
        "POST {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-type: application/json\r\n\
         content-length: {}\r\n\r\n",
        body.len()
    );
    [head.as_bytes(), body].concat()
}

/// An answer, put together from all that came.
#[derive(Clone, Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    /// In lower case.
    head: String,
    pub(crate) body: Vec<u8>,
}

impl Answer {
    /// `None` if there is no head. A body that was cut off is as long as it came.
    pub(crate) fn of(bytes: &[u8]) -> Option<Self> {
        let end = bytes.windows(4).position(|w| w == b"\r\n\r\n")?;
        let head = String::from_utf8_lossy(&bytes[..end]).to_ascii_lowercase();
        let status = head.split(' ').nth(1)?.parse().ok()?;
        let mut body = bytes[end + 4..].to_vec();
        if head.contains("transfer-encoding: chunked") {
            body = unchunked(&body);
        }
        Some(Self { status, head, body })
    }

    /// The answer to what was begun.
    pub(crate) async fn on(mut stream: TcpStream) -> Self {
        let bytes = read_bytes(&mut stream).await;
        Self::of(&bytes).unwrap_or_else(|| panic!("{:?}", String::from_utf8_lossy(&bytes)))
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        let mut lines = self.head.lines().filter_map(|line| line.split_once(": "));
        lines.find(|(n, _)| *n == name).map(|(_, value)| value)
    }

    pub(crate) fn text(&self) -> std::borrow::Cow<'_, str> {
        String::from_utf8_lossy(&self.body)
    }

    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|e| panic!("{e}: {}", self.text()))
    }

    /// The answer to a request that was taken.
    pub(crate) fn ok(&self) -> Value {
        assert_eq!(self.status, 200, "{}", self.text());
        self.json()
    }

    /// The error of one that was not.
    pub(crate) fn error(&self, status: u16) -> Value {
        assert_eq!(self.status, status, "{}", self.text());
        let error = self.json()["error"].clone();
        assert!(!error["message"].as_str().unwrap().is_empty());
        error
    }

    pub(crate) fn events(&self) -> Vec<SseEvent> {
        assert_eq!(self.status, 200, "{}", self.text());
        SseReader::new().push(&self.body).unwrap()
    }

    /// The chunks of a stream that came to its end.
    pub(crate) fn chunks(&self) -> Vec<Value> {
        let mut events = self.events();
        assert!(events.pop().is_some_and(|e| e.is_done()), "{}", self.text());
        events.iter().map(|e| serde_json::from_str(&e.data).unwrap()).collect()
    }

    /// The text of a completion that was streamed to its end.
    pub(crate) fn streamed(&self) -> String {
        let chunks = self.chunks();
        chunks.iter().filter_map(|c| c["choices"][0]["text"].as_str()).collect()
    }

    /// The error with which a stream ended.
    pub(crate) fn failure(&self) -> Value {
        let last = self.events().pop().expect("an event");
        assert_eq!(last.event.as_deref(), Some("error"), "{}", self.text());
        serde_json::from_str::<Value>(&last.data).unwrap()["error"].clone()
    }
}

fn unchunked(mut rest: &[u8]) -> Vec<u8> {
    let mut body = Vec::new();
    while let Some(end) = rest.windows(2).position(|w| w == b"\r\n") {
        let size = std::str::from_utf8(&rest[..end]).unwrap();
        let size = usize::from_str_radix(size, 16).unwrap();
        rest = &rest[end + 2..];
        body.extend_from_slice(&rest[..size.min(rest.len())]);
        rest = rest.get(size + 2..).unwrap_or_default();
    }
    body
}
