//! Several engines together: what a drain waits for.

mod common;

use std::sync::Arc;
use std::time::Duration;

use common::engine;
use engine::models::{Loader, ModelSpec, Models};
use engine::{EmbedError, EngineConfig};

#[tokio::test]
async fn a_drain_waits_for_texts_that_are_embedded() {
    let loader: Loader = Arc::new(|_: &ModelSpec| Ok(engine(EngineConfig::default())));
    let spec = ModelSpec { name: "bard".into(), path: "bard".into(), bytes: 1 };
    let models = Arc::new(Models::new(vec![spec], 1, loader).unwrap());
    let engine = models.engine("bard").await.unwrap();
    let texts = vec![vec![1; 200]; 20];
    let embedded = tokio::spawn({
        let engine = engine.clone();
        async move { engine.embed(texts, None).await }
    });
    while engine.is_idle() {
        tokio::task::yield_now().await;
    }
    assert!(!models.drain(Duration::ZERO).await, "they take longer than no time");
    assert!(models.drain(Duration::from_secs(60)).await);
    assert!(embedded.is_finished(), "the drain did not wait");
    assert_eq!(embedded.await.unwrap().unwrap().len(), 20);
    assert!(engine.is_idle());
    let late = engine.embed(vec![vec![1]], None).await;
    assert!(matches!(late, Err(EmbedError::Stopped)), "{late:?}");
    assert!(engine.is_idle(), "a call that is refused counts no more");
}

#[tokio::test]
async fn a_drain_does_not_wait_for_whoever_gave_up() {
    let engine = engine(EngineConfig::default());
    let given_up = engine.embed(vec![vec![1; 200]; 20], None);
    assert!(tokio::time::timeout(Duration::ZERO, given_up).await.is_err());
    assert!(engine.is_idle());
}
