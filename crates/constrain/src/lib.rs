//! Output that follows a JSON schema, a regular expression or a grammar; tool calls in a model's text.
#![forbid(unsafe_code)]
