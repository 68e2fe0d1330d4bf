//! Who asks for what, and when: a common scene, and a cue for each.

use anyhow::Result;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha12Rng;
use sampling::SamplingParams;
use tokenizer::{EncodeOptions, Tokenizer};

/// What all prompts begin with, as with a system prompt.
const SCENE: &str = "Enter the KING, with lords and attendants. A storm is heard, and a messenger \
    comes from the battle.\n\nMESSENGER:\nMy lord, the enemy is at the gate, and half the army gone.\n\n";
/// What follows: who speaks next.
const CUES: [&str; 8] = [
    "KING:\nThen let us",
    "QUEEN:\nMy heart",
    "LORD:\nWhat news",
    "FOOL:\nNuncle, I",
    "DUKE:\nHold, sir,",
    "BISHOP:\nGod save",
    "CAPTAIN:\nTo arms!",
    "PRINCE:\nI will not",
];
/// Steps between two arrivals, at most.
const PAUSE: usize = 4;

/// A prompt and how it is to be continued.
#[derive(Clone, Debug)]
pub struct SimRequest {
    /// Its number, from 1.
    pub number: usize,
    /// The step before which it arrives.
    pub arrives: usize,
    /// Tokens of the prompt.
    pub prompt: Vec<u32>,
    /// Its text.
    pub text: String,
    /// Answers, drawn independently.
    pub sequences: usize,
    /// Tokens of each answer, at most.
    pub max_tokens: usize,
    /// The temperature that tokens are drawn at.
    pub temperature: f32,
    /// The seed of the first answer; the others have those that follow.
    pub seed: u64,
}

impl SimRequest {
    /// How the tokens of an answer are chosen.
    pub fn sampling(&self, answer: usize) -> SamplingParams {
        let seed = Some(self.seed.wrapping_add(answer as u64));
        SamplingParams { temperature: self.temperature, seed, ..SamplingParams::default() }
    }
}

/// What is common to all requests of a run.
#[derive(Clone, Debug)]
pub struct Workload {
    /// How many requests.
    pub requests: usize,
    /// Answers to each.
    pub sequences: usize,
    /// Tokens of each answer, at most.
    pub max_tokens: usize,
    /// The temperature.
    pub temperature: f32,
    /// Arrivals, cues and answers follow from it.
    pub seed: u64,
}

impl Workload {
    /// The requests, in the order in which they arrive.
    ///
    /// # Errors
    /// Those of the tokenizer.
    pub fn requests(&self, tokenizer: &Tokenizer) -> Result<Vec<SimRequest>> {
        let mut rng = ChaCha12Rng::seed_from_u64(self.seed);
        let first_cue = rng.random_range(0..CUES.len());
        let mut arrives = 0;
        let request = |i: usize| {
            let text = format!("{SCENE}{}", CUES[(first_cue + i) % CUES.len()]);
            let options = EncodeOptions { add_special: true, parse_special: false };
            let prompt = tokenizer.encode(&text, options)?;
            if i > 0 {
                arrives += rng.random_range(0..=PAUSE);
            }
            Ok(SimRequest {
                number: i + 1,
                arrives,
                prompt,
                text,
                sequences: self.sequences,
                max_tokens: self.max_tokens,
                temperature: self.temperature,
                seed: rng.random(),
            })
        };
        (0..self.requests).map(request).collect()
    }
}
