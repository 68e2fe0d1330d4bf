//! Grammars made to hurt: a typed error, or a constraint, within 100 ms and 32 MiB, and a mask that
//! costs no more; never a panic.

mod common;

use std::time::{Duration, Instant};

use common::Model;
use constrain::{ConstrainError, Grammar, Tool, tool_calls::ToolFormat};
use serde_json::{Value, json};
use testkit::bounds::PeakAlloc;

#[global_allocator]
static ALLOCATOR: PeakAlloc = PeakAlloc;

const TIME: Duration = Duration::from_millis(100);
const MEMORY: usize = 32 << 20;

fn schema(value: Value) -> Grammar {
    Grammar::JsonSchema(value)
}

fn lark(text: String) -> Grammar {
    Grammar::Lark(text)
}

/// `{"a": {"a": ..}}`
fn nested(depth: usize, key: &str) -> Value {
    (0..depth).fold(
        json!({"type": "string"}),
        |inner, _| json!({"type": "object", "properties": {key: inner}}),
    )
}

/// `n` definitions, each made of the one before it by `make`.
fn chain(n: usize, make: impl Fn(Value) -> Value) -> Value {
    let mut defs = serde_json::Map::new();
    defs.insert("d0".into(), json!({"type": "string"}));
    for i in 1..n {
        let before = json!({"$ref": format!("#/$defs/d{}", i - 1)});
        defs.insert(format!("d{i}"), make(before));
    }
    json!({"$ref": format!("#/$defs/d{}", n - 1), "$defs": defs})
}

fn grammars() -> Vec<(&'static str, Grammar)> {
    let many = |n: usize, make: &dyn Fn(usize) -> Value| -> Value {
        (0..n).map(|i| (format!("p{i}"), make(i))).collect::<serde_json::Map<_, _>>().into()
    };
    let rules = |n: usize, kind: &str| -> String {
        let mut text = format!("start: {kind}0\n");
        (0..n).for_each(|i| text += &format!("{kind}{i}: {kind}{} \"x\"\n", i + 1));
        text + &format!("{kind}{n}: \"y\"\n")
    };
    let options = |n: usize| -> Vec<Value> {
        (0..n)
            .map(|i| json!({"type": "object", "properties": {format!("k{i}"): {"type": "string"}}}))
            .collect()
    };
    vec![
        ("60,000 brackets", lark("(".repeat(60_000))),
        ("60,000 brackets in a rule", lark(format!("start: {}", "(".repeat(60_000)))),
        ("30,000 pairs", lark(format!("start: {}\"a\"{}", "(".repeat(30_000), ")".repeat(30_000)))),
        ("brackets in a regex", Grammar::Regex("(".repeat(8000))),
        ("pairs in a regex", Grammar::Regex("(".repeat(4000) + &")".repeat(4000))),
        ("a chain of rules", lark(rules(2500, "r"))),
        ("a chain of tokens", lark(rules(2500, "T"))),
        ("left recursion", lark("start: start \"a\" | start start | \"b\"\n".into())),
        ("a rule of itself", lark("start: start\n".into())),
        ("nothing but empty", lark("start: a* \na: b* \nb: \"\"\n".into())),
        ("10^9 repetitions", lark("start: (\"a\" \"b\"){1000000000}\n".into())),
        ("repetitions in repetitions", lark("start: ((\"a\"{99999}){99999}){99999}\n".into())),
        ("many choices", lark(format!("start: {}\n", vec!["\"a\""; 10_000].join(" | ")))),
        ("many different choices", Grammar::Choice((0..9_000).map(|i| format!("{i:x}z")).collect())),
        ("one long choice", Grammar::Choice(vec!["ab".repeat(32_000)])),
        ("not Unicode", lark("start: /[\\xff-\\u{10FFFF}]{1,999}/\n".into())),
        ("(a+)+$", Grammar::Regex("(a+)+$".into())),
        ("counted repetitions", Grammar::Regex("((a{1,1000}){1,1000}){1,1000}".into())),
        ("10^9 in a regex", Grammar::Regex("a{1000000000}".into())),
        ("a window of choices", Grammar::Regex("(a|b)*a(a|b){1,900}c".into())),
        ("a far look behind", Grammar::Regex(".*a.{400}b.{400}c".into())),
        ("letters of all scripts", Grammar::Regex(r"(\w\W\pL\PL){1,99}".into())),
        ("and of many", lark(format!("start: T\nT: {}\n", (2..60).map(|i| format!("/(a{{{i}}})*/")).collect::<Vec<_>>().join(" & ")))),
        ("not of not", lark("start: T\nT: ~(~(/.*a.{50}/) & ~(/.*b.{50}/))\n".into())),
        ("special tokens", lark("start: <[0-4000000000]>\n".into())),
        ("all tokens", lark("start: <[*]>\n".into())),
        ("an unknown special token", lark("start: <|nope|>\n".into())),
        ("an empty grammar", lark(String::new())),
        ("NUL", lark("start: \"\0\"\n".into())),
        ("JSON in Lark", lark(format!("start: %json {}\n", nested(60, "a")))),
        ("deep JSON in Lark", lark(format!("start: %json {}\n", "[".repeat(60_000)))),
        ("Lark in Lark", lark(format!("start: {} \"a\" {}\n", "%lark { start: ".repeat(2000), "}".repeat(2000)))),
        ("lines of a nested error", lark("start: %json {\"type\": \"strin\"}\n".into())),
        ("nested schema", schema(nested(30, "a"))),
        ("nested too deep", schema(nested(500, "a"))),
        ("recursive schema", schema(json!({"$ref": "#"}))),
        ("recursive definition", schema(json!({"$ref": "#/$defs/a", "$defs": {"a": {"$ref": "#/$defs/a"}}}))),
        ("recursive allOf", schema(json!({"$ref": "#/$defs/a", "$defs": {"a": {"allOf": [{"$ref": "#/$defs/a"}, {"type": "object"}]}}}))),
        ("recursive anyOf", schema(json!({"$ref": "#/$defs/a", "$defs": {"a": {"anyOf": [{"$ref": "#/$defs/a"}, {"$ref": "#/$defs/a"}]}}}))),
        ("endless object", schema(json!({"type": "object", "properties": {"a": {"$ref": "#"}}, "required": ["a"]}))),
        ("a chain of references", schema(chain(2500, |d| d))),
        ("doubling by allOf", schema(chain(60, |d| json!({"allOf": [d.clone(), d]})))),
        ("doubling by anyOf", schema(chain(60, |d| json!({"anyOf": [d.clone(), d, {"type": "null"}]})))),
        ("doubling by properties", schema(chain(60, |d| json!({"type": "object", "properties": {"a": d.clone(), "b": d}})))),
        ("a product of choices", schema(json!({"allOf": (0..8).map(|_| json!({"anyOf": options(8)})).collect::<Vec<_>>()}))),
        ("oneOf of many", schema(json!({"oneOf": options(800)}))),
        ("2,000 properties", schema(json!({"type": "object", "properties": many(2000, &|_| json!({"type": "string"}))}))),
        ("2,000 kinds of strings", schema(json!({"type": "object", "properties": many(2000, &|i| json!({"type": "string", "maxLength": i + 1}))}))),
        ("1,000 patterns", schema(json!({"type": "object", "properties": many(1000, &|i| json!({"type": "string", "pattern": format!("a{{{i}}}b.*c")}))}))),
        ("a list of 9,000 values", schema(json!({"enum": (0..9000).map(|i| format!("v{i}")).collect::<Vec<_>>()}))),
        ("10^9 items", schema(json!({"type": "array", "minItems": 1_000_000_000}))),
        ("2^63 items", schema(json!({"type": "array", "maxItems": 1u64 << 63}))),
        ("5,000 items of items", schema(json!({"type": "array", "minItems": 4999, "items": {"type": "array", "minItems": 4999}}))),
        ("10^9 characters", schema(json!({"type": "string", "minLength": 1_000_000_000}))),
        ("a long pattern", schema(json!({"type": "string", "pattern": "a?".repeat(3000)}))),
        ("a pattern and a length", schema(json!({"type": "string", "pattern": "^(a|b)*a(a|b){500}$", "minLength": 900}))),
        ("tiny steps", schema(json!({"type": "number", "multipleOf": 1e-300, "maximum": 1e308}))),
        ("large numbers", schema(json!({"type": "integer", "minimum": -1e308, "maximum": 1e308}))),
        ("large factors", schema(json!({"allOf": [{"type": "integer", "multipleOf": 999_999_999_989u64}, {"type": "integer", "multipleOf": 999_999_999_961u64}]}))),
        ("keys that are no text", schema(json!({"type": "object", "properties": {"\u{0}\"\\\n": {"const": "\u{0}"}}, "required": ["\u{0}\"\\\n", "\u{fffe}"]}))),
        ("wrong types of keywords", schema(json!({"type": 7, "properties": [], "required": {}, "enum": 1, "minLength": "a"}))),
        ("negative sizes", schema(json!({"type": "string", "minLength": -1, "maxLength": -5}))),
        ("100 patternProperties", schema(json!({"type": "object", "patternProperties": many(100, &|i| json!({"type": "integer", "minimum": i}))}))),
        ("a word that is cut within a character", schema(json!({"properties": "é".repeat(120), "type": "object"}))),
        ("1,000 required keys that are not named", schema(json!({"type": "object", "required": (0..1000).map(|i| format!("r{i}")).collect::<Vec<_>>()}))),
        ("128 tools", Grammar::Tools {
            format: ToolFormat::Hermes,
            tools: (0..128).map(|i| Tool { name: format!("tool{i}"), parameters: json!({"type": "object", "properties": many(6, &|_| json!({"type": "string"}))}) }).collect(),
            parallel: true,
        }),
        ("a tool's name", Grammar::Tools {
            format: ToolFormat::Llama3,
            tools: vec![Tool { name: "a\"\n%json <[1]> \u{0}".into(), parameters: json!({}) }],
            parallel: false,
        }),
    ]
}

#[test]
fn hostile_grammars_cost_little() {
    // A panic that the compiler catches loads symbols once; that is not a request's cost.
    for model in Model::all() {
        let mut slow = Vec::new();
        for (name, grammar) in grammars() {
            let before = ALLOCATOR.current_usage();
            ALLOCATOR.reset_peak_usage();
            let start = Instant::now();
            let result = model.compiler.compile(&grammar);
            let compiled = start.elapsed();
            let memory = ALLOCATOR.peak_usage().saturating_sub(before);
            let mut masks = Vec::new();
            let mut outcome = result.as_ref().err().map(ToString::to_string).unwrap_or_default();
            if let Ok(mut constraint) = result {
                let mut logits = vec![0.0f32; model.tokenizer.vocab_size()];
                for step in 0..12 {
                    logits.fill(0.0);
                    let start = Instant::now();
                    let masked = constraint.mask(&mut logits);
                    masks.push(start.elapsed());
                    if let Err(e) = masked {
                        outcome = e.to_string();
                        break;
                    }
                    let allowed: Vec<usize> =
                        (0..logits.len()).filter(|&i| logits[i] == 0.0).collect();
                    let token = allowed[(step * 7919) % allowed.len()] as u32;
                    if let Err(e) = constraint.accept(token) {
                        assert!(matches!(e, ConstrainError::TooComplex { .. }), "{name}: {e}");
                        outcome = e.to_string();
                        break;
                    }
                    if constraint.is_complete() {
                        break;
                    }
                }
            }
            let worst = masks.iter().max().copied().unwrap_or_default();
            let outcome: String =
                outcome.lines().next().unwrap_or_default().chars().take(110).collect();
            println!(
                "{:9} {name:40} {compiled:>11.1?} {:>8.1} MiB, mask {worst:>11.1?} {outcome}",
                model.name,
                memory as f64 / 1048576.0
            );
            assert!(!outcome.contains("panic"), "{name}: {outcome}");
            if compiled > TIME || memory > MEMORY || worst > TIME {
                slow.push(name);
            }
        }
        assert!(slow.is_empty(), "{}: {slow:?}", model.name);
    }
}

#[test]
fn the_texts_of_the_limits() {
    let model = Model::bard();
    let error = |grammar| model.compiler.compile(&grammar).expect_err("it is too large");
    for (grammar, limit) in [
        (lark("a".repeat(70_000)), 65_536),
        (Grammar::Regex("a".repeat(9000)), 8192),
        (Grammar::Choice(vec!["a".repeat(70_000)]), 65_536),
        (schema(json!({"description": "a".repeat(200_000)})), 131_072),
    ] {
        assert!(matches!(error(grammar), ConstrainError::TooLarge { limit: l, .. } if l == limit));
    }
    assert!(matches!(error(schema(nested(500, "a"))), ConstrainError::TooDeep { limit: 64, .. }));
}

#[test]
fn ten_thousand_schemas() {
    let model = Model::bard();
    let compile = |n: usize| {
        let value = json!({"type": "object", "properties": {format!("p{n}"): {"type": "string", "maxLength": n % 50 + 1}}});
        model.compiler.compile(&schema(value)).expect("it compiles")
    };
    (0..500).for_each(|n| drop(compile(n)));
    let before = ALLOCATOR.current_usage();
    let start = Instant::now();
    (500..10_000).for_each(|n| drop(compile(n)));
    println!("{:?} a schema", start.elapsed() / 9500);
    let grown = ALLOCATOR.current_usage().saturating_sub(before);
    assert!(grown < 4 << 20, "{grown} bytes");
    assert!(model.compiler.cached_grammars() <= 128);
}
