//! Reads bytes as the text of an answer, whole and in pieces: thoughts, content and calls must be the
//! same, and nothing made up.
#![cfg_attr(fuzzing, no_main)]

use constrain::reasoning::{ReasoningDelta, ReasoningFormat, ReasoningParser};
use constrain::tool_calls::{ParsedText, TextDelta, ToolCallParser, ToolFormat};

fuzz::target!(run);

/// The first bytes say how the text is read and where it is cut, the others are the text.
fn run(bytes: &[u8]) {
    let Some((&[flags, first, second], text)) = bytes.split_first_chunk() else { return };
    let text = String::from_utf8_lossy(text);
    let pieces = cut(&text, [first.into(), second.into()]);
    let whole = [text.as_ref()];
    let (inside, exact, named) = (flags & 1 != 0, flags & 2 != 0, flags & 4 != 0);

    for format in ToolFormat::ALL {
        let parser = || {
            let parser = ToolCallParser::new(format, 1);
            let parser = if exact { parser.exact() } else { parser };
            parser.with_tools(named.then(|| "f".to_owned()))
        };
        let parsed = calls(parser(), &pieces);
        assert_eq!(parsed, calls(parser(), &whole), "{format:?}");
        within(&parsed.content, &text);
        for (index, call) in parsed.calls.iter().enumerate() {
            assert_eq!(call.id, format.call_id(1, index));
        }
    }
    for format in [ReasoningFormat::Think, ReasoningFormat::Mistral] {
        let parser = || {
            let parser = ReasoningParser::new(format, inside);
            if exact { parser.exact() } else { parser }
        };
        let (thoughts, answer) = reasoning(parser(), &pieces);
        let whole = reasoning(parser(), &whole);
        assert_eq!((&thoughts, &answer), (&whole.0, &whole.1));
        within(&(thoughts.clone() + &answer), &text);
        assert!(!thoughts.contains(format.markers().1));
    }
}

/// Cuts a text in three, at characters.
fn cut(text: &str, at: [usize; 2]) -> [&str; 3] {
    let boundary = |i: usize| (0..=i).rev().find(|&i| text.is_char_boundary(i)).unwrap_or(0);
    let [first, second] = at.map(|at| boundary(at % (text.len() + 1)));
    let (first, second) = (first.min(second), first.max(second));
    [&text[..first], &text[first..second], &text[second..]]
}

/// Content is made of the text's characters in their order.
fn within(content: &str, text: &str) {
    let mut rest = text.chars();
    assert!(content.chars().all(|c| rest.any(|d| c == d)), "{content:?} of {text:?}");
}

fn calls(mut parser: ToolCallParser, pieces: &[&str]) -> ParsedText {
    let mut deltas: Vec<TextDelta> = pieces.iter().flat_map(|p| parser.push(p)).collect();
    deltas.extend(parser.finish());
    let mut parsed = ParsedText::default();
    for delta in deltas {
        assert_ne!(delta, TextDelta::Content(String::new()));
        parsed.push(delta);
    }
    assert_eq!(parser.has_calls(), !parsed.calls.is_empty());
    parsed
}

fn reasoning(mut parser: ReasoningParser, pieces: &[&str]) -> (String, String) {
    let mut deltas: Vec<ReasoningDelta> = pieces.iter().flat_map(|p| parser.push(p)).collect();
    deltas.extend(parser.finish());
    let (mut thoughts, mut answer) = (String::new(), String::new());
    for delta in deltas {
        match delta {
            ReasoningDelta::Reasoning(text) => thoughts += &text,
            ReasoningDelta::Content(text) => answer += &text,
        }
    }
    (thoughts, answer)
}
