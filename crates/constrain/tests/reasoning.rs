//! What a model thinks is free; what it says behind it follows its grammar.

mod common;

use common::{Model, schema::satisfies, tools};
use constrain::reasoning::{ReasoningDelta, ReasoningFormat, ReasoningParser};
use constrain::tool_calls::{ToolFormat, parse};
use constrain::{ConstrainError, Grammar};
use serde_json::json;

/// Ordinary vocabularies, and one whose markers are special tokens.
fn models() -> Vec<Model> {
    let mut all = Model::all();
    all.push(all[0].with_special("special", &["<think>", "</think>", "[THINK]", "[/THINK]"]));
    all
}

fn after(format: ReasoningFormat, inside: bool, answer: Grammar) -> Grammar {
    Grammar::AfterReasoning { format, inside, answer: Box::new(answer) }
}

/// Thoughts and answer.
fn split(format: ReasoningFormat, inside: bool, exact: bool, text: &str) -> (String, String) {
    let parser = ReasoningParser::new(format, inside);
    let mut parser = if exact { parser.exact() } else { parser };
    let (mut thoughts, mut answer) = (String::new(), String::new());
    for delta in parser.push(text).into_iter().chain(parser.finish()) {
        match delta {
            ReasoningDelta::Reasoning(text) => thoughts += &text,
            ReasoningDelta::Content(text) => answer += &text,
        }
    }
    (thoughts, answer)
}

type Check = fn(&str) -> bool;

/// Grammars of all kinds, and whether an answer follows them.
fn answers() -> Vec<(Grammar, bool, Check)> {
    fn person(text: &str) -> bool {
        let schema = schema();
        serde_json::from_str(text).is_ok_and(|v| satisfies(&v, &schema, &schema))
    }
    fn schema() -> serde_json::Value {
        json!({"type": "object", "properties": {"age": {"type": "integer", "minimum": 0, "maximum": 150}},
            "required": ["age"], "additionalProperties": false})
    }
    fn called(text: &str) -> bool {
        let parsed = parse(ToolFormat::Hermes, text, 1);
        parsed.content.is_empty() && !parsed.calls.is_empty()
    }
    vec![
        (Grammar::JsonSchema(schema()), false, person),
        (Grammar::Regex(r"\s?[ab]{2}-\d".into()), true, |text| {
            regex::Regex::new(r"^\s?[ab]{2}-\d$").expect("a pattern").is_match(text)
        }),
        (Grammar::Choice(vec!["yes".into(), "no".into()]), true, |t| t == "yes" || t == "no"),
        (Grammar::Lark("start: A B?\nA: \"a\"\nB: /b+/\n".into()), true, |text| {
            text.strip_prefix('a').is_some_and(|rest| rest.chars().all(|c| c == 'b'))
        }),
        (
            Grammar::Tools {
                format: ToolFormat::Hermes,
                tools: tools(),
                parallel: true,
                required: true,
            },
            false,
            called,
        ),
    ]
}

#[test]
fn the_grammar_begins_where_the_thoughts_end() {
    for model in models() {
        let walks = if model.tokenizer.vocab_size() < 4000 { 6 } else { 2 };
        for format in [ReasoningFormat::Think, ReasoningFormat::Mistral] {
            let (open, close) = format.markers();
            for (answer, exact, check) in answers() {
                let mut finished = 0;
                for seed in 0..walks {
                    let inside = seed % 2 == 0;
                    let grammar = after(format, inside, answer.clone());
                    let mut constraint = model.compiler.compile(&grammar).expect("it compiles");
                    let thoughts = " {\"age\": -1} <x> naïve\n";
                    let open = if inside { "" } else { open };
                    let head = format!("{open}{thoughts}{close}");
                    for id in model.spell_special(&head) {
                        assert_eq!(constraint.may_end(), Ok(false), "{head}");
                        constraint.accept(id).unwrap_or_else(|e| panic!("{}: {e}", model.name));
                    }
                    let Some(rest) = model.finish(&mut constraint, seed) else { continue };
                    let text = head + &String::from_utf8(rest).expect("a text");
                    let (thought, said) = split(format, inside, exact, &text);
                    assert_eq!(thought, thoughts.trim(), "{text}");
                    assert!(check(&said), "{}: {answer:?}: {text:?}", model.name);
                    finished += 1;
                }
                assert!(finished * 2 >= walks, "{}: {answer:?}: {finished}", model.name);
            }
        }
    }
}

#[test]
fn a_model_need_not_think_where_the_prompt_does_not_begin() {
    for model in models() {
        for (answer, exact, check) in answers() {
            let grammar = after(ReasoningFormat::Think, false, answer.clone());
            let mut finished = 0;
            for seed in 0..4 {
                let mut constraint = model.compiler.compile(&answer).expect("it compiles");
                let Some(text) = model.finish(&mut constraint, seed) else { continue };
                let text = String::from_utf8(text).expect("a text");
                assert!(model.accepts(&grammar, &text), "{}: {text:?}", model.name);
                assert_eq!(split(ReasoningFormat::Think, false, exact, &text).1, text);
                assert!(check(&text));
                finished += 1;
            }
            assert!(finished > 1, "{}: {answer:?}", model.name);
        }
    }
}

#[test]
fn thoughts_are_free() {
    for model in models() {
        let free = Grammar::Regex("(?s:.*)".into());
        let mut free = model.compiler.compile(&free).expect("any text");
        let grammar = after(ReasoningFormat::Think, true, Grammar::JsonObject);
        let mut constraint = model.compiler.compile(&grammar).expect("it compiles");
        for id in model.spell("Well, {\"a\" <b> </thin king>.\n") {
            let row = || vec![0.0f32; model.tokenizer.vocab_size()];
            let (mut any, mut now) = (row(), row());
            free.mask(&mut any).expect("it goes on");
            constraint.mask(&mut now).expect("it goes on");
            let ends = model.tokenizer.eog_ids();
            for (token, (any, now)) in any.iter().zip(&now).enumerate() {
                let token = token as u32;
                let spelling = model.tokenizer.token_bytes(token).expect("a token");
                // Behind a beginning of the marker some tokens would end it.
                if ends.contains(&token) || spelling.contains(&b'>') {
                    continue;
                }
                let kept = now == any || model.tokenizer.is_special(token);
                assert!(kept, "{}: {}", model.name, String::from_utf8_lossy(&spelling));
            }
            assert_eq!(now[ends[0] as usize], f32::NEG_INFINITY, "not before the answer");
            constraint.accept(id).expect("it is free");
            free.accept(id).expect("it is free");
        }
    }
}

/// A grammar that allows the marker does not end up with thoughts that it did not mean.
#[test]
fn a_marker_at_the_start_is_a_marker() {
    let model = Model::bard();
    let grammar = after(ReasoningFormat::Think, false, Grammar::Regex("(?s:.{0,40})".into()));
    assert!(model.accepts(&grammar, "x <think>"));
    assert!(!model.accepts(&grammar, "<think>x"));
    assert!(model.accepts(&grammar, "<think>x</think>y"));
}

#[test]
fn parts_are_looked_at_by_themselves() {
    let model = models().pop().expect("the last one");
    let error = |answer: Grammar| {
        let grammar = after(ReasoningFormat::Think, true, answer);
        model.compiler.compile(&grammar).expect_err("it is wrong")
    };
    let marker = model.tokenizer.id_of("<think>").expect("a token");
    let special = format!("start: \"a\" <[{marker}]>\n");
    assert_eq!(error(Grammar::Lark(special)), ConstrainError::SpecialTokens);
    let text = error(Grammar::JsonSchema(json!({"type": "strin"}))).to_string();
    assert!(
        text.starts_with("the JSON schema cannot be compiled") && text.contains("strin"),
        "{text}"
    );
}

#[test]
fn either_of_two() {
    let calls = Grammar::Tools {
        format: ToolFormat::Hermes,
        tools: tools(),
        parallel: false,
        required: true,
    };
    let object = Grammar::JsonSchema(json!({"type": "object", "properties": {
        "name": {"type": "string"}}, "required": ["name"], "additionalProperties": false}));
    let either = Grammar::Either(vec![object, calls]);
    let call = "<tool_call>\n{\"name\": \"tell\", \"arguments\": {\"who\": \"me\"}}\n</tool_call>";
    for model in models() {
        for grammar in [either.clone(), after(ReasoningFormat::Think, false, either.clone())] {
            assert!(model.accepts(&grammar, "{\"name\": \"tell\"}"), "{}", model.name);
            assert!(model.accepts(&grammar, call), "{}", model.name);
            assert!(!model.accepts(&grammar, &call.replace("me\"}", "us\"}")), "{}", model.name);
            assert!(!model.accepts(&grammar, "{\"nam\": 1}"), "{}", model.name);
        }
        let grammar = after(ReasoningFormat::Think, true, either.clone());
        assert!(model.accepts(&grammar, &format!("hm</think>\n\n{call}")), "{}", model.name);
    }
    let empty = Grammar::Either(vec![]);
    assert!(matches!(models()[0].compiler.compile(&empty), Err(ConstrainError::Empty { .. })));
}
