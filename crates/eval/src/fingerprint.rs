//! A short name for a vocabulary, so that a figure says which tokens it counts.

use sha2::{Digest, Sha256};
use tokenizer::Tokenizer;

/// The first 12 hexadecimal digits of SHA-256 over the tokens in order, each as its length (8 bytes,
/// little-endian) and its spelling.
///
/// Perplexities of different vocabularies cannot be compared: the same text is another number of
/// targets. A folder and the GGUF file made from it have the same fingerprint.
pub fn tokenizer_fingerprint(tokenizer: &Tokenizer) -> String {
    let mut hash = Sha256::new();
    for token in &tokenizer.vocabulary().tokens {
        hash.update((token.len() as u64).to_le_bytes());
        hash.update(token);
    }
    hash.finalize().iter().take(6).map(|byte| format!("{byte:02x}")).collect()
}
