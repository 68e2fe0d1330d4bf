//! A yes or a no, from logits that would rather say something else.

use std::sync::Arc;

use constrain::{Compiler, Grammar, Limits};
use tokenizer::{Tokenizer, Vocabulary, VocabularyModel};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut vocabulary = Vocabulary::new(VocabularyModel::Rwkv);
    vocabulary.tokens = ["maybe", "yes", "no"].map(Into::into).to_vec();
    let compiler = Compiler::new(&Arc::new(Tokenizer::new(vocabulary)?), Limits::default())?;
    let mut answer = compiler.compile(&Grammar::Choice(vec!["yes".into(), "no".into()]))?;
    let mut logits = [9.0, 2.0, 1.0];
    answer.mask(&mut logits)?;
    assert_eq!(logits, [f32::NEG_INFINITY, 2.0, 1.0]);
    answer.accept(1)?;
    assert!(answer.is_complete());
    println!("constrain: yes or no");
    Ok(())
}
