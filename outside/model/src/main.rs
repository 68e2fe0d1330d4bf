//! Loads a Hugging Face folder and continues two prompts greedily: together in one ragged batch,
//! then each alone. The tokens are the same.

use std::path::Path;

use model::tensor::kv::SeqId;
use model::tensor::{DType, Tensor};
use model::{Batch, Model, Outputs};

/// The most probable token of each row.
fn greedy(logits: &Tensor) -> Result<Vec<u32>, model::Error> {
    let best = |row: &[f32]| {
        let better = |a: usize, b: usize| if row[b] > row[a] { b } else { a };
        (0..row.len()).reduce(better).expect("a vocabulary") as u32
    };
    Ok(logits.as_f32()?.chunks_exact(logits.cols()).map(best).collect())
}

/// Continues all prompts at once, `n` tokens each.
fn generate(model: &Model, prompts: &[&[u32]], n: usize) -> Result<Vec<Vec<u32>>, model::Error> {
    let mut cache = model.new_cache(DType::F32, 256)?;
    let mut batch = Batch::new();
    for (i, prompt) in prompts.iter().enumerate() {
        batch.extend(SeqId(i as u64), prompt);
    }
    let mut texts = vec![Vec::new(); prompts.len()];
    for _ in 0..n {
        let out = model.forward(&batch, &mut cache, &Outputs::last_logits(&batch))?;
        batch = Batch::new();
        for (i, token) in greedy(&out.logits)?.into_iter().enumerate() {
            texts[i].push(token);
            batch.extend(SeqId(i as u64), &[token]);
        }
    }
    Ok(texts)
}

fn main() -> Result<(), model::Error> {
    // A Qwen3 with random weights.
    let folder =
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../../crates/model/tests/fixtures/arch/qwen3");
    let model = Model::open(folder)?;
    let prompts: [&[u32]; 2] = [&[1, 17, 99, 4], &[1, 200]];

    let together = generate(&model, &prompts, 12)?;
    for (prompt, text) in prompts.iter().zip(&together) {
        println!("{prompt:?} -> {text:?}");
        assert_eq!(generate(&model, &[prompt], 12)?[0], *text);
    }
    println!("unknown: {}", Model::open("/nowhere").expect_err("there is no such folder"));
    Ok(())
}
