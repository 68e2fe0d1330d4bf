//! Measures a model that is no network: counts of byte pairs, exact and rounded to a few levels.

use eval::{EvalError, Limits, LogitsSource, Piece, Protocol, Task};

const TEXT: &str = "the cat sat on the mat and the dog sat on the log; that cat and that dog sat. ";

/// ln p(next byte | byte), from counts with one added, rounded to `levels` steps a nat.
struct Bigram {
    table: Vec<[f32; 256]>,
}

impl Bigram {
    fn of(text: &[u8], levels: f32) -> Self {
        let mut counts = vec![[1.0f32; 256]; 256];
        for pair in text.windows(2) {
            counts[usize::from(pair[0])][usize::from(pair[1])] += 1000.0;
        }
        for row in &mut counts {
            let sum: f32 = row.iter().sum();
            row.iter_mut().for_each(|c| *c = ((*c / sum).ln() * levels).round() / levels);
        }
        Self { table: counts }
    }
}

impl LogitsSource for Bigram {
    fn vocabulary(&self) -> usize {
        256
    }

    fn positions(&self) -> Option<usize> {
        None
    }

    fn begin(&mut self, _windows: usize) -> Result<(), EvalError> {
        Ok(())
    }

    fn extend(&mut self, pieces: &[Piece<'_>], logits: &mut Vec<f32>) -> Result<(), EvalError> {
        logits.clear();
        for piece in pieces {
            for &token in &piece.tokens[piece.wanted.clone()] {
                logits.extend(self.table[token as usize]);
            }
        }
        Ok(())
    }
}

fn main() -> Result<(), EvalError> {
    let text = TEXT.repeat(20);
    let tokens: Vec<u32> = text.bytes().map(u32::from).collect();
    let task = Task {
        tokens: &tokens,
        protocol: Protocol::LlamaCpp { context: 64 },
        bos: None,
        tokenizer: "bytes",
        limits: Limits::default(),
    };

    // All logits equal: perplexity is the size of the vocabulary, whatever the text.
    let mut nothing = Bigram { table: vec![[0.0; 256]; 256] };
    let uniform = eval::perplexity(&mut nothing, &task, &mut |_| {})?;
    println!("knows nothing:  {}", uniform.perplexity);
    assert!((uniform.perplexity.value - 256.0).abs() < 1e-3);

    let mut exact = Bigram::of(text.as_bytes(), 1e6);
    for levels in [4.0, 1.0, 0.5] {
        let mut rounded = Bigram::of(text.as_bytes(), levels);
        let c = eval::compare(&mut exact, &mut rounded, &task, &mut |_| {})?;
        println!(
            "{levels:3} levels a nat: perplexity {} (exact {}), KL {:.5}, same choice {:.3}",
            c.model.perplexity, c.base.perplexity, c.divergence.mean, c.divergence.same_top
        );
        assert!(c.divergence.mean.value >= 0.0);
        assert!(c.base.perplexity.value < 5.0);
    }
    Ok(())
}
