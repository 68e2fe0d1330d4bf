//! The HTTP layer over the real engine with the small embedded model, without a socket.

mod chat;
mod completions;
mod edge;
#[cfg(feature = "otel")]
mod otel;
mod refusals;

use std::sync::{Arc, OnceLock};

use axum::Router;
use axum::body::Body;
use axum::http::{HeaderMap, Request, StatusCode, header};
use model::Model;
use openai_api::sse::{SseEvent, SseReader};
use serde_json::Value;
use tensor::Compute;
use tokenizer::Tokenizer;
use tower::ServiceExt as _;

use super::app::App;
use super::config::HttpConfig;
use super::router::router;
use crate::engine::{Engine, EngineConfig};
use crate::models::{Loader, ModelSpec, Models};

/// A template in the manner of Hermes, which calls tools and thinks.
const TEMPLATE: &str = "{% for m in messages %}[{{ m.role }}] {{ m.content }}\n{% endfor %}\
    {% if tools %}<tool_call> {{ tools | tojson }}\n{% endif %}\
    {% if add_generation_prompt %}[assistant] {% endif %}";

/// One engine for all tests: it is stateless but for its cache, which changes nothing.
fn bard() -> Engine {
    static ENGINE: OnceLock<Engine> = OnceLock::new();
    ENGINE.get_or_init(|| start(EngineConfig::default())).clone()
}

fn start(config: EngineConfig) -> Engine {
    crate::metrics::install();
    let path = testkit::workspace().join("assets/bard-f16.gguf");
    let compute = Compute::cpu().with_threads(1);
    let model = Model::open_with(&path, compute, model::Repack::Never).unwrap();
    let tokenizer = Arc::new(Tokenizer::from_path(&path).unwrap());
    Engine::start("bard", model, tokenizer, config).unwrap()
}

fn app_of(engine: Engine, config: HttpConfig) -> Arc<App> {
    let spec = ModelSpec { name: "bard".into(), path: "bard".into(), bytes: 1 };
    let loader: Loader = Arc::new(move |_: &ModelSpec| Ok(engine.clone()));
    let models = Models::new(vec![spec], 1, loader).unwrap();
    Arc::new(App::new(config, Arc::new(models)))
}

fn server(config: HttpConfig) -> Router {
    router(app_of(bard(), config))
}

fn with_template() -> Router {
    server_of(TEMPLATE)
}

fn server_of(template: &str) -> Router {
    server(HttpConfig { chat_template: Some(template.into()), ..HttpConfig::default() })
}

struct Answer {
    status: StatusCode,
    headers: HeaderMap,
    body: Vec<u8>,
}

impl Answer {
    fn json(&self) -> Value {
        serde_json::from_slice(&self.body)
            .unwrap_or_else(|e| panic!("{e}: {}", String::from_utf8_lossy(&self.body)))
    }

    /// The answer of a request that was taken.
    fn ok(&self) -> Value {
        assert_eq!(self.status, 200, "{}", String::from_utf8_lossy(&self.body));
        self.json()
    }

    /// The error of one that was not, which has OpenAI's shape.
    fn error(&self, status: u16) -> Value {
        assert_eq!(self.status, status, "{}", String::from_utf8_lossy(&self.body));
        let error = self.json()["error"].clone();
        let keys: Vec<&String> = error.as_object().unwrap().keys().collect();
        assert_eq!(keys, ["message", "type", "param", "code"]);
        assert!(!error["message"].as_str().unwrap().is_empty());
        error
    }

    fn events(&self) -> Vec<SseEvent> {
        assert_eq!(self.status, 200, "{}", String::from_utf8_lossy(&self.body));
        let kind = self.headers[header::CONTENT_TYPE].to_str().unwrap();
        assert!(kind.starts_with("text/event-stream"), "{kind}");
        SseReader::new().push(&self.body).unwrap()
    }

    /// The chunks of a stream that came to its end.
    fn chunks(&self) -> Vec<Value> {
        let mut events = self.events();
        assert!(events.pop().unwrap().is_done());
        events.iter().map(|e| serde_json::from_str(&e.data).unwrap()).collect()
    }
}

async fn send(router: &Router, request: Request<Body>) -> Answer {
    let response = router.clone().oneshot(request).await.unwrap();
    let (head, body) = response.into_parts();
    let body = axum::body::to_bytes(body, usize::MAX).await.unwrap().to_vec();
    Answer { status: head.status, headers: head.headers, body }
}

async fn get(router: &Router, path: &str) -> Answer {
    send(router, Request::get(path).body(Body::empty()).unwrap()).await
}

async fn post(router: &Router, path: &str, body: &Value) -> Answer {
    post_bytes(router, path, body.to_string().into_bytes()).await
}

async fn post_bytes(router: &Router, path: &str, body: Vec<u8>) -> Answer {
    let request = Request::post(path).header(header::CONTENT_TYPE, "application/json");
    send(router, request.body(body.into()).unwrap()).await
}

/// A request with more fields.
fn with(mut base: Value, more: Value) -> Value {
    let Value::Object(more) = more else { panic!("an object") };
    base.as_object_mut().unwrap().extend(more);
    base
}
