//! States of a constraint: where a text may end, clones, errors that change nothing.

mod common;

use common::Model;
use constrain::{Compiler, ConstrainError, Constraint, Grammar, GrammarKind, Limits};
use serde_json::json;

fn allowed(constraint: &mut Constraint, len: usize) -> Vec<u32> {
    let mut logits = vec![0.5; len];
    constraint.mask(&mut logits).expect("it goes on");
    assert!(logits.iter().all(|&l| l == 0.5 || l == f32::NEG_INFINITY));
    (0..len as u32).filter(|&i| logits[i as usize] == 0.5).collect()
}

#[test]
fn the_end_is_allowed_exactly_where_the_text_may_end() {
    for model in Model::all() {
        let eos = model.tokenizer.eog_ids();
        let len = model.tokenizer.vocab_size() + 100;
        let mut constraint =
            model.compiler.compile(&Grammar::Regex("[0-9]{2,3}".into())).expect("it compiles");
        for (digits, may_end, complete) in
            [(0, false, false), (1, false, false), (2, true, false), (3, true, true)]
        {
            let ids = allowed(&mut constraint, len);
            let ends: Vec<u32> =
                ids.iter().copied().filter(|&id| model.tokenizer.is_eog(id)).collect();
            assert_eq!(ends, if may_end { eos } else { &[] }, "{}: {digits}", model.name);
            assert_eq!(constraint.may_end(), Ok(may_end));
            assert_eq!(constraint.is_complete(), complete);
            if complete {
                assert_eq!(ids, eos);
                break;
            }
            if !may_end {
                let refused = Err(ConstrainError::NotAllowed { token: eos[0] });
                assert_eq!(constraint.accept(eos[0]), refused);
            }
            constraint.accept(model.spell("7")[0]).expect("a digit");
            assert_eq!(constraint.bytes(), &b"777"[..digits + 1]);
        }
        constraint.accept(eos[0]).expect("the text may end");
        assert_eq!(constraint.accept(eos[0]), Err(ConstrainError::Finished));
        assert_eq!(constraint.mask(&mut [0.0; 4]), Err(ConstrainError::Finished));
        assert!(format!("{constraint:?}").contains("777"));
    }
}

#[test]
fn what_is_refused_changes_nothing() {
    let model = Model::bard();
    let grammar = Grammar::Choice(vec!["true".into(), "trust".into()]);
    let mut constraint = model.compiler.compile(&grammar).expect("it compiles");
    let size = model.tokenizer.vocab_size() as u32;
    let before = allowed(&mut constraint, size as usize);
    let special = (0..size).find(|&id| model.tokenizer.is_special(id)).expect("one");
    for token in [special, size, size + 1, u32::MAX, model.spell("x")[0]] {
        assert_eq!(constraint.accept(token), Err(ConstrainError::NotAllowed { token }));
        assert_eq!(allowed(&mut constraint, size as usize), before);
    }
    // What the mask allows is accepted and nothing else is.
    for token in 0..size {
        let accepted = constraint.clone().accept(token).is_ok();
        assert_eq!(accepted, before.binary_search(&token).is_ok(), "{token}");
    }
}

#[test]
fn clones_go_their_own_way() {
    let model = Model::bard();
    let len = model.tokenizer.vocab_size();
    let grammar = Grammar::JsonSchema(json!({"type": "object", "properties": {
        "a": {"type": "integer"}, "b": {"type": "string"}}, "required": ["a", "b"],
        "additionalProperties": false}));
    let mut trunk = model.compiler.compile(&grammar).expect("it compiles");
    for id in model.spell("{\"a\":1") {
        trunk.accept(id).expect("it follows");
    }
    let before = allowed(&mut trunk, len);
    let texts: Vec<_> = std::thread::scope(|scope| {
        let branches: Vec<_> = (0..4)
            .map(|seed| {
                let (mut branch, model) = (trunk.clone(), &model);
                scope.spawn(move || model.finish(&mut branch, seed))
            })
            .collect();
        branches.into_iter().map(|b| b.join().expect("no panic")).collect()
    });
    assert_eq!(allowed(&mut trunk, len), before);
    for (seed, text) in texts.iter().enumerate() {
        assert_eq!(*text, model.finish(&mut trunk.clone(), seed as u64), "alone and beside others");
    }
    assert!(texts.iter().any(|t| *t != texts[0]));
}

#[test]
fn rows_of_any_length() {
    let model = Model::bard();
    let mut constraint = model.compiler.compile(&Grammar::JsonObject).expect("it compiles");
    for len in [0, 1, 31, 32, 33, model.tokenizer.vocab_size(), 100_000] {
        for id in allowed(&mut constraint, len) {
            assert!((id as usize) < model.tokenizer.vocab_size());
            assert!(!model.tokenizer.is_special(id));
        }
    }
}

#[test]
fn text_that_no_token_can_write_is_a_dead_end() {
    use std::sync::Arc;
    use tokenizer::{TokenType, Tokenizer, Vocabulary, VocabularyModel};
    let mut vocabulary = Vocabulary::new(VocabularyModel::Spm);
    for (text, kind) in [
        ("<unk>", TokenType::Unknown),
        ("<s>", TokenType::Control),
        ("</s>", TokenType::Control),
        ("a", TokenType::Normal),
    ] {
        vocabulary.tokens.push(text.into());
        vocabulary.types.push(kind);
    }
    let tokenizer = Arc::new(Tokenizer::new(vocabulary).expect("sound"));
    let compiler = Compiler::new(&tokenizer, Limits::default()).expect("it fits");
    let mut constraint = compiler.compile(&Grammar::Regex("ab".into())).expect("it compiles");
    constraint.accept(3).expect("a");
    assert_eq!(constraint.mask(&mut [0.0; 4]), Err(ConstrainError::DeadEnd));
    assert_eq!(constraint.mask(&mut [0.0; 4]), Err(ConstrainError::DeadEnd));
    assert_eq!(constraint.accept(3), Err(ConstrainError::DeadEnd));
}

#[test]
fn errors_say_what_is_wrong() {
    let model = Model::bard();
    let error = |grammar| model.compiler.compile(&grammar).expect_err("it is wrong");
    for (schema, word) in [
        (json!({"type": "object", "patternPropertie": {}, "not": {}}), "not"),
        (json!({"type": "array", "uniqueItems": true}), "uniqueItems"),
        (json!({"type": "strin"}), "strin"),
        (json!(7), "object"),
        (json!(false), "false"),
        (json!({"$ref": "#/$defs/missing"}), "missing"),
        (json!({"$ref": "https://example.com/schema.json"}), "example.com"),
        (json!({"type": "string", "pattern": "(?=a)b"}), "look"),
        (json!({"type": "integer", "minimum": 3, "maximum": 2}), "2"),
    ] {
        let text = error(Grammar::JsonSchema(schema.clone())).to_string();
        assert!(text.starts_with("the JSON schema cannot be compiled: "), "{schema}: {text}");
        assert!(text.contains(word), "{schema}: {text}");
        assert!(!text.contains("non-verbose") && !text.contains("panic"), "{schema}: {text}");
    }
    let options = Grammar::JsonSchema(json!({"x-guidance": {"lenient": true}}));
    assert_eq!(error(options), ConstrainError::CompilerOptions);
    assert_eq!(error(Grammar::Lark("root ::= \"a\"".into())), ConstrainError::Gbnf);
    for special in ["<|im_end|>", "<[2]>", "<[*]>", "</s>", "<s>"] {
        let found = error(Grammar::Lark(format!("start: \"a\" {special}\n")));
        let unknown = matches!(&found, ConstrainError::Uncompilable { reason, .. } if reason.contains("unknown special"));
        assert!(found == ConstrainError::SpecialTokens || unknown, "{special}: {found}");
    }
    assert_eq!(error(Grammar::Choice(vec![])), ConstrainError::Empty { kind: GrammarKind::Choice });
    for pattern in ["(", "a\\", "(?=a)b", "a{3,2}", "[z-a]", r"\p{Nope}", r"(a)\1", "(?P<n>"] {
        assert!(
            matches!(error(Grammar::Regex(pattern.into())), ConstrainError::Uncompilable { .. }),
            "{pattern}"
        );
    }
}

#[test]
fn a_known_grammar_is_not_compiled_again() {
    let model = Model::bard();
    let limits = Limits { cached_grammars: 3, ..Limits::default() };
    let compiler = Compiler::new(&model.tokenizer, limits).expect("it fits");
    for n in 0..10 {
        compiler.compile(&Grammar::Choice(vec![format!("{n}")])).expect("it compiles");
        assert_eq!(compiler.cached_grammars(), (n + 1).min(3));
    }
    compiler.compile(&Grammar::Choice(vec!["9".into()])).expect("it is known");
    assert_eq!(compiler.cached_grammars(), 3);
    let none = Compiler::new(&model.tokenizer, Limits { cached_bytes: 0, ..Limits::default() });
    let none = none.expect("it fits");
    none.compile(&Grammar::JsonObject).expect("it compiles");
    assert_eq!(none.cached_grammars(), 0);
}
