//! What an engine promises: the same tokens in any company, one end for each request, and its blocks
//! back.

mod common;

use std::sync::{Arc, Mutex};
use std::time::Duration;

use common::{
    blocks, collect, engine, engine_observed, engine_of, greedy, idle, prompts, run, run_all,
};
use engine::{
    EngineConfig, FinishReason, GenerationError, Observer, Search, StopCause, SubmitError,
};
use paged_kv::{EvictionPolicy, KvCacheConfig};
use scheduler::Preemption;

/// Greedy answers of each prompt, asked one after the other.
async fn alone(prompts: &[String], tokens: usize) -> Vec<Vec<u32>> {
    let engine = engine(EngineConfig::default());
    let mut all = Vec::new();
    for prompt in prompts {
        let outcome = run(&engine, greedy(&engine, prompt, tokens)).await;
        assert_eq!(outcome.answers[0].tokens.len(), tokens);
        all.extend(outcome.tokens());
    }
    all
}

#[tokio::test]
async fn greedy_answers_are_the_same_in_any_company() {
    let (prompts, tokens) = (prompts(64), 24);
    let want = alone(&prompts, tokens).await;
    let no_cache = KvCacheConfig { eviction: EvictionPolicy::None, ..blocks(1024, 16).kv };
    let swapped = KvCacheConfig { host_blocks: 64, ..blocks(40, 8).kv };
    for (name, config) in [
        ("64 together", blocks(1024, 16)),
        ("blocks of 5", blocks(2048, 5)),
        ("without a prefix cache", EngineConfig { kv: no_cache, ..EngineConfig::default() }),
        ("preempted and computed again", EngineConfig { max_sequences: 32, ..blocks(40, 8) }),
        (
            "preempted and swapped",
            EngineConfig { kv: swapped, preemption: Preemption::Swap, ..EngineConfig::default() },
        ),
        ("in small steps", EngineConfig { max_batch_tokens: 24, ..blocks(512, 16) }),
    ] {
        let engine = engine(config);
        let requests = prompts.iter().map(|p| greedy(&engine, p, tokens)).collect();
        let outcomes = run_all(&engine, requests).await;
        for (i, (outcome, want)) in outcomes.iter().zip(&want).enumerate() {
            assert_eq!(outcome.failed, None, "{name}");
            assert_eq!(outcome.tokens()[0], *want, "{name}, prompt {i}");
        }
        let snapshot = engine.snapshot().await.unwrap();
        assert_eq!(snapshot.preemptions > 0, name.starts_with("preempted"), "{name}");
        idle(&engine).await;
    }
}

#[tokio::test]
async fn a_seed_gives_the_same_answers_in_any_company() {
    let engine = engine(blocks(1024, 16));
    let request = |seed| {
        let mut request = greedy(&engine, "ROMEO:\nBut soft", 20);
        request.sampling.temperature = 1.0;
        request.sampling.seed = Some(seed);
        request.search = Search::Sample { n: 3, best_of: 3 };
        request
    };
    let want = run(&engine, request(7)).await.tokens();
    assert_eq!(want.len(), 3);
    assert!(want[0] != want[1] && want[1] != want[2], "answers are drawn each for itself");
    // The second of three is the first of the next seed.
    assert_eq!(run(&engine, request(8)).await.tokens()[0], want[1]);
    let mut crowd: Vec<_> = prompts(20).iter().map(|p| greedy(&engine, p, 30)).collect();
    crowd.push(request(7));
    assert_eq!(run_all(&engine, crowd).await.pop().unwrap().tokens(), want);
    idle(&engine).await;
}

#[tokio::test]
async fn the_prompt_of_several_answers_is_computed_once() {
    let prompt = "My lord, the ".repeat(20);
    let engine = engine(blocks(24, 16));
    let mut request = greedy(&engine, &prompt, 4);
    request.search = Search::Sample { n: 8, best_of: 8 };
    let rows = request.prompt.len();
    let outcome = run(&engine, request).await;
    let tokens = outcome.tokens();
    assert!(tokens.iter().all(|t| *t == tokens[0]), "greedy answers to one prompt differ");
    let usage = outcome.usage.unwrap();
    assert_eq!((usage.prompt_tokens, usage.completion_tokens), (rows, 32));
    // A copy of each would have needed eight times the prompt's blocks, which there are not.
    assert!(8 * rows.div_ceil(16) > 24, "{rows}");
    // The next who asks finds all full blocks.
    let again = run(&engine, greedy(&engine, &prompt, 1)).await.usage.unwrap();
    assert_eq!(again.cached_tokens, (rows - 1) / 16 * 16);
    idle(&engine).await;
}

#[tokio::test]
async fn the_best_of_several_answers_come_first() {
    let engine = engine(blocks(256, 16));
    let mut request = greedy(&engine, "KING RICHARD:\nThe", 12);
    request.sampling.temperature = 1.5;
    request.sampling.seed = Some(1);
    request.logprobs = Some(0);
    request.search = Search::Sample { n: 8, best_of: 8 };
    let mean = |a: &common::Answer| {
        a.infos.iter().map(|t| t.logprob.unwrap()).sum::<f64>() / a.infos.len() as f64
    };
    let mut all: Vec<(f64, Vec<u32>)> = run(&engine, request.clone())
        .await
        .answers
        .iter()
        .map(|a| (mean(a), a.tokens.clone()))
        .collect();
    all.sort_by(|a, b| b.0.total_cmp(&a.0));
    request.search = Search::Sample { n: 2, best_of: 8 };
    let best = run(&engine, request).await;
    assert_eq!(best.tokens(), [all[0].1.clone(), all[1].1.clone()]);
    assert_eq!(best.usage.unwrap().completion_tokens, 8 * 12);
    idle(&engine).await;
}

#[tokio::test]
async fn beams_find_what_is_more_probable_than_greedy() {
    let engine = engine(blocks(256, 16));
    let total = |a: &common::Answer| a.infos.iter().map(|t| t.logprob.unwrap()).sum::<f64>();
    let mut better = 0;
    for prompt in prompts(8) {
        let mut request = greedy(&engine, &prompt, 10);
        request.logprobs = Some(0);
        let greedy = run(&engine, request.clone()).await;
        let beam = |width: usize| Search::Beam { n: width.min(2), width, length_penalty: 1.0 };
        request.search = beam(1);
        let one = run(&engine, request.clone()).await;
        assert_eq!(one.tokens(), greedy.tokens(), "one beam is greedy");
        request.search = beam(5);
        let five = run(&engine, request).await;
        assert_eq!(five.answers.len(), 2);
        assert!(total(&five.answers[0]) >= total(&five.answers[1]));
        assert_ne!(five.answers[0].tokens, five.answers[1].tokens);
        assert!(total(&five.answers[0]) >= total(&greedy.answers[0]) - 1e-9, "{prompt}");
        better += usize::from(five.answers[0].tokens != greedy.answers[0].tokens);
    }
    assert!(better > 0, "five beams never found anything better");
    idle(&engine).await;
}

/// Beam search written down plainly: each step asks for the next tokens of every beam by a request of
/// its own.
async fn plain_beams(
    engine: &engine::Engine,
    asked: &engine::GenerationRequest,
    width: usize,
    tokens: usize,
) -> Vec<Vec<u32>> {
    let mut beams = vec![(0.0, Vec::new())];
    let mut complete: Vec<(f64, Vec<u32>)> = Vec::new();
    for step in 1..=tokens {
        let mut candidates = Vec::new();
        for (total, beam) in &beams {
            let mut one = asked.clone();
            one.prompt.extend(beam);
            one.search = Search::default();
            one.stop = Default::default();
            one.stop.max_tokens = Some(1);
            one.stop.ignore_eos = true;
            one.logprobs = Some(2 * width);
            let answer = run(engine, one).await.answers.remove(0);
            for next in &answer.infos[0].top {
                candidates.push((total + next.logprob, [&beam[..], &[next.token]].concat()));
            }
        }
        candidates.sort_by(|a, b| b.0.total_cmp(&a.0));
        beams.clear();
        for (total, beam) in candidates {
            if beams.len() == width {
                break;
            }
            let stops = asked.stop.tokens.contains(&beam[beam.len() - 1]);
            match stops || step == tokens {
                true => complete.push((total / beam.len() as f64, beam)),
                false => beams.push((total, beam)),
            }
        }
    }
    complete.sort_by(|a, b| b.0.total_cmp(&a.0));
    complete.into_iter().map(|(_, beam)| beam).collect()
}

#[tokio::test]
async fn beams_that_end_at_different_lengths_are_told_apart() {
    let engine = engine(blocks(256, 16));
    let mut ended_early = 0;
    for prompt in prompts(4) {
        // The most probable tokens of an answer end it, so that some beams end and others go on.
        let free = run(&engine, greedy(&engine, &prompt, 4)).await.answers.remove(0).tokens;
        let mut request = greedy(&engine, &prompt, 6);
        request.stop.tokens = vec![free[1], free[3]];
        request.stop.include_stop = true;
        request.search = Search::Beam { n: 3, width: 4, length_penalty: 1.0 };
        let found = run(&engine, request.clone()).await.tokens();
        let want = plain_beams(&engine, &request, 4, 6).await;
        assert_eq!(found, want[..3], "{prompt}");
        ended_early += found.iter().filter(|tokens| tokens.len() < 6).count();
    }
    assert!(ended_early > 0, "no beam ended before the others");
    idle(&engine).await;
}

#[tokio::test]
async fn probabilities_of_a_prompt_are_those_of_generating_it() {
    let engine = engine(blocks(256, 16));
    let mut request = greedy(&engine, "ROMEO:\nBut soft, what light", 12);
    request.logprobs = Some(3);
    let generated = run(&engine, request.clone()).await;
    let prompt_len = request.prompt.len();
    // What was generated, given as a prompt, when its prefix is cached already.
    let mut whole = request.clone();
    whole.prompt.extend(&generated.answers[0].tokens);
    whole.prompt_logprobs = Some(3);
    whole.stop.max_tokens = Some(0);
    let scored = run(&engine, whole).await;
    assert_eq!(scored.prompt.len(), prompt_len + 12);
    assert_eq!(scored.prompt[0], None);
    assert!(scored.answers[0].tokens.is_empty());
    assert_eq!(scored.answers[0].finished, Some((FinishReason::Length, None)));
    for (scored, generated) in scored.prompt[prompt_len..].iter().zip(&generated.answers[0].infos) {
        let scored = scored.as_ref().unwrap();
        assert_eq!((scored.token, scored.logprob), (generated.token, generated.logprob));
        assert_eq!((scored.rank, &scored.top), (Some(0), &generated.top));
        assert_eq!(scored.top.len(), 3);
    }
}

#[tokio::test]
async fn an_answer_ends_before_its_stop_string() {
    let engine = engine(blocks(256, 16));
    let free = run(&engine, greedy(&engine, "JULIET:\nO", 40)).await.answers.remove(0);
    assert_eq!(free.finished, Some((FinishReason::Length, None)));
    // From the middle of its text, across tokens.
    let at = (free.text.len() / 2..).find(|&i| free.text.is_char_boundary(i)).unwrap();
    let stop = free.text[at..].chars().take(7).collect::<String>();
    let mut request = greedy(&engine, "JULIET:\nO", 40);
    request.stop.strings = vec!["not in the text".to_owned(), stop.clone()];
    let stopped = run(&engine, request.clone()).await.answers.remove(0);
    let first = free.text.find(&stop).unwrap();
    assert_eq!(stopped.text, free.text[..first]);
    assert_eq!(stopped.finished, Some((FinishReason::Stop, Some(StopCause::Text(stop.clone())))));
    request.stop.include_stop = true;
    let included = run(&engine, request).await.answers.remove(0);
    assert_eq!(included.text, free.text[..first + stop.len()]);
    let mut request = greedy(&engine, "JULIET:\nO", 40);
    request.stop.tokens = vec![free.tokens[5]];
    let stopped = run(&engine, request).await.answers.remove(0);
    let cause = StopCause::Token(free.tokens[5]);
    assert_eq!(stopped.finished, Some((FinishReason::Stop, Some(cause))));
    let first = free.tokens.iter().position(|t| *t == free.tokens[5]).unwrap();
    assert_eq!(stopped.tokens, free.tokens[..first]);
}

#[tokio::test]
async fn tokens_that_are_not_allowed_do_not_come() {
    let engine = engine(blocks(256, 16));
    let free = run(&engine, greedy(&engine, "First Citizen:\n", 16)).await.answers.remove(0);
    let mut request = greedy(&engine, "First Citizen:\n", 16);
    request.bad_words = vec![free.tokens[..2].to_vec(), vec![free.tokens[4]]];
    let other = run(&engine, request).await.answers.remove(0).tokens;
    assert!(!other.windows(2).any(|pair| *pair == free.tokens[..2]));
    assert!(!other.contains(&free.tokens[4]));
    assert_eq!(other[0], free.tokens[0], "a word's first token alone may come");
    let mut request = greedy(&engine, "First Citizen:\n", 16);
    request.allowed_tokens = Some(vec![free.tokens[3], free.tokens[7], 1 << 30]);
    let few = run(&engine, request).await.answers.remove(0).tokens;
    assert!(few.iter().all(|t| [free.tokens[3], free.tokens[7]].contains(t)));
    // The end may not come before so many tokens, and comes at once when nothing else may.
    let end = engine.tokenizer().eog_ids()[0];
    let mut request = greedy(&engine, "First Citizen:\n", 16);
    request.stop.ignore_eos = false;
    request.allowed_tokens = Some(vec![end, free.tokens[0]]);
    request.sampling.logit_bias = vec![(end, 100.0)];
    request.stop.min_tokens = 3;
    let short = run(&engine, request).await.answers.remove(0);
    assert_eq!(short.tokens, [free.tokens[0]; 3]);
    assert_eq!(short.finished, Some((FinishReason::Stop, None)));
}

#[tokio::test]
async fn what_cannot_be_served_is_refused_at_once() {
    let config = EngineConfig { max_waiting: 2, max_sequences: 2, ..blocks(8, 16) };
    let engine = engine(config);
    let refused = |request| engine.submit(request).map(drop).unwrap_err();
    let with = |change: &dyn Fn(&mut engine::GenerationRequest)| {
        let mut request = greedy(&engine, "O", 4);
        change(&mut request);
        request
    };
    assert_eq!(refused(with(&|r| r.prompt.clear())), SubmitError::EmptyPrompt);
    let vocab_size = engine.info().vocab_size;
    let token = vocab_size as u32;
    assert_eq!(
        refused(with(&|r| r.prompt.push(token))),
        SubmitError::TokenOutOfRange { token, vocab_size }
    );
    let prompt = with(&|_| {}).prompt.len();
    for tokens in [128, usize::MAX] {
        let refused = refused(with(&|r| r.stop.max_tokens = Some(tokens)));
        let want = SubmitError::ContextLength { prompt, completion: tokens, limit: 128 };
        assert_eq!(refused, want);
    }
    let refused_n = refused(with(&|r| r.search = Search::Sample { n: 3, best_of: 3 }));
    assert_eq!(refused_n, SubmitError::TooManySequences { asked: 3, limit: 2 });
    // Two answers of 100 tokens fit together no more.
    let two = refused(with(&|r| {
        r.search = Search::Sample { n: 2, best_of: 2 };
        r.stop.max_tokens = Some(100);
    }));
    assert!(matches!(two, SubmitError::NeverFits { needed, total: 8 } if needed > 8), "{two}");
    assert!(matches!(
        refused(with(&|r| r.sampling.temperature = f32::NAN)),
        SubmitError::Sampling(_)
    ));
    // A queue of two, while two run.
    let long: Vec<_> = (0..2).map(|_| engine.submit(greedy(&engine, "O", 60)).unwrap()).collect();
    while engine.counts() != (0, 2) {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let queued: Vec<_> = (0..2).map(|_| engine.submit(greedy(&engine, "O", 60)).unwrap()).collect();
    match refused(greedy(&engine, "O", 60)) {
        SubmitError::QueueFull { waiting: 2, retry_after } => assert!(retry_after.as_secs() >= 1),
        other => panic!("{other}"),
    }
    for generation in long.into_iter().chain(queued) {
        assert_eq!(collect(generation).await.failed, None);
    }
    engine.drain();
    assert_eq!(refused(greedy(&engine, "O", 4)), SubmitError::Draining);
}

#[tokio::test]
async fn blocks_are_back_when_a_reader_is_gone() {
    let engine = engine(EngineConfig { max_sequences: 4, ..blocks(256, 16) });
    // In the middle of an answer, in the prompt, and in the queue.
    let mut running: Vec<_> =
        (0..4).map(|_| engine.submit(greedy(&engine, "O", 200)).unwrap()).collect();
    for generation in &mut running {
        while !matches!(generation.next().await, Some(engine::Event::Delta { .. })) {}
    }
    let queued: Vec<_> =
        (0..4).map(|_| engine.submit(greedy(&engine, "O", 200)).unwrap()).collect();
    drop(queued);
    drop(running);
    idle(&engine).await;
    let in_prompt = engine.submit(greedy(&engine, &"O, my lord ".repeat(80), 20)).unwrap();
    drop(in_prompt);
    idle(&engine).await;
}

/// The load that was told of last: requests that run and wait, and the share of blocks in use.
#[derive(Default)]
struct Watch(Mutex<(usize, usize, f64)>);

impl Observer for Watch {
    fn requests(&self, running: usize, waiting: usize) {
        let mut load = self.0.lock().unwrap();
        (load.0, load.1) = (running, waiting);
    }

    fn cache_usage(&self, share: f64) {
        self.0.lock().unwrap().2 = share;
    }
}

#[tokio::test]
async fn who_watches_is_told_when_the_last_request_is_cancelled() {
    let watch = Arc::new(Watch::default());
    let engine = engine_observed(blocks(256, 16), watch.clone());
    let mut running = engine.submit(greedy(&engine, "O", 200)).unwrap();
    while !matches!(running.next().await, Some(engine::Event::Delta { .. })) {}
    // A second token: the step of the first has been told of.
    while !matches!(running.next().await, Some(engine::Event::Delta { .. })) {}
    assert!(matches!(*watch.0.lock().unwrap(), (1, 0, share) if share > 0.0));
    drop(running);
    idle(&engine).await;
    for _ in 0..100 {
        if *watch.0.lock().unwrap() == (0, 0, 0.0) {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("running, waiting, usage: {:?}", watch.0.lock().unwrap());
}

#[tokio::test]
async fn a_slow_reader_is_let_go_and_nobody_else_notices() {
    let engine = engine(EngineConfig { max_unread: 100, ..blocks(256, 16) });
    let want = run(&engine, greedy(&engine, "JULIET:\n", 60)).await.tokens();
    let slow = engine.submit(greedy(&engine, "ROMEO:\n", 200)).unwrap();
    let other = run(&engine, greedy(&engine, "JULIET:\n", 60)).await;
    assert_eq!(other.tokens(), want);
    idle(&engine).await;
    let slow = collect(slow).await;
    assert_eq!(slow.failed, Some(GenerationError::SlowReader));
    assert!(slow.answers[0].tokens.len() <= 100);
}

#[tokio::test]
async fn who_waits_too_long_is_told_so() {
    let queue_timeout = Duration::from_millis(30);
    let config = EngineConfig { max_sequences: 1, queue_timeout, ..blocks(256, 16) };
    let engine = engine(config);
    let long = engine.submit(greedy(&engine, "O", 250)).unwrap();
    let late = run(&engine, greedy(&engine, "O", 4)).await;
    assert!(matches!(late.failed, Some(GenerationError::QueueTimeout { .. })), "{late:?}");
    assert_eq!(collect(long).await.failed, None);
    idle(&engine).await;
}

/// A small Llama whose embedding of one token is no number. (Its output matrix is another, so that
/// the token can harm nobody who does not use it.)
fn poisoned(token: usize) -> Option<tempfile::TempDir> {
    let source = testkit::shared("oracle/arch/llama")?;
    let folder = tempfile::tempdir().unwrap();
    let config = std::fs::read(source.join("config.json")).unwrap();
    let mut config: serde_json::Value = serde_json::from_slice(&config).unwrap();
    // Heads of 32 elements, which Q8_0 can hold, of the same weights.
    for (name, value) in [("num_attention_heads", 2), ("num_key_value_heads", 1), ("head_dim", 32)]
    {
        config[name] = value.into();
    }
    std::fs::write(folder.path().join("config.json"), config.to_string()).unwrap();
    let mut bytes = std::fs::read(source.join("model.safetensors")).unwrap();
    let header = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    let json: serde_json::Value = serde_json::from_slice(&bytes[8..8 + header]).unwrap();
    let tensor = &json["model.embed_tokens.weight"];
    let row = tensor["shape"][1].as_u64().unwrap() as usize * 4;
    let at = 8 + header + tensor["data_offsets"][0].as_u64().unwrap() as usize + token * row;
    for element in bytes[at..at + row].chunks_exact_mut(4) {
        element.copy_from_slice(&f32::NAN.to_le_bytes());
    }
    std::fs::write(folder.path().join("model.safetensors"), bytes).unwrap();
    Some(folder)
}

#[tokio::test]
async fn logits_that_are_no_numbers_fail_their_request_alone() {
    let poison = 300;
    let Some(folder) = poisoned(poison) else { return };
    for kv_type in [tensor::DType::F16, tensor::DType::Q8_0] {
        let config = EngineConfig { kv_type, ..blocks(256, 16) };
        let engine = engine_of(folder.path().to_owned(), config);
        let request = |prompt: &[u32]| {
            let mut request = greedy(&engine, "O", 20);
            request.prompt = prompt.to_vec();
            request.sampling.logit_bias = vec![(poison as u32, f32::NEG_INFINITY)];
            request
        };
        let want = run(&engine, request(&[1, 2, 3])).await;
        assert_eq!(want.failed, None);
        let both = vec![request(&[4, poison as u32, 5]), request(&[1, 2, 3])];
        let mut outcomes = run_all(&engine, both).await;
        let (good, bad) = (outcomes.pop().unwrap(), outcomes.pop().unwrap());
        assert_eq!(good.tokens(), want.tokens(), "{kv_type}");
        assert_eq!(good.failed, None);
        assert!(bad.failed.is_some(), "{kv_type}: {bad:?}");
        idle(&engine).await;
    }
}

#[tokio::test]
async fn a_worker_that_panics_is_replaced() {
    let engine = engine(blocks(256, 16));
    let want = run(&engine, greedy(&engine, "JULIET:\n", 10)).await.tokens();
    let mut running = engine.submit(greedy(&engine, "O", 200)).unwrap();
    while !matches!(running.next().await, Some(engine::Event::Delta { .. })) {}
    engine.panic_for_tests();
    let outcome = collect(running).await;
    assert_eq!(outcome.failed, Some(GenerationError::WorkerPanicked));
    assert_eq!(run(&engine, greedy(&engine, "JULIET:\n", 10)).await.tokens(), want);
    assert_eq!(engine.restarts(), 1);
    assert!(engine.alive(Duration::from_secs(5)).await);
    idle(&engine).await;
}

#[tokio::test]
async fn a_stopped_engine_says_so() {
    let engine = engine(blocks(256, 16));
    let running = engine.submit(greedy(&engine, "O", 200)).unwrap();
    engine.stop();
    assert_eq!(collect(running).await.failed, Some(GenerationError::ShutDown));
    assert!(!engine.alive(Duration::from_secs(1)).await);
    assert!(engine.snapshot().await.is_none());
}
