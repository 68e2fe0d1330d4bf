//! Texts whose tokens end within a character or within a stop string.

mod common;

use common::{Server, start, with};
use futures_util::future::join_all;
use serde_json::{Value, json};
use serve::http::HttpConfig;

/// The choice of a greedy answer, whose text is the same whole and streamed.
async fn choice(server: &Server, more: Value) -> Value {
    let base = json!({"model": "bard", "prompt": "ROMEO:", "temperature": 0});
    let body = with(base, more);
    let streamed = with(body.clone(), json!({"stream": true}));
    let (whole, streamed) = tokio::join!(
        server.client.post("/v1/completions", &body),
        server.client.post("/v1/completions", &streamed)
    );
    let choice = whole.ok()["choices"][0].clone();
    assert_eq!(streamed.streamed(), choice["text"].as_str().unwrap(), "{body}");
    choice
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn characters_of_several_tokens_come_whole() {
    let server = start(HttpConfig::default()).await;
    let text = "\u{e9}\u{20ac}\u{1f600}\u{1f469}\u{200d}\u{1f680}";
    let ask = |tokens: usize| {
        let more = json!({"guided_choice": [text], "max_tokens": tokens, "return_token_ids": true});
        choice(&server, more)
    };
    let whole = ask(100).await;
    assert_eq!(whole["text"], text);
    let tokens = whole["token_ids"].as_array().unwrap().len();
    assert!(tokens > text.chars().count(), "no character has several tokens");
    let mut cut = 0;
    for answer in join_all((1..tokens).map(ask)).await {
        let begun = answer["text"].as_str().unwrap();
        let shown = begun.trim_end_matches('\u{fffd}');
        assert!(text.starts_with(shown), "{begun:?}");
        assert_eq!(answer["finish_reason"], "length");
        cut += usize::from(shown != begun);
    }
    // All but those that end with one of the characters.
    assert!(cut + text.chars().count() >= tokens - 1, "{cut} of {tokens}");
    server.ends_well().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_of_a_stop_string_is_shown() {
    let server = start(HttpConfig::default()).await;
    let ask = |stop: Vec<&str>| {
        choice(&server, json!({"max_tokens": 40, "ignore_eos": true, "stop": stop}))
    };
    let free = ask(vec![]).await["text"].as_str().unwrap().to_owned();
    let cuts: Vec<(usize, usize)> = (1..free.len() - 10)
        .step_by(3)
        .flat_map(|at| [(at, at + 2), (at, at + 5), (at, at + 9)])
        .filter(|&(from, to)| free.is_char_boundary(from) && free.is_char_boundary(to))
        .collect();
    assert!(cuts.len() > 50);
    for cuts in cuts.chunks(24) {
        let asked = cuts.iter().map(|&(from, to)| {
            // What begins like the text and goes on otherwise ends nothing.
            let nearly = format!("{}\u{1}", &free[from..to]);
            let (stop, ask) = (&free[from..to], &ask);
            async move { (stop, ask(vec![nearly.as_str(), stop]).await) }
        });
        for (stop, answer) in join_all(asked).await {
            assert_eq!(answer["text"], free[..free.find(stop).unwrap()], "{stop:?}");
            assert_eq!(answer["finish_reason"], "stop");
            assert_eq!(answer["stop_reason"], stop);
        }
    }
    server.ends_well().await;
}
