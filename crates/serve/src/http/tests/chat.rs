use serde_json::{Value, json};
use testkit::openapi::Description;

use super::{HttpConfig, post, server, server_of, with, with_template};

const PATH: &str = "/v1/chat/completions";

fn ask(more: Value) -> Value {
    let messages = json!([{"role": "developer", "content": "Be brief."},
        {"role": "user", "content": [{"type": "text", "text": "Who goes there?"}]}]);
    let base = json!({"model": "bard", "messages": messages, "temperature": 0, "max_tokens": 12});
    with(base, more)
}

fn tool() -> Value {
    let schema = json!({"type": "object", "properties": {"city": {"enum": ["London", "Verona"]}},
        "required": ["city"], "additionalProperties": false});
    json!({"type": "function", "function": {"name": "weather", "parameters": schema}})
}

#[tokio::test]
async fn a_message_whole_and_streamed() {
    let server = with_template();
    let whole = post(&server, PATH, &ask(json!({}))).await.ok();
    let text = whole["choices"][0]["message"]["content"].as_str().unwrap();
    assert!(!text.is_empty());
    let options = json!({"stream": true, "stream_options": {"include_usage": true}});
    let chunks = post(&server, PATH, &ask(options)).await.chunks();
    assert_eq!(chunks[0]["choices"][0]["delta"]["role"], "assistant");
    let delta = |c: &Value| c["choices"][0]["delta"]["content"].as_str().map(str::to_owned);
    assert_eq!(chunks.iter().filter_map(delta).collect::<String>(), text);
    assert_eq!(chunks.last().unwrap()["usage"]["completion_tokens"], 12);
    let ids: std::collections::BTreeSet<_> = chunks.iter().map(|c| c["id"].to_string()).collect();
    assert_eq!(ids.len(), 1);
    let Some(description) = Description::load() else { return };
    description.check("CreateChatCompletionResponse", &whole).unwrap();
    for chunk in &chunks {
        description.check("CreateChatCompletionStreamResponse", chunk).unwrap();
    }
}

#[tokio::test]
async fn the_prompt_is_what_the_template_says() {
    let server = with_template();
    let chat = json!({"messages": [{"role": "user", "content": "To be"}]});
    let tokens = post(&server, "/tokenize", &chat).await.ok()["tokens"].clone();
    let text =
        post(&server, "/detokenize", &json!({"tokens": tokens})).await.ok()["prompt"].clone();
    assert_eq!(text.as_str().unwrap().trim(), "[user] To be\n[assistant]");
    let more = json!({"continue_final_message": true, "messages": [
        {"role": "user", "content": "x"}, {"role": "assistant", "content": "To be, or"}]});
    let tokens = post(&server, "/tokenize", &more).await.ok()["tokens"].clone();
    let text =
        post(&server, "/detokenize", &json!({"tokens": tokens})).await.ok()["prompt"].clone();
    assert!(text.as_str().unwrap().ends_with("[assistant] To be, or"), "{text}");
}

#[tokio::test]
async fn logprobs_and_several_answers() {
    let server = with_template();
    let more = json!({"logprobs": true, "top_logprobs": 3, "n": 2});
    let whole = post(&server, PATH, &ask(more.clone())).await.ok();
    for choice in whole["choices"].as_array().unwrap() {
        let content = choice["logprobs"]["content"].as_array().unwrap();
        assert_eq!(content.len(), 12);
        for token in content {
            let top = token["top_logprobs"].as_array().unwrap();
            assert_eq!(top.len(), 3);
            assert_eq!(top[0]["logprob"], token["logprob"], "greedy takes the first");
        }
        let text: String = content.iter().filter_map(|t| t["token"].as_str()).collect();
        assert_eq!(text.trim(), choice["message"]["content"].as_str().unwrap().trim());
    }
    assert_eq!(whole["choices"][1]["index"], 1);
    let streamed = ask(with(more, json!({"stream": true})));
    let chunks = post(&server, PATH, &streamed).await.chunks();
    let tokens = chunks.iter().filter(|c| c["choices"][0]["index"] == 1);
    let tokens = tokens.filter_map(|c| c["choices"][0]["logprobs"]["content"].as_array()).flatten();
    let whole = whole["choices"][1]["logprobs"]["content"].as_array().unwrap().clone();
    assert_eq!(tokens.cloned().collect::<Vec<_>>(), whole);
}

#[tokio::test]
async fn tools_that_must_be_called() {
    let server = with_template();
    let named = json!({"type": "function", "function": {"name": "weather"}});
    for choice in [json!("required"), named] {
        let more = json!({"tools": [tool()], "tool_choice": choice, "max_tokens": 200,
            "parallel_tool_calls": false});
        let whole = post(&server, PATH, &ask(more.clone())).await.ok();
        let choice = &whole["choices"][0];
        let call = &choice["message"]["tool_calls"][0];
        assert_eq!(call["function"]["name"], "weather");
        let arguments: Value =
            serde_json::from_str(call["function"]["arguments"].as_str().unwrap()).unwrap();
        assert!(arguments["city"] == "London" || arguments["city"] == "Verona");
        assert_eq!(choice["finish_reason"], "tool_calls");

        let chunks = post(&server, PATH, &ask(with(more, json!({"stream": true})))).await.chunks();
        let calls = chunks.iter().filter_map(|c| c["choices"][0]["delta"]["tool_calls"].as_array());
        let calls: Vec<&Value> = calls.flatten().filter(|c| c["index"] == 0).collect();
        assert!(calls[0]["id"].is_string() && calls[0]["function"]["name"] == "weather");
        assert!(calls[1..].iter().all(|c| c["id"].is_null()));
        let streamed: String =
            calls.iter().filter_map(|c| c["function"]["arguments"].as_str()).collect();
        assert_eq!(serde_json::from_str::<Value>(&streamed).unwrap(), arguments);
        let Some(description) = Description::load() else { continue };
        description.check("CreateChatCompletionResponse", &whole).unwrap();
        for chunk in &chunks {
            description.check("CreateChatCompletionStreamResponse", chunk).unwrap();
        }
    }
    let none = json!({"tools": [tool()], "tool_choice": "none"});
    let none = post(&server, PATH, &ask(none)).await.ok();
    assert_eq!(none["choices"][0]["finish_reason"], "length");
}

#[tokio::test]
async fn schemas_are_followed_or_refused() {
    let server = with_template();
    let format = |schema: Value| {
        let schema = json!({"name": "s", "schema": schema, "strict": true});
        ask(json!({"response_format": {"type": "json_schema", "json_schema": schema},
            "max_tokens": 200}))
    };
    let schema = json!({"type": "object", "properties": {"yes": {"type": "boolean"}},
        "required": ["yes"], "additionalProperties": false});
    let whole = post(&server, PATH, &format(schema)).await.ok();
    let text = whole["choices"][0]["message"]["content"].as_str().unwrap();
    assert!(serde_json::from_str::<Value>(text).unwrap()["yes"].is_boolean());
    let wrong = post(&server, PATH, &format(json!({"type": "nonsense"}))).await.error(400);
    assert_eq!(wrong["param"], "response_format");
}

#[tokio::test]
async fn a_strict_tool_need_not_be_called() {
    let mut strict = tool();
    strict["function"]["strict"] = json!(true);
    let request = ask(json!({"tools": [strict]}));
    let server = with_template();
    let whole = post(&server, PATH, &request).await.ok();
    let choice = &whole["choices"][0];
    assert_eq!(choice["finish_reason"], "length");
    let text = choice["message"]["content"].as_str().unwrap();
    assert!(!text.is_empty() && choice["message"]["tool_calls"].is_null());
    let chunks =
        post(&server, PATH, &with(request.clone(), json!({"stream": true}))).await.chunks();
    let deltas = chunks.iter().filter_map(|c| c["choices"][0]["delta"]["content"].as_str());
    assert_eq!(deltas.collect::<String>(), text);
    // Where calls are JSON without a mark, an answer in JSON could not be told from one.
    let plain = server_of("{% if tools %}{{ tools }}{% endif %}{{ messages[0].content }}");
    post(&plain, PATH, &request).await.ok();
    let both = with(request, json!({"response_format": {"type": "json_object"}}));
    let refused = post(&plain, PATH, &both).await.error(400);
    assert_eq!(refused["param"], "tools[0].function.strict");
    post(&server, PATH, &with(both, json!({"max_tokens": 3}))).await.ok();
}

#[tokio::test]
async fn a_structure_begins_behind_the_thoughts() {
    let request = ask(json!({"max_tokens": 40, "structured_outputs": {"regex": "[0-9]{3}"}}));
    let message = |whole: Value| whole["choices"][0]["message"].clone();
    let thinks = server_of("{{ messages[0].content }}<think>\n{# </think> #}");
    let thought = message(post(&thinks, PATH, &request).await.ok());
    assert!(thought["reasoning_content"].as_str().unwrap().len() > 3, "{thought}");
    assert_eq!(thought["content"], "", "it was cut before the answer");
    let closed = server_of("{{ messages[0].content }}<think>\n\n</think>\n\n");
    let answer = message(post(&closed, PATH, &request).await.ok());
    let number = answer["content"].as_str().unwrap();
    assert!(number.len() == 3 && number.bytes().all(|b| b.is_ascii_digit()), "{answer}");
    assert!(answer["reasoning_content"].is_null());
}

#[tokio::test]
async fn what_a_model_without_template_or_thoughts_cannot() {
    let bare = post(&server(HttpConfig::default()), PATH, &ask(json!({}))).await.error(400);
    assert_eq!(bare["code"], "no_chat_template");
    let server = with_template();
    let effort = post(&server, PATH, &ask(json!({"reasoning_effort": "high"}))).await.error(400);
    assert_eq!(effort["param"], "reasoning_effort");
    let own = post(&server, PATH, &ask(json!({"chat_template": "x"}))).await.error(400);
    assert_eq!(own["param"], "chat_template");
}

#[tokio::test]
async fn responses_whole_and_streamed() {
    let server = with_template();
    let base = json!({"model": "bard", "input": "Who goes there?", "max_output_tokens": 12,
        "temperature": 0, "top_logprobs": 2});
    let whole = post(&server, "/v1/responses", &base).await.ok();
    let text = whole["output"][0]["content"][0]["text"].as_str().unwrap();
    assert_eq!(whole["status"], "incomplete");
    assert_eq!(whole["usage"]["output_tokens"], 12);
    let answer = post(&server, "/v1/responses", &with(base, json!({"stream": true}))).await;
    let events = answer.events();
    let values: Vec<Value> =
        events.iter().map(|e| serde_json::from_str(&e.data).unwrap()).collect();
    for (number, (event, value)) in events.iter().zip(&values).enumerate() {
        assert_eq!(value["sequence_number"], number);
        assert_eq!(value["type"], event.event.as_deref().unwrap());
    }
    let kinds: Vec<&str> = values.iter().map(|v| v["type"].as_str().unwrap()).collect();
    assert_eq!(
        kinds[..4],
        [
            "response.created",
            "response.in_progress",
            "response.output_item.added",
            "response.content_part.added",
        ]
    );
    let tail = [
        "response.output_text.done",
        "response.content_part.done",
        "response.output_item.done",
        "response.incomplete",
    ];
    assert_eq!(kinds[kinds.len() - 4..], tail);
    let deltas = values.iter().filter(|v| v["type"] == "response.output_text.delta");
    assert_eq!(deltas.filter_map(|v| v["delta"].as_str()).collect::<String>(), text);

    let called = json!({"model": "bard", "input": "Rain?", "max_output_tokens": 200, "temperature": 0,
        "parallel_tool_calls": false,
        "tool_choice": "required", "tools": [with(json!({"type": "function"}), tool()["function"].clone())]});
    let called = post(&server, "/v1/responses", &called).await.ok();
    assert_eq!(called["output"][0]["type"], "function_call");
    assert_eq!(called["status"], "completed");
    let Some(description) = Description::load() else { return };
    description.check("Response", &whole).unwrap();
    description.check("Response", &called).unwrap();
    for value in &values {
        description.check("ResponseStreamEvent", value).unwrap();
    }
}
