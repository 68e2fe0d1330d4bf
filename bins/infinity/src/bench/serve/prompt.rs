//! Prompts of about the wanted length with any vocabulary.
//!
//! A prompt is a row of words drawn from a short list. How many tokens a word is on average, and
//! how many a prompt has besides its words (a start token, a chat template), the server's own counts
//! say: the whole list once and the whole list twice are sent, and a line is laid through the two.

use rand::seq::SliceRandom;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde::Serialize;

/// Common and short, so that most vocabularies have each as one token.
const WORDS: [&str; 48] = [
    "time", "year", "people", "way", "day", "man", "thing", "woman", "life", "child", "world",
    "school", "state", "family", "student", "group", "country", "problem", "hand", "part", "place",
    "case", "week", "company", "system", "program", "question", "work", "night", "point", "home",
    "water", "room", "mother", "area", "money", "story", "fact", "month", "lot", "right", "study",
    "book", "eye", "job", "word", "house", "side",
];

/// Words of the two texts that are sent to calibrate: the list once, and twice.
pub(super) const CALIBRATION: [usize; 2] = [WORDS.len(), 2 * WORDS.len()];

/// The line through the two counts.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub(super) struct Calibration {
    /// Tokens of a word.
    pub(super) tokens_per_word: f64,
    /// Tokens of a prompt without words.
    pub(super) tokens_around: f64,
}

impl Calibration {
    /// From the tokens that the server counted in prompts of [`CALIBRATION`] words; `None` if the
    /// longer one was not longer.
    pub(super) fn from_counts(counts: [u64; 2]) -> Option<Self> {
        let more = counts[1].checked_sub(counts[0]).filter(|&n| n > 0)?;
        let tokens_per_word = more as f64 / WORDS.len() as f64;
        let tokens_around = (counts[0] as f64 - more as f64).max(0.0);
        Some(Self { tokens_per_word, tokens_around })
    }

    /// A prompt of about `tokens` tokens behind `prefix`, which has about `prefix.tokens`.
    pub(super) fn prompt(&self, prefix: Prefix, tokens: usize, seed: Seed) -> String {
        let mut words = Vec::new();
        draw(&mut words, self.words(prefix.tokens as f64), prefix.seed);
        draw(&mut words, self.words(tokens as f64 - self.tokens_around).max(1), seed);
        words.join(" ")
    }

    fn words(&self, tokens: f64) -> usize {
        (tokens / self.tokens_per_word).round() as usize
    }
}

/// What a prompt begins with.
#[derive(Clone, Copy, Debug)]
pub(super) struct Prefix {
    /// Its length.
    pub(super) tokens: usize,
    /// Prompts with the same seed begin with the same words.
    pub(super) seed: Seed,
}

/// Says which words are drawn.
#[derive(Clone, Copy, Debug)]
pub(super) struct Seed {
    /// The run's.
    pub(super) run: u64,
    /// A number of its own for each text.
    pub(super) text: u64,
}

impl Seed {
    fn rng(self) -> ChaCha8Rng {
        let mut rng = ChaCha8Rng::seed_from_u64(self.run);
        rng.set_stream(self.text);
        rng
    }
}

fn draw(into: &mut Vec<&'static str>, count: usize, seed: Seed) {
    let mut rng = seed.rng();
    into.extend((0..count).map(|_| WORDS[rng.random_range(0..WORDS.len())]));
}

/// The list `copies` times in some order.
pub(super) fn calibration_text(copies: usize, seed: u64) -> String {
    let mut words = WORDS.repeat(copies);
    words.shuffle(&mut ChaCha8Rng::seed_from_u64(seed));
    words.join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seed(text: u64) -> Seed {
        Seed { run: 1, text }
    }

    fn none() -> Prefix {
        Prefix { tokens: 0, seed: seed(0) }
    }

    #[test]
    fn two_counts_give_the_line() {
        // 1.5 tokens a word and 10 around.
        let counts = CALIBRATION.map(|words| (1.5 * words as f64) as u64 + 10);
        let line = Calibration::from_counts(counts).unwrap();
        assert_eq!(line, Calibration { tokens_per_word: 1.5, tokens_around: 10.0 });
        assert_eq!(line.prompt(none(), 160, seed(1)).split(' ').count(), 100);
        assert_eq!(line.prompt(none(), 1, seed(1)).split(' ').count(), 1);
        // A server that counts nothing, or the same for both.
        assert!([[0, 0], [5, 5], [9, 3]].iter().all(|&c| Calibration::from_counts(c).is_none()));
    }

    #[test]
    fn each_word_stands_in_the_list_once_and_counts_alike() {
        let mut sorted = WORDS.to_vec();
        sorted.sort_unstable();
        sorted.dedup();
        assert_eq!(sorted.len(), WORDS.len());
        let mut twice: Vec<_> = calibration_text(2, 3).split(' ').map(str::to_owned).collect();
        twice.sort_unstable();
        assert!(twice.chunks(2).all(|pair| pair[0] == pair[1]));
    }

    #[test]
    fn a_shared_prefix_is_the_same_text() {
        let line = Calibration { tokens_per_word: 1.0, tokens_around: 0.0 };
        let prefix = |text| Prefix { tokens: 50, seed: seed(text) };
        let words = |prefix, text| -> Vec<String> {
            line.prompt(prefix, 20, seed(text)).split(' ').map(str::to_owned).collect()
        };
        let (a, b, c) = (words(prefix(9), 1), words(prefix(9), 2), words(prefix(8), 1));
        assert_eq!((a.len(), &a[..50], &a[50..]), (70, &b[..50], &c[50..]));
        assert!(a[50..] != b[50..] && a[..50] != c[..50]);
        assert_eq!(a, words(prefix(9), 1), "a seed is a text");
    }
}
