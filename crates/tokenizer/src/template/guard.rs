//! Bounds on a template before the engine sees it, and a stack deep enough for what passes.
//!
//! The engine bounds nested statements itself; long chains of operators and of `elif` make deep
//! trees that it walks recursively, and values may nest as deep as the fuel allows.

use crate::Error;

/// The longest template that is compiled (the longest known has 30 kB).
const SOURCE: usize = 1 << 20;
/// The longest tag or expression.
const TAG: usize = 32 << 10;
/// The most `elif`s in a template.
const ELIFS: usize = 2000;
/// Reserved, not used: pages of a stack that are never touched cost nothing.
const STACK: usize = 512 << 20;

pub(super) fn check(source: &str) -> Result<(), Error> {
    let complex = |what| Err(Error::TemplateTooComplex { what });
    if source.len() > SOURCE {
        return complex("source");
    }
    let mut elifs = 0;
    for (_, tag) in tags(source) {
        if tag.len() > TAG {
            return complex("a tag");
        }
        elifs += usize::from(word(tag) == "elif");
    }
    if elifs > ELIFS { complex("the chain of elif") } else { Ok(()) }
}

/// The source in the engine's dialect: `{% generation %}`, which marks what the assistant says for
/// training, as a condition that always holds; what a loop runs over checked, since Python does
/// not iterate over `None`.
pub(super) fn in_dialect(source: &str) -> String {
    let mut out = String::with_capacity(source.len());
    let mut done = 0;
    for (start, tag) in tags(source) {
        let name = word(tag);
        if name.is_empty() {
            continue;
        }
        let at = start + (name.as_ptr() as usize - tag.as_ptr() as usize);
        let (range, instead) = match name {
            "generation" => (at..at + name.len(), "if true".to_owned()),
            "endgeneration" => (at..at + name.len(), "endif".to_owned()),
            "for" => match iterated(tag) {
                Some(range) => {
                    let expression = tag[range.clone()].trim();
                    (start + range.start..start + range.end, format!(" ({expression})|{ITERABLE} "))
                }
                None => continue,
            },
            _ => continue,
        };
        out.push_str(&source[done..range.start]);
        out.push_str(&instead);
        done = range.end;
    }
    out.push_str(&source[done..]);
    out
}

/// The filter that [`in_dialect`] puts behind what a loop runs over.
pub(super) const ITERABLE: &str = "__iterable";

/// What a `for` tag runs over: from the first `in` to `if`, `recursive` or the end, at the top
/// level of brackets.
fn iterated(tag: &str) -> Option<std::ops::Range<usize>> {
    let end = tag.strip_suffix("%}")?.trim_end_matches(['-', '+']).len();
    let bytes = tag.as_bytes();
    let is_word = |b: u8| b.is_ascii_alphanumeric() || b == b'_' || b >= 0x80;
    let (mut start, mut at, mut depth, mut quote) = (None, 2, 0usize, None);
    while at < end {
        let b = bytes[at];
        if let Some(q) = quote {
            at += if b == b'\\' { 2 } else { 1 };
            quote = Some(q).filter(|&q| b != q);
            continue;
        }
        if is_word(b) {
            let from = at;
            while at < end && is_word(bytes[at]) {
                at += 1;
            }
            match (&tag[from..at], start) {
                ("in", None) if depth == 0 => start = Some(at),
                ("if" | "recursive", Some(start)) if depth == 0 => return Some(start..from),
                _ => {}
            }
            continue;
        }
        match b {
            b'"' | b'\'' => quote = Some(b),
            b'(' | b'[' | b'{' => depth += 1,
            b')' | b']' | b'}' => depth = depth.saturating_sub(1),
            _ => {}
        }
        at += 1;
    }
    Some(start?..end)
}

/// The first word of a statement's tag.
fn word(tag: &str) -> &str {
    if !tag.starts_with("{%") {
        return "";
    }
    let inner = tag[2..].trim_start_matches(['-', '+']).trim_start();
    let end = inner.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(inner.len());
    &inner[..end]
}

/// The tags of a source, with their places: `{% .. %}`, `{{ .. }}` and comments, strings within
/// respected.
fn tags(source: &str) -> impl Iterator<Item = (usize, &str)> {
    let bytes = source.as_bytes();
    let mut at = 0;
    std::iter::from_fn(move || {
        let start = at + source.get(at..)?.find('{').filter(|_| at < bytes.len())?;
        let close: &[u8] = match bytes.get(start + 1) {
            Some(b'%') => b"%}",
            Some(b'{') => b"}}",
            Some(b'#') => b"#}",
            _ => {
                at = start + 1;
                return Some((start, &source[start..start + 1]));
            }
        };
        let mut end = start + 2;
        let mut quote = None;
        let mut braces = 0usize;
        while end < bytes.len() {
            let b = bytes[end];
            match quote {
                Some(_) if b == b'\\' => end += 1,
                Some(q) if b == q => quote = None,
                Some(_) => {}
                None if bytes[end..].starts_with(close) && (braces == 0 || close != b"}}") => break,
                None if close == b"#}" => {}
                None => match b {
                    b'"' | b'\'' => quote = Some(b),
                    b'{' => braces += 1,
                    b'}' => braces = braces.saturating_sub(1),
                    _ => {}
                },
            }
            end += 1;
        }
        at = (end + 2).min(bytes.len());
        while !source.is_char_boundary(at) {
            at += 1;
        }
        Some((start, &source[start..at]))
    })
}

/// Runs `work` on a thread whose stack no permitted template exhausts.
pub(super) fn on_deep_stack<T: Send>(
    work: impl FnOnce() -> Result<T, Error> + Send,
) -> Result<T, Error> {
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new()
            .name("chat template".to_owned())
            .stack_size(STACK)
            .spawn_scoped(scope, work)
            .map_err(|source| Error::TemplateThread { source })?;
        thread.join().unwrap_or_else(|_| {
            Err(Error::TemplateRender { message: "the template engine panicked".to_owned() })
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tags_are_found_with_their_strings() {
        let found = |s| tags(s).map(|(_, t)| t).collect::<Vec<_>>();
        assert_eq!(
            found("a{% if '%}' %}b{{ {'a': {}} }}c{# ' #}"),
            ["{% if '%}' %}", "{{ {'a': {}} }}", "{# ' #}"]
        );
        assert_eq!(found("{é{{ x"), ["{", "{{ x"]);
        assert_eq!(
            in_dialect("a{%- generation -%}x{%endgeneration%}{{ generation }}"),
            "a{%- if true -%}x{%endif%}{{ generation }}"
        );
        assert_eq!(
            in_dialect("{%- for a, b in x['if'].f(c if d else e) if a in b -%}"),
            "{%- for a, b in (x['if'].f(c if d else e))|__iterable if a in b -%}"
        );
        assert_eq!(in_dialect("{% for a in b %}"), "{% for a in (b)|__iterable %}");
    }
}
