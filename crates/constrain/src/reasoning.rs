//! What a model thinks before it answers, split off from the answer.
//!
//! Reasoning models write their thoughts first, between two markers, and chat templates of some open
//! the section in the prompt already. Servers tell both apart (`reasoning_content` beside `content`).

use tokenizer::Tokenizer;

use crate::lark::{ANY, up_to};
use crate::marker::MarkerScan;

/// How a model marks its thoughts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ReasoningFormat {
    /// `<think>..</think>` (DeepSeek-R1, Qwen 3, QwQ).
    Think,
    /// `[THINK]..[/THINK]` (Magistral).
    Mistral,
}

impl ReasoningFormat {
    /// The format that a chat template knows, if any.
    ///
    /// ```
    /// use constrain::reasoning::ReasoningFormat;
    /// let template = "{{ content.split('</think>')[-1] }}";
    /// assert_eq!(ReasoningFormat::of_template(template), Some(ReasoningFormat::Think));
    /// assert_eq!(ReasoningFormat::of_template("{{ messages }}"), None);
    /// ```
    pub fn of_template(source: &str) -> Option<Self> {
        [Self::Think, Self::Mistral].into_iter().find(|format| source.contains(format.markers().1))
    }

    /// The markers before and behind thoughts. Where a vocabulary has them as special tokens, they
    /// must be decoded all the same for thoughts to be found.
    pub fn markers(self) -> (&'static str, &'static str) {
        match self {
            Self::Think => ("<think>", "</think>"),
            Self::Mistral => ("[THINK]", "[/THINK]"),
        }
    }

    /// Whether a prompt ends inside thoughts, so that the answer begins there.
    pub fn is_opened_by(self, prompt: &str) -> bool {
        prompt.trim_end().ends_with(self.markers().0)
    }

    /// Whether a prompt ends behind thoughts, so that none come: templates write empty ones for who
    /// wants an answer at once.
    pub fn is_closed_by(self, prompt: &str) -> bool {
        prompt.trim_end().ends_with(self.markers().1)
    }
}

/// The grammar, in Lark, of thoughts and the grammar `answer` behind them. With `spaced` up to two
/// line breaks may come between. `free` is whether the answer may be any text.
pub(crate) fn grammar(
    format: ReasoningFormat,
    inside: bool,
    spaced: bool,
    free: bool,
    answer: &str,
    tokenizer: &Tokenizer,
) -> String {
    let (open, close) = format.markers();
    let space = if spaced { r"/\n{1,2}/? " } else { "" };
    let closed = up_to("closed", ANY, close, tokenizer);
    if inside {
        return format!("start: closed {space}@{answer}\n{closed}");
    }
    // An answer that may begin with white space could have it before the marker too; in front of any
    // other, a model could go on with it for ever.
    let before = if free { r"\s" } else { "" };
    let opened = up_to("opened", before, open, tokenizer);
    format!("start: opened closed {space}@{answer} | @{answer}\n{opened}{closed}")
}

/// A piece of an answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ReasoningDelta {
    /// Of the thoughts.
    Reasoning(String),
    /// Of what is said.
    Content(String),
}

/// Splits thoughts off a text that comes in pieces.
///
/// Thoughts are at the start of an answer or nowhere: a marker further on is content. White space at
/// both ends of the thoughts, and between them and the content, is dropped. However the text is cut,
/// the pieces that come out say the same.
///
/// ```
/// use constrain::reasoning::{ReasoningDelta, ReasoningFormat, ReasoningParser};
/// let mut parser = ReasoningParser::new(ReasoningFormat::Think, false);
/// let mut deltas = parser.push("<think>\nSix tim");
/// deltas.extend(parser.push("es seven.\n</thi"));
/// deltas.extend(parser.push("nk>\n\n42"));
/// deltas.extend(parser.finish());
/// assert_eq!(deltas, [
///     ReasoningDelta::Reasoning("Six tim".into()),
///     ReasoningDelta::Reasoning("es seven.".into()),
///     ReasoningDelta::Content("42".into()),
/// ]);
/// ```
#[derive(Clone, Debug)]
pub struct ReasoningParser {
    place: Place,
    open: MarkerScan,
    close: MarkerScan,
    /// White space that counts only if more of the same follows.
    space: String,
    /// Whether anything of the section at hand has come.
    begun: bool,
    /// Whether white space behind thoughts belongs to the answer.
    exact: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    Start,
    Reasoning,
    /// What is said, behind thoughts.
    Answer,
    /// What is said, there being no thoughts.
    Plain,
}

impl ReasoningParser {
    /// A parser at the start of an answer; `inside` if the prompt opened the thoughts
    /// ([`ReasoningFormat::is_opened_by`]).
    pub fn new(format: ReasoningFormat, inside: bool) -> Self {
        let (open, close) = format.markers();
        Self {
            place: if inside { Place::Reasoning } else { Place::Start },
            open: MarkerScan::new(open),
            close: MarkerScan::new(close),
            space: String::new(),
            begun: false,
            exact: false,
        }
    }

    /// Takes white space behind thoughts for a part of the answer, as where that follows a regular
    /// expression.
    #[must_use]
    pub fn exact(mut self) -> Self {
        self.exact = true;
        self
    }

    /// Reads more of the text; tells what is certain now.
    pub fn push(&mut self, text: &str) -> Vec<ReasoningDelta> {
        let mut deltas = Vec::new();
        for c in text.chars() {
            self.read(c, &mut deltas);
        }
        deltas
    }

    /// The text is at its end: what was held back belongs to what came before it.
    pub fn finish(&mut self) -> Vec<ReasoningDelta> {
        let mut deltas = Vec::new();
        match self.place {
            Place::Start => {
                let text = std::mem::take(&mut self.space) + &self.open.finish();
                emit(&mut deltas, ReasoningDelta::Content(text));
            }
            Place::Reasoning => {
                let text = self.close.finish();
                self.thought(&text, &mut deltas);
            }
            Place::Answer | Place::Plain => {}
        }
        deltas
    }

    fn read(&mut self, c: char, deltas: &mut Vec<ReasoningDelta>) {
        match self.place {
            Place::Start => self.read_start(c, deltas),
            Place::Reasoning => {
                let mut text = String::new();
                let closed = self.close.push(c, &mut text);
                self.thought(&text, deltas);
                if closed {
                    self.space.clear();
                    let place = if self.exact { Place::Plain } else { Place::Answer };
                    (self.place, self.begun) = (place, false);
                }
            }
            Place::Answer if !self.begun && c.is_whitespace() => {}
            Place::Answer | Place::Plain => {
                self.begun = true;
                emit(deltas, ReasoningDelta::Content(c.to_string()));
            }
        }
    }

    fn read_start(&mut self, c: char, deltas: &mut Vec<ReasoningDelta>) {
        let mut text = String::new();
        if self.open.push(c, &mut text) {
            self.space.clear();
            self.place = Place::Reasoning;
        } else if text.trim().is_empty() {
            self.space.push_str(&text);
        } else {
            let text = std::mem::take(&mut self.space) + &text + &self.open.finish();
            self.place = Place::Plain;
            emit(deltas, ReasoningDelta::Content(text));
        }
    }

    fn thought(&mut self, text: &str, deltas: &mut Vec<ReasoningDelta>) {
        let text = if self.begun { text } else { text.trim_start() };
        let end = text.trim_end().len();
        if end > 0 {
            let text = std::mem::take(&mut self.space) + &text[..end];
            self.begun = true;
            emit(deltas, ReasoningDelta::Reasoning(text));
        }
        self.space.push_str(&text[end..]);
    }
}

/// Adds a piece, to the one before it where they belong together.
fn emit(deltas: &mut Vec<ReasoningDelta>, delta: ReasoningDelta) {
    use ReasoningDelta::{Content, Reasoning};
    match (deltas.last_mut(), delta) {
        (_, Content(text) | Reasoning(text)) if text.is_empty() => {}
        (Some(Content(before)), Content(text)) => before.push_str(&text),
        (Some(Reasoning(before)), Reasoning(text)) => before.push_str(&text),
        (_, delta) => deltas.push(delta),
    }
}
