//! Which tokens have a role: found by their text where a file does not say, and which ids end a
//! generation.
//!
//! Source: the lists of llama.cpp's `llama_vocab::impl::load`. Files often leave these keys out, so
//! the texts that model makers use are known by heart.

use crate::index::TextIndex;
use crate::{TokenType, Vocabulary};

const EOT: &[&str] = &[
    "<|eot_id|>",
    "<|im_end|>",
    "<|end|>",
    "<end_of_turn>",
    "<|endoftext|>",
    "<|end_of_text|>",
    "<EOT>",
    "_<EOT>",
    "[EOT]",
    "<｜end▁of▁sentence｜>",
    "<end_of_utterance>",
];
const EOM: &[&str] = &["<|eom_id|>"];
const FIM_PREFIX: &[&str] = &[
    "<|fim_prefix|>",
    "<fim-prefix>",
    "<fim_prefix>",
    "<｜fim▁begin｜>",
    "<PRE>",
    "▁<PRE>",
    "<|code_prefix|>",
    "<|prefix|>",
];
const FIM_SUFFIX: &[&str] = &[
    "<|fim_suffix|>",
    "<fim-suffix>",
    "<fim_suffix>",
    "<｜fim▁hole｜>",
    "<SUF>",
    "▁<SUF>",
    "<|code_suffix|>",
    "<|suffix|>",
];
const FIM_MIDDLE: &[&str] = &[
    "<|fim_middle|>",
    "<fim-middle>",
    "<fim_middle>",
    "<｜fim▁end｜>",
    "<MID>",
    "▁<MID>",
    "<|code_middle|>",
    "<|middle|>",
];
const FIM_PAD: &[&str] = &["<|fim_pad|>", "<fim-pad>", "<fim_pad>", "<PAD>", "[PAD]"];
const FIM_REPOSITORY: &[&str] =
    &["<|fim_repo|>", "<|repo_name|>", "<fim-repo>", "<REPO>", "<reponame>"];
const FIM_SEPARATOR: &[&str] = &["<|file_sep|>"];
const EOG: &[&str] = &[
    "<|eot_id|>",
    "<|im_end|>",
    "<|end|>",
    "<|return|>",
    "<|call|>",
    "<|flush|>",
    "<|calls|>",
    "<end_of_turn>",
    "<|endoftext|>",
    "</s>",
    "<|eom_id|>",
    "<EOT>",
    "_<EOT>",
    "[EOT]",
    "[EOS]",
    "<|end_of_text|>",
    "<end_of_utterance>",
    "<eos>",
    "<turn|>",
    "<|tool_response>",
    "<｜end▁of▁sentence｜>",
    "[e~[",
];
/// Markers of o200k_harmony that are always shown.
const SHOWN: &[&str] = &["<|channel|>", "<|message|>", "<|start|>", "<|constrain|>"];

/// Fills the roles that the file left open, corrects the types of tokens that steer, and returns
/// the ids that end a generation, ascending.
///
/// `index` finds the texts of the vocabulary.
pub(crate) fn assign(v: &mut Vocabulary, index: &TextIndex) -> Vec<u32> {
    let n = v.tokens.len() as u32;
    let tokens = &v.tokens;
    let find = |text: &str| index.get(tokens, text.as_bytes());
    let first = |texts: &[&str]| {
        // llama.cpp takes whichever its hash table meets first; the order of the list is stable.
        texts.iter().find_map(|t| find(t))
    };
    let s = &mut v.special;
    for id in [
        &mut s.bos,
        &mut s.eos,
        &mut s.unk,
        &mut s.sep,
        &mut s.pad,
        &mut s.mask,
        &mut s.eot,
        &mut s.eom,
        &mut s.fim.prefix,
        &mut s.fim.suffix,
        &mut s.fim.middle,
        &mut s.fim.pad,
        &mut s.fim.repository,
        &mut s.fim.separator,
    ] {
        if let Some(bad) = id.filter(|&id| id >= n) {
            tracing::warn!(id = bad, "a special token's id is beyond the vocabulary: ignored");
            *id = None;
        }
    }
    let mut steering = Vec::new();
    for (role, texts) in [
        (&mut s.eot, EOT),
        (&mut s.eom, EOM),
        (&mut s.fim.prefix, FIM_PREFIX),
        (&mut s.fim.suffix, FIM_SUFFIX),
        (&mut s.fim.middle, FIM_MIDDLE),
        (&mut s.fim.pad, FIM_PAD),
        (&mut s.fim.repository, FIM_REPOSITORY),
        (&mut s.fim.separator, FIM_SEPARATOR),
    ] {
        if role.is_none() {
            *role = first(texts);
            steering.extend(*role);
        }
    }
    let found: Vec<u32> = EOG.iter().filter_map(|t| find(t)).collect();
    steering.extend(&found);
    let mut eog: std::collections::BTreeSet<u32> = found.into_iter().collect();
    eog.extend([s.fim.pad, s.fim.repository, s.fim.separator].into_iter().flatten());
    eog.extend([s.eos, s.eot, s.eom].into_iter().flatten());
    eog.extend(v.further_eog.iter().copied().filter(|&id| id < n));
    for id in steering {
        v.types[id as usize] = TokenType::Control;
    }
    for id in SHOWN.iter().filter_map(|t| find(t)) {
        v.types[id as usize] = TokenType::UserDefined;
    }

    let ends = |text: &str| find(text).filter(|id| eog.contains(id));
    let harmony = ends("<|return|>").is_some() && ends("<|call|>").is_some();
    let solar = ends("<|calls|>").is_some() && ends("<|flush|>").is_some();
    let end = if harmony || solar { ends("<|end|>") } else { None };
    let plain_s = ends("<|tool_response>").or(ends("<|plamo:eos|>")).and(ends("</s>"));
    if let Some(id) = end {
        eog.remove(&id);
        v.types[id as usize] = TokenType::UserDefined;
    }
    if let Some(id) = plain_s {
        eog.remove(&id);
        v.types[id as usize] = TokenType::Normal;
    }
    eog.into_iter().collect()
}
