//! Calls of tools in text, whole and in pieces.

use constrain::reasoning::{ReasoningDelta, ReasoningFormat, ReasoningParser};
use constrain::tool_calls::{ParsedText, TextDelta, ToolCallParser, ToolFormat, parse};
use proptest::prelude::*;

fn check(format: ToolFormat, text: &str, content: &str, calls: &[(&str, &str)]) {
    let parsed = parse(format, text, 1);
    let found: Vec<(&str, &str)> =
        parsed.calls.iter().map(|c| (c.name.as_str(), c.arguments.as_str())).collect();
    assert_eq!((parsed.content.as_str(), found.as_slice()), (content, calls), "{format:?}: {text}");
    for (index, call) in parsed.calls.iter().enumerate() {
        assert_eq!(call.id, format.call_id(1, index));
    }
}

#[test]
fn hermes() {
    let f = ToolFormat::Hermes;
    check(f, "Just text.", "Just text.", &[]);
    check(f, " a <tool or <tool_call here\n", " a <tool or <tool_call here\n", &[]);
    let one =
        "<tool_call>\n{\"name\": \"f\", \"arguments\": {\"x\": \"</tool_call>\"}}\n</tool_call>";
    check(f, one, "", &[("f", "{\"x\": \"</tool_call>\"}")]);
    check(f, &format!("Hm.\n\n{one}\n{one}\n"), "Hm.", &[("f", "{\"x\": \"</tool_call>\"}"); 2]);
    check(f, &format!("a {one} b"), "ab", &[("f", "{\"x\": \"</tool_call>\"}")]);
    check(f, "<tool_call>{\"name\": \"f\"}</tool_call>", "", &[("f", "{}")]);
    check(
        f,
        "<tool_call>{\"arguments\": {\"a\": [1]}, \"name\": \"f\"}</tool_call>",
        "",
        &[("f", "{\"a\": [1]}")],
    );
    // Without its end: cut by the limit of tokens.
    check(
        f,
        "<tool_call>{\"name\": \"f\", \"arguments\": {\"a\": \"b",
        "",
        &[("f", "{\"a\": \"b")],
    );
    check(f, "<tool_call>{\"name\": \"f\", \"arguments\": {}}\n</tool_", "", &[("f", "{}")]);
    check(f, "<tool_call>{\"name\": \"f\", \"argu", "<tool_call>{\"name\": \"f\", \"argu", &[]);
    // No calls, and calls that are written wrong.
    check(f, "<tool_call>nothing</tool_call>", "<tool_call>nothing</tool_call>", &[]);
    check(
        f,
        "<tool_call>{bad}<tool_call>{\"name\":\"f\",\"arguments\":{}}</tool_call>",
        "<tool_call>{bad}",
        &[("f", "{}")],
    );
    check(f, "<tool_call>{\"name\":\"f\",\"arguments\":{}}}</tool_call>", "", &[("f", "{}")]);
    let open = "<tool_call>{\"name\":\"f\",\"arguments\":{}}\n";
    check(f, &format!("{open}{open}</tool_call>"), "", &[("f", "{}"); 2]);
    check(f, &format!("{open} and so on"), "and so on", &[("f", "{}")]);
}

#[test]
fn llama3() {
    let f = ToolFormat::Llama3;
    let one = "{\"name\": \"f\", \"parameters\": {\"x\": 1}}";
    check(f, one, "", &[("f", "{\"x\": 1}")]);
    check(f, &format!("\n<|python_tag|>{one}; {one}"), "", &[("f", "{\"x\": 1}"); 2]);
    check(f, &format!("Look: {one}"), &format!("Look: {one}"), &[]);
    check(f, "{\"city\": \"Rome\"}", "{\"city\": \"Rome\"}", &[]);
    check(
        f,
        "{\"name\": \"Rome\", \"type\": \"city\"} ",
        "{\"name\": \"Rome\", \"type\": \"city\"} ",
        &[],
    );
    check(f, "[1, 2] <|python_tag|>", "[1, 2] <|python_tag|>", &[]);
    check(
        f,
        "{\"type\": \"function\", \"name\": \"f\", \"parameters\": {}} Done.",
        "Done.",
        &[("f", "{}")],
    );
}

#[test]
fn mistral() {
    let f = ToolFormat::Mistral;
    let list =
        "[{\"name\": \"f\", \"arguments\": {\"x\": []}}, {\"name\": \"g\", \"arguments\": {}}]";
    for text in [format!("[TOOL_CALLS] {list}"), format!("[TOOL_CALLS]{list}\n"), list.to_owned()] {
        check(f, &text, "", &[("f", "{\"x\": []}"), ("g", "{}")]);
    }
    check(f, &format!("Well.\n[TOOL_CALLS] {list}"), "Well.", &[("f", "{\"x\": []}"), ("g", "{}")]);
    check(f, "[TOOL] [1] [TOOL_CALLS", "[TOOL] [1] [TOOL_CALLS", &[]);
    check(f, "[TOOL_CALLS] none", "[TOOL_CALLS] none", &[]);
}

#[test]
fn json() {
    let f = ToolFormat::Json;
    check(f, "{\"name\": \"f\", \"arguments\": \"{\\\"a\\\": 1}\"}", "", &[("f", "{\"a\": 1}")]);
    check(f, "[{\"name\": \"f\", \"arguments\": {}}]", "", &[("f", "{}")]);
    check(f, "[1, {\"name\": \"f\"}]", "[1, {\"name\": \"f\"}]", &[]);
    check(f, "[]", "[]", &[]);
    check(f, "  ", "  ", &[]);
}

#[test]
fn json_that_names_no_tool_is_content() {
    let text = "{\"name\": \"Ann\", \"parameters\": {\"age\": 7}}";
    let read = |tools: &[&str]| {
        let tools = tools.iter().map(|t| t.to_string());
        let mut parser = ToolCallParser::new(ToolFormat::Llama3, 1).with_tools(tools);
        let mut parsed = ParsedText::default();
        parser.push(text).into_iter().chain(parser.finish()).for_each(|d| parsed.push(d));
        (parsed.content, parsed.calls.len(), parser.has_calls())
    };
    assert_eq!(read(&["f"]), (text.to_owned(), 0, false));
    assert_eq!(read(&["f", "Ann"]), (String::new(), 1, true));
}

#[test]
fn arguments_stream() {
    let mut parser = ToolCallParser::new(ToolFormat::Hermes, 3);
    assert_eq!(parser.push("Hi <tool"), [TextDelta::Content("Hi".into())]);
    assert_eq!(parser.push("_call>{\"name\": \"f\", "), []);
    let deltas = parser.push("\"arguments\": {\"a");
    let [TextDelta::Call(first)] = deltas.as_slice() else { panic!("{deltas:?}") };
    assert_eq!(first.id, Some(ToolFormat::Hermes.call_id(3, 0)));
    assert_eq!((first.name.as_deref(), first.arguments.as_str()), (Some("f"), "{\"a"));
    let deltas = parser.push("\": 1");
    let [TextDelta::Call(next)] = deltas.as_slice() else { panic!("{deltas:?}") };
    assert_eq!(
        (next.index, &next.id, &next.name, next.arguments.as_str()),
        (0, &None, &None, "\": 1")
    );
    assert_eq!(parser.push("}}</tool_call> ").len(), 1);
    assert_eq!(parser.finish(), []);
}

/// Text made of what matters: markers and pieces of them, JSON whole and broken.
fn text() -> impl Strategy<Value = String> {
    let piece = prop_oneof![
        Just("<tool_call>"),
        Just("</tool_call>"),
        Just("<tool_"),
        Just("[TOOL_CALLS]"),
        Just("[TOOL"),
        Just("<|python_tag|>"),
        Just("<|py"),
        Just("<think>"),
        Just("</think>"),
        Just("</thi"),
        Just("["),
        Just("]"),
        Just("{"),
        Just("}"),
        Just(","),
        Just(";"),
        Just(" "),
        Just("\n"),
        Just("text é🦀"),
        Just("\""),
        Just("\\"),
        Just("{\"name\": \"f\", \"arguments\": {\"a\": \"}\\\"é\"}}"),
        Just("{\"parameters\": {\"b\": [1]}, \"name\": \"g\"}"),
        Just("\"name\": \"h\""),
        Just("\"arguments\":"),
        Just("\"x\": 1.5"),
    ];
    prop::collection::vec(piece, 0..12).prop_map(|pieces| pieces.concat())
}

/// Cuts a text in pieces at these places.
fn cut(text: &str, at: &[usize]) -> Vec<String> {
    let mut places: Vec<usize> = at.iter().map(|a| a % (text.chars().count() + 1)).collect();
    places.sort_unstable();
    let chars: Vec<char> = text.chars().collect();
    let bounds = std::iter::once(0).chain(places).chain([chars.len()]).collect::<Vec<_>>();
    bounds.windows(2).map(|w| chars[w[0]..w[1]].iter().collect()).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 3000, ..ProptestConfig::default() })]

    #[test]
    fn pieces_say_what_the_whole_says(text in text(), at in prop::collection::vec(any::<usize>(), 0..8)) {
        for (format, exact) in ToolFormat::ALL.into_iter().flat_map(|f| [(f, false), (f, true)]) {
            let of = |exact: bool| {
                let parser = ToolCallParser::new(format, 5);
                if exact { parser.exact() } else { parser }
            };
            let mut whole = ParsedText::default();
            let mut parser = of(exact);
            parser.push(&text).into_iter().chain(parser.finish()).for_each(|d| whole.push(d));
            let mut parser = of(exact);
            let mut parsed = ParsedText::default();
            let mut deltas = Vec::new();
            cut(&text, &at).iter().for_each(|piece| deltas.extend(parser.push(piece)));
            deltas.extend(parser.finish());
            for delta in deltas {
                if let TextDelta::Content(content) = &delta {
                    prop_assert!(!content.is_empty());
                }
                parsed.push(delta);
            }
            prop_assert_eq!(&parsed, &whole, "{:?}, exact: {}", format, exact);
            // Nothing is made up: content is made of the text's characters in their order.
            let mut rest = text.chars();
            prop_assert!(whole.content.chars().all(|c| rest.any(|d| c == d)));
        }
    }

    #[test]
    fn pieces_of_thoughts_say_what_the_whole_says(
        text in text(), at in prop::collection::vec(any::<usize>(), 0..8), inside in any::<bool>(),
    ) {
        let read = |pieces: &[String]| {
            let mut parser = ReasoningParser::new(ReasoningFormat::Think, inside);
            let mut deltas: Vec<ReasoningDelta> = pieces.iter().flat_map(|p| parser.push(p)).collect();
            deltas.extend(parser.finish());
            deltas.into_iter().fold((String::new(), String::new()), |(mut thoughts, mut said), delta| {
                match delta {
                    ReasoningDelta::Reasoning(text) => thoughts += &text,
                    ReasoningDelta::Content(text) => said += &text,
                }
                (thoughts, said)
            })
        };
        let (thoughts, said) = read(&cut(&text, &at));
        let whole = read(std::slice::from_ref(&text));
        prop_assert_eq!((&thoughts, &said), (&whole.0, &whole.1));
        prop_assert!(!thoughts.contains("</think>"));
        if !inside && !text.trim_start().starts_with("<think>") {
            prop_assert_eq!((thoughts.as_str(), said.as_str()), ("", text.as_str()));
        }
    }
}

#[test]
fn thoughts_are_split_off() {
    let read = |text: &str, inside| {
        let mut parser = ReasoningParser::new(ReasoningFormat::Think, inside);
        let mut deltas = parser.push(text);
        deltas.extend(parser.finish());
        deltas
    };
    let thought = |t: &str| ReasoningDelta::Reasoning(t.into());
    let said = |t: &str| ReasoningDelta::Content(t.into());
    assert_eq!(read("\n<think>\n a b \n</think>\n\nHi \n", false), [thought("a b"), said("Hi \n")]);
    assert_eq!(read("a</think>b<think>c</think>", true), [thought("a"), said("b<think>c</think>")]);
    assert_eq!(read("<think></think>Hi", false), [said("Hi")]);
    assert_eq!(read(" Hi <think>x</think>", false), [said(" Hi <think>x</think>")]);
    assert_eq!(read("<think>cut of", false), [thought("cut of")]);
    assert_eq!(read("<thin", false), [said("<thin")]);
    assert_eq!(read("a </thi", true), [thought("a"), thought(" </thi")]);
    let mut exact = ReasoningParser::new(ReasoningFormat::Think, true).exact();
    assert_eq!(exact.push("a \n</think>\n b"), [thought("a"), said("\n b")]);
    assert!(ReasoningFormat::Think.is_opened_by("<|assistant|>\n<think>\n"));
    assert!(!ReasoningFormat::Think.is_opened_by("<think>\n\n</think>\n\n"));
    assert!(ReasoningFormat::Think.is_closed_by("<think>\n\n</think>\n\n"));
    assert!(!ReasoningFormat::Think.is_closed_by("</think> <|assistant|>"));
}
