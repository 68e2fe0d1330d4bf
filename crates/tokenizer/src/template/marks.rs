//! Marks in the request's strings that keep control tokens from forming in them.

use serde_json::{Map, Value as Json};

use crate::Tokenizer;

/// A character that occurs neither in the template nor in the request: one of the private-use
/// planes 15 and 16, which have 131,068.
pub(super) fn unused_mark(source: &str, request: &Map<String, Json>) -> char {
    let mut used = std::collections::HashSet::new();
    used.extend(source.chars().filter(|&c| c >= '\u{F0000}'));
    for (key, value) in request {
        collect(key, value, &mut used);
    }
    let private = ('\u{F0000}'..='\u{FFFFD}').chain('\u{100000}'..='\u{10FFFD}');
    // Who fills a request with every private character gets none of them marked: see `marked`.
    private.into_iter().find(|c| !used.contains(c)).unwrap_or('\u{F0000}')
}

fn collect(key: &str, value: &Json, used: &mut std::collections::HashSet<char>) {
    let mut add = |text: &str| used.extend(text.chars().filter(|&c| c >= '\u{F0000}'));
    add(key);
    match value {
        Json::String(text) => add(text),
        Json::Array(items) => items.iter().for_each(|v| collect("", v, used)),
        Json::Object(map) => map.iter().for_each(|(k, v)| collect(k, v, used)),
        _ => {}
    }
}

/// The value with a mark in every control token's text, and where one might begin or end at the
/// border of a string; keys included.
pub(super) fn marked(value: &Json, tokenizer: &Tokenizer, mark: char) -> Json {
    match value {
        Json::String(text) => Json::String(mark_text(text, tokenizer, mark)),
        Json::Array(items) => items.iter().map(|v| marked(v, tokenizer, mark)).collect(),
        Json::Object(map) => Json::Object(
            map.iter()
                .map(|(k, v)| (mark_text(k, tokenizer, mark), marked(v, tokenizer, mark)))
                .collect(),
        ),
        other => other.clone(),
    }
}

fn mark_text(text: &str, tokenizer: &Tokenizer, mark: char) -> String {
    let mut cuts: Vec<usize> = tokenizer.control_cuts(text);
    cuts.sort_unstable();
    cuts.dedup();
    let mut out = String::with_capacity(text.len() + 4 * cuts.len());
    let mut done = 0;
    for cut in cuts {
        out.push_str(&text[done..cut]);
        out.push(mark);
        done = cut;
    }
    out.push_str(&text[done..]);
    out
}
