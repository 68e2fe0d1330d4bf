//! One trace of requests through contiguous allocators and through pages, in simulated time.
//!
//! - [`workload`]: what is asked for; [`cost`]: how long a step takes;
//! - [`memory`]: what allocators have in common, [`contiguous`] and [`pages`];
//! - [`sim`]: queue, patience and steps, the same for all;
//! - [`experiment`]: the same trace through several, and what is compared; [`sweep`]: pages of several
//!   block sizes; [`measure`]: what attention over blocks costs on this machine;
//! - [`text`], [`svg`], [`html`]: how it is told.
//!
//! The pages are those of the crate `paged-kv`, not a model of them. Equal arguments give equal
//! results.
#![forbid(unsafe_code)]

pub mod contiguous;
pub mod cost;
pub mod experiment;
pub mod html;
pub mod measure;
pub mod memory;
pub mod pages;
pub mod sim;
pub mod svg;
pub mod sweep;
pub mod text;
