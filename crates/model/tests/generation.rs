//! Greedy continuations of trained models, from a Hugging Face folder and from GGUF files.

mod common;

use common::{all, open};
use model::{Batch, Model, Outputs};
use serde_json::Value;
use tensor::DType;
use tensor::kv::SeqId;

/// The token with the largest logit, and by how much it leads.
fn best(logits: &[f32]) -> (u32, f32) {
    let first = (0..logits.len()).max_by(|&a, &b| logits[a].total_cmp(&logits[b])).unwrap();
    let others = logits.iter().enumerate().filter(|&(i, _)| i != first).map(|(_, &v)| v);
    (first as u32, logits[first] - others.fold(f32::NEG_INFINITY, f32::max))
}

/// Continues a prompt as long as the leading token leads by `margin`, at most `n` tokens.
fn greedy(model: &Model, prompt: &[u32], n: usize, kv: DType, margin: f32) -> Vec<u32> {
    let mut cache = model.new_cache(kv, prompt.len() + n).unwrap();
    let (mut next, mut out) = (prompt.to_vec(), Vec::new());
    while out.len() < n {
        let mut batch = Batch::new();
        batch.extend(SeqId(0), &next);
        let result = model.forward(&batch, &mut cache, &Outputs::last_logits(&batch)).unwrap();
        let (token, lead) = best(result.logits.as_f32().unwrap());
        if lead < margin {
            break;
        }
        out.push(token);
        next = vec![token];
    }
    out
}

fn cases() -> Vec<Value> {
    let Some(path) = testkit::shared("oracle/expected.json") else { return Vec::new() };
    let text = std::fs::read_to_string(path).unwrap();
    let expected: Value = serde_json::from_str(&text).unwrap();
    expected["greedy"].as_array().unwrap().clone()
}

fn ids(value: &Value) -> Vec<u32> {
    serde_json::from_value(value.clone()).unwrap()
}

#[test]
fn continuations_in_f32_are_those_of_transformers() {
    for case in cases() {
        let name = case["model"].as_str().unwrap();
        let model = open(&testkit::shared(&format!("oracle/{name}")).unwrap());
        let expected = ids(&case["ids"]);
        let got = greedy(&model, &ids(&case["prompt_ids"]), expected.len(), DType::F32, 0.0);
        assert_eq!(got, expected, "{name}: {}", case["prompt"]);
    }
}

#[test]
fn continuations_in_f16_agree_up_to_the_first_close_choice() {
    let (mut compared, mut all) = (0, 0);
    for case in cases() {
        let name = case["model"].as_str().unwrap();
        let model = open(&testkit::shared(&format!("oracle/gguf/{name}-f16.gguf")).unwrap());
        let expected = ids(&case["ids"]);
        let prompt = ids(&case["prompt_ids"]);
        let got = greedy(&model, &prompt, expected.len(), DType::F16, 0.01);
        assert_eq!(got, expected[..got.len()], "{name}: {}", case["prompt"]);
        (compared, all) = (compared + got.len(), all + expected.len());
    }
    println!("{compared} of {all} tokens before a choice closer than 0.01");
    assert!(compared * 3 >= all);
}

/// Several continuations at once, each step one batch, are those of one at a time.
#[test]
fn prompts_continue_together_as_alone() {
    let cases: Vec<Value> = cases().into_iter().filter(|c| c["model"] == "bard").collect();
    let Some(path) = testkit::shared("oracle/bard") else { return };
    let model = open(&path);
    let mut cache = model.new_cache(DType::F32, 4096).unwrap();
    let mut next: Vec<Vec<u32>> = cases.iter().map(|c| ids(&c["prompt_ids"])).collect();
    let mut out = vec![Vec::new(); cases.len()];
    for _ in 0..24 {
        let mut batch = Batch::new();
        for (i, tokens) in next.iter().enumerate() {
            batch.extend(SeqId(i as u64), tokens);
        }
        let result = all(&model, &batch, &mut cache).logits;
        let mut row = 0;
        for (tokens, out) in next.iter_mut().zip(&mut out) {
            row += tokens.len();
            let logits = result.slice_rows(row - 1..row).unwrap();
            let (token, _) = best(logits.as_f32().unwrap());
            out.push(token);
            *tokens = vec![token];
        }
    }
    for (case, out) in cases.iter().zip(out) {
        assert_eq!(out, ids(&case["ids"])[..24], "{}", case["prompt"]);
    }
}
