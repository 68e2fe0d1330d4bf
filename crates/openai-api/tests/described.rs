//! Responses and chunks are what the published description of OpenAI's API describes.

use std::collections::BTreeMap;

use openai_api::*;
use serde::Serialize;
use serde_json::{Value, json};
use testkit::openapi::Description;

fn check(description: &Description, schema: &str, value: &impl Serialize) {
    let value = serde_json::to_value(value).unwrap();
    if let Err(error) = description.check(schema, &value) {
        panic!("{error}\nin {value:#}");
    }
}

fn chat_logprobs() -> ChatLogprobs {
    let top = TopLogprob { token: " be".into(), logprob: -0.5, bytes: Some(b" be".to_vec()) };
    let token = ChatLogprob {
        token: "To".into(),
        logprob: -0.25,
        bytes: Some(b"To".to_vec()),
        top_logprobs: vec![top],
    };
    ChatLogprobs { content: Some(vec![token]), refusal: None }
}

fn call() -> ToolCall {
    ToolCall::new("call_1".into(), "weather".into(), r#"{"city":"Rome"}"#.into())
}

#[test]
fn completions() {
    let Some(description) = Description::load() else { return };
    let logprobs = CompletionLogprobs {
        text_offset: vec![0, 2],
        token_logprobs: vec![Some(-1.0), Some(-2.0)],
        tokens: vec!["To".into(), " be".into()],
        top_logprobs: vec![Some(BTreeMap::from([("To".into(), -1.0)])), Some(BTreeMap::new())],
    };
    let prompt = PromptLogprob { logprob: -1.0, rank: 1, decoded_token: "a".into() };
    let choice = CompletionChoice {
        index: 1,
        text: "To be".into(),
        logprobs: Some(logprobs),
        finish_reason: Some(FinishReason::Stop),
        stop_reason: Some(StopReason::Token(2)),
        token_ids: Some(vec![5, 6]),
        prompt_token_ids: Some(vec![1]),
        prompt_logprobs: Some(vec![None, Some(BTreeMap::from([(3, prompt)]))]),
    };
    let plain = CompletionChoice {
        finish_reason: Some(FinishReason::Length),
        ..CompletionChoice::default()
    };
    let completion = Completion {
        id: "cmpl-1".into(),
        object: Completion::OBJECT.into(),
        created: 1,
        model: "bard".into(),
        choices: vec![choice, plain],
        system_fingerprint: Some("fp_1".into()),
        usage: Some(Usage::new(3, 1, 2)),
    };
    check(&description, "CreateCompletionResponse", &completion);
    // A chunk has the same schema, but for the reason to finish, which the clients know to be null.
    let mut chunk = completion.clone();
    chunk.choices.truncate(1);
    chunk.choices[0].finish_reason = None;
    let value = serde_json::to_value(&chunk).unwrap();
    let error = description.check("CreateCompletionResponse", &value).unwrap_err();
    assert!(error.contains("choices[0].finish_reason"), "{error}");
    let read: Completion = serde_json::from_value(value).unwrap();
    assert_eq!(read, chunk);
}

#[test]
fn chat() {
    let Some(description) = Description::load() else { return };
    let answer = |content: Option<&str>, tool_calls| AnswerMessage {
        role: Role::Assistant,
        content: content.map(str::to_owned),
        refusal: None,
        reasoning_content: None,
        tool_calls,
    };
    let choice = |index, message, logprobs, finish_reason| ChatChoice {
        index,
        message,
        logprobs,
        finish_reason,
        stop_reason: Some(StopReason::Text("\n".into())),
        token_ids: Some(vec![1]),
    };
    let completion = ChatCompletion {
        id: "chatcmpl-1".into(),
        object: ChatCompletion::OBJECT.into(),
        created: 1,
        model: "bard".into(),
        choices: vec![
            choice(0, answer(Some("To be"), vec![]), Some(chat_logprobs()), FinishReason::Stop),
            choice(1, answer(None, vec![call()]), None, FinishReason::ToolCalls),
        ],
        system_fingerprint: Some("fp_1".into()),
        usage: Some(Usage::new(3, 0, 2)),
        prompt_logprobs: None,
        prompt_token_ids: Some(vec![1, 2, 3]),
    };
    check(&description, "CreateChatCompletionResponse", &completion);
    let value = serde_json::to_value(&completion).unwrap();
    assert_eq!(serde_json::from_value::<ChatCompletion>(value).unwrap(), completion);
}

#[test]
fn chat_chunks() {
    let Some(description) = Description::load() else { return };
    let delta = |delta| ChunkChoice { delta, ..ChunkChoice::default() };
    let tool = |tool_calls| delta(Delta { tool_calls, ..Delta::default() });
    let first = ToolCallDelta {
        index: 0,
        id: Some("call_1".into()),
        kind: Some("function".into()),
        function: FunctionDelta { name: Some("f".into()), arguments: Some(String::new()) },
    };
    let more = ToolCallDelta {
        function: FunctionDelta { name: None, arguments: Some("{}".into()) },
        ..ToolCallDelta::default()
    };
    let role =
        Delta { role: Some(Role::Assistant), content: Some(String::new()), ..Delta::default() };
    let text = Delta { content: Some("To".into()), ..Delta::default() };
    let last = ChunkChoice {
        finish_reason: Some(FinishReason::ToolCalls),
        stop_reason: Some(StopReason::Token(1)),
        ..ChunkChoice::default()
    };
    let choices = [
        delta(role),
        ChunkChoice { logprobs: Some(chat_logprobs()), ..delta(text) },
        tool(vec![first]),
        tool(vec![more]),
        last,
    ];
    let mut chunks: Vec<Vec<ChunkChoice>> = choices.into_iter().map(|c| vec![c]).collect();
    chunks.push(vec![]);
    for choices in chunks {
        let chunk = ChatChunk {
            id: "chatcmpl-1".into(),
            object: ChatChunk::OBJECT.into(),
            created: 1,
            model: "bard".into(),
            usage: choices.is_empty().then(|| Usage::new(1, 0, 1)),
            choices,
            system_fingerprint: Some("fp_1".into()),
            prompt_token_ids: None,
        };
        check(&description, "CreateChatCompletionStreamResponse", &chunk);
        let value = serde_json::to_value(&chunk).unwrap();
        assert_eq!(serde_json::from_value::<ChatChunk>(value).unwrap(), chunk);
    }
}

#[test]
fn responses() {
    let Some(description) = Description::load() else { return };
    let body = json!({
        "model": "bard",
        "instructions": "Be brief.",
        "input": "Hi",
        "tools": [{"type": "function", "name": "f", "parameters": {"type": "object"}, "strict": true}],
        "tool_choice": "auto",
        "text": {"format": {"type": "json_schema", "name": "s", "schema": {"type": "object"}}},
        "metadata": {"a": "b"},
        "top_logprobs": 2,
    });
    let request = ResponsesRequest::parse(body.to_string().as_bytes(), Default::default()).unwrap();
    let mut response = Response::begin(&request, "resp_1".into(), 1);
    check(&description, "Response", &response);

    let logprob = OutputLogprob {
        token: "To".into(),
        logprob: -1.0,
        bytes: b"To".to_vec(),
        top_logprobs: vec![OutputTopLogprob { token: "a".into(), logprob: -2.0, bytes: vec![97] }],
    };
    let text =
        OutputText { text: "To".into(), annotations: vec![], logprobs: vec![logprob.clone()] };
    let message = OutputItem::message("msg_1".into(), ItemStatus::Completed, vec![text.clone()]);
    let function = OutputItem::FunctionCall {
        id: "fc_1".into(),
        status: ItemStatus::Completed,
        call_id: "call_1".into(),
        name: "f".into(),
        arguments: "{}".into(),
    };
    response.output = vec![message.clone(), function.clone()];
    response.status = ResponseStatus::Incomplete;
    response.incomplete_details = Some(IncompleteDetails { reason: "max_output_tokens".into() });
    response.usage = Some(Usage::new(3, 1, 2).into());
    check(&description, "Response", &response);
    response.status = ResponseStatus::Failed;
    response.error = Some(ResponseError { code: "server_error".into(), message: "m".into() });
    check(&description, "Response", &response);

    let response = || Box::new(response.clone());
    let (item_id, output_index, content_index) = (|| "msg_1".to_owned(), 0, 0);
    let logprobs = || vec![logprob.clone()];
    use ResponseEvent::*;
    let events = [
        ("ResponseCreatedEvent", Created { response: response() }),
        ("ResponseInProgressEvent", InProgress { response: response() }),
        ("ResponseCompletedEvent", Completed { response: response() }),
        ("ResponseIncompleteEvent", Incomplete { response: response() }),
        ("ResponseFailedEvent", Failed { response: response() }),
        ("ResponseOutputItemAddedEvent", OutputItemAdded { output_index, item: message }),
        ("ResponseOutputItemDoneEvent", OutputItemDone { output_index, item: function }),
        (
            "ResponseContentPartAddedEvent",
            ContentPartAdded {
                item_id: item_id(),
                output_index,
                content_index,
                part: OutputText::default(),
            },
        ),
        (
            "ResponseContentPartDoneEvent",
            ContentPartDone { item_id: item_id(), output_index, content_index, part: text },
        ),
        (
            "ResponseTextDeltaEvent",
            OutputTextDelta {
                item_id: item_id(),
                output_index,
                content_index,
                delta: "To".into(),
                logprobs: logprobs(),
            },
        ),
        (
            "ResponseTextDoneEvent",
            OutputTextDone {
                item_id: item_id(),
                output_index,
                content_index,
                text: "To".into(),
                logprobs: logprobs(),
            },
        ),
        (
            "ResponseFunctionCallArgumentsDeltaEvent",
            FunctionCallArgumentsDelta { item_id: item_id(), output_index, delta: "{".into() },
        ),
        (
            "ResponseFunctionCallArgumentsDoneEvent",
            FunctionCallArgumentsDone {
                item_id: item_id(),
                output_index,
                name: "f".into(),
                arguments: "{}".into(),
            },
        ),
    ];
    for (number, (schema, event)) in events.into_iter().enumerate() {
        check(&description, schema, &event.numbered(number as u64));
        let value = serde_json::to_value(&event).unwrap();
        assert_eq!(value["type"], event.name());
    }
}

#[test]
fn embeddings_models_and_errors() {
    let Some(description) = Description::load() else { return };
    let list = EmbeddingList {
        object: "list".into(),
        data: vec![Embedding {
            object: "embedding".into(),
            index: 0,
            embedding: Vector::new(vec![0.5, -1.0], EncodingFormat::Float),
        }],
        model: "minilm".into(),
        usage: EmbeddingUsage { prompt_tokens: 2, total_tokens: 2 },
    };
    check(&description, "CreateEmbeddingResponse", &list);
    let card = ModelCard {
        id: "bard".into(),
        object: "model".into(),
        created: 1,
        owned_by: "infinity".into(),
        root: Some("bard".into()),
        parent: None,
        max_model_len: Some(512),
    };
    check(&description, "Model", &card);
    check(&description, "ListModelsResponse", &ModelList::new(vec![card]));
    let missing = ApiError::Missing { param: "model".into() };
    check(&description, "ErrorResponse", &missing.body());
    check(&description, "ErrorResponse", &ApiError::Unauthorized.body());
}

/// The check itself finds faults.
#[test]
fn the_check_refuses_what_is_not_described() {
    let Some(description) = Description::load() else { return };
    let good = json!({"id": "m", "object": "model", "created": 1, "owned_by": "x"});
    assert_eq!(description.check("Model", &good), Ok(()));
    for (key, value) in [
        ("object", json!("models")),
        ("created", json!(1.5)),
        ("id", json!(null)),
        ("owned_by", json!([])),
    ] {
        let mut bad = good.clone();
        bad[key] = value;
        let error = description.check("Model", &bad).unwrap_err();
        assert!(error.starts_with(&format!("Model.{key}")), "{error}");
    }
    let error = description.check("Model", &json!({"id": "m"})).unwrap_err();
    assert!(error.contains("must have"), "{error}");
    let unknown = json!({"model": "m", "input": "x", "other": 1});
    assert!(description.check("CreateEmbeddingRequest", &unknown).is_err());
    assert!(description.check("CreateEmbeddingRequest", &Value::Null).is_err());
}
