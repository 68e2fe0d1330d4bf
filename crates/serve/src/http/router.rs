//! Which path leads where.

use std::sync::Arc;

use axum::Router;
use axum::extract::Request;
use axum::middleware::from_fn_with_state;
use axum::routing::{get, post};
use openai_api::ApiError;

use super::app::App;
use super::failure::Failure;
use super::{chat, completions, edge, embeddings, models, responses, status, tokens};

/// All endpoints. Those that cost something or tell of users want a key, where keys are wanted.
pub(crate) fn router(app: Arc<App>) -> Router {
    let keyed = Router::new()
        .route("/v1/completions", post(completions::completions))
        .route("/v1/chat/completions", post(chat::chat_completions))
        .route("/v1/responses", post(responses::responses))
        .route("/v1/embeddings", post(embeddings::embeddings))
        .route("/v1/models", get(models::list))
        .route("/v1/models/{*name}", get(models::one))
        .route("/tokenize", post(tokens::tokenize))
        .route("/detokenize", post(tokens::detokenize))
        .route("/live", get(status::live))
        .route_layer(from_fn_with_state(Arc::clone(&app), edge::admit));
    Router::new()
        .merge(keyed)
        .route("/health", get(status::health))
        .route("/readyz", get(status::ready))
        .route("/metrics", get(status::prometheus))
        .route("/", get(status::page))
        .route("/page/{name}", get(status::page_file))
        .fallback(not_found)
        .method_not_allowed_fallback(not_allowed)
        .layer(from_fn_with_state(Arc::clone(&app), edge::around))
        .with_state(app)
}

async fn not_found(request: Request) -> Failure {
    let (method, path) = place(&request);
    Failure(ApiError::NotFound { method, path })
}

async fn not_allowed(request: Request) -> Failure {
    let (method, path) = place(&request);
    Failure(ApiError::MethodNotAllowed { method, path })
}

fn place(request: &Request) -> (String, String) {
    let short = |text: &str| text.chars().take(64).collect::<String>();
    (short(request.method().as_str()), short(request.uri().path()))
}
