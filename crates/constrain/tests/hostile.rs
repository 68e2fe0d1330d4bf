//! Grammars made to hurt: a typed error, or a constraint, within 100 ms and 32 MiB, and a mask that
//! costs no more; never a panic.

mod common;

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use common::Model;
use constrain::{Compiler, ConstrainError, Grammar, Limits, Tool, tool_calls::ToolFormat};
use serde_json::{Value, json};
use testkit::bounds::PeakAlloc;

#[global_allocator]
static ALLOCATOR: PeakAlloc = PeakAlloc;

const TIME: Duration = Duration::from_millis(100);
const MEMORY: usize = 32 << 20;

/// Waits until no other test measures.
fn alone() -> MutexGuard<'static, ()> {
    static ONE: Mutex<()> = Mutex::new(());
    ONE.lock().unwrap_or_else(PoisonError::into_inner)
}

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
        ("32,000 brackets in a rule", lark(format!("start: {}", "(".repeat(32_000)))),
        ("16,000 pairs", lark(format!("start: {}\"a\"{}", "(".repeat(16_000), ")".repeat(16_000)))),
        ("brackets in a regex", Grammar::Regex("(".repeat(2000))),
        ("pairs in a regex", Grammar::Regex("(".repeat(1000) + &")".repeat(1000))),
        ("a chain of rules", lark(rules(2200, "r"))),
        ("a chain of tokens", lark(rules(2200, "T"))),
        ("left recursion", lark("start: start \"a\" | start start | \"b\"\n".into())),
        ("a rule of itself", lark("start: start\n".into())),
        ("nothing but empty", lark("start: a* \na: b* \nb: \"\"\n".into())),
        ("10^9 repetitions", lark("start: (\"a\" \"b\"){1000000000}\n".into())),
        ("repetitions in repetitions", lark("start: ((\"a\"{99999}){99999}){99999}\n".into())),
        ("many choices", lark(format!("start: {}\n", vec!["\"a\""; 5_000].join(" | ")))),
        ("many different choices", Grammar::Choice((0..6_000).map(|i| format!("{i:x}z")).collect())),
        ("one long choice", Grammar::Choice(vec!["ab".repeat(16_000)])),
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
        ("deep JSON in Lark", lark(format!("start: %json {}\n", "[".repeat(30_000)))),
        ("Lark in Lark", lark(format!("start: {} \"a\" {}\n", "%lark { start: ".repeat(1900), "}".repeat(1900)))),
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
        ("500 properties", schema(json!({"type": "object", "properties": many(500, &|i| json!({"type": "string", "maxLength": i + 1}))}))),
        ("2,000 kinds of strings", schema(json!({"type": "object", "properties": many(2000, &|i| json!({"type": "string", "maxLength": i + 1}))}))),
        ("1,000 patterns", schema(json!({"type": "object", "properties": many(1000, &|i| json!({"type": "string", "pattern": format!("a{{{i}}}b.*c")}))}))),
        ("a list of 9,000 values", schema(json!({"enum": (0..9000).map(|i| format!("v{i}")).collect::<Vec<_>>()}))),
        ("10^9 items", schema(json!({"type": "array", "minItems": 1_000_000_000}))),
        ("2^63 items", schema(json!({"type": "array", "maxItems": 1u64 << 63}))),
        ("5,000 items of items", schema(json!({"type": "array", "minItems": 4999, "items": {"type": "array", "minItems": 4999}}))),
        ("10^9 characters", schema(json!({"type": "string", "minLength": 1_000_000_000}))),
        ("a long pattern", schema(json!({"type": "string", "pattern": "a?".repeat(3000)}))),
        ("half of it", schema(json!({"type": "string", "pattern": "a?".repeat(1000)}))),
        ("a long regex", Grammar::Regex("a?".repeat(1000))),
        ("many optional parts", lark(format!("start: T\nT: {}\n", "\"a\"? ".repeat(6000)))),
        ("long regexes in a row", lark(format!("start: T\nT: {}\n", format!("/{}/ ", "a?".repeat(1000)).repeat(15)))),
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
        ("64 tools", Grammar::Tools {
            format: ToolFormat::Hermes,
            tools: (0..64).map(|i| Tool { name: format!("tool{i}"), parameters: json!({"type": "object", "properties": many(6, &|_| json!({"type": "string"}))}) }).collect(),
            parallel: true,
            required: true,
        }),
        ("a tool's name", Grammar::Tools {
            format: ToolFormat::Llama3,
            tools: vec![Tool { name: "a\"\n%json <[1]> \u{0}".into(), parameters: json!({}) }],
            parallel: false,
            required: true,
        }),
    ]
}

/// What one grammar costs.
struct Cost {
    compile: Duration,
    memory: usize,
    /// The slowest mask of the first tokens.
    mask: Duration,
    /// The error it ends in, if any.
    outcome: String,
}

/// How long `work` ran: on the processor, where the system tells, since the machine may have other
/// work to do.
fn timed<T>(work: impl FnOnce() -> T) -> (T, Duration) {
    let processor = || {
        let stat = std::fs::read_to_string("/proc/self/stat").ok()?;
        let fields: Vec<&str> = stat.rsplit(") ").next()?.split(' ').collect();
        let ticks = |i: usize| fields.get(i)?.parse::<u64>().ok();
        Some(Duration::from_millis(10 * (ticks(11)? + ticks(12)?)))
    };
    let (start, before) = (Instant::now(), processor());
    let result = work();
    let (wall, after) = (start.elapsed(), processor());
    let ran = before.zip(after).map(|(b, a)| a.saturating_sub(b) + Duration::from_millis(10));
    (result, ran.map_or(wall, |ran| ran.min(wall)))
}

fn cost(compiler: &Compiler, vocabulary: usize, grammar: &Grammar) -> Cost {
    let before = ALLOCATOR.current_usage();
    ALLOCATOR.reset_peak_usage();
    let (result, compile) = timed(|| compiler.compile(grammar));
    let memory = ALLOCATOR.peak_usage().saturating_sub(before);
    let mut mask = Duration::ZERO;
    let walk = || -> Result<(), ConstrainError> {
        let mut constraint = result?;
        let mut logits = vec![0.0f32; vocabulary];
        for step in 0..12 {
            logits.fill(0.0);
            let (masked, took) = timed(|| constraint.mask(&mut logits));
            mask = mask.max(took);
            masked?;
            let allowed: Vec<usize> = (0..vocabulary).filter(|&i| logits[i] == 0.0).collect();
            constraint.accept(allowed[(step * 7919) % allowed.len()] as u32)?;
            if constraint.is_complete() {
                break;
            }
        }
        Ok(())
    };
    let outcome = walk().err().map(|e| e.to_string()).unwrap_or_default();
    Cost { compile, memory, mask, outcome }
}

#[test]
fn hostile_grammars_cost_little() {
    let _alone = alone();
    for model in Model::all() {
        // Each is compiled anew.
        let limits = Limits { cached_grammars: 0, ..Limits::default() };
        let compiler = Compiler::new(&model.tokenizer, limits).expect("it fits");
        let mut slow = Vec::new();
        for (name, grammar) in grammars() {
            let mut tries = (0..8).map(|_| cost(&compiler, model.tokenizer.vocab_size(), &grammar));
            let within = |c: &Cost| c.compile < TIME && c.mask < TIME;
            let first = tries.next().expect("a try");
            let best = if within(&first) { first } else { tries.find(within).unwrap_or(first) };
            let Cost { compile, memory, mask, outcome } = best;
            println!(
                "{:9} {name:40} {compile:>9.1?} {:>6.1} MiB, mask {mask:>9.1?} {outcome:.110}",
                model.name,
                memory as f64 / 1048576.0
            );
            assert!(!outcome.contains("panic"), "{name}: {outcome}");
            assert!(!outcome.contains("may not follow"), "{name}: the mask allowed it: {outcome}");
            if compile > TIME || memory > MEMORY || mask > TIME {
                slow.push(name);
            }
        }
        assert!(slow.is_empty(), "{}: {slow:?}", model.name);
    }
}

#[test]
fn the_texts_of_the_limits() {
    let _alone = alone();
    let model = Model::bard();
    let error = |grammar| model.compiler.compile(&grammar).expect_err("it is too large");
    for (grammar, limit) in [
        (lark("(".repeat(60_000)), 32_768),
        (Grammar::Regex("a".repeat(9000)), 2048),
        (Grammar::Choice(vec!["a".repeat(40_000)]), 32_768),
        (schema(json!({"description": "a".repeat(200_000)})), 131_072),
    ] {
        assert!(matches!(error(grammar), ConstrainError::TooLarge { limit: l, .. } if l == limit));
    }
    assert!(matches!(error(schema(nested(500, "a"))), ConstrainError::TooDeep { limit: 64, .. }));
}

#[test]
fn thousands_of_schemas() {
    let _alone = alone();
    let model = Model::bard();
    let compile = |n: usize| {
        let value = json!({"type": "object", "properties": {format!("p{n}"): {"type": "string", "maxLength": n % 50 + 1}}});
        model.compiler.compile(&schema(value)).expect("it compiles")
    };
    (0..500).for_each(|n| drop(compile(n)));
    let before = ALLOCATOR.current_usage();
    let start = Instant::now();
    (500..3000).for_each(|n| drop(compile(n)));
    println!("{:?} a schema", start.elapsed() / 2500);
    let grown = ALLOCATOR.current_usage().saturating_sub(before);
    assert!(grown < 4 << 20, "{grown} bytes");
    assert!(model.compiler.cached_grammars() <= 128);
}
