use std::time::{Duration, Instant};

use axum::body::Body;
use axum::http::{Request, header};
use serde_json::{Value, json};

use super::{bard, get, post, post_bytes, send, server, with, with_template};
use crate::http::HttpConfig;

fn completion(more: Value) -> Value {
    with(json!({"model": "bard", "prompt": "x", "max_tokens": 2}), more)
}

#[tokio::test]
async fn what_only_the_model_shows_to_be_wrong() {
    let server = server(HttpConfig::default());
    let path = "/v1/completions";
    for (more, param) in [
        (json!({"model": "none"}), "model"),
        (json!({"model": "../../etc/passwd"}), "model"),
        (json!({"prompt": [1_000_000]}), "prompt"),
        (json!({"prompt": vec!["x"; 129]}), "prompt"),
        (json!({"logit_bias": {"1000000": 1}}), "logit_bias"),
        (json!({"allowed_token_ids": [1_000_000]}), "allowed_token_ids"),
        (json!({"stop_token_ids": [1_000_000]}), "stop_token_ids"),
        (json!({"suffix": "y"}), "model"),
        (json!({"guided_regex": "("}), "structured_outputs"),
        (json!({"guided_grammar": "(".repeat(60_000)}), "structured_outputs"),
        (json!({"max_tokens": 1_000_000}), "prompt"),
        (json!({"n": 100}), "n"),
    ] {
        let began = Instant::now();
        let status = if more["model"].is_string() { 404 } else { 400 };
        let error = post(&server, path, &completion(more)).await.error(status);
        assert_eq!(error["param"], param, "{error}");
        assert!(began.elapsed() < Duration::from_secs(2), "{error}");
    }
    let long = post(&server, path, &completion(json!({"max_tokens": 1_000_000}))).await.error(400);
    assert_eq!(long["code"], "context_length_exceeded");
    assert!(long["message"].as_str().unwrap().contains("1000000 in the completion"), "{long}");
    // So long a text is not counted.
    let book = json!({"prompt": "To be, or not to be. ".repeat(300_000), "max_tokens": 1});
    let began = Instant::now();
    let longer = post(&server, path, &completion(book)).await.error(400);
    assert_eq!(longer["code"], "context_length_exceeded");
    assert!(began.elapsed() < Duration::from_secs(1), "{:?}", began.elapsed());
    // An error is the same whether or not a stream was asked for.
    let streamed = completion(json!({"max_tokens": 1_000_000, "stream": true}));
    assert_eq!(post(&server, path, &streamed).await.error(400), long);
}

#[tokio::test]
async fn bodies_of_every_kind_of_wrong() {
    let server = with_template();
    let deep = "[".repeat(3000).into_bytes();
    let prompts = format!(r#"{{"model":"bard","prompt":[{}"a"]}}"#, r#""a","#.repeat(1_000_000));
    let surrogate = br#"{"model": "bard", "prompt": "\ud800"}"#.to_vec();
    for body in
        [deep, prompts.into_bytes(), surrogate, b"{".to_vec(), b"".to_vec(), b"\xff".to_vec()]
    {
        for path in ["/v1/completions", "/v1/chat/completions", "/v1/responses", "/v1/embeddings"] {
            post_bytes(&server, path, body.clone()).await.error(400);
        }
    }
    let nul = json!({"model": "bard", "prompt": "a\0b", "max_tokens": 1});
    post(&server, "/v1/completions", &nul).await.ok();
    assert!(bard().alive(Duration::from_secs(20)).await);
}

#[tokio::test]
async fn paths_methods_types_and_sizes() {
    let server = server(HttpConfig { max_body: 1000, ..HttpConfig::default() });
    get(&server, "/v2/nothing").await.error(404);
    get(&server, "/page/nothing").await.error(404);
    get(&server, "/page/%ff").await.error(404);
    get(&server, "/v1/models/%ff%00").await.error(404);
    get(&server, "/v1/completions").await.error(405);
    post(&server, "/health", &json!({})).await.error(405);
    let large = completion(json!({"prompt": "x".repeat(2000)}));
    let refused = post(&server, "/v1/completions", &large).await;
    refused.error(413);
    assert_eq!(refused.headers[header::CONNECTION], "close");
    // Without an announced length, too.
    let pieces = (0..4).map(|_| Ok::<_, std::io::Error>(vec![b' '; 600]));
    let body = Body::from_stream(futures_util::stream::iter(pieces));
    send(&server, Request::post("/v1/completions").body(body).unwrap()).await.error(413);
    let form = Request::post("/v1/completions")
        .header(header::CONTENT_TYPE, "application/x-www-form-urlencoded")
        .body(Body::from("a=b"));
    send(&server, form.unwrap()).await.error(415);
}

#[tokio::test]
async fn a_body_that_does_not_come() {
    let body_timeout = Duration::from_millis(50);
    let server = server(HttpConfig { body_timeout, ..HttpConfig::default() });
    let never = futures_util::stream::pending::<Result<Vec<u8>, std::io::Error>>();
    let request = Request::post("/v1/completions").body(Body::from_stream(never)).unwrap();
    let answer = send(&server, request).await;
    answer.error(408);
    assert_eq!(answer.headers[header::CONNECTION], "close");
}
