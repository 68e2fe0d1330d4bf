//! Decoding ids one at a time, never half a character.

use crate::{DecodeOptions, Error, Tokenizer};

/// Turns ids into text as they come.
///
/// What [`DecodeStream::push`] and [`DecodeStream::finish`] return is, put together, what
/// [`Tokenizer::decode`] returns for all ids at once. Bytes that do not yet make a character are
/// held back; bytes that never will become U+FFFD.
#[derive(Clone)]
pub struct DecodeStream<'t> {
    tokenizer: &'t Tokenizer,
    options: DecodeOptions,
    pending: Vec<u8>,
    at_start: bool,
}

impl<'t> DecodeStream<'t> {
    pub(crate) fn new(tokenizer: &'t Tokenizer, options: DecodeOptions) -> Self {
        let at_start = !options.continues;
        DecodeStream { tokenizer, options, pending: Vec::new(), at_start }
    }

    /// Takes one id; returns the text that it completes, if any.
    ///
    /// # Errors
    /// [`Error::IdOutOfRange`]; the stream goes on unharmed.
    pub fn push(&mut self, id: u32) -> Result<Option<String>, Error> {
        let t = self.tokenizer;
        t.check(id)?;
        if self.options.skip_special && t.is_special(id) {
            return Ok(None);
        }
        t.spelling(id, self.at_start, &mut self.pending);
        self.at_start = false;
        let text = self.take(false);
        Ok((!text.is_empty()).then_some(text))
    }

    /// Ends the stream: bytes still held back are each an error and become U+FFFD.
    pub fn finish(mut self) -> Option<String> {
        let text = self.take(true);
        (!text.is_empty()).then_some(text)
    }

    fn take(&mut self, all: bool) -> String {
        let mut text = String::new();
        let mut used = 0;
        for chunk in self.pending.utf8_chunks() {
            text.push_str(chunk.valid());
            used += chunk.valid().len();
            if chunk.invalid().is_empty() {
                continue;
            }
            // At the end of what is there, an incomplete character may still become whole.
            let last = used + chunk.invalid().len() == self.pending.len();
            if last && !all && may_continue(chunk.invalid()) {
                break;
            }
            text.push(char::REPLACEMENT_CHARACTER);
            used += chunk.invalid().len();
        }
        self.pending.drain(..used);
        text
    }
}

fn may_continue(bytes: &[u8]) -> bool {
    matches!(std::str::from_utf8(bytes), Err(e) if e.error_len().is_none())
}
