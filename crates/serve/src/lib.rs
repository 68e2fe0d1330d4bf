//! The OpenAI API over [`engine`]: endpoints, limits, metrics, and a page.
//!
//! - [`http`]: the endpoints, and the server that binds them.
//! - [`metrics`]: what Prometheus reads.
//! - [`page`]: a chat and a live view in the browser.
//! - `otel`, behind the feature of that name: traces for an OpenTelemetry collector.
#![forbid(unsafe_code)]

pub use engine::{self, models};

pub mod http;
pub mod metrics;
#[cfg(feature = "otel")]
pub mod otel;
pub mod page;
