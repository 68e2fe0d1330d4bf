//! The OpenAI API's requests, responses, errors and event streams as types.
#![forbid(unsafe_code)]
