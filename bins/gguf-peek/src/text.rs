//! Text that is safe on a terminal, and numbers that are readable.

use std::fmt::Write;

use gguf::{Array, Value};

/// Elements of an array and characters of a string that are shown, unless all are asked for.
const SHOWN_ELEMENTS: usize = 8;
const SHOWN_CHARS: usize = 100;

/// Text with everything escaped that a terminal could act upon: control characters, marks of
/// direction and other invisible ones, and bytes that are not UTF-8.
pub(crate) fn escape(bytes: &[u8]) -> String {
    let mut out = String::new();
    for chunk in bytes.utf8_chunks() {
        for c in chunk.valid().chars() {
            match c {
                '"' | '\'' => out.push(c),
                _ => out.extend(c.escape_debug()),
            }
        }
        for byte in chunk.invalid() {
            let _ = write!(out, "\\x{byte:02x}");
        }
    }
    out
}

/// A value of metadata in one line.
pub(crate) fn value(value: &Value, full: bool) -> String {
    match value {
        Value::String(s) => string(s, full),
        Value::Array(a) => array(a, full),
        Value::Bool(v) => v.to_string(),
        Value::F32(v) => v.to_string(),
        Value::F64(v) => v.to_string(),
        v => v.as_integer().map(|v| v.to_string()).unwrap_or_default(),
    }
}

fn string(s: &str, full: bool) -> String {
    match s.char_indices().nth(SHOWN_CHARS) {
        Some((end, _)) if !full => {
            format!("{}... ({} bytes)", escape(&s.as_bytes()[..end]), count(s.len() as u64))
        }
        _ => escape(s.as_bytes()),
    }
}

fn array(a: &Array, full: bool) -> String {
    let shown = if full { a.len() } else { SHOWN_ELEMENTS };
    let mut items: Vec<String> = if let Some(strings) = a.strings() {
        let quoted = |s: &[u8]| {
            let cut = if full { s } else { &s[..s.len().min(SHOWN_CHARS)] };
            format!("\"{}\"", escape(cut).replace('"', "\\\""))
        };
        strings.take(shown).map(quoted).collect()
    } else if let Some(scalars) = a.scalars() {
        scalars.take(shown).map(|v| value(&v, full)).collect()
    } else {
        a.arrays().into_iter().flatten().take(shown).map(|a| array(&a, full)).collect()
    };
    if a.len() > shown {
        items.push("...".to_owned());
        format!("[{}] ({} x {})", items.join(", "), count(a.len() as u64), a.kind())
    } else {
        format!("[{}]", items.join(", "))
    }
}

/// A count with its thousands apart: `1,234,567`.
pub(crate) fn count(n: u64) -> String {
    let digits = n.to_string();
    let mut out = String::new();
    for (i, d) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            out.push(',');
        }
        out.push(d);
    }
    out
}

/// Bytes in the unit that fits: `4.58 GiB`.
pub(crate) fn bytes(n: u64) -> String {
    const UNITS: [&str; 5] = ["KiB", "MiB", "GiB", "TiB", "PiB"];
    if n < 1024 {
        return format!("{n} B");
    }
    let (mut v, mut unit) = (n as f64 / 1024.0, 0);
    while v >= 1024.0 && unit + 1 < UNITS.len() {
        v /= 1024.0;
        unit += 1;
    }
    format!("{v:.2} {}", UNITS[unit])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_terminal_acts_upon_is_escaped() {
        assert_eq!(escape(b"a\x1b[31m\r\n\x07"), r"a\u{1b}[31m\r\n\u{7}");
        assert_eq!(escape("\u{9b}x \u{202e}y \u{200b}".as_bytes()), r"\u{9b}x \u{202e}y \u{200b}");
        assert_eq!(escape(b"\xff\xc3 ok"), r"\xff\xc3 ok");
        assert_eq!(escape("▁it's \"日本\"".as_bytes()), "▁it's \"日本\"");
    }

    #[test]
    fn numbers_are_readable() {
        assert_eq!(["0", "999", "1,000", "12,345,678"], [0, 999, 1000, 12345678].map(count)[..]);
        assert_eq!(bytes(1023), "1023 B");
        assert_eq!(bytes(4_920_000_000), "4.58 GiB");
    }

    #[test]
    fn long_values_are_abbreviated_unless_all_is_asked_for() {
        let long = Value::from("é".repeat(200));
        assert!(value(&long, false).ends_with("é... (400 bytes)"));
        assert_eq!(value(&long, true).chars().count(), 200);
        let array = Value::from((0..1000u32).collect::<Vec<_>>());
        assert_eq!(value(&array, false), "[0, 1, 2, 3, 4, 5, 6, 7, ...] (1,000 x U32)");
        assert!(value(&array, true).ends_with(", 999]"));
    }
}
