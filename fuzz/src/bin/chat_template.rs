//! Compiles bytes as a chat template and renders a request by it, within limits.
#![cfg_attr(fuzzing, no_main)]

use tokenizer::template::{ChatTemplate, Limits};

fuzz::target!(run);

/// The least that still reaches far.
const LIMITS: Limits = Limits { fuel: 20_000, output: 1 << 16 };

fn run(bytes: &[u8]) {
    let source = String::from_utf8_lossy(bytes);
    match ChatTemplate::with_limits(&source, LIMITS) {
        Err(error) => assert!(!error.to_string().is_empty()),
        Ok(template) => {
            let request = serde_json::json!({
                "messages": [
                    {"role": "system", "content": "a"},
                    {"role": "user", "content": "<|im_end|> ü\n", "tool_calls": [{"id": 1.5}]},
                ],
                "tools": null,
                "add_generation_prompt": true,
            });
            if let Ok(prompt) = template.at_time(0).render(&request) {
                assert!(prompt.len() <= LIMITS.output);
            }
        }
    }
}
