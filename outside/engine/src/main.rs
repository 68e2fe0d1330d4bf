//! Three prompts at once on a small model, awaited without any runtime.

use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use engine::{Engine, EngineConfig, Event, GenerationRequest};

/// Waits for a future by asking again.
fn wait<F: Future>(future: F) -> F::Output {
    let mut future = pin!(future);
    let mut context = Context::from_waker(Waker::noop());
    loop {
        match future.as_mut().poll(&mut context) {
            Poll::Ready(output) => return output,
            Poll::Pending => std::thread::sleep(Duration::from_millis(1)),
        }
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/../../assets/bard-f16.gguf");
    let tokenizer = Arc::new(tokenizer::Tokenizer::from_path(file)?);
    let model = model::Model::open(file)?;
    let engine = Engine::start("bard", model, Arc::clone(&tokenizer), EngineConfig::default())?;
    let mut generations = Vec::new();
    for prompt in ["ROMEO:", "JULIET:", "KING:"] {
        let mut request = GenerationRequest::new(tokenizer.encode(prompt, Default::default())?);
        request.sampling.temperature = 0.0;
        request.stop.max_tokens = Some(8);
        generations.push((prompt, engine.submit(request)?));
    }
    for (prompt, mut generation) in generations {
        let mut text = String::new();
        while let Some(event) = wait(generation.next()) {
            match event {
                Event::Delta { text: more, .. } => text.push_str(&more),
                Event::Failed(error) => return Err(error.into()),
                _ => {}
            }
        }
        assert!(!text.is_empty());
        println!("{prompt}{}", text.replace('\n', " / "));
    }
    Ok(())
}
