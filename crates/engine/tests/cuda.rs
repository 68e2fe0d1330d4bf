//! The engine on a GPU: tokens drawn where the logits lie are those that the host draws.
//!
//! Runs where `cuda:0` can be used: a build with `tensor/cuda` and an NVIDIA GPU, or with
//! `tensor/cuda-emulator` and `INFINITY_EMULATE_CUDA` set. With `REQUIRE_GPU` set its absence is a failure.

mod common;

use common::{Outcome, bard, blocks, greedy, idle, open_on, run, run_all};
use engine::{Engine, GenerationError, GenerationRequest, Search};
use model::{Batch, Outputs};
use sampling::{Sampler, SamplingParams};
use tensor::kv::SeqId;
use tensor::{Compute, DType, Device};

fn gpu() -> Option<Compute> {
    Compute::on(Device::Cuda(0)).map_err(testkit::skip_without_gpu).ok()
}

#[tokio::test]
async fn drawing_on_the_device_changes_no_token() {
    let Some(compute) = gpu() else { return };
    let (model, tokenizer) = open_on(bard(), compute);
    let engine = Engine::start("bard", model, tokenizer, blocks(64, 16)).unwrap();
    let drawn = |temperature: f32, top_k: usize| {
        let mut request = greedy(&engine, "ROMEO:\nO", 6);
        request.sampling.temperature = temperature;
        request.sampling.top_k = top_k;
        request.sampling.seed = Some(11);
        request
    };
    let several = {
        let mut request = drawn(0.9, 0);
        request.search = Search::Sample { n: 2, best_of: 2 };
        request
    };
    let free = vec![greedy(&engine, "JULIET:\nI", 6), drawn(0.8, 20), drawn(1.2, 0), several];
    // Whose probabilities are asked for is drawn on the host.
    let on_host = |request: &GenerationRequest| {
        let mut request = request.clone();
        request.logprobs = Some(0);
        request
    };
    for request in &free {
        let (there, here) =
            (run(&engine, request.clone()).await, run(&engine, on_host(request)).await);
        assert!(there.failed.is_none() && there.tokens().iter().all(|t| t.len() == 6), "{there:?}");
        assert_eq!(there.tokens(), here.tokens());
    }
    // Side by side: of each step some rows come to the host.
    let mixed: Vec<_> = free.iter().flat_map(|r| [r.clone(), on_host(r)]).collect();
    let outcomes: Vec<Outcome> = run_all(&engine, mixed).await;
    assert!(outcomes.iter().all(|o| o.failed.is_none()), "{outcomes:?}");
    idle(&engine).await;
}

/// Memory that a step lacks ends the request that needs it, and no other. The emulator's second GPU has little.
#[tokio::test]
async fn a_prompt_too_long_for_the_memory_left_fails_alone() {
    let little = Device::Cuda(1);
    if gpu().is_none() || little.available_memory().is_none_or(|free| free > 10 << 20) {
        println!("skipped: cuda:1 is not a GPU with little memory");
        return;
    }
    let draft = testkit::workspace().join("assets/bard-draft-f16.gguf");
    let (model, tokenizer) = open_on(draft, Compute::on(little).unwrap());
    // The cache takes what is there, but for what steps of few rows need.
    let slot = model.new_cache(DType::F16, 16).unwrap().layout().bytes_per_token();
    let spare = 512 << 10;
    let free = little.available_memory().unwrap() as usize;
    let config = blocks(((free - spare) / (16 * slot)) as u32, 16);
    let engine = Engine::start("draft", model, tokenizer, config).unwrap();
    let short = greedy(&engine, "ROMEO:\nO", 4);
    let alone = run(&engine, short.clone()).await;
    assert_eq!(alone.tokens()[0].len(), 4, "{alone:?}");

    let mut long = short.clone();
    long.prompt = (0..400).map(|i| 10 + i % 200).collect();
    for _ in 0..2 {
        let outcomes = run_all(&engine, vec![short.clone(), long.clone(), short.clone()]).await;
        let Some(GenerationError::Model(reason)) = &outcomes[1].failed else {
            panic!("{outcomes:?}")
        };
        assert!(reason.contains("needed") && reason.contains("free"), "{reason}");
        assert_eq!([outcomes[0].tokens(), outcomes[2].tokens()], [alone.tokens(), alone.tokens()]);
        idle(&engine).await;
    }
    assert_eq!(run(&engine, short).await.tokens(), alone.tokens());
}

#[test]
fn tokens_drawn_on_the_device_are_those_of_the_sampler() {
    let Some(compute) = gpu() else { return };
    let (model, _) = open_on(bard(), compute);
    let mut cache = model.new_cache(DType::F16, 64).unwrap();
    let mut batch = Batch::new();
    batch.extend(SeqId(0), &[20, 33, 50, 67, 84, 12]);
    let outputs = Outputs { on_device: true, ..Outputs::all_logits(&batch) };
    let logits = model.forward(&batch, &mut cache, &outputs).unwrap().logits;
    let here = logits.to_device(&Device::Cpu).unwrap();
    let rows: Vec<&[f32]> = here.as_f32().unwrap().chunks_exact(here.cols()).collect();

    let all = SamplingParams::default();
    let chains = [
        all.clone(),
        SamplingParams::greedy(),
        SamplingParams { top_k: 5, ..all.clone() },
        SamplingParams { temperature: 0.7, top_p: 0.9, ..all.clone() },
        SamplingParams { temperature: 1.5, min_p: 0.05, top_k: 40, ..all.clone() },
        // What only the host knows.
        SamplingParams { repetition_penalty: 1.1, ..all },
    ];
    let mut samplers: Vec<Sampler> = chains
        .into_iter()
        .zip(7..)
        .map(|(chain, seed)| Sampler::new(SamplingParams { seed: Some(seed), ..chain }).unwrap())
        .collect();
    for round in 0..20 {
        let asked: Vec<Option<&Sampler>> =
            samplers.iter().enumerate().map(|(i, s)| (i != round % 7).then_some(s)).collect();
        let tokens = engine::draw(&model, &logits, &asked).unwrap();
        for (i, ((sampler, row), token)) in samplers.iter_mut().zip(&rows).zip(tokens).enumerate() {
            assert_eq!(token.is_some(), i != 5 && i != round % 7, "row {i}");
            let want = sampler.clone().next_token(row).unwrap();
            match token {
                Some(token) => {
                    assert_eq!(token, want, "row {i}, round {round}");
                    sampler.drawn(token);
                }
                None => assert_eq!(sampler.next_token(row).unwrap(), want),
            }
        }
    }
    // In this machine's memory the sampler itself draws.
    assert_eq!(engine::draw(&model, &here, &[Some(&samplers[0]); 6]).unwrap(), [None; 6]);
    assert!(engine::draw(&model, &logits, &[Some(&samplers[0])]).is_err(), "a sampler a row");
}
