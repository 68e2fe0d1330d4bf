//! `GET /v1/models`.

use std::sync::Arc;

use axum::Json;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, State};
use openai_api::{ApiError, ModelCard, ModelList};

use super::app::App;
use super::failure::Failure;

/// All models.
pub(crate) async fn list(State(app): State<Arc<App>>) -> Json<ModelList> {
    let names = app.models.specs().into_iter().map(|s| s.name);
    Json(ModelList::new(names.map(|name| card(&app, name)).collect()))
}

/// One model, whose name may have slashes.
pub(crate) async fn one(
    State(app): State<Arc<App>>,
    name: Result<Path<String>, PathRejection>,
) -> Result<Json<ModelCard>, Failure> {
    // A path that is no text names no model.
    let name = name.map(|Path(name)| name).unwrap_or_default();
    match app.models.specs().into_iter().any(|s| s.name == name) {
        true => Ok(Json(card(&app, name))),
        false => {
            let model = name.chars().take(64).collect();
            Err(ApiError::ModelNotFound { model }.into())
        }
    }
}

/// What is known of a model; of one that is not loaded less.
fn card(app: &App, name: String) -> ModelCard {
    let engine = app.models.peek(&name);
    let info = engine.as_ref().map(|e| e.info());
    ModelCard {
        object: "model".to_owned(),
        created: info.map_or(app.started, |i| i.created),
        owned_by: "infinity".to_owned(),
        root: Some(name.clone()),
        parent: None,
        max_model_len: info.map(|i| i.context_length),
        id: name,
    }
}
