//! Text that may call tools: any text at all, and a call that begins is held to its schema.

mod common;

use common::{Model, schema::satisfies, tools};
use constrain::tool_calls::{ParsedText, ToolCallParser, ToolFormat};
use constrain::{ConstrainError, Constraint, Grammar};
use proptest::prelude::*;

fn optional(format: ToolFormat, parallel: bool) -> Grammar {
    Grammar::Tools { format, tools: tools(), parallel, required: false }
}

/// What whoever gets the text sees, in pieces of `step` characters.
fn read(format: ToolFormat, text: &str, step: usize) -> ParsedText {
    let names = tools().into_iter().map(|t| t.name);
    let mut parser = ToolCallParser::new(format, 1).with_tools(names).exact();
    let mut parsed = ParsedText::default();
    let chars: Vec<char> = text.chars().collect();
    for piece in chars.chunks(step) {
        let piece: String = piece.iter().collect();
        parser.push(&piece).into_iter().for_each(|d| parsed.push(d));
    }
    parser.finish().into_iter().for_each(|d| parsed.push(d));
    parsed
}

fn sound(parsed: &ParsedText) -> bool {
    parsed.calls.iter().all(|call| {
        let tool = tools().into_iter().find(|t| t.name == call.name);
        let value = serde_json::from_str(&call.arguments);
        tool.zip(value.ok()).is_some_and(|(t, v)| satisfies(&v, &t.parameters, &t.parameters))
    })
}

/// Ordinary vocabularies, and one whose markers are special tokens.
fn models() -> Vec<Model> {
    let mut all = Model::all();
    let markers = ["<tool_call>", "</tool_call>", "[TOOL_CALLS]", "<|python_tag|>"];
    all.push(all[0].with_special("special", &markers));
    all
}

/// Beginnings of a first call, and what they are written like.
fn begun(format: ToolFormat) -> (&'static str, &'static str) {
    match format {
        ToolFormat::Hermes => ("Let me see.\n<tool_call>", "\n{\"name\": \"add\", \"arguments\": "),
        ToolFormat::Llama3 => ("Well: <|python_tag|>", "{\"name\": \"add\", \"parameters\": "),
        ToolFormat::Mistral => ("Well: [TOOL_CALLS]", " [{\"name\": \"add\", \"arguments\": "),
        _ => ("\n{ \"type\" : \"function\", \"name\":\"add\" ,\"arguments\" :", " "),
    }
}

fn accepts(constraint: &mut Constraint, ids: &[u32]) -> bool {
    ids.iter().all(|&id| constraint.accept(id).is_ok())
}

fn allowed(constraint: &mut Constraint, model: &Model) -> Vec<u32> {
    let mut logits = vec![0.0; model.tokenizer.vocab_size()];
    constraint.mask(&mut logits).expect("it goes on");
    (0..logits.len() as u32).filter(|&i| logits[i as usize] == 0.0).collect()
}

#[test]
fn text_without_calls_is_untouched() {
    let texts = [
        "",
        "Once upon a time, <tool and [TOOL and <|pyth: a < b, c > d.\n\n",
        "{\"city\": \"Rome\", \"list\": [1, 2]}",
        "{\"name\": \"Ann\", \"age\": 7}",
        "[1, {\"name\": \"x\"}] and so on",
        "```json\n{\"name\": \"add\", \"arguments\": {}}\n```",
        " {\"name\": \"adder\", \"parameters\": {\"x\": 1}}",
        "naïve 日本語 🦀",
    ];
    for model in models() {
        for format in ToolFormat::ALL {
            let mut free = model.compiler.compile(&Grammar::Regex("(?s:.*)".into())).expect("any");
            let any = allowed(&mut free, &model);
            for text in texts {
                let grammar = optional(format, true);
                let mut constraint = model.compiler.compile(&grammar).expect("it compiles");
                for id in model.spell(text) {
                    let now = allowed(&mut constraint, &model);
                    if constraint.may_end() == Ok(true) && format == ToolFormat::Hermes {
                        let kept = any.iter().filter(|id| now.binary_search(id).is_ok());
                        assert_eq!(kept.count(), any.len(), "{}: {format:?}: {text}", model.name);
                    }
                    constraint.accept(id).unwrap_or_else(|e| {
                        panic!("{}: {format:?}: {text}: {e}", model.name);
                    });
                }
                assert_eq!(constraint.may_end(), Ok(true), "{}: {format:?}: {text}", model.name);
                let parsed = read(format, text, 3);
                assert_eq!((parsed.content.as_str(), parsed.calls.len()), (text, 0), "{format:?}");
            }
        }
    }
}

#[test]
fn a_call_that_begins_follows_its_schema() {
    for model in models() {
        let walks = if model.tokenizer.vocab_size() < 4000 { 12 } else { 3 };
        for format in ToolFormat::ALL {
            for parallel in [false, true] {
                let grammar = optional(format, parallel);
                let (head, _) = begun(format);
                let mut finished = 0;
                for seed in 0..walks {
                    let mut constraint = model.compiler.compile(&grammar).expect("it compiles");
                    assert!(accepts(&mut constraint, &model.spell_special(head)), "{head}");
                    assert_eq!(constraint.may_end(), Ok(false), "{format:?}");
                    let Some(rest) = model.finish(&mut constraint, seed) else { continue };
                    let text = head.to_owned() + &String::from_utf8(rest).expect("a text");
                    let parsed = read(format, &text, 1 + seed as usize);
                    assert_eq!(parsed, read(format, &text, usize::MAX), "{text}");
                    assert!(sound(&parsed) && !parsed.calls.is_empty(), "{format:?}: {text}");
                    assert!(parallel || parsed.calls.len() == 1, "{format:?}: {text}");
                    finished += 1;
                }
                assert!(finished * 2 > walks, "{}: {format:?}: {finished}", model.name);
            }
        }
    }
}

#[test]
fn a_call_cannot_be_wrong() {
    for model in models() {
        for format in ToolFormat::ALL {
            let (head, name) = begun(format);
            let start = |text: &str| {
                let mut constraint =
                    model.compiler.compile(&optional(format, false)).expect("it compiles");
                let written = accepts(&mut constraint, &model.spell_special(text));
                (written, constraint)
            };
            let arguments = format!("{head}{name}{{\"a\": ");
            assert!(start(&arguments).0, "{}: {format:?}", model.name);
            for (from, to) in [("\"a\"", "\"c\""), ("\"a\": ", "\"a\": true"), ("\"a\": ", "}")] {
                let wrong = arguments.replace(from, to);
                assert!(!start(&wrong).0, "{}: {format:?}: {wrong}", model.name);
            }
            if !name.trim().is_empty() {
                let wrong = format!("{head}{}", name.replace("add", "sub"));
                assert!(!start(&wrong).0, "{}: {wrong}", model.name);
            }
            // One call, and then the end: with parallel calls another may come.
            let close = match format {
                ToolFormat::Hermes => "}\n</tool_call>",
                ToolFormat::Mistral => "}]",
                _ => "}",
            };
            let one = format!("{arguments}1,\"b\":true}}{close}");
            let (written, constraint) = start(&one);
            assert!(written && constraint.is_complete(), "{}: {constraint:?}", model.name);
            let parsed = read(format, &one, 2);
            assert_eq!(parsed.calls[0].arguments, "{\"a\": 1,\"b\":true}");
        }
    }
}

#[test]
fn a_marker_may_be_spelled_or_be_a_token() {
    let model = models().pop().expect("the last one");
    for format in [ToolFormat::Hermes, ToolFormat::Llama3, ToolFormat::Mistral] {
        let (head, _) = begun(format);
        for ids in [model.spell(head), model.spell_special(head)] {
            let grammar = optional(format, true);
            let mut constraint = model.compiler.compile(&grammar).expect("it compiles");
            assert!(accepts(&mut constraint, &ids), "{head}");
            assert_eq!(constraint.may_end(), Ok(false), "{head}");
            let x = model.spell("x")[0];
            assert_eq!(constraint.accept(x), Err(ConstrainError::NotAllowed { token: x }));
        }
        assert_ne!(model.spell(head), model.spell_special(head));
    }
}

/// Text made of what could be taken for a call.
fn text() -> impl Strategy<Value = String> {
    let piece = prop::sample::select(vec![
        "{",
        "}",
        "[",
        "]",
        ",",
        ";",
        ":",
        " ",
        "\n",
        "\t",
        "\u{a0}",
        "\"",
        "\\",
        "x",
        "\"type\"",
        "\"function\"",
        "\"name\"",
        "\"n\\u0061me\"",
        "\"add\"",
        "\"tell\"",
        "\"ad\\u0064\"",
        "\"arguments\"",
        "\"parameters\"",
        "\"id\"",
        "{\"who\": \"me\"}",
        "{\"who\": 1}",
        "{\"a\": 1, \"b\": true}",
        "{\"name\": \"add\", \"arguments\": ",
        "{\"name\": \"tell\", \"parameters\": ",
        "<tool_call>\n",
        "<tool_call>",
        "\n</tool_call>",
        "[TOOL_CALLS] [",
        "[TOOL_CALLS]",
        "<|python_tag|>",
        "; ",
        ", ",
    ]);
    prop::collection::vec(piece, 0..10).prop_map(|pieces| pieces.concat())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 600, ..ProptestConfig::default() })]

    /// Whatever the text is: if it can be written, each call that is found in it follows its schema.
    #[test]
    fn what_is_found_was_held_to_a_schema(text in text(), parallel in any::<bool>()) {
        thread_local! {
            static MODEL: Model = Model::bard();
        }
        MODEL.with(|model| -> Result<(), TestCaseError> {
            for format in ToolFormat::ALL {
                if !model.accepts(&optional(format, parallel), &text) {
                    continue;
                }
                let parsed = read(format, &text, 1);
                prop_assert!(sound(&parsed), "{:?}: {}: {:?}", format, text, parsed);
                prop_assert!(parallel || parsed.calls.len() < 2, "{:?}: {}", format, text);
            }
            Ok(())
        })?;
    }
}
