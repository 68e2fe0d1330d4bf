//! The chain against transformers' own, as `generate` builds it.
//!
//! `fixtures/hf_processors.json` is what `fixtures/hf_processors.py` wrote. transformers computes in
//! `f32`: probabilities agree within 1e-6, and the kept tokens exactly.

use sampling::{Sampler, SamplingParams};

#[derive(serde::Deserialize)]
struct Fixture {
    cases: Vec<Case>,
}

#[derive(serde::Deserialize)]
struct Case {
    temperature: f32,
    top_k: usize,
    top_p: f32,
    #[serde(default)]
    min_p: f32,
    typical_p: f32,
    repetition_penalty: f32,
    chain: Vec<String>,
    logits: Vec<f32>,
    prompt: Vec<u32>,
    output: Vec<u32>,
    probabilities: Vec<f64>,
}

#[test]
fn the_chain_is_that_of_transformers() {
    let fixture: Fixture =
        serde_json::from_str(include_str!("fixtures/hf_processors.json")).unwrap();
    assert_eq!(fixture.cases.len(), 32);
    for case in fixture.cases {
        let params = SamplingParams {
            temperature: case.temperature,
            top_k: case.top_k,
            top_p: case.top_p,
            min_p: case.min_p,
            typical_p: case.typical_p,
            repetition_penalty: case.repetition_penalty,
            ..Default::default()
        };
        let mut s = Sampler::new(params).unwrap();
        s.observe_prompt(&case.prompt);
        case.output.iter().for_each(|&t| s.accept(t));
        let got = s.distribution(&case.logits).unwrap();
        for (token, &want) in (0..).zip(&case.probabilities) {
            let p = got.probability(token);
            let here = format!("{:?}, {:?}, token {token}", case.chain, s.params());
            assert_eq!(p > 0.0, want > 0.0, "{here}: {p} against {want}");
            assert!((p - want).abs() < 1e-6, "{here}: {p} against {want}");
        }
    }
}
