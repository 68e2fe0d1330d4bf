//! The compiled grammars that were used last.

use std::collections::VecDeque;

use llguidance::TokenParser;

use crate::Limits;
use crate::grammar::Source;

/// Compiled grammars by what they were compiled from, the one used last in front.
///
/// Clones of a parser share its lexer, whose states are made as texts need them: a grammar that was
/// used before is fast from the first token, and grows. So what it takes is looked at again whenever
/// one is added.
pub(crate) struct GrammarCache {
    entries: VecDeque<(Source, TokenParser)>,
    grammars: usize,
    bytes: usize,
}

impl GrammarCache {
    pub(crate) fn new(limits: &Limits) -> Self {
        let (grammars, bytes) = (limits.cached_grammars, limits.cached_bytes);
        Self { entries: VecDeque::new(), grammars, bytes }
    }

    /// A parser at the start of `source`, if it is known and sound.
    pub(crate) fn get(&mut self, source: &Source) -> Option<TokenParser> {
        let at = self.entries.iter().position(|(known, _)| known == source)?;
        let entry = self.entries.remove(at)?;
        // One text may have been too much for its lexer, which then refuses all.
        lexer_bytes(&entry.1)?;
        let parser = entry.1.clone();
        self.entries.push_front(entry);
        Some(parser)
    }

    /// Adds a parser at the start of `source`; what was not used for longest goes.
    pub(crate) fn insert(&mut self, source: Source, parser: &TokenParser) {
        self.entries.retain(|(known, _)| *known != source);
        self.entries.push_front((source, parser.clone()));
        let mut taken = 0;
        let mut kept = 0;
        self.entries.retain(|(source, parser)| {
            let bytes = lexer_bytes(parser).map(|bytes| bytes + source.len());
            let keep = bytes.is_some_and(|b| taken + b <= self.bytes) && kept < self.grammars;
            if keep {
                taken += bytes.unwrap_or(0);
                kept += 1;
            }
            keep
        });
    }

    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }
}

/// What the lexer takes; `None` where it failed for good.
fn lexer_bytes(parser: &TokenParser) -> Option<usize> {
    let stats = llguidance::panic_utils::catch_unwind(std::panic::AssertUnwindSafe(|| {
        Ok(parser.parser.lexer_stats())
    }));
    stats.ok().filter(|stats| !stats.error).map(|stats| stats.num_bytes)
}
