//! A chat in the engine's terms.

use std::sync::Arc;

use openai_api::{ApiError, ChatRequest, Content, StreamOptions, ToolChoice};
use tokenizer::Tokenizer;

use super::app::Served;
use super::chat_grammar::AnswerGrammar;
use super::chat_prompt::chat_prompt;
use super::chat_text::{ChatSyntax, ChatText};
use super::options::{generation, truncate};
use crate::engine::{GenerationRequest, Tenant};

/// A chat in the engine's terms, and what the answer needs of it.
pub(crate) struct ChatPlan {
    pub(crate) request: GenerationRequest,
    pub(crate) n: usize,
    pub(crate) logprobs: bool,
    pub(crate) prompt_logprobs: Option<usize>,
    pub(crate) token_ids: bool,
    pub(crate) stream: StreamOptions,
    pub(crate) tokenizer: Arc<Tokenizer>,
    syntax: ChatSyntax,
    /// What the identifiers of calls are made of.
    seed: u64,
}

impl ChatPlan {
    /// Renders the conversation and compiles what the answer must follow.
    pub(crate) fn new(
        mut chat: ChatRequest,
        served: &Served,
        tenant: Tenant,
    ) -> Result<Self, ApiError> {
        let context = &served.context;
        let tokenizer = &context.tokenizer;
        let choice = chat.choice();
        // Who may call nothing is not told of anything.
        let tools = if choice == ToolChoice::None { &[][..] } else { &chat.tools };
        let template = context.template(!tools.is_empty(), &chat.model)?;
        if chat.options.truncate_prompt_tokens.is_none() {
            let texts: Vec<String> =
                chat.messages.iter().flat_map(|m| &m.content).map(Content::text).collect();
            served.check_lengths(texts.iter().map(String::as_str), "messages")?;
        }
        let add_special = chat.options.add_special_tokens.unwrap_or(false);
        let prompt = chat_prompt(
            &chat.messages,
            tools,
            &chat.prompt,
            chat.reasoning_effort,
            add_special,
            &template,
            tokenizer,
        )?;
        let structure = chat.options.take_structure()?;
        let limit = chat.limit().map(|(_, n)| n);
        let mut request = generation(&chat.options, context, tenant, limit, chat.logprobs())?;
        request.prompt = prompt.tokens;
        truncate(&mut request.prompt, chat.options.truncate_prompt_tokens);

        let parallel = chat.parallel_tool_calls.unwrap_or(true);
        let answer = AnswerGrammar::new(structure, &choice, tools, parallel, template.tools)?;
        let mut syntax = ChatSyntax {
            reasoning: template.reasoning.map(|f| (f, f.is_opened_by(&prompt.text))),
            tools: (!tools.is_empty())
                .then(|| (template.tools, tools.iter().map(|t| t.name.clone()).collect())),
            parallel,
            exact_calls: answer.is_free(),
            exact_answer: false,
        };
        // Behind thoughts that the prompt closed come no others.
        let reasoning = syntax.reasoning.filter(|(format, _)| !format.is_closed_by(&prompt.text));
        if let Some((grammar, param)) = answer.whole(reasoning) {
            request.constraint = Some(context.constraint(&grammar, param)?);
            syntax.reasoning = reasoning;
            syntax.exact_answer = !grammar.kind().ignores_space();
        }
        if chat.options.skip_special_tokens.is_none() && needs_special(&syntax, tokenizer) {
            request.skip_special_tokens = false;
        }
        Ok(Self {
            request,
            n: chat.options.answers(),
            logprobs: chat.logprobs == Some(true),
            prompt_logprobs: chat.options.prompt_logprobs,
            token_ids: chat.options.return_token_ids.unwrap_or(false),
            stream: chat.options.stream_options.unwrap_or_default(),
            tokenizer: Arc::clone(tokenizer),
            syntax,
            seed: rand::random(),
        })
    }

    /// A reader of the text of one answer.
    pub(crate) fn reader(&self, index: usize) -> ChatText {
        self.syntax.reader(self.seed.wrapping_add(index as u64))
    }
}

/// Whether a marker that is looked for is a special token, which is otherwise left out of the text.
fn needs_special(syntax: &ChatSyntax, tokenizer: &Tokenizer) -> bool {
    let special = |marker: &str| tokenizer.id_of(marker).is_some_and(|id| tokenizer.is_special(id));
    let (open, close) = syntax.reasoning.map(|(format, _)| format.markers()).unwrap_or_default();
    let thoughts = special(open) || special(close);
    thoughts || syntax.tools.as_ref().is_some_and(|(format, _)| format.markers().any(special))
}
