//! Streams that run beside something, and must not notice.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use serde_json::{Value, json};
use tokio::task::JoinHandle;

use super::Client;

/// Streams, one after the other, each of which must be what it is on a server that does nothing else:
/// tokens, texts and log-probabilities to the last digit.
pub(crate) struct Beside {
    enough: Arc<AtomicBool>,
    streams: JoinHandle<usize>,
}

impl Beside {
    /// Streams once undisturbed, and from now on again and again.
    pub(crate) async fn start(client: Client) -> Self {
        let alone = choices(client).await;
        assert!(alone.len() > 100);
        let enough = Arc::new(AtomicBool::new(false));
        let of_task = Arc::clone(&enough);
        let streams = tokio::spawn(async move {
            let mut streams = 0;
            while !of_task.load(Ordering::Relaxed) {
                assert_eq!(choices(client).await, alone, "stream {streams}");
                streams += 1;
            }
            streams
        });
        Self { enough, streams }
    }

    /// Lets the last stream end. How many there were.
    pub(crate) async fn ends_well(self) -> usize {
        self.enough.store(true, Ordering::Relaxed);
        let streams = self.streams.await.unwrap();
        assert!(streams > 0);
        streams
    }
}

async fn choices(client: Client) -> Vec<Value> {
    let request = json!({"model": "bard", "prompt": "JULIET:\nO Romeo, Romeo,", "max_tokens": 120,
        "ignore_eos": true, "temperature": 1, "seed": 11, "logprobs": 2, "stream": true,
        "return_token_ids": true});
    let chunks = client.post("/v1/completions", &request).await.chunks();
    chunks.into_iter().map(|mut chunk| chunk["choices"].take()).collect()
}
