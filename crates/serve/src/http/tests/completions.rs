use serde_json::{Value, json};
use testkit::openapi::Description;

use super::{bard, get, post, server, with};
use crate::engine::{Event, GenerationRequest};
use crate::http::HttpConfig;

const PATH: &str = "/v1/completions";

fn greedy(more: Value) -> Value {
    let base = json!({"model": "bard", "prompt": "ROMEO:", "temperature": 0, "max_tokens": 12});
    with(base, more)
}

/// What the engine itself says.
async fn expected(prompt: &str, tokens: usize) -> String {
    let engine = bard();
    let options = tokenizer::EncodeOptions { add_special: true, parse_special: false };
    let ids = engine.tokenizer().encode(prompt, options).unwrap();
    let mut request = GenerationRequest::new(ids);
    request.sampling.temperature = 0.0;
    request.stop.max_tokens = Some(tokens);
    let mut generation = engine.submit(request).unwrap();
    let mut all = String::new();
    while let Some(event) = generation.next().await {
        if let Event::Delta { text, .. } = event {
            all.push_str(&text);
        }
    }
    all
}

#[tokio::test]
async fn the_text_is_the_engines_whole_and_streamed() {
    let server = server(HttpConfig::default());
    let whole = post(&server, PATH, &greedy(json!({}))).await.ok();
    let text = whole["choices"][0]["text"].as_str().unwrap();
    assert_eq!(text, expected("ROMEO:", 12).await);
    let usage = &whole["usage"];
    assert_eq!(usage["completion_tokens"], 12);
    let total = usage["prompt_tokens"].as_u64().unwrap() + 12;
    assert_eq!(usage["total_tokens"], total);
    assert_eq!(whole["choices"][0]["finish_reason"], "length");
    assert!(whole["id"].as_str().unwrap().starts_with("cmpl-"));

    let options = json!({"stream": true,
        "stream_options": {"include_usage": true, "continuous_usage_stats": true}});
    let chunks = post(&server, PATH, &greedy(options)).await.chunks();
    let pieces = chunks.iter().filter_map(|c| c["choices"][0]["text"].as_str());
    assert_eq!(pieces.collect::<String>(), text);
    let last = chunks.last().unwrap();
    assert_eq!(last["choices"], json!([]));
    for key in ["prompt_tokens", "completion_tokens", "total_tokens"] {
        assert_eq!(last["usage"][key], usage[key], "{key}");
    }
    let counts: Vec<u64> =
        chunks.iter().map(|c| c["usage"]["completion_tokens"].as_u64().unwrap()).collect();
    assert!(counts.is_sorted(), "{counts:?}");
    assert_eq!(chunks[chunks.len() - 2]["choices"][0]["finish_reason"], "length");
    let Some(description) = Description::load() else { return };
    description.check("CreateCompletionResponse", &whole).unwrap();
}

#[tokio::test]
async fn several_prompts_with_several_answers_are_numbered() {
    let server = server(HttpConfig::default());
    let request = greedy(json!({"prompt": ["ROMEO:", "JULIET:"], "n": 2, "max_tokens": 6}));
    let whole = post(&server, PATH, &request).await.ok();
    let choices = whole["choices"].as_array().unwrap();
    let indexes: Vec<u64> = choices.iter().map(|c| c["index"].as_u64().unwrap()).collect();
    assert_eq!(indexes, [0, 1, 2, 3]);
    let texts: Vec<&str> = choices.iter().map(|c| c["text"].as_str().unwrap()).collect();
    assert_eq!((texts[0], texts[2]), (texts[1], texts[3]));
    assert_eq!(texts[2], expected("JULIET:", 6).await);

    let chunks = post(&server, PATH, &with(request, json!({"stream": true}))).await.chunks();
    for (index, text) in texts.iter().enumerate() {
        let of = chunks.iter().filter(|c| c["choices"][0]["index"] == index);
        let streamed: String = of.filter_map(|c| c["choices"][0]["text"].as_str()).collect();
        assert_eq!(streamed, *text);
    }
}

#[tokio::test]
async fn prompts_as_text_and_as_tokens_are_the_same() {
    let server = server(HttpConfig::default());
    let text = json!({"prompt": "ROMEO:", "return_token_strs": true});
    let tokens = post(&server, "/tokenize", &text).await.ok();
    assert_eq!(tokens["count"], tokens["tokens"].as_array().unwrap().len());
    assert_eq!(tokens["token_strs"].as_array().unwrap().len(), tokens["count"]);
    let text = post(&server, PATH, &greedy(json!({}))).await.ok();
    for prompt in [tokens["tokens"].clone(), json!([tokens["tokens"]])] {
        let ids = post(&server, PATH, &greedy(json!({"prompt": prompt}))).await.ok();
        assert_eq!(ids["choices"], text["choices"]);
        assert_eq!(ids["usage"]["prompt_tokens"], tokens["count"]);
    }
    let back = post(&server, "/detokenize", &json!({"tokens": tokens["tokens"]})).await.ok();
    assert!(back["prompt"].as_str().unwrap().ends_with("ROMEO:"));
    let kept = greedy(json!({"truncate_prompt_tokens": 2}));
    assert_eq!(post(&server, PATH, &kept).await.ok()["usage"]["prompt_tokens"], 2);
}

/// As lm-eval asks: the log-probabilities of the prompt.
#[tokio::test]
async fn echo_with_logprobs() {
    let server = server(HttpConfig::default());
    let prompt = "ROMEO: But soft, what light";
    let more = json!({"prompt": prompt, "echo": true, "logprobs": 1, "max_tokens": 1});
    let whole = post(&server, PATH, &greedy(more.clone())).await.ok();
    let choice = &whole["choices"][0];
    let text = choice["text"].as_str().unwrap();
    assert!(text.starts_with(prompt), "{text}");
    let lists = &choice["logprobs"];
    let of = |key: &str| lists[key].as_array().unwrap().clone();
    let count = whole["usage"]["total_tokens"].as_u64().unwrap() as usize;
    for key in ["tokens", "token_logprobs", "top_logprobs", "text_offset"] {
        assert_eq!(of(key).len(), count, "{key}");
    }
    assert!(of("token_logprobs")[0].is_null() && of("top_logprobs")[0].is_null());
    assert!(of("token_logprobs")[1..].iter().all(|p| p.as_f64().unwrap() <= 0.0));
    // Each token stands where its offset says.
    let letters: Vec<char> = text.chars().collect();
    for (token, offset) in of("tokens").iter().zip(of("text_offset")).skip(2) {
        let (token, offset) = (token.as_str().unwrap(), offset.as_u64().unwrap() as usize);
        let there: String = letters[offset..].iter().take(token.chars().count()).collect();
        assert_eq!(there, token, "at {offset}");
    }
    // The chosen token is among the most probable ones under the same name.
    for (token, top) in of("tokens").iter().zip(of("top_logprobs")).skip(1) {
        assert!(top.get(token.as_str().unwrap()).is_some());
    }

    let streamed = with(greedy(more.clone()), json!({"stream": true}));
    let chunks = post(&server, PATH, &streamed).await.chunks();
    let pieces = chunks.iter().filter_map(|c| c["choices"][0]["text"].as_str());
    assert_eq!(pieces.collect::<String>(), text);
    let tokens = chunks.iter().filter_map(|c| c["choices"][0]["logprobs"]["tokens"].as_array());
    assert_eq!(tokens.flatten().cloned().collect::<Vec<_>>(), of("tokens"));

    let nothing = post(&server, PATH, &with(greedy(more), json!({"max_tokens": 0}))).await.ok();
    assert_eq!(nothing["choices"][0]["text"], prompt);
    assert_eq!(nothing["usage"]["completion_tokens"], 0);
    let prompt_only = nothing["choices"][0]["logprobs"]["tokens"].as_array().unwrap().len();
    assert_eq!(prompt_only, count - 1);
}

#[tokio::test]
async fn stops_seeds_and_token_ids() {
    let server = server(HttpConfig::default());
    let free = post(&server, PATH, &greedy(json!({"max_tokens": 30}))).await.ok();
    let free = free["choices"][0]["text"].as_str().unwrap().to_owned();
    let stop = &free[8..11];
    let more = json!({"max_tokens": 30, "stop": stop});
    let stopped = post(&server, PATH, &greedy(more.clone())).await.ok();
    let choice = &stopped["choices"][0];
    assert_eq!(choice["text"], free[..free.find(stop).unwrap()]);
    assert_eq!((&choice["finish_reason"], &choice["stop_reason"]), (&json!("stop"), &json!(stop)));
    let chunks = post(&server, PATH, &with(greedy(more), json!({"stream": true}))).await.chunks();
    let pieces = chunks.iter().filter_map(|c| c["choices"][0]["text"].as_str());
    assert_eq!(json!(pieces.collect::<String>()), choice["text"]);

    let seeded = |seed: i64| greedy(json!({"temperature": 1, "seed": seed, "n": 3}));
    let texts = |answer: Value| {
        let choices = answer["choices"].as_array().unwrap().clone();
        choices.iter().map(|c| c["text"].clone()).collect::<Vec<_>>()
    };
    let first = texts(post(&server, PATH, &seeded(-7)).await.ok());
    assert_eq!(first, texts(post(&server, PATH, &seeded(-7)).await.ok()));
    assert_ne!(first, texts(post(&server, PATH, &seeded(8)).await.ok()));
    assert_ne!(first[0], first[1]);

    let ids = post(&server, PATH, &greedy(json!({"return_token_ids": true}))).await.ok();
    assert_eq!(ids["choices"][0]["token_ids"].as_array().unwrap().len(), 12);
    assert!(!ids["choices"][0]["prompt_token_ids"].as_array().unwrap().is_empty());
}

#[tokio::test]
async fn constraints_beams_and_prompt_logprobs() {
    let server = server(HttpConfig::default());
    let regex =
        greedy(json!({"structured_outputs": {"regex": "[0-9]{4}-[0-9]{2}"}, "max_tokens": 20}));
    let text =
        post(&server, PATH, &regex).await.ok()["choices"][0]["text"].as_str().unwrap().to_owned();
    assert!(text.len() == 7 && text.as_bytes()[4] == b'-', "{text}");
    let choice = greedy(json!({"guided_choice": ["yes", "no"]}));
    let text = post(&server, PATH, &choice).await.ok()["choices"][0]["text"].clone();
    assert!(text == "yes" || text == "no", "{text}");

    let beams = greedy(json!({"use_beam_search": true, "best_of": 4, "n": 2, "max_tokens": 6}));
    let found = post(&server, PATH, &beams).await.ok();
    assert_eq!(found["choices"].as_array().unwrap().len(), 2);
    assert_ne!(found["choices"][0]["text"], found["choices"][1]["text"]);

    let prompt = greedy(json!({"prompt_logprobs": 2}));
    let found = post(&server, PATH, &prompt).await.ok();
    let tokens = found["usage"]["prompt_tokens"].as_u64().unwrap() as usize;
    let list = found["choices"][0]["prompt_logprobs"].as_array().unwrap();
    assert_eq!(list.len(), tokens);
    assert!(list[0].is_null());
    for entry in &list[1..] {
        let entry = entry.as_object().unwrap();
        assert!((2..=3).contains(&entry.len()), "{entry:?}");
        assert!(entry.values().any(|v| v["rank"] == 1));
    }
}

#[tokio::test]
async fn models_and_vectors() {
    let server = server(HttpConfig::default());
    let before = get(&server, "/v1/models").await.ok();
    assert_eq!(before["data"][0]["id"], "bard");
    post(&server, PATH, &greedy(json!({}))).await.ok();
    let loaded = get(&server, "/v1/models/bard").await.ok();
    assert!(loaded["max_model_len"].as_u64().unwrap() >= 256);
    get(&server, "/v1/models/../etc/passwd").await.error(404);
    get(&server, "/v1/models/none").await.error(404);

    let embed = |more| with(json!({"model": "bard", "input": ["a king", "a queen"]}), more);
    let vectors = post(&server, "/v1/embeddings", &embed(json!({}))).await.ok();
    let first: Vec<f64> = serde_json::from_value(vectors["data"][0]["embedding"].clone()).unwrap();
    assert!((first.iter().map(|x| x * x).sum::<f64>() - 1.0).abs() < 1e-4);
    let base64 = embed(json!({"encoding_format": "base64"}));
    let base64 = post(&server, "/v1/embeddings", &base64).await.ok();
    let list: openai_api::EmbeddingList = serde_json::from_value(base64).unwrap();
    let same = list.data[0].embedding.values().unwrap();
    assert!(
        same.iter()
            .zip(&first)
            .all(|(a, b)| f64::from(*a) == *b || (f64::from(*a) - b).abs() < 1e-7)
    );
    let wrong = embed(json!({"dimensions": 7}));
    assert_eq!(post(&server, "/v1/embeddings", &wrong).await.error(400)["param"], "dimensions");
    let Some(description) = Description::load() else { return };
    description.check("CreateEmbeddingResponse", &vectors).unwrap();
    description.check("ListModelsResponse", &before).unwrap();
}
