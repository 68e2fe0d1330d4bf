//! What users ask of a server, and when.
//!
//! A trace is a list of [`Request`]s, each with an arrival and two lengths. [`Workload::trace`] draws one:
//! arrivals of a Poisson process, [`Lengths`] that are fixed, uniform, log-normal or as in ShareGPT.
//! [`read`] reads one from a file. The same seed gives the same trace on every machine.
//!
//! The simulator (`kv-sim`) plays traces in simulated time, the load generator (`infinity bench
//! --serve`) against a server. There is no text here, no clock and no server.
//!
//! ```
//! use workload::{Lengths, Workload};
//! let workload = Workload {
//!     requests: 3,
//!     rate: 2.0,
//!     prompt: "64..256".parse()?,
//!     output: Lengths::ShareGpt,
//!     ..Workload::default()
//! };
//! let trace = workload.trace();
//! assert!(trace.iter().all(|r| (64..=256).contains(&r.prompt) && r.total() <= 2048));
//! assert!(trace.is_sorted_by_key(|r| r.arrival));
//! # Ok::<(), workload::LengthsError>(())
//! ```
#![forbid(unsafe_code)]

mod lengths;
mod trace;

pub use lengths::{Lengths, LengthsError, MAX_LENGTH, Side};
pub use trace::{MAX_LINE, MAX_REQUESTS, Request, TraceError, Workload, read};
