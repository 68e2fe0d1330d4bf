//! `POST /v1/embeddings`.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Request, State};
use openai_api::{
    ApiError, Embedding, EmbeddingList, EmbeddingRequest, EmbeddingUsage, MAX_INPUTS, Vector,
};

use super::answering::blocking;
use super::app::App;
use super::body;
use super::failure::{Failure, not_embedded};
use super::prompts::{Prompt, prompts};

/// Embeds texts.
pub(crate) async fn embeddings(
    State(app): State<Arc<App>>,
    request: Request,
) -> Result<Json<EmbeddingList>, Failure> {
    let body = body::read(request, &app.config).await?;
    let request = EmbeddingRequest::parse(&body, app.config.json)?;
    drop(body);
    let served = app.served(Some(&request.model)).await?;
    if request.truncate_prompt_tokens.is_none() {
        served.check_lengths(request.input.texts(), "input")?;
    }
    let (engine, tokenizer) = (served.engine, Arc::clone(&served.context.tokenizer));
    let (input, keep) = (request.input, request.truncate_prompt_tokens);
    let add_special = request.add_special_tokens.unwrap_or(true);
    let texts = blocking(move || {
        let mut texts = prompts(input, &tokenizer, add_special, MAX_INPUTS, "input")?;
        texts.iter_mut().for_each(|t: &mut Prompt| t.truncate(keep));
        Ok(texts.into_iter().map(|t| t.tokens).collect::<Vec<_>>())
    })
    .await?;
    let tokens = texts.iter().map(Vec::len).sum();
    let vectors = engine.embed(texts, None).await.map_err(|e| not_embedded(&e))?;
    if let (Some(wanted), Some(vector)) = (request.dimensions, vectors.first())
        && wanted != vector.len()
    {
        let reason = format!("this model's vectors have {} dimensions", vector.len());
        return Err(ApiError::Rejected { param: "dimensions".to_owned(), reason }.into());
    }
    let format = request.encoding_format.unwrap_or_default();
    let of = |(index, vector)| Embedding {
        object: "embedding".to_owned(),
        index,
        embedding: Vector::new(vector, format),
    };
    Ok(Json(EmbeddingList {
        object: "list".to_owned(),
        data: vectors.into_iter().enumerate().map(of).collect(),
        model: request.model,
        usage: EmbeddingUsage { prompt_tokens: tokens, total_tokens: tokens },
    }))
}
