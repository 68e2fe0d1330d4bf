//! Compiles bytes as a constraint, within limits, and writes some tokens under it: what a mask allows
//! is accepted and nothing else is.
#![cfg_attr(fuzzing, no_main)]

use std::sync::{Arc, Once, OnceLock};

use constrain::reasoning::ReasoningFormat;
use constrain::tool_calls::{ToolCallParser, ToolFormat};
use constrain::{Compiler, ConstrainError, Constraint, Grammar, Limits, Tool};
use tokenizer::{TokenType, Tokenizer, Vocabulary, VocabularyModel};

fuzz::target!(run);

/// Tokens that are written under a constraint.
const STEPS: usize = 12;

/// The first bytes say what the others are and which tokens are chosen.
fn run(bytes: &[u8]) {
    quiet_about_what_is_caught();
    let Some((&[kind, seed], text)) = bytes.split_first_chunk() else { return };
    let Some(grammar) = grammar(kind, &String::from_utf8_lossy(text)) else { return };
    match compiler().compile(&grammar) {
        Ok(constraint) => {
            let text = write(constraint, seed.into());
            if let Grammar::Tools { format, required: false, .. } = grammar {
                // Whatever was written: a call that is found in it has the name of a tool.
                let mut parser =
                    ToolCallParser::new(format, 1).with_tools(["f".to_owned()]).exact();
                let deltas = parser.push(&text).into_iter().chain(parser.finish());
                let mut parsed = constrain::tool_calls::ParsedText::default();
                deltas.for_each(|delta| parsed.push(delta));
                assert!(parsed.calls.iter().all(|call| call.name == "f"), "{text}");
            }
        }
        Err(ConstrainError::Internal { reason }) => panic!("{reason}"),
        Err(error) => {
            let message = error.to_string();
            assert!(!message.is_empty() && message.len() < 5000, "{message}");
        }
    }
}

fn grammar(kind: u8, text: &str) -> Option<Grammar> {
    let json = || serde_json::from_str(text).ok();
    let tools = |format, required| {
        let tools = vec![Tool { name: "f".to_owned(), parameters: json()? }];
        Some(Grammar::Tools { format, tools, parallel: kind & 8 != 0, required })
    };
    let grammar = match kind & 7 {
        0 => Grammar::JsonSchema(json()?),
        1 | 2 => Grammar::Regex(text.to_owned()),
        3 | 4 => Grammar::Lark(text.to_owned()),
        5 => Grammar::Choice(text.split('|').map(str::to_owned).collect()),
        6 => tools(ToolFormat::Hermes, kind & 16 != 0)?,
        _ => tools(ToolFormat::Llama3, kind & 16 != 0)?,
    };
    let inside = kind & 64 != 0;
    Some(match kind & 32 != 0 {
        true => Grammar::AfterReasoning {
            format: ReasoningFormat::Think,
            inside,
            answer: Box::new(grammar),
        },
        false => grammar,
    })
}

/// Writes tokens as the mask has them; returns their text.
fn write(mut constraint: Constraint, seed: usize) -> String {
    let size = compiler_and_tokens().1;
    let mut logits = vec![0.0f32; size + 3];
    for step in 0..STEPS {
        logits.fill(0.0);
        match constraint.mask(&mut logits) {
            Ok(()) => {}
            Err(ConstrainError::Internal { reason }) => panic!("{reason}"),
            Err(_) => break,
        }
        let allowed: Vec<usize> = (0..logits.len()).filter(|&i| logits[i] == 0.0).collect();
        assert!(allowed.iter().all(|&token| token < size), "{allowed:?}");
        let Some(&token) = allowed.get((seed + step * 7) % allowed.len().max(1)) else {
            panic!("nothing may follow and no error says so")
        };
        let other = (token + 1 + seed) % size;
        if !allowed.contains(&other) {
            let refused = constraint.clone().accept(other as u32);
            assert!(refused.is_err(), "{other} after {constraint:?}");
        }
        match constraint.accept(token as u32) {
            Ok(()) => {}
            Err(ConstrainError::TooComplex { .. }) => break,
            Err(error) => panic!("{token} was allowed: {error}: {constraint:?}"),
        }
    }
    String::from_utf8_lossy(constraint.bytes()).into_owned()
}

fn compiler() -> &'static Compiler {
    &compiler_and_tokens().0
}

/// A compiler for a vocabulary of some characters and words, and the number of its tokens.
fn compiler_and_tokens() -> &'static (Compiler, usize) {
    static ONE: OnceLock<(Compiler, usize)> = OnceLock::new();
    ONE.get_or_init(|| {
        let mut vocabulary = Vocabulary::new(VocabularyModel::Spm);
        let mut add = |text: &str, kind| {
            vocabulary.tokens.push(text.into());
            vocabulary.types.push(kind);
        };
        add("<unk>", TokenType::Unknown);
        add("<s>", TokenType::Control);
        add("</s>", TokenType::Control);
        add("</tool_call>", TokenType::Control);
        (' '..='~').for_each(|c| add(c.encode_utf8(&mut [0; 4]), TokenType::Normal));
        for text in [
            "\n",
            "é",
            "🦀",
            "\":",
            "{\"",
            "\"}",
            "}}",
            "true",
            "null",
            "10",
            "ab",
            "<tool_call>",
            "<think>",
            "</think>",
            "</think>\n\n",
            "{\"name\": \"f\", \"",
            "parameters\":",
        ] {
            add(text, TokenType::Normal);
        }
        for byte in 0..=255u8 {
            add(&format!("<0x{byte:02X}>"), TokenType::Byte);
        }
        let size = vocabulary.tokens.len();
        let tokenizer = Arc::new(Tokenizer::new(vocabulary).expect("a sound vocabulary"));
        // A tenth of what a server allows, since overflow is checked here, and nothing kept.
        let usual = Limits::default();
        let limits = Limits {
            compile_fuel: usual.compile_fuel / 10,
            step_fuel: usual.step_fuel / 10,
            step_items: usual.step_items / 10,
            lexer_states: usual.lexer_states / 10,
            grammar_symbols: usual.grammar_symbols / 10,
            cached_grammars: 0,
            ..usual
        };
        (Compiler::new(&tokenizer, limits).expect("a small trie"), size)
    })
}

/// libFuzzer's hook ends the program when anything panics, also where the crate turns a panic of the
/// parser into an error. What leaves this target still ends it.
fn quiet_about_what_is_caught() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        std::panic::set_hook(Box::new(|info| {
            let file = info.location().map_or("", |l| l.file());
            if !["llguidance", "derivre", "toktrie"].iter().any(|name| file.contains(name)) {
                eprintln!("{info}");
            }
        }));
    });
}
