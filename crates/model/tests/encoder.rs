//! Encoders against transformers and a trained sentence model.

mod common;

use common::{fixture, folders, golden, ids, max_abs, open};
use model::Error;
use model::pooling::{Pooling, l2_normalise, pool};

#[test]
fn hidden_states_are_those_of_transformers() {
    for folder in folders() {
        let Some(expected) = golden(&folder, "last_hidden_state") else { continue };
        let got = open(&folder).encode(&[&ids(&folder)]).unwrap();
        let worst = max_abs(got.as_f32().unwrap(), &expected);
        println!("{worst:9.2e} {}", folder.display());
        assert!(worst <= 1e-4, "{}: {worst:e}", folder.display());
    }
}

#[test]
fn texts_do_not_see_each_other() {
    let Some(folder) = testkit::shared("oracle/arch/bert") else { return };
    let (model, ids) = (open(&folder), ids(&folder));
    let texts = [&ids[..17], &ids[17..18], &[][..], &ids[5..]];
    let together = model.encode(&texts).unwrap();
    let alone: Vec<f32> = texts
        .iter()
        .filter(|text| !text.is_empty())
        .flat_map(|text| model.encode(&[text]).unwrap().into_vec().unwrap())
        .collect();
    assert_eq!(together.as_f32().unwrap(), alone);
}

#[test]
fn embeddings_of_minilm_are_the_reference() {
    let Some(folder) = testkit::shared("oracle/minilm") else { return };
    let model = open(&folder);
    let text = std::fs::read_to_string(folder.join("expected.json")).unwrap();
    let expected: serde_json::Value = serde_json::from_str(&text).unwrap();
    let cases = expected["cases"].as_array().unwrap();
    let ids: Vec<Vec<u32>> =
        cases.iter().map(|c| serde_json::from_value(c["ids"].clone()).unwrap()).collect();
    let texts: Vec<&[u32]> = ids.iter().map(Vec::as_slice).collect();
    let lengths: Vec<usize> = ids.iter().map(Vec::len).collect();
    let hidden = model.encode(&texts).unwrap();
    let vectors = l2_normalise(pool(&hidden, &lengths, Pooling::Mean).unwrap()).unwrap();
    assert!(!cases.is_empty());
    for (case, got) in cases.iter().zip(vectors.as_f32().unwrap().chunks_exact(vectors.cols())) {
        let expected: Vec<f64> = serde_json::from_value(case["embedding"].clone()).unwrap();
        let got: Vec<f64> = got.iter().map(|&v| v.into()).collect();
        assert_eq!(got.len(), expected.len());
        let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
        let cosine = dot(&got, &expected) / (dot(&got, &got) * dot(&expected, &expected)).sqrt();
        println!("{cosine:.8} {}", case["text"]);
        assert!(cosine > 0.99999, "{}: {cosine}", case["text"]);
    }
}

#[test]
fn what_cannot_be_encoded_is_refused() {
    let decoder = open(&fixture("arch/qwen3"));
    assert!(matches!(decoder.encode(&[&[1]]), Err(Error::WrongFamily { .. })));
    let Some(folder) = testkit::shared("oracle/arch/bert") else { return };
    let model = open(&folder);
    let config = &model.encoder().unwrap().config;
    let vocab = config.vocab_size;
    assert!(matches!(model.encode(&[]), Err(Error::EmptyBatch)));
    assert!(matches!(model.encode(&[&[]]), Err(Error::EmptyBatch)));
    let error = model.encode(&[&[vocab as u32]]).unwrap_err();
    assert!(matches!(error, Error::TokenOutOfRange { vocab_size, .. } if vocab_size == vocab));
    let long = vec![1; config.context_length + 1];
    assert!(matches!(model.encode(&[&[1], &long]), Err(Error::PositionOutOfRange { .. })));
    assert!(matches!(model.new_cache(tensor::DType::F32, 1), Err(Error::WrongFamily { .. })));
}
