//! What an instance says of itself.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep, timeout};

/// An instance that is ready.
pub(crate) const READY: &str = "/readyz";
/// An instance whose engine steps.
pub(crate) const HEALTH: &str = "/health";

/// How long one answer may take.
const ANSWER: Duration = Duration::from_secs(10);
/// How often a running instance is asked.
const PERIOD: Duration = Duration::from_secs(5);
/// An instance that says nothing good for so long is wedged.
const WEDGED: Duration = Duration::from_secs(60);

/// Whether `GET path` is answered with 200.
pub(crate) async fn is_well(address: SocketAddr, path: &str) -> bool {
    let asked = async {
        let mut stream = TcpStream::connect(address).await?;
        let request = format!("GET {path} HTTP/1.0\r\nHost: localhost\r\n\r\n");
        stream.write_all(request.as_bytes()).await?;
        // "HTTP/1.1 200"
        let mut start = [0; 12];
        stream.read_exact(&mut start).await?;
        Ok::<_, std::io::Error>(start.starts_with(b"HTTP/1.") && start.ends_with(b" 200"))
    };
    matches!(timeout(ANSWER, asked).await, Ok(Ok(true)))
}

/// Returns when `GET path` is answered with 200.
pub(crate) async fn until_well(address: SocketAddr, path: &str) {
    while !is_well(address, path).await {
        sleep(Duration::from_millis(100)).await;
    }
}

/// Returns when a running instance has not been well for [`WEDGED`].
pub(crate) async fn until_wedged(address: SocketAddr) {
    let mut last_well = Instant::now();
    while last_well.elapsed() < WEDGED {
        sleep(PERIOD).await;
        if is_well(address, HEALTH).await {
            last_well = Instant::now();
        }
    }
}
