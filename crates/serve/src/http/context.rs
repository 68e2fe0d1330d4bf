//! What belongs to a loaded model beside its engine: chat templates and the compiler of constraints.

use std::sync::{Arc, OnceLock};

use constrain::reasoning::ReasoningFormat;
use constrain::tool_calls::ToolFormat;
use constrain::{Compiler, ConstrainError, Constraint, Grammar, Limits};
use openai_api::{ApiError, Structure};
use tokenizer::template::ChatTemplate;
use tokenizer::{Tokenizer, VocabularyModel};

use super::failure::not_compiled;

/// What belongs to a loaded model beside its engine.
pub(crate) struct ModelContext {
    pub(crate) tokenizer: Arc<Tokenizer>,
    /// Bytes of the longest token.
    longest_token: usize,
    compiler: OnceLock<Result<Compiler, ConstrainError>>,
    /// For requests without tools, and for those with.
    templates: [Option<Result<Arc<Template>, String>>; 2],
}

/// A chat template and what its source tells of the model.
pub(crate) struct Template {
    pub(crate) chat: ChatTemplate,
    pub(crate) tools: ToolFormat,
    pub(crate) reasoning: Option<ReasoningFormat>,
}

impl Template {
    /// Whether the template's source has a word: a role or a variable that it knows.
    pub(crate) fn mentions(&self, word: &str) -> bool {
        self.chat.source().contains(word)
    }
}

impl ModelContext {
    /// `own` is a template in place of the model's.
    pub(crate) fn new(tokenizer: &Arc<Tokenizer>, own: Option<&str>) -> Self {
        let compile = |source: &str| match ChatTemplate::new(source) {
            Ok(chat) => Ok(Arc::new(Template {
                chat,
                tools: ToolFormat::of_template(source),
                reasoning: ReasoningFormat::of_template(source),
            })),
            Err(error) => Err(error.to_string()),
        };
        let source = |tools: bool| own.or(ChatTemplate::source_of(tokenizer, tools));
        let plain = source(false).map(compile);
        let with_tools = match source(true) == source(false) {
            true => plain.clone(),
            false => source(true).map(compile),
        };
        let longest_token = tokenizer.vocabulary().tokens.iter().map(Vec::len).max().unwrap_or(1);
        let (tokenizer, compiler) = (Arc::clone(tokenizer), OnceLock::new());
        Self { tokenizer, longest_token, compiler, templates: [plain, with_tools] }
    }

    /// Refuses a text that is too long for the context whatever its tokens are, before they are
    /// counted, which takes time.
    ///
    /// Normalising may make a text shorter, hardly by more than a factor of 4; and WordPiece makes
    /// one token of a word of any length, so that nothing follows there.
    pub(crate) fn check_length(
        &self,
        bytes: usize,
        param: &'static str,
        limit: usize,
    ) -> Result<(), ApiError> {
        const NORMALISED: usize = 4;
        let most = limit.saturating_mul(self.longest_token * NORMALISED);
        let bounded = self.tokenizer.vocabulary().model != VocabularyModel::WordPiece;
        match bounded && bytes > most {
            true => Err(ApiError::TextTooLong { param, limit, bytes }),
            false => Ok(()),
        }
    }

    /// The template of a request with or without tools.
    pub(crate) fn template(&self, tools: bool, model: &str) -> Result<Arc<Template>, ApiError> {
        match &self.templates[usize::from(tools)] {
            Some(Ok(template)) => Ok(Arc::clone(template)),
            Some(Err(reason)) => {
                Err(ApiError::Internal { reason: format!("the chat template: {reason}") })
            }
            None => Err(ApiError::NoChatTemplate { model: model.to_owned() }),
        }
    }

    /// Compiles a grammar; takes up to a tenth of a second, the first time longer.
    pub(crate) fn constraint(
        &self,
        grammar: &Grammar,
        param: &str,
    ) -> Result<Constraint, ApiError> {
        let compiler =
            self.compiler.get_or_init(|| Compiler::new(&self.tokenizer, Limits::default()));
        compiler
            .as_ref()
            .map_err(Clone::clone)
            .and_then(|compiler| compiler.compile(grammar))
            .map_err(|error| not_compiled(&error, param))
    }

    /// The constraint of a structure that a request asks for.
    pub(crate) fn structure(&self, structure: Structure) -> Result<Constraint, ApiError> {
        let (grammar, param) = grammar_of(structure);
        self.constraint(&grammar, param)
    }
}

/// The grammar of a structure, and the parameter that asks for it.
pub(crate) fn grammar_of(structure: Structure) -> (Grammar, &'static str) {
    match structure {
        Structure::JsonObject => (Grammar::JsonObject, "response_format"),
        Structure::JsonSchema(schema) => (Grammar::JsonSchema(schema), "response_format"),
        Structure::Regex(regex) => (Grammar::Regex(regex), "structured_outputs"),
        Structure::Choice(texts) => (Grammar::Choice(texts), "structured_outputs"),
        Structure::Grammar(grammar) => (Grammar::Lark(grammar), "structured_outputs"),
    }
}
