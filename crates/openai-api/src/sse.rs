//! Server-sent events (WHATWG HTML, section 9.2): the frames of a stream, written and read.

use serde::Serialize;

/// The data that ends a stream of completions.
pub const DONE: &str = "[DONE]";

/// A comment, which readers skip; it keeps a silent connection open.
pub const KEEP_ALIVE: &[u8] = b": keep-alive\n\n";

/// A frame with a value as JSON.
///
/// # Panics
/// For a map whose keys are not strings, which none of this crate's types has.
pub fn frame(value: &impl Serialize) -> Vec<u8> {
    named(None, value)
}

/// A frame with a value as JSON and the event's name.
///
/// # Panics
/// As [`frame`].
pub fn event(name: &str, value: &impl Serialize) -> Vec<u8> {
    named(Some(name), value)
}

fn named(name: Option<&str>, value: &impl Serialize) -> Vec<u8> {
    let mut out = Vec::with_capacity(256);
    if let Some(name) = name {
        out.extend_from_slice(b"event: ");
        out.extend_from_slice(name.as_bytes());
        out.push(b'\n');
    }
    out.extend_from_slice(b"data: ");
    // JSON on one line: serde_json escapes line breaks within strings.
    serde_json::to_writer(&mut out, value).expect("keys are strings and a vector takes all bytes");
    out.extend_from_slice(b"\n\n");
    out
}

/// The frame that ends a stream of completions.
pub fn done() -> Vec<u8> {
    format!("data: {DONE}\n\n").into_bytes()
}

/// An event of a stream.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SseEvent {
    /// Its name; `message` goes without.
    pub event: Option<String>,
    /// Its lines of data, joined by line breaks.
    pub data: String,
}

impl SseEvent {
    /// Whether it ends a stream of completions.
    pub fn is_done(&self) -> bool {
        self.data == DONE
    }
}

/// A stream that no server of good will sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SseError {
    /// An event larger than the limit.
    #[error("an event of the stream is larger than {limit} bytes")]
    TooLarge {
        /// The most bytes.
        limit: usize,
    },
    /// Bytes that are no text.
    #[error("a line of the stream is not UTF-8")]
    NotUtf8,
}

/// Reads events from the pieces in which they arrive, wherever those are cut.
///
/// ```
/// let mut reader = openai_api::sse::SseReader::new();
/// assert_eq!(reader.push(b"data: {\"a\"")?, []);
/// let events = reader.push(b":1}\r\n\r\ndata: [DONE]\n\n")?;
/// assert_eq!(events[0].data, "{\"a\":1}");
/// assert!(events[1].is_done());
/// # Ok::<(), openai_api::sse::SseError>(())
/// ```
#[derive(Clone, Debug)]
pub struct SseReader {
    limit: usize,
    line: Vec<u8>,
    /// The last byte was a carriage return: a line feed after it belongs to it.
    after_return: bool,
    at_start: bool,
    event: Option<String>,
    data: Option<String>,
}

impl Default for SseReader {
    fn default() -> Self {
        Self::new()
    }
}

impl SseReader {
    /// A reader of events of up to 16 MiB.
    pub fn new() -> Self {
        Self::with_limit(16 << 20)
    }

    /// A reader of events of up to `limit` bytes.
    pub fn with_limit(limit: usize) -> Self {
        Self {
            limit,
            line: Vec::new(),
            after_return: false,
            at_start: true,
            event: None,
            data: None,
        }
    }

    /// Takes the next bytes and returns the events that they complete.
    ///
    /// # Errors
    /// [`SseError`]; the stream is of no more use then.
    pub fn push(&mut self, bytes: &[u8]) -> Result<Vec<SseEvent>, SseError> {
        let mut events = Vec::new();
        for &byte in bytes {
            if std::mem::take(&mut self.after_return) && byte == b'\n' {
                continue;
            }
            match byte {
                b'\n' | b'\r' => {
                    self.after_return = byte == b'\r';
                    events.extend(self.end_line()?);
                }
                _ => {
                    let held = self.data.as_ref().map_or(0, String::len);
                    if self.line.len() + held >= self.limit {
                        return Err(SseError::TooLarge { limit: self.limit });
                    }
                    self.line.push(byte);
                }
            }
        }
        Ok(events)
    }

    fn end_line(&mut self) -> Result<Option<SseEvent>, SseError> {
        let line = std::mem::take(&mut self.line);
        let mut line = std::str::from_utf8(&line).map_err(|_| SseError::NotUtf8)?;
        if std::mem::take(&mut self.at_start) {
            line = line.strip_prefix('\u{feff}').unwrap_or(line);
        }
        if line.is_empty() {
            let event = self.event.take();
            return Ok(self.data.take().map(|data| SseEvent { event, data }));
        }
        let (field, value) = line.split_once(':').unwrap_or((line, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match field {
            "data" => match &mut self.data {
                Some(data) => {
                    data.push('\n');
                    data.push_str(value);
                }
                None => self.data = Some(value.to_owned()),
            },
            "event" => self.event = Some(value.to_owned()),
            // Comments, `id`, `retry` and what is yet to be invented.
            _ => {}
        }
        Ok(None)
    }
}
