//! What a server does with a body, and what a client does with a stream.

use openai_api::{ChatRequest, JsonLimits, Message, Role};

fn main() {
    let request = ChatRequest {
        model: "bard".to_owned(),
        messages: vec![Message::new(Role::User, "To be?")],
        max_tokens: Some(8),
        ..Default::default()
    };
    let body = serde_json::to_vec(&request).expect("a request is JSON");
    let read = ChatRequest::parse(&body, JsonLimits::default()).expect("it is honoured");
    assert_eq!(read, request);

    let wrong = br#"{"model": "bard", "messages": [], "temperature": 9, "tempreature": 1}"#;
    let refused = ChatRequest::parse(wrong, JsonLimits::default()).expect_err("no");
    println!("{refused}");
}
