//! A few requests served from one paged cache, step by step, in the open.
//!
//! - [`requests`]: who asks for what, and when;
//! - [`engine`]: the scheduler, the blocks, their storage and the model, stepped one forward at a time;
//! - [`frame`]: what a step did, which is all that the displays know;
//! - [`plain`], [`view`]: a frame as lines and as a picture in the terminal;
//! - [`alone`]: what each request gets without any of this, to compare with;
//! - [`bard`]: the model that comes with the program.
//!
//! Nothing here decides anything: which rows a step computes is the crate `scheduler`'s doing, which
//! block holds what the crate `paged-kv`'s.
#![forbid(unsafe_code)]

pub mod alone;
pub mod bard;
pub mod engine;
pub mod frame;
pub mod plain;
pub mod requests;
pub mod view;
