//! The OpenAI API over [`engine`]: endpoints, limits, metrics, and a page.
//!
//! - [`http`]: the endpoints, and the server that binds them.
//! - [`metrics`]: what Prometheus reads.
//! - [`page`]: a chat and a live view in the browser.
#![forbid(unsafe_code)]

pub use engine::{self, models};

pub mod http;
pub mod metrics;
pub mod page;
