//! The text of a chat's answer taken apart: thoughts, content, calls of tools.

use constrain::reasoning::{ReasoningDelta, ReasoningFormat, ReasoningParser};
use constrain::tool_calls::{CallDelta, TextDelta, ToolCallParser, ToolFormat};

/// A piece of an answer.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Piece {
    Reasoning(String),
    Content(String),
    Call(CallDelta),
}

/// What may be in an answer beside content.
#[derive(Clone, Debug, Default)]
pub(crate) struct ChatSyntax {
    /// How thoughts are marked, and whether the prompt opened them.
    pub(crate) reasoning: Option<(ReasoningFormat, bool)>,
    /// How tools are called, and which there are.
    pub(crate) tools: Option<(ToolFormat, Vec<String>)>,
    /// Whether a call may follow another.
    pub(crate) parallel: bool,
    /// Whether a grammar holds calls to their schemas, in a text that is free otherwise.
    pub(crate) exact_calls: bool,
    /// Whether white space at the start of what follows the thoughts belongs to it.
    pub(crate) exact_answer: bool,
}

impl ChatSyntax {
    /// A reader of one answer. `seed` goes into the identifiers of its calls.
    pub(crate) fn reader(&self, seed: u64) -> ChatText {
        let tools = self.tools.as_ref();
        ChatText {
            reasoning: self.reasoning.map(|(format, inside)| {
                let parser = ReasoningParser::new(format, inside);
                if self.exact_answer { parser.exact() } else { parser }
            }),
            tools: tools.map(|(format, names)| {
                let parser = ToolCallParser::new(*format, seed).with_tools(names.iter().cloned());
                if self.exact_calls { parser.exact() } else { parser }
            }),
            parallel: self.parallel,
        }
    }
}

/// Reads one answer as it comes.
pub(crate) struct ChatText {
    reasoning: Option<ReasoningParser>,
    tools: Option<ToolCallParser>,
    parallel: bool,
}

impl ChatText {
    /// Reads more of the text; tells what is certain now.
    pub(crate) fn push(&mut self, text: &str) -> Vec<Piece> {
        let deltas = match &mut self.reasoning {
            Some(parser) => parser.push(text),
            None => vec![ReasoningDelta::Content(text.to_owned())],
        };
        self.of_content(deltas)
    }

    /// The text is at its end.
    pub(crate) fn finish(&mut self) -> Vec<Piece> {
        let held = self.reasoning.as_mut().map(ReasoningParser::finish).unwrap_or_default();
        let mut pieces = self.of_content(held);
        let rest = self.tools.as_mut().map(ToolCallParser::finish).unwrap_or_default();
        pieces.extend(self.wanted(rest));
        pieces
    }

    /// Whether a call was found.
    pub(crate) fn has_calls(&self) -> bool {
        self.tools.as_ref().is_some_and(ToolCallParser::has_calls)
    }

    fn of_content(&mut self, deltas: Vec<ReasoningDelta>) -> Vec<Piece> {
        let mut pieces = Vec::new();
        for delta in deltas {
            match delta {
                ReasoningDelta::Reasoning(text) => pieces.push(Piece::Reasoning(text)),
                ReasoningDelta::Content(text) => match &mut self.tools {
                    Some(parser) => {
                        let found = parser.push(&text);
                        pieces.extend(self.wanted(found));
                    }
                    None if text.is_empty() => {}
                    None => pieces.push(Piece::Content(text)),
                },
            }
        }
        pieces
    }

    /// Where one call at a time is allowed, the first one counts.
    fn wanted(&self, deltas: Vec<TextDelta>) -> Vec<Piece> {
        let parallel = self.parallel;
        let wanted = deltas.into_iter().filter_map(|delta| match delta {
            TextDelta::Content(text) => Some(Piece::Content(text)),
            TextDelta::Call(call) if parallel || call.index == 0 => Some(Piece::Call(call)),
            TextDelta::Call(_) => None,
        });
        wanted.collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "<think>hm</think>Well. <tool_call>{\"name\": \"f\", \"arguments\": {}}</tool_call>\
        <tool_call>{\"name\": \"g\", \"arguments\": {}}</tool_call>";

    fn read(parallel: bool, step: usize) -> (String, String, Vec<String>) {
        let syntax = ChatSyntax {
            reasoning: Some((ReasoningFormat::Think, false)),
            tools: Some((ToolFormat::Hermes, vec!["f".into(), "g".into()])),
            parallel,
            ..ChatSyntax::default()
        };
        let mut reader = syntax.reader(1);
        let pieces: Vec<char> = TEXT.chars().collect();
        let mut found: Vec<Piece> =
            pieces.chunks(step).flat_map(|c| reader.push(&c.iter().collect::<String>())).collect();
        found.extend(reader.finish());
        assert!(reader.has_calls());
        let (mut thoughts, mut content, mut calls) = (String::new(), String::new(), Vec::new());
        for piece in found {
            match piece {
                Piece::Reasoning(text) => thoughts.push_str(&text),
                Piece::Content(text) => content.push_str(&text),
                Piece::Call(call) => calls.extend(call.name),
            }
        }
        (thoughts, content, calls)
    }

    #[test]
    fn thoughts_content_and_calls_are_told_apart_however_the_text_is_cut() {
        for step in [1, 2, 7, 1000] {
            let (thoughts, content, calls) = read(true, step);
            assert_eq!((thoughts.as_str(), content.as_str()), ("hm", "Well."));
            assert_eq!(calls, ["f", "g"]);
            assert_eq!(read(false, step).2, ["f"]);
        }
    }
}
