//! Streams are read the same wherever they are cut.

use openai_api::sse::{self, SseError, SseEvent, SseReader};
use proptest::prelude::*;
use serde_json::json;

fn read(pieces: &[&[u8]]) -> Vec<SseEvent> {
    let mut reader = SseReader::new();
    pieces.iter().flat_map(|p| reader.push(p).unwrap()).collect()
}

fn event(name: Option<&str>, data: &str) -> SseEvent {
    SseEvent { event: name.map(str::to_owned), data: data.to_owned() }
}

#[test]
fn fields_comments_and_line_ends() {
    let text = "\u{feff}: hello\r\nid: 1\nretry: 5\nevent: x\rdata:a\r\ndata: b\n\n\
                : nothing\n\ndata\n\nevent: lost\n\ndata: c\r\r";
    let expect = [event(Some("x"), "a\nb"), event(None, ""), event(None, "c")];
    assert_eq!(read(&[text.as_bytes()]), expect);
    // An event that is not complete is none.
    assert_eq!(read(&[b"data: a\n"]), []);
}

#[test]
fn limits() {
    let mut reader = SseReader::with_limit(16);
    assert_eq!(reader.push(b"data: 0123456789abcdef"), Err(SseError::TooLarge { limit: 16 }));
    // Many short lines of one event count together.
    let mut reader = SseReader::with_limit(16);
    let result = (0..100).try_for_each(|_| reader.push(b"data: 012\n").map(|_| ()));
    assert_eq!(result, Err(SseError::TooLarge { limit: 16 }));
    let mut reader = SseReader::new();
    assert_eq!(reader.push(b"data: \xff\n"), Err(SseError::NotUtf8));
}

proptest! {
    #[test]
    fn any_cut(texts in prop::collection::vec("\\PC*", 0..5), cuts in prop::collection::vec(0usize..400, 0..9)) {
        let mut stream = Vec::new();
        for text in &texts {
            stream.extend(sse::KEEP_ALIVE);
            stream.extend(sse::frame(&json!({"text": text, "line\nbreak\r": "\u{2028}"})));
        }
        stream.extend(sse::event("error", &json!({"error": 1})));
        stream.extend(sse::done());
        let mut cuts: Vec<usize> = cuts.into_iter().map(|c| c.min(stream.len())).collect();
        cuts.extend([0, stream.len()]);
        cuts.sort_unstable();
        let pieces: Vec<&[u8]> = cuts.windows(2).map(|w| &stream[w[0]..w[1]]).collect();
        let events = read(&pieces);
        prop_assert_eq!(events.len(), texts.len() + 2);
        for (event, text) in events.iter().zip(&texts) {
            let value: serde_json::Value = serde_json::from_str(&event.data).unwrap();
            prop_assert_eq!(value["text"].as_str(), Some(text.as_str()));
        }
        let error = &events[texts.len()];
        prop_assert_eq!(error.event.as_deref(), Some("error"));
        prop_assert!(events[texts.len() + 1].is_done());
    }
}
