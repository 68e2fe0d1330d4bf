//! An engine over the small embedded model, and what its answers come to.
#![allow(dead_code)] // each test file uses a part

use std::path::PathBuf;
use std::sync::Arc;

use engine::{
    Engine, EngineConfig, Event, FinishReason, Generation, GenerationError, GenerationRequest,
    Observer, StopCause, StopConditions, TokenInfo, Usage,
};
use model::Model;
use paged_kv::KvCacheConfig;
use tensor::Compute;
use tokenizer::Tokenizer;

pub(crate) fn bard() -> PathBuf {
    testkit::workspace().join("assets/bard-f16.gguf")
}

pub(crate) fn engine(config: EngineConfig) -> Engine {
    engine_of(bard(), config)
}

pub(crate) fn engine_of(path: PathBuf, config: EngineConfig) -> Engine {
    let (model, tokenizer) = open(path);
    Engine::start("bard", model, tokenizer, config).unwrap()
}

pub(crate) fn engine_observed(config: EngineConfig, observer: Arc<dyn Observer>) -> Engine {
    let (model, tokenizer) = open(bard());
    Engine::start_observed("bard", model, tokenizer, config, observer).unwrap()
}

fn open(path: PathBuf) -> (Model, Arc<Tokenizer>) {
    open_on(path, Compute::cpu().with_threads(2))
}

pub(crate) fn open_on(path: PathBuf, compute: Compute) -> (Model, Arc<Tokenizer>) {
    let model = Model::open_with(&path, compute, model::Repack::Never);
    // Of models that have none, words do not matter.
    (model.unwrap(), Arc::new(Tokenizer::from_path(bard()).unwrap()))
}

/// The default with so many blocks of so many positions.
pub(crate) fn blocks(blocks: u32, block_size: usize) -> EngineConfig {
    let kv = KvCacheConfig { blocks, block_size, ..KvCacheConfig::default() };
    EngineConfig { kv, ..EngineConfig::default() }
}

/// Greedy, exactly `tokens` long.
pub(crate) fn greedy(engine: &Engine, prompt: &str, tokens: usize) -> GenerationRequest {
    let prompt = engine.tokenizer().encode(prompt, Default::default()).unwrap();
    let mut request = GenerationRequest::new(prompt);
    request.sampling.temperature = 0.0;
    request.stop =
        StopConditions { max_tokens: Some(tokens), ignore_eos: true, ..Default::default() };
    request
}

/// Different beginnings.
pub(crate) fn prompts(n: usize) -> Vec<String> {
    let names = ["ROMEO", "JULIET", "KING RICHARD", "First Citizen", "GLOUCESTER", "LADY ANNE"];
    let says = ["What say you", "I will not go", "The night is long and", "My lord, the", "O"];
    (0..n)
        .map(|i| {
            let (name, line) = (names[i % names.len()], says[i / 2 % says.len()]);
            format!("{name}:\n{}", format!("{line} ").repeat(1 + i % 7))
        })
        .collect()
}

/// All that came of a request.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Outcome {
    pub(crate) answers: Vec<Answer>,
    pub(crate) prompt: Vec<Option<TokenInfo>>,
    pub(crate) usage: Option<Usage>,
    pub(crate) failed: Option<GenerationError>,
    pub(crate) deltas: usize,
}

#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Answer {
    pub(crate) text: String,
    pub(crate) tokens: Vec<u32>,
    pub(crate) infos: Vec<TokenInfo>,
    pub(crate) finished: Option<(FinishReason, Option<StopCause>)>,
}

impl Outcome {
    pub(crate) fn tokens(&self) -> Vec<Vec<u32>> {
        self.answers.iter().map(|a| a.tokens.clone()).collect()
    }

    fn answer(&mut self, index: usize) -> &mut Answer {
        if self.answers.len() <= index {
            self.answers.resize(index + 1, Answer::default());
        }
        &mut self.answers[index]
    }
}

pub(crate) async fn collect(mut generation: Generation) -> Outcome {
    let mut outcome = Outcome::default();
    while let Some(event) = generation.next().await {
        assert!(outcome.usage.is_none() && outcome.failed.is_none(), "the last event was not last");
        match event {
            Event::Started { .. } => {}
            Event::Prompt(infos) => outcome.prompt = infos,
            Event::Delta { index, text, tokens } => {
                outcome.deltas += 1;
                let answer = outcome.answer(index);
                assert!(answer.finished.is_none(), "an answer grew after its end");
                answer.text.push_str(&text);
                answer.tokens.extend(tokens.iter().map(|t| t.token));
                answer.infos.extend(tokens);
            }
            Event::Finished { index, reason, stopped_by } => {
                let answer = outcome.answer(index);
                assert!(answer.finished.is_none(), "an answer ended twice");
                answer.finished = Some((reason, stopped_by));
            }
            Event::Done(usage) => outcome.usage = Some(usage),
            Event::Failed(error) => outcome.failed = Some(error),
        }
    }
    assert!(outcome.usage.is_some() != outcome.failed.is_some(), "a request ends exactly once");
    outcome
}

pub(crate) async fn run(engine: &Engine, request: GenerationRequest) -> Outcome {
    collect(engine.submit(request).unwrap()).await
}

/// All at once.
pub(crate) async fn run_all(engine: &Engine, requests: Vec<GenerationRequest>) -> Vec<Outcome> {
    let generations: Vec<_> = requests.into_iter().map(|r| engine.submit(r).unwrap()).collect();
    let mut outcomes = Vec::new();
    for generation in generations {
        outcomes.push(tokio::spawn(collect(generation)));
    }
    let mut all = Vec::new();
    for outcome in outcomes {
        all.push(outcome.await.unwrap());
    }
    all
}

/// Waits until no block is used; fails after a second.
pub(crate) async fn idle(engine: &Engine) {
    for _ in 0..100 {
        let snapshot = engine.snapshot().await.unwrap();
        if snapshot.blocks.used == 0 && engine.counts() == (0, 0) {
            return;
        }
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    panic!("blocks in use after a second: {:?}", engine.snapshot().await.unwrap().blocks);
}
