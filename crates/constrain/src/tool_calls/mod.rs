//! Calls of tools in what a model writes.
//!
//! A chat template teaches a model one way to write a call; there is no standard. A
//! [`ToolCallParser`] finds calls in text that comes in pieces and tells, as OpenAI's stream does,
//! what is content and what belongs to which call. What could still become a marker is held back, so
//! that no part of one ever appears as content; and the pieces say the same however the text is cut.
//!
//! | format | what the model writes |
//! |---|---|
//! | [`Hermes`](ToolFormat::Hermes) (Hermes, Qwen 2.5 and 3) | `<tool_call>{"name": .., "arguments": {..}}</tool_call>`, repeated |
//! | [`Llama3`](ToolFormat::Llama3) | `{"name": .., "parameters": {..}}` at the start or behind `<\|python_tag\|>`, parted by `;` |
//! | [`Mistral`](ToolFormat::Mistral) | `[TOOL_CALLS] [{"name": .., "arguments": {..}}, ..]` |
//! | [`Json`](ToolFormat::Json) | `{"name": .., "arguments": {..}}`, or a list of these, at the start |
//!
//! In all of them `arguments` and `parameters` are taken for each other, and arguments that are
//! written as a string of JSON are unwrapped. What begins like a call and is none is content.
//!
//! ```
//! use constrain::tool_calls::{ToolFormat, parse};
//!
//! let text = "Let me see.\n<tool_call>\n{\"name\": \"add\", \"arguments\": {\"a\": 1}}\n</tool_call>";
//! let parsed = parse(ToolFormat::Hermes, text, 7);
//! assert_eq!(parsed.content, "Let me see.");
//! assert_eq!((parsed.calls[0].name.as_str(), parsed.calls[0].arguments.as_str()), ("add", "{\"a\": 1}"));
//! ```

mod format;
mod grammar;
mod object;
mod parser;

pub use format::ToolFormat;
pub(crate) use format::ToolSyntax;
pub(crate) use grammar::grammar;
pub use parser::{CallDelta, ParsedText, TextDelta, ToolCall, ToolCallParser, parse};
