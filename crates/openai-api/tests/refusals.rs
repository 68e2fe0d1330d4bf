//! What is not honoured is refused by its name; what asks for nothing is accepted.

use openai_api::{
    ApiError, ChatRequest, CompletionRequest, DetokenizeRequest, EmbeddingRequest, JsonLimits,
    PromptInput, ResponsesRequest, Structure, TokenizeInput, TokenizeRequest, ToolChoice,
};
use serde_json::{Map, Value, json};

fn with(base: Value, extra: Value) -> Vec<u8> {
    let Value::Object(mut base) = base else { panic!("an object") };
    let Value::Object(extra) = extra else { panic!("an object") };
    base.extend(extra);
    Value::Object(base).to_string().into_bytes()
}

fn completion(extra: Value) -> Result<CompletionRequest, ApiError> {
    let base = json!({"model": "m", "prompt": "p"});
    CompletionRequest::parse(&with(base, extra), JsonLimits::default())
}

fn chat(extra: Value) -> Result<ChatRequest, ApiError> {
    let base = json!({"model": "m", "messages": [{"role": "user", "content": "Hi"}]});
    ChatRequest::parse(&with(base, extra), JsonLimits::default())
}

fn responses(extra: Value) -> Result<ResponsesRequest, ApiError> {
    let base = json!({"model": "m", "input": "Hi"});
    ResponsesRequest::parse(&with(base, extra), JsonLimits::default())
}

fn refused<T: std::fmt::Debug>(result: Result<T, ApiError>, param: &str) -> ApiError {
    let error = result.expect_err(param);
    assert_eq!(error.param(), Some(param), "{error}");
    assert_eq!(error.status(), 400);
    assert!(error.to_string().len() < 400, "{error}");
    error
}

fn message(extra: Value) -> Result<ChatRequest, ApiError> {
    chat(json!({"messages": [extra]}))
}

#[test]
fn numbers_out_of_range() {
    for (extra, param) in [
        (json!({"temperature": -1}), "temperature"),
        (json!({"temperature": 1e30}), "temperature"),
        (json!({"temperature": "1"}), "temperature"),
        (json!({"top_p": 1.01}), "top_p"),
        (json!({"top_k": -2}), "top_k"),
        (json!({"min_p": 2}), "min_p"),
        (json!({"repetition_penalty": 0}), "repetition_penalty"),
        (json!({"presence_penalty": 3}), "presence_penalty"),
        (json!({"frequency_penalty": -3}), "frequency_penalty"),
        (json!({"n": 1_000_000_000}), "n"),
        (json!({"n": 0}), "n"),
        (json!({"max_tokens": -1}), "max_tokens"),
        (json!({"max_tokens": 1u64 << 63}), "max_tokens"),
        (json!({"max_tokens": 1.5}), "max_tokens"),
        (json!({"seed": 1u64 << 63}), "seed"),
        (json!({"min_tokens": 17}), "min_tokens"),
        (json!({"min_tokens": -1}), "min_tokens"),
        (json!({"prompt_logprobs": 10_000}), "prompt_logprobs"),
        (json!({"truncate_prompt_tokens": 0}), "truncate_prompt_tokens"),
        (json!({"logit_bias": {"1": 101}}), "logit_bias.1"),
        (json!({"logit_bias": {"x": 1}}), "logit_bias"),
        (json!({"logit_bias": {"-1": 1}}), "logit_bias"),
        (json!({"stop": [1]}), "stop[0]"),
        (json!({"stop": ""}), "stop"),
        (json!({"stop": vec!["a"; 17]}), "stop"),
        (json!({"stop_token_ids": [-1]}), "stop_token_ids[0]"),
        (json!({"allowed_token_ids": []}), "allowed_token_ids"),
        (json!({"best_of": 129}), "best_of"),
        (json!({"n": 3, "best_of": 2}), "n"),
        (json!({"priority": 1u64 << 40}), "priority"),
        (json!({"request_id": "a\nb"}), "request_id"),
        (json!({"cache_salt": ""}), "cache_salt"),
        (json!({"user": 5}), "user"),
    ] {
        refused(completion(extra.clone()), param);
        if param != "min_tokens" || extra["min_tokens"] == -1 {
            refused(chat(extra), param);
        }
    }
    refused(completion(json!({"logprobs": 10_000})), "logprobs");
    refused(completion(json!({"max_tokens": 0})), "max_tokens");
    assert!(completion(json!({"max_tokens": 0, "echo": true})).is_ok());
    refused(chat(json!({"max_tokens": 0})), "max_tokens");
    refused(chat(json!({"max_completion_tokens": 5, "min_tokens": 6})), "min_tokens");
    refused(chat(json!({"top_logprobs": 21, "logprobs": true})), "top_logprobs");
}

#[test]
fn contradictions() {
    for (extra, param) in [
        (json!({"stream_options": {"include_usage": true}}), "stream_options"),
        (json!({"stream": true, "n": 1, "best_of": 2}), "best_of"),
        (json!({"stream": true, "use_beam_search": true}), "use_beam_search"),
        (json!({"length_penalty": 0.5}), "length_penalty"),
        (json!({"guided_regex": "a", "guided_choice": ["b"]}), "guided_choice"),
        (json!({"guided_regex": "a", "response_format": {"type": "json_object"}}), "guided_regex"),
        (json!({"structured_outputs": {"regex": "a", "grammar": "b"}}), "structured_outputs"),
        (json!({"structured_outputs": {}}), "structured_outputs"),
        (json!({"stream": true, "prompt_logprobs": 1}), "prompt_logprobs"),
    ] {
        refused(completion(extra.clone()), param);
        refused(chat(extra), param);
    }
    refused(chat(json!({"max_tokens": 1, "max_completion_tokens": 1})), "max_tokens");
    refused(chat(json!({"top_logprobs": 1})), "top_logprobs");
    refused(chat(json!({"tool_choice": "required"})), "tool_choice");
    let both = json!({"add_generation_prompt": true, "continue_final_message": true});
    refused(chat(both), "continue_final_message");
    refused(completion(json!({"echo": true, "suffix": "x"})), "echo");
    refused(completion(json!({"prompt": [1], "suffix": "x"})), "suffix");
}

#[test]
fn what_is_not_honoured() {
    for param in ["foo", "logits_processors", "guided_decoding_backend", "early_stopping"] {
        refused(completion(json!({param: 1})), param);
        refused(chat(json!({param: 1})), param);
        assert!(param == "foo" || chat(json!({param: null})).is_ok());
    }
    for (param, value) in [
        ("chat_template", json!("{{ 1 }}")),
        ("store", json!(true)),
        ("functions", json!([{"name": "f"}])),
        ("modalities", json!(["text", "audio"])),
        ("prediction", json!({"type": "content", "content": "x"})),
        ("web_search_options", json!({})),
        ("service_tier", json!("flex")),
        ("documents", json!([])),
        ("echo", json!(true)),
    ] {
        refused(chat(json!({param: value})), param);
        assert!(chat(json!({param: null})).is_ok(), "{param}");
    }
    for (param, value) in [
        ("store", json!(true)),
        ("background", json!(true)),
        ("previous_response_id", json!("resp_1")),
        ("truncation", json!("auto")),
        ("conversation", json!("c")),
        ("top_k", json!(1)),
    ] {
        refused(responses(json!({param: value})), param);
    }
    let nested =
        refused(chat(json!({"stream": true, "stream_options": {"x": 1}})), "stream_options.x");
    assert_eq!(nested.code(), Some("unknown_parameter"));
    let key = json!({"chat_template_kwargs": {"messages": []}});
    refused(chat(key), "chat_template_kwargs.messages");
}

#[test]
fn what_asks_for_nothing() {
    let neutral = json!({
        "n": null, "stop": null, "temperature": null, "seed": null, "stream": false,
        "stream_options": null, "logit_bias": null, "response_format": {"type": "text"},
        "top_k": -1, "user": "u", "structured_outputs": null, "spaces_between_special_tokens": true,
    });
    assert_eq!(completion(neutral.clone()).unwrap().options.top_k, Some(0));
    chat(neutral).unwrap();
    let openai = json!({
        "store": false, "metadata": {}, "modalities": ["text"], "service_tier": "auto", "tools": [],
        "parallel_tool_calls": true, "function_call": null, "verbosity": "medium",
        "prompt_cache_key": "k", "stream": true,
        "stream_options": {"include_usage": true, "include_obfuscation": false},
    });
    let request = chat(openai).unwrap();
    assert_eq!(request.choice(), ToolChoice::None);
    assert!(request.options.stream_options.unwrap().include_usage);
    responses(json!({
        "store": false, "background": false, "truncation": "disabled", "previous_response_id": null,
        "include": ["reasoning.encrypted_content"], "reasoning": {"summary": "auto"},
        "text": {"verbosity": "medium"}, "stream_options": {"include_obfuscation": false},
    }))
    .unwrap();
}

#[test]
fn prompts_in_four_forms() {
    let prompt = |value: Value| completion(json!({"prompt": value})).map(|r| r.prompt);
    assert_eq!(prompt(json!("a")), Ok(PromptInput::Text("a".into())));
    assert_eq!(prompt(json!(["a", "b"])), Ok(PromptInput::Texts(vec!["a".into(), "b".into()])));
    assert_eq!(prompt(json!([1, 2])), Ok(PromptInput::Tokens(vec![1, 2])));
    assert_eq!(
        prompt(json!([[1], [2, 3]])),
        Ok(PromptInput::TokenLists(vec![vec![1], vec![2, 3]]))
    );
    for (bad, param) in [
        (json!([]), "prompt"),
        (json!([[]]), "prompt[0]"),
        (json!(["a", 1]), "prompt[1]"),
        (json!([1, "a"]), "prompt[1]"),
        (json!([[1], ["a"]]), "prompt[1][0]"),
        (json!([1, 4_294_967_296u64]), "prompt[1]"),
        (json!([true]), "prompt[0]"),
        (json!({"text": "a"}), "prompt"),
        (json!(null), "prompt"),
        (json!(5), "prompt"),
    ] {
        refused(prompt(bad), param);
    }
    let missing = CompletionRequest::parse(br#"{"model": "m"}"#, JsonLimits::default());
    assert_eq!(refused(missing, "prompt").code(), Some("missing_required_parameter"));
}

#[test]
fn messages() {
    let at = "messages[0]";
    for (value, param) in [
        (json!({"content": "x"}), "role"),
        (json!({"role": "alien", "content": "x"}), "role"),
        (json!({"role": "user"}), "content"),
        (json!({"role": "user", "content": null}), "content"),
        (json!({"role": "user", "content": 5}), "content"),
        (json!({"role": "user", "content": []}), "content"),
        (json!({"role": "user", "content": [{"type": "text"}]}), "content[0].text"),
        (
            json!({"role": "user", "content": [{"type": "image_url", "image_url": {}}]}),
            "content[0].type",
        ),
        (json!({"role": "user", "content": "x", "tool_calls": []}), "tool_calls"),
        (json!({"role": "assistant"}), "content"),
        (json!({"role": "assistant", "content": "x", "function_call": {}}), "function_call"),
        (json!({"role": "tool", "content": "x"}), "tool_call_id"),
        (
            json!({"role": "assistant", "tool_calls": [{"id": "1", "type": "function",
                "function": {"name": "f", "arguments": {}}}]}),
            "tool_calls[0].function.arguments",
        ),
    ] {
        refused(message(value), &format!("{at}.{param}"));
    }
    refused(message(json!("x")), at);
    refused(chat(json!({"messages": []})), "messages");
    // An answer comes back as it was sent.
    let answer = json!({
        "role": "assistant", "content": "x", "refusal": null, "annotations": [], "audio": null,
        "function_call": null, "tool_calls": null,
    });
    message(answer).unwrap();
    let parts = json!({"role": "user", "content": [
        {"type": "text", "text": "a"}, {"type": "text", "text": "b"}]});
    let request = message(parts).unwrap();
    assert_eq!(request.messages[0].content.as_ref().unwrap().text(), "a\nb");
}

#[test]
fn tools() {
    let tool = |function: Value| json!({"type": "function", "function": function});
    let tools = json!([tool(json!({"name": "f", "parameters": {"type": "object"}}))]);
    let request = chat(json!({"tools": tools})).unwrap();
    assert_eq!(request.choice(), ToolChoice::Auto);
    let named = json!({"type": "function", "function": {"name": "f"}});
    let request = chat(json!({"tools": tools, "tool_choice": named})).unwrap();
    assert_eq!(request.choice(), ToolChoice::Function("f".into()));
    for (extra, param) in [
        (json!({"tools": [{"type": "custom"}]}), "tools[0].type"),
        (json!({"tools": [tool(json!({"name": "a b"}))]}), "tools[0].function.name"),
        (json!({"tools": [tool(json!({"name": ""}))]}), "tools[0].function.name"),
        (
            json!({"tools": [tool(json!({"name": "f", "parameters": 1}))]}),
            "tools[0].function.parameters",
        ),
        (json!({"tools": tools, "tool_choice": "always"}), "tool_choice"),
        (
            json!({"tools": tools,
                "tool_choice": {"type": "function", "function": {"name": "g"}}}),
            "tool_choice",
        ),
        (
            json!({"tools": tools, "tool_choice": "required",
                "response_format": {"type": "json_object"}}),
            "tool_choice",
        ),
    ] {
        refused(chat(extra), param);
    }
}

#[test]
fn structures() {
    let of = |extra: Value| completion(extra).and_then(|r| r.options.structure());
    let schema = json!({"type": "object"});
    let json_schema = Ok(Some(Structure::JsonSchema(schema.clone())));
    assert_eq!(of(json!({"response_format": {"type": "text"}})), Ok(None));
    assert_eq!(of(json!({"guided_json": schema})), json_schema);
    assert_eq!(of(json!({"guided_json": schema.to_string()})), json_schema);
    assert_eq!(of(json!({"structured_outputs": {"json": schema}})), json_schema);
    let format = json!({"type": "json_schema", "json_schema": {"name": "s", "schema": schema}});
    assert_eq!(of(json!({"response_format": format})), json_schema);
    let choice = Structure::Choice(vec!["a".into()]);
    assert_eq!(of(json!({"structured_outputs": {"choice": ["a"]}})), Ok(Some(choice)));
    refused(of(json!({"guided_json": "{"})), "json");
    refused(of(json!({"response_format": {"type": "xml"}})), "response_format.type");
    refused(of(json!({"response_format": {"type": "json_schema"}})), "response_format.json_schema");
}

#[test]
fn responses_become_a_chat() {
    let request = responses(json!({
        "instructions": "Be brief.",
        "input": [
            {"role": "user", "content": [{"type": "input_text", "text": "Weather?"}]},
            {"type": "message", "role": "assistant", "id": "msg_1", "status": "completed",
             "content": [{"type": "output_text", "text": "One moment.", "annotations": [], "logprobs": []}]},
            {"type": "function_call", "id": "fc_1", "call_id": "c", "name": "f", "arguments": "{}"},
            {"type": "function_call_output", "call_id": "c", "output": "rain"},
        ],
        "tools": [{"type": "function", "name": "f", "parameters": {}, "strict": true}],
        "tool_choice": {"type": "function", "name": "f"},
        "max_output_tokens": 5,
    }))
    .unwrap();
    let chat = &request.chat;
    assert_eq!(chat.messages.len(), 4);
    assert_eq!(chat.messages[2].tool_calls[0].id, "c");
    assert_eq!(chat.messages[3].tool_call_id.as_deref(), Some("c"));
    assert_eq!(chat.choice(), ToolChoice::Function("f".into()));
    assert_eq!(chat.limit().unwrap().1, 5);
    refused(responses(json!({"input": []})), "input");
    refused(responses(json!({"input": [{"type": "item_reference", "id": "x"}]})), "input[0].type");
    let image = json!([{"role": "user", "content": [{"type": "input_image"}]}]);
    refused(responses(json!({"input": image})), "input[0].content[0].type");
}

#[test]
fn embeddings_and_tokens() {
    let parse =
        |value: Value| EmbeddingRequest::parse(value.to_string().as_bytes(), JsonLimits::default());
    let many: Vec<&str> = vec!["a"; 2049];
    refused(parse(json!({"model": "m", "input": many})), "input");
    refused(parse(json!({"model": "m", "input": ""  , "dimensions": 0})), "dimensions");
    refused(
        parse(json!({"model": "m", "input": "a", "encoding_format": "hex"})),
        "encoding_format",
    );
    refused(parse(json!({"input": "a"})), "model");

    let tokenize =
        |value: Value| TokenizeRequest::parse(value.to_string().as_bytes(), JsonLimits::default());
    let text = tokenize(json!({"prompt": "a"})).unwrap();
    assert_eq!(text.input, TokenizeInput::Text("a".into()));
    let chat = tokenize(json!({"messages": [{"role": "user", "content": "a"}]})).unwrap();
    assert!(matches!(chat.input, TokenizeInput::Chat { .. }));
    refused(tokenize(json!({})), "prompt");
    let detokenize = |value: Value| {
        DetokenizeRequest::parse(value.to_string().as_bytes(), JsonLimits::default())
    };
    assert_eq!(detokenize(json!({"tokens": [1]})).unwrap().tokens, [1]);
    refused(detokenize(json!({"tokens": ["a"]})), "tokens[0]");
}

#[test]
fn hostile_bodies() {
    let deep = format!("{{\"model\": \"m\", \"prompt\": {}", "[".repeat(3000));
    let prompts = format!("{{\"model\":\"m\",\"prompt\":[{}\"a\"]}}", "\"a\",".repeat(1_000_000));
    for body in [
        deep.as_bytes(),
        prompts.as_bytes(),
        b"",
        b"null",
        b"[]",
        b"\"\"",
        br#"{"model": "\ud800", "prompt": "x"}"#,
        b"{\"model\": \"m\", \"prompt\": \"\xff\"}",
        br#"{"model": "m", "prompt": "x", "temperature": NaN}"#,
        br#"{"model": "m", "prompt": "x", "temperature": 1e999}"#,
    ] {
        let start = std::time::Instant::now();
        let error = CompletionRequest::parse(body, JsonLimits::default()).unwrap_err();
        assert_eq!(error.status(), 400);
        assert!(error.to_string().len() < 300, "{error}");
        assert!(start.elapsed().as_millis() < 500, "{error}");
    }
    // Text may hold NULs; a long unknown name is not repeated in full.
    completion(json!({"prompt": "a\0b"})).unwrap();
    let long = "x".repeat(100_000);
    let error = completion(Value::Object(Map::from_iter([(long, json!(1))]))).unwrap_err();
    assert!(error.to_string().len() < 300);
}
