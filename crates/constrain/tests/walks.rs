//! Whatever is sampled under a constraint follows it: texts drawn at random from what masks allow.

mod common;

use common::{Model, schema::satisfies, tools};
use constrain::Grammar;
use constrain::tool_calls::{ToolFormat, parse};
use serde_json::{Value, json};

/// Schemas of many kinds.
fn schemas() -> Vec<Value> {
    vec![
        json!({"type": "object", "properties": {
            "name": {"type": "string", "maxLength": 12},
            "age": {"type": "integer", "minimum": 0, "maximum": 150},
            "tags": {"type": "array", "items": {"enum": ["a", "b\"", "ü"]}, "minItems": 1, "maxItems": 3}},
            "required": ["name", "age", "tags"], "additionalProperties": false}),
        json!({"type": "object", "properties": {
            "a": {"type": "boolean"}, "b": {"type": ["null", "number"]}, "c": {"const": {"x": [1, null]}}},
            "required": ["b"], "additionalProperties": {"type": "integer"}}),
        json!({"anyOf": [{"type": "string", "pattern": "^[a-c]{2,5}-\\d+$"},
            {"type": "array", "prefixItems": [{"type": "integer"}, {"type": "boolean"}],
             "items": {"type": "null"}, "minItems": 2}]}),
        json!({"$ref": "#/$defs/node", "$defs": {"node": {"type": "object", "properties": {
            "value": {"type": "number", "exclusiveMinimum": -3, "maximum": 12.5},
            "next": {"anyOf": [{"type": "null"}, {"$ref": "#/$defs/node"}]}},
            "required": ["value", "next"], "additionalProperties": false}}}),
        json!({"oneOf": [
            {"type": "object", "properties": {"kind": {"const": "circle"}, "r": {"type": "number"}},
             "required": ["kind", "r"], "additionalProperties": false},
            {"type": "object", "properties": {"kind": {"const": "line"}, "l": {"type": "integer", "multipleOf": 3}},
             "required": ["kind", "l"], "additionalProperties": false}]}),
        json!({"allOf": [{"type": "object", "properties": {"d": {"type": "string", "format": "date"}}},
            {"required": ["d"], "maxProperties": 1}]}),
        json!({"type": "integer", "exclusiveMinimum": 7, "exclusiveMaximum": 1000, "multipleOf": 7}),
        json!({"type": "string", "minLength": 3, "maxLength": 5}),
        json!(true),
    ]
}

#[test]
fn json_satisfies_its_schema() {
    for model in Model::all() {
        let walks = if model.name == "bard" { 40 } else { 8 };
        for schema in schemas() {
            let grammar = Grammar::JsonSchema(schema.clone());
            let mut finished = 0;
            for seed in 0..walks {
                let Some(text) = model.walk(&grammar, seed) else { continue };
                let value: Value = match serde_json::from_str(&text) {
                    // JSON has no largest number.
                    Err(e) if e.to_string().contains("out of range") => continue,
                    value => value.unwrap_or_else(|e| panic!("{}: {text:?}: {e}", model.name)),
                };
                assert!(satisfies(&value, &schema, &schema), "{}: {schema}: {text}", model.name);
                finished += 1;
            }
            assert!(finished * 2 > walks, "{}: {schema}: {finished} of {walks}", model.name);
        }
    }
}

#[test]
fn any_object_is_an_object() {
    let model = Model::bard();
    let texts: Vec<String> =
        (0..40).filter_map(|seed| model.walk(&Grammar::JsonObject, seed)).collect();
    assert!(texts.len() > 20);
    for text in texts {
        assert!(serde_json::from_str::<Value>(&text).expect("JSON").is_object(), "{text}");
    }
}

#[test]
fn regexes_match_the_whole() {
    let patterns = [
        r"[0-9]{3}-[0-9]{4}",
        r"^(yes|no|may ?be)!*$",
        r"\w+@\w+\.(com|org)",
        r"[α-ω]{2,4}🦀?",
        r"(?i)select \* from [a-z]+",
        r"a/b\\c",
        r"[^\x00-\x7f]{1,3}",
        "",
    ];
    for model in Model::all() {
        let walks = if model.name == "bard" { 30 } else { 5 };
        for pattern in patterns {
            let whole = regex::Regex::new(&format!("^(?:{pattern})$")).expect("a pattern");
            let mut finished = 0;
            for seed in 0..walks {
                let Some(text) = model.walk(&Grammar::Regex(pattern.into()), seed) else {
                    continue;
                };
                assert!(whole.is_match(&text), "{}: {pattern}: {text:?}", model.name);
                finished += 1;
            }
            assert!(finished * 2 > walks, "{}: {pattern}: {finished} of {walks}", model.name);
        }
    }
}

#[test]
fn choices_are_exact() {
    let sets: [&[&str]; 4] =
        [&["yes", "no"], &["a", "ab", "abc"], &["", "x\"\\\n\u{7f}", "日本語"], &["true i", "i"]];
    for model in Model::all() {
        for set in sets {
            let choices: Vec<String> = set.iter().map(|s| s.to_string()).collect();
            let grammar = Grammar::Choice(choices.clone());
            let mut seen = std::collections::BTreeSet::new();
            for seed in 0..40 {
                let text = model.walk(&grammar, seed).expect("choices are finite");
                assert!(choices.contains(&text), "{}: {text:?} of {set:?}", model.name);
                seen.insert(text);
            }
            assert!(seen.len() > 1, "{}: only {seen:?} of {set:?}", model.name);
            for choice in set {
                assert!(model.accepts(&grammar, choice), "{}: {choice:?} of {set:?}", model.name);
            }
        }
    }
}

#[test]
fn lark_grammars() {
    let grammar = Grammar::Lark(
        "start: expr\nexpr: NUM | \"(\" expr OP expr \")\"\nNUM: /[0-9]{1,3}/\nOP: \"+\" | \"*\"\n"
            .into(),
    );
    for model in Model::all() {
        let mut finished = 0;
        for seed in 0..20 {
            let Some(text) = model.walk(&grammar, seed) else { continue };
            let (mut depth, mut rest) = (0i32, text.as_str());
            while let Some(c) = rest.chars().next() {
                depth += (c == '(') as i32 - (c == ')') as i32;
                assert!(depth >= 0 && "()+*0123456789".contains(c), "{text}");
                rest = &rest[1..];
            }
            assert_eq!(depth, 0, "{text}");
            finished += 1;
        }
        assert!(finished > 5, "{}: {finished}", model.name);
    }
}

#[test]
fn required_calls_are_calls() {
    let tools = tools();
    for model in Model::all() {
        for format in ToolFormat::ALL {
            for parallel in [false, true] {
                let grammar =
                    Grammar::Tools { format, tools: tools.clone(), parallel, required: true };
                for seed in 0..12 {
                    let Some(text) = model.walk(&grammar, seed) else { continue };
                    let parsed = parse(format, &text, seed);
                    assert_eq!(parsed.content, "", "{format:?}: {text}");
                    assert!(!parsed.calls.is_empty(), "{format:?}: {text}");
                    assert!(parallel || parsed.calls.len() == 1, "{format:?}: {text}");
                    for call in &parsed.calls {
                        let tool = tools.iter().find(|t| t.name == call.name).expect("a tool");
                        let value = serde_json::from_str(&call.arguments).expect("JSON");
                        let schema = &tool.parameters;
                        assert!(satisfies(&value, schema, schema), "{format:?}: {text}");
                    }
                }
                let (one, two) = written(format);
                assert_eq!(parse(format, two, 1).calls.len(), 2, "{two}");
                assert!(model.accepts(&grammar, one), "{}: {one}", model.name);
                assert_eq!(model.accepts(&grammar, two), parallel, "{}: {two}", model.name);
                assert!(!model.accepts(&grammar, &one.replace("99", "100")), "{}", model.name);
                assert!(!model.accepts(&grammar, &one.replace("add", "sub")), "{}", model.name);
            }
        }
    }
}

/// One call and two, as the formats' documentation writes them.
fn written(format: ToolFormat) -> (&'static str, &'static str) {
    match format {
        ToolFormat::Hermes => (
            "<tool_call>\n{\"name\": \"add\", \"arguments\": {\"a\": 99, \"b\": true}}\n</tool_call>",
            "<tool_call>\n{\"name\": \"tell\", \"arguments\": {\"who\": \"me\"}}\n</tool_call>\n\
             <tool_call>\n{\"name\": \"tell\", \"arguments\": {\"who\": \"you\"}}\n</tool_call>",
        ),
        ToolFormat::Llama3 => (
            "{\"name\": \"add\", \"parameters\": {\"a\": 99, \"b\": true}}",
            "{\"name\": \"tell\", \"parameters\": {\"who\": \"me\"}}; \
             {\"name\": \"tell\", \"parameters\": {\"who\": \"you\"}}",
        ),
        ToolFormat::Mistral => (
            "[TOOL_CALLS] [{\"name\": \"add\", \"arguments\": {\"a\": 99, \"b\": true}}]",
            "[TOOL_CALLS][{\"name\": \"tell\", \"arguments\": {\"who\": \"me\"}}, \
             {\"name\": \"tell\", \"arguments\": {\"who\": \"you\"}}]",
        ),
        _ => (
            "{\"name\": \"add\", \"arguments\": {\"a\": 99, \"b\": true}}",
            "{\"name\": \"tell\", \"arguments\": {\"who\": \"me\"}}\n\
             {\"name\": \"tell\", \"arguments\": {\"who\": \"you\"}}",
        ),
    }
}

/// The same walks without masks, so that the tests above are known to be able to fail.
#[test]
fn without_a_mask_nothing_holds() {
    let model = Model::bard();
    let anything = Grammar::Regex(r"(?s:.{5,30})".into());
    let texts: Vec<String> = (0..30).filter_map(|seed| model.walk(&anything, seed)).collect();
    assert!(texts.len() > 10);
    let schema = &schemas()[0];
    let valid = texts.iter().filter(|text| {
        serde_json::from_str::<Value>(text).is_ok_and(|v| satisfies(&v, schema, schema))
    });
    assert_eq!(valid.count(), 0);
}

#[test]
fn what_a_schema_forbids_is_forbidden() {
    let model = Model::bard();
    let schema = Grammar::JsonSchema(schemas()[0].clone());
    for (text, allowed) in [
        (r#"{"name":"x","age":7,"tags":["a"]}"#, true),
        ("{ \"name\" : \"x\",\n \"age\":150, \"tags\":[\"ü\",\"a\"] }", true),
        (r#"{"name":"x","age":151,"tags":["a"]}"#, false),
        (r#"{"name":"x","age":-1,"tags":["a"]}"#, false),
        (r#"{"name":"x","age":1.5,"tags":["a"]}"#, false),
        (r#"{"name":"x","age":1,"tags":[]}"#, false),
        (r#"{"name":"x","age":1,"tags":["c"]}"#, false),
        (r#"{"name":"x","age":1}"#, false),
        (r#"{"name":"x","age":1,"tags":["a"],"z":1}"#, false),
        (r#"{"name":"xxxxxxxxxxxxx","age":1,"tags":["a"]}"#, false),
        (r#"{"name":"x","age":1,"tags":["a"]"#, false),
        ("", false),
        (r#" {"name":"x","age":1,"tags":["a"]}"#, false),
        (r#"{"name":"x","age":1,"tags":["a"]} "#, false),
    ] {
        assert_eq!(model.accepts(&schema, text), allowed, "{text}");
    }
}
