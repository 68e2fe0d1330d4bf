//! `POST /tokenize` and `/detokenize`.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Request, State};
use openai_api::{
    ApiError, DetokenizeRequest, Detokenized, TokenizeInput, TokenizeRequest, Tokenized,
};
use tokenizer::{DecodeOptions, EncodeOptions};

use super::answering::blocking;
use super::app::{App, Served};
use super::body;
use super::chat_prompt::chat_prompt;
use super::failure::Failure;
use super::options::{encode, known};

/// Text to tokens.
pub(crate) async fn tokenize(
    State(app): State<Arc<App>>,
    request: Request,
) -> Result<Json<Tokenized>, Failure> {
    let body = body::read(request, &app.config).await?;
    let request = TokenizeRequest::parse(&body, app.config.json)?;
    let served = app.served(request.model.as_deref()).await?;
    Ok(Json(blocking(move || tokenized(request, &served)).await?))
}

fn tokenized(request: TokenizeRequest, served: &Served) -> Result<Tokenized, ApiError> {
    let tokenizer = &served.context.tokenizer;
    let info = served.engine.info();
    let tokens = match &request.input {
        TokenizeInput::Text(text) => {
            let add_special = request.add_special_tokens.unwrap_or(true);
            let options = EncodeOptions { add_special, parse_special: false };
            encode(tokenizer, text, options, "prompt")?
        }
        TokenizeInput::Chat { messages, tools, prompt } => {
            let template = served.context.template(!tools.is_empty(), &info.name)?;
            let add_special = request.add_special_tokens.unwrap_or(false);
            chat_prompt(messages, tools, prompt, None, add_special, &template, tokenizer)?.tokens
        }
    };
    let text = |&token: &u32| {
        tokenizer.token_text(token).map_or_else(|_| String::new(), |text| text.into_owned())
    };
    Ok(Tokenized {
        count: tokens.len(),
        max_model_len: info.context_length,
        token_strs: request.return_token_strs.then(|| tokens.iter().map(text).collect()),
        tokens,
    })
}

/// Tokens to text, special ones included.
pub(crate) async fn detokenize(
    State(app): State<Arc<App>>,
    request: Request,
) -> Result<Json<Detokenized>, Failure> {
    let body = body::read(request, &app.config).await?;
    let request = DetokenizeRequest::parse(&body, app.config.json)?;
    let served = app.served(request.model.as_deref()).await?;
    let tokenizer = &served.context.tokenizer;
    known(tokenizer, "tokens", &request.tokens)?;
    let prompt = tokenizer
        .decode(&request.tokens, DecodeOptions::default())
        .map_err(|e| ApiError::Rejected { param: "tokens".to_owned(), reason: e.to_string() })?;
    Ok(Json(Detokenized { prompt }))
}
