//! Telling calls from content while a text grows.

use super::object::{CallObject, Step, Wanted};
use super::{ToolFormat, ToolSyntax};
use crate::marker::MarkerScan;

/// A piece of an answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TextDelta {
    /// Content.
    Content(String),
    /// Part of a call.
    Call(CallDelta),
}

/// Part of a call, as OpenAI streams it: identifier and name come with its first part, the text of
/// the arguments piece by piece.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CallDelta {
    /// Which call of the answer, from 0.
    pub index: usize,
    /// The identifier, in the first part.
    pub id: Option<String>,
    /// The tool's name, in the first part.
    pub name: Option<String>,
    /// More of the arguments' JSON.
    pub arguments: String,
}

/// A whole call.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ToolCall {
    /// The identifier.
    pub id: String,
    /// The tool's name.
    pub name: String,
    /// The arguments, as the model wrote them: JSON unless the text was cut or the model erred.
    pub arguments: String,
}

/// A whole answer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ParsedText {
    /// What is no call.
    pub content: String,
    /// The calls in order.
    pub calls: Vec<ToolCall>,
}

impl ParsedText {
    /// Adds a piece.
    ///
    /// # Panics
    /// If a call's parts come before its first.
    pub fn push(&mut self, delta: TextDelta) {
        match delta {
            TextDelta::Content(text) => self.content.push_str(&text),
            TextDelta::Call(CallDelta { index, id, name, arguments }) => {
                if index == self.calls.len() {
                    let (id, name) = (id.unwrap_or_default(), name.unwrap_or_default());
                    self.calls.push(ToolCall { id, name, arguments: String::new() });
                }
                self.calls[index].arguments.push_str(&arguments);
            }
        }
    }
}

/// The calls and the content of a whole text. `seed` goes into the identifiers.
pub fn parse(format: ToolFormat, text: &str, seed: u64) -> ParsedText {
    let mut parser = ToolCallParser::new(format, seed);
    let mut parsed = ParsedText::default();
    let deltas = parser.push(text).into_iter().chain(parser.finish());
    deltas.for_each(|delta| parsed.push(delta));
    parsed
}

/// Finds calls in a text that comes in pieces.
///
/// However the text is cut, the pieces that come out say the same. White space beside a call is
/// dropped.
#[derive(Clone, Debug)]
pub struct ToolCallParser {
    format: ToolFormat,
    syntax: ToolSyntax,
    seed: u64,
    /// Names that a call without a marker may have; empty for any.
    tools: Vec<String>,
    /// Whether a call without a marker must be written as a grammar has it.
    exact: bool,
    place: Place,
    open: Option<MarkerScan>,
    object: CallObject,
    /// What was read since a call may have begun, or behind one: content, if it turns out so.
    raw: String,
    /// Inside the list of calls.
    in_list: bool,
    /// Whether a marker opened what is being read.
    marked: bool,
    /// Whether the call that is being read is known to be one.
    started: bool,
    /// Calls so far.
    calls: usize,
    /// White space that is content only if content follows.
    space: String,
    /// Whether a call was the last thing.
    after_call: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    /// Nothing but white space so far, and a call may begin without a marker.
    Start,
    Content,
    /// Behind a marker, inside a list, or between calls.
    Between,
    Object,
    /// Behind a call, before its closing marker.
    Closing,
}

impl ToolCallParser {
    /// A parser at the start of an answer. `seed` goes into the identifiers of calls.
    pub fn new(format: ToolFormat, seed: u64) -> Self {
        let syntax = format.syntax();
        Self {
            format,
            syntax,
            seed,
            tools: Vec::new(),
            exact: false,
            place: if syntax.bare { Place::Start } else { Place::Content },
            open: syntax.open.map(MarkerScan::new),
            object: CallObject::default(),
            raw: String::new(),
            in_list: false,
            marked: false,
            started: false,
            calls: 0,
            space: String::new(),
            after_call: false,
        }
    }

    /// Takes JSON without a marker for a call only if it names one of `tools`: an answer in JSON may
    /// look like a call.
    #[must_use]
    pub fn with_tools(mut self, tools: impl IntoIterator<Item = String>) -> Self {
        self.tools = tools.into_iter().collect();
        self
    }

    /// For a text that follows [`Grammar::Tools`](crate::Grammar::Tools) where calls are not required:
    /// takes for a call without a marker what that grammar holds to a schema, and nothing else. Other
    /// objects, and lists of them, are content.
    #[must_use]
    pub fn exact(mut self) -> Self {
        self.exact = true;
        if self.place == Place::Start && !self.syntax.begins_bare() {
            self.place = Place::Content;
        }
        self
    }

    /// Whether a call was found.
    pub fn has_calls(&self) -> bool {
        self.calls > 0
    }

    /// Reads more of the text; tells what is certain now.
    pub fn push(&mut self, text: &str) -> Vec<TextDelta> {
        let mut deltas = Vec::new();
        for c in text.chars() {
            self.read(c, &mut deltas);
        }
        deltas
    }

    /// The text is at its end: what was held back is content. A call that was cut stays as it is.
    pub fn finish(&mut self) -> Vec<TextDelta> {
        let mut deltas = Vec::new();
        let raw = std::mem::take(&mut self.raw);
        match self.place {
            Place::Object if self.started => {}
            // Separators behind a call, and part of its closing marker.
            Place::Between if self.after_call => {}
            Place::Closing if self.syntax.close.is_some_and(|c| c.starts_with(raw.trim())) => {}
            _ => self.content(&raw, &mut deltas),
        }
        if let Some(scan) = &mut self.open {
            let partial = scan.finish();
            self.content(&partial, &mut deltas);
        }
        if !self.after_call {
            let space = std::mem::take(&mut self.space);
            emit(&mut deltas, TextDelta::Content(space));
        }
        deltas
    }

    fn read(&mut self, c: char, deltas: &mut Vec<TextDelta>) {
        match self.place {
            Place::Start => match c {
                '{' | '[' if c == '{' || !self.exact => {
                    self.place = Place::Between;
                    self.read(c, deltas);
                }
                _ => {
                    if !c.is_whitespace() {
                        self.place = Place::Content;
                    }
                    self.read_content(c, deltas);
                }
            },
            Place::Content => self.read_content(c, deltas),
            Place::Between => self.read_between(c, deltas),
            Place::Object => self.read_object(c, deltas),
            Place::Closing => self.read_closing(c, deltas),
        }
    }

    fn read_content(&mut self, c: char, deltas: &mut Vec<TextDelta>) {
        let mut text = String::new();
        let found = match &mut self.open {
            Some(scan) => scan.push(c, &mut text),
            None => {
                text.push(c);
                false
            }
        };
        self.content(&text, deltas);
        if found {
            self.opened(self.syntax.open.unwrap_or_default());
        }
    }

    fn read_between(&mut self, c: char, deltas: &mut Vec<TextDelta>) {
        match c {
            '{' => {
                self.raw.push(c);
                self.object = CallObject::new(match (self.marked, self.exact) {
                    (true, _) => Wanted::Named,
                    (false, false) => Wanted::Plain,
                    (false, true) => Wanted::Exact,
                });
                (self.place, self.started) = (Place::Object, false);
            }
            '[' if !self.in_list && !self.after_call => {
                self.raw.push(c);
                self.in_list = true;
            }
            ']' if self.in_list && self.after_call => self.end_list(),
            ',' | ';' if self.after_call => self.raw.push(c),
            _ if c.is_whitespace() => self.raw.push(c),
            _ => self.give_up(c, deltas),
        }
    }

    /// The list of calls is closed.
    fn end_list(&mut self) {
        self.in_list = false;
        self.raw.clear();
        self.place = if self.syntax.close.is_some() { Place::Closing } else { Place::Between };
    }

    /// What was read is no call, and `c` was not read.
    fn give_up(&mut self, c: char, deltas: &mut Vec<TextDelta>) {
        self.not_a_call(deltas);
        self.read(c, deltas);
    }

    /// What was read is no call.
    fn not_a_call(&mut self, deltas: &mut Vec<TextDelta>) {
        let raw = std::mem::take(&mut self.raw);
        (self.place, self.in_list) = (Place::Content, false);
        if self.marked {
            self.content(&raw, deltas);
        } else {
            // It may be part of the marker: `[` of `[TOOL_CALLS]`.
            raw.chars().for_each(|c| self.read(c, deltas));
        }
    }

    fn read_object(&mut self, c: char, deltas: &mut Vec<TextDelta>) {
        let step = self.object.push(c);
        if step == Step::Broken && !self.started {
            return self.give_up(c, deltas);
        }
        if !self.started {
            self.raw.push(c);
            let certain = self.object.has_arguments || step == Step::Done && self.marked;
            if let Some(name) = self.object.name.take_if(|_| certain) {
                if !self.marked && !self.tools.is_empty() && !self.tools.contains(&name) {
                    return self.not_a_call(deltas);
                }
                self.start(name, deltas);
            } else if step == Step::Done {
                return self.not_a_call(deltas);
            }
        }
        if self.started {
            if step == Step::Done && !self.object.has_arguments {
                self.object.arguments = "{}".to_owned();
            }
            let arguments = std::mem::take(&mut self.object.arguments);
            let index = self.calls - 1;
            emit(deltas, TextDelta::Call(CallDelta { index, arguments, ..CallDelta::default() }));
        }
        if step != Step::More {
            let closes = self.syntax.close.is_some() && !self.in_list && self.marked;
            self.place = if closes { Place::Closing } else { Place::Between };
            if step == Step::Broken {
                self.read(c, deltas);
            }
        }
    }

    fn start(&mut self, name: String, deltas: &mut Vec<TextDelta>) {
        self.raw.clear();
        self.space.clear();
        (self.started, self.after_call) = (true, true);
        let index = self.calls;
        self.calls += 1;
        let id = Some(self.format.call_id(self.seed, index));
        let arguments = String::new();
        emit(deltas, TextDelta::Call(CallDelta { index, id, name: Some(name), arguments }));
    }

    /// Between a call and its closing marker there should be nothing; what there is is held back.
    fn read_closing(&mut self, c: char, deltas: &mut Vec<TextDelta>) {
        self.raw.push(c);
        if self.syntax.close.is_some_and(|marker| self.raw.ends_with(marker)) {
            self.raw.clear();
            self.place = Place::Content;
        } else if let Some(open) = self.syntax.open.filter(|marker| self.raw.ends_with(marker)) {
            let raw = std::mem::take(&mut self.raw);
            self.content(&raw[..raw.len() - open.len()], deltas);
            self.opened(open);
        }
    }

    /// The marker of a call was read.
    fn opened(&mut self, marker: &str) {
        self.raw = marker.to_owned();
        (self.place, self.marked, self.after_call) = (Place::Between, true, false);
    }

    /// Content, less the white space beside calls.
    fn content(&mut self, text: &str, deltas: &mut Vec<TextDelta>) {
        let text = if self.after_call { text.trim_start() } else { text };
        if text.is_empty() {
            return;
        }
        self.after_call = false;
        let end = text.trim_end().len();
        if end > 0 {
            let space = std::mem::take(&mut self.space);
            emit(deltas, TextDelta::Content(space));
            emit(deltas, TextDelta::Content(text[..end].to_owned()));
        }
        self.space.push_str(&text[end..]);
    }
}

/// Adds a piece, to the one before it where they belong together.
fn emit(deltas: &mut Vec<TextDelta>, delta: TextDelta) {
    match (deltas.last_mut(), delta) {
        (_, TextDelta::Content(text)) if text.is_empty() => {}
        (Some(TextDelta::Content(before)), TextDelta::Content(text)) => before.push_str(&text),
        (Some(TextDelta::Call(before)), TextDelta::Call(delta)) if before.index == delta.index => {
            before.arguments.push_str(&delta.arguments);
        }
        (_, TextDelta::Call(CallDelta { name: None, arguments, .. })) if arguments.is_empty() => {}
        (_, delta) => deltas.push(delta),
    }
}
