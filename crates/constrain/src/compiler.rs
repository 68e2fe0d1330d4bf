//! From a grammar to a constraint, within limits.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use llguidance::api::ParserLimits;
use llguidance::earley::SlicedBiasComputer;
use llguidance::toktrie::InferenceCapabilities;
use llguidance::{ParserFactory, TokenParser};
use tokenizer::Tokenizer;

use crate::cache::GrammarCache;
use crate::grammar::Source;
use crate::vocabulary::{TokenTable, token_env};
use crate::{ConstrainError, Constraint, Grammar, GrammarKind, Limits};

/// Compilation recurses into rules, references and schemas, so it has a stack of its own, which
/// [`Limits`] keep it from leaving.
const STACK: usize = 128 << 20;

/// Compiles grammars for one vocabulary.
///
/// What was compiled is kept, within [`Limits`]; compiling it again is a copy. Several threads may
/// compile at once.
pub struct Compiler {
    tokenizer: Arc<Tokenizer>,
    factory: ParserFactory,
    tokens: Arc<TokenTable>,
    limits: Limits,
    cache: Mutex<GrammarCache>,
}

impl Compiler {
    /// Prepares the vocabulary: some hundreds of milliseconds for 128,000 tokens, so once a model.
    ///
    /// # Errors
    /// [`ConstrainError::Vocabulary`].
    pub fn new(tokenizer: &Arc<Tokenizer>, limits: Limits) -> Result<Self, ConstrainError> {
        let (env, tokens) = token_env(tokenizer)?;
        let slices = SlicedBiasComputer::general_slices();
        let mut factory = ParserFactory::new(&env, InferenceCapabilities::default(), &slices)
            .map_err(|e| ConstrainError::Internal { reason: e.to_string() })?;
        factory.quiet();
        *factory.limits_mut() = ParserLimits {
            initial_lexer_fuel: limits.compile_fuel,
            step_lexer_fuel: limits.step_fuel,
            step_max_items: limits.step_items,
            max_lexer_states: limits.lexer_states,
            max_grammar_size: limits.grammar_symbols,
            verbose_errors: false,
            ..ParserLimits::default()
        };
        let cache = Mutex::new(GrammarCache::new(&limits));
        let tokenizer = Arc::clone(tokenizer);
        Ok(Self { tokenizer, factory, tokens: Arc::new(tokens), limits, cache })
    }

    /// A constraint at the start of its text.
    ///
    /// # Errors
    /// What is wrong with the grammar: all of [`ConstrainError`] that names a kind, and
    /// [`ConstrainError::Gbnf`], [`ConstrainError::SpecialTokens`],
    /// [`ConstrainError::CompilerOptions`].
    pub fn compile(&self, grammar: &Grammar) -> Result<Constraint, ConstrainError> {
        // What is wrong with a part is said of the part, and found without the markers around it.
        for part in grammar.parts() {
            self.compile(part)?;
        }
        let source = Source::new(grammar, &self.tokenizer, &self.limits)?;
        let known = self.cache().get(&source);
        let parser = match known {
            Some(parser) => parser,
            None => {
                let parser = self.parser(&source, grammar)?;
                self.cache().insert(source, &parser);
                parser
            }
        };
        Ok(Constraint::new(parser, Arc::clone(&self.tokens)))
    }

    /// The compiled grammars that are kept now.
    pub fn cached_grammars(&self) -> usize {
        self.cache().len()
    }

    fn cache(&self) -> std::sync::MutexGuard<'_, GrammarCache> {
        self.cache.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn parser(&self, source: &Source, grammar: &Grammar) -> Result<TokenParser, ConstrainError> {
        let kind = grammar.kind();
        let marked = matches!(grammar, Grammar::Tools { .. }) || !grammar.parts().is_empty();
        let compile = || -> Result<TokenParser, ConstrainError> {
            let parser = self.factory.create_parser(source.grammar());
            let mut parser = parser.map_err(|e| uncompilable(kind, &e.to_string()))?;
            let names_tokens = parser.parser.grammar().lexer_spec().special_token_rx.is_some();
            if names_tokens && !marked {
                return Err(ConstrainError::SpecialTokens);
            }
            parser.start_without_prompt();
            // A grammar of the empty text alone is complete at once.
            parser.check_stop().map_err(|e| uncompilable(kind, &e.to_string()))?;
            Ok(parser)
        };
        std::thread::scope(|scope| {
            let thread = std::thread::Builder::new().name("grammar".into()).stack_size(STACK);
            match thread.spawn_scoped(scope, compile) {
                Ok(thread) => thread
                    .join()
                    .unwrap_or_else(|_| Err(uncompilable(kind, "the compiler panicked"))),
                Err(error) => Err(ConstrainError::Internal { reason: error.to_string() }),
            }
        })
    }
}

impl fmt::Debug for Compiler {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let tokens = self.tokens.size;
        let cached = self.cached_grammars();
        let (limits, rest) = (&self.limits, "..");
        write!(f, "Compiler {{ tokens: {tokens}, cached: {cached}, limits: {limits:?}, {rest} }}")
    }
}

/// What the compiler says, without what it says of itself.
fn uncompilable(kind: GrammarKind, message: &str) -> ConstrainError {
    const LONGEST: usize = 500;
    let end = message.find("\n<").unwrap_or(message.len());
    let reason = message[..end].trim().chars().take(LONGEST).collect();
    ConstrainError::Uncompilable { kind, reason }
}
