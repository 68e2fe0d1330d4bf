//! What a mask costs: printed, and bounded loosely (`cargo test -p constrain --test mask_cost -- --nocapture`).

mod common;

use std::time::{Duration, Instant};

use common::Model;
use constrain::Grammar;
use serde_json::json;

#[test]
fn a_mask_takes_well_under_a_millisecond() {
    let person = json!({"type": "object", "properties": {
        "name": {"type": "string"}, "age": {"type": "integer", "minimum": 0},
        "notes": {"type": "array", "items": {"type": "string"}}},
        "required": ["name", "age", "notes"], "additionalProperties": false});
    let text = r#"{"name": "Ada Lovelace", "age": 36, "notes": ["wrote the first program", "knew Babbage"]}"#;
    for model in Model::all() {
        for (name, grammar) in [
            ("JSON object", Grammar::JsonObject),
            ("JSON schema", Grammar::JsonSchema(person.clone())),
            ("regex", Grammar::Regex(r#"\{("\w+": ("[\w ]*"|\d+|\[.*\]),? ?)+\}"#.into())),
        ] {
            let mut row = vec![0.0f32; model.tokenizer.vocab_size()];
            // The first pass makes the lexer's states, the second finds them.
            for pass in ["cold", "warm"] {
                let mut constraint = model.compiler.compile(&grammar).expect("it compiles");
                let mut times: Vec<Duration> = Vec::new();
                for id in model.spell(text) {
                    row.fill(0.0);
                    let start = Instant::now();
                    constraint.mask(&mut row).expect("it goes on");
                    times.push(start.elapsed());
                    assert_eq!(row[id as usize], 0.0, "{name}: the text follows the grammar");
                    constraint.accept(id).expect("it is allowed");
                }
                times.sort();
                let (median, worst) = (times[times.len() / 2], times[times.len() - 1]);
                let mean = times.iter().sum::<Duration>() / times.len() as u32;
                println!(
                    "{:9} {name:11} {pass}: median {median:>9.1?} mean {mean:>9.1?} worst {worst:>9.1?} of {}",
                    model.name,
                    times.len()
                );
                assert!(median < Duration::from_millis(5), "{name}: {median:?}");
            }
        }
    }
}
