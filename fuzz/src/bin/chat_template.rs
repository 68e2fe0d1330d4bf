//! Compiles bytes as a chat template: a template or an error, whatever the nesting.
#![cfg_attr(fuzzing, no_main)]

use tokenizer::template::ChatTemplate;

fuzz::target!(run);

fn run(bytes: &[u8]) {
    if let Err(error) = ChatTemplate::new(&String::from_utf8_lossy(bytes)) {
        assert!(!error.to_string().is_empty());
    }
}
