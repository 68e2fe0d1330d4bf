//! The trace event format of Chrome: complete events (`"ph": "X"`), times in microseconds.

use super::Event;
use std::fmt::Write;

/// Names are words of the code: they need no escapes.
pub(super) fn json(events: &[Event]) -> String {
    let mut out = String::from("[\n");
    for (i, e) in events.iter().enumerate() {
        let space = if e.detail.is_empty() { "" } else { " " };
        let (start, took) = (1e6 * e.start.as_secs_f64(), 1e6 * e.took.as_secs_f64());
        let end = if i + 1 == events.len() { "" } else { "," };
        writeln!(
            out,
            "{{\"name\":\"{}{space}{}\",\"ph\":\"X\",\"pid\":0,\"tid\":{},\"ts\":{start:.3},\
             \"dur\":{took:.3},\"args\":{{\"bytes\":{},\"operations\":{}}}}}{end}",
            e.name, e.detail, e.thread, e.work.bytes, e.work.operations
        )
        .expect("a string takes everything");
    }
    out.push_str("]\n");
    out
}

#[cfg(test)]
mod tests {
    use super::super::Work;
    use super::*;
    use std::time::Duration;

    #[test]
    fn events_are_written_as_viewers_read_them() {
        let event = Event {
            name: "linear",
            detail: "Q4_K",
            thread: 2,
            start: Duration::from_nanos(1_500),
            took: Duration::from_micros(7),
            work: Work { bytes: 12, operations: 34 },
        };
        let expected = "[\n{\"name\":\"linear Q4_K\",\"ph\":\"X\",\"pid\":0,\"tid\":2,\
            \"ts\":1.500,\"dur\":7.000,\"args\":{\"bytes\":12,\"operations\":34}}\n]\n";
        assert_eq!(json(&[event]), expected);
        assert_eq!(json(&[]), "[\n]\n");
    }
}
