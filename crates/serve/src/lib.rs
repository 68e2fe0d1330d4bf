//! Continuous batching over a paged cache behind the OpenAI API.
#![forbid(unsafe_code)]
