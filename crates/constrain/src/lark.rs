//! Pieces of grammars in llguidance's Lark.

use serde_json::Value;
use tokenizer::Tokenizer;

/// One character of any kind, as a regular expression.
pub(crate) const ANY: &str = "(?s:.)";

/// A text as a literal.
pub(crate) fn quoted(text: &str) -> String {
    Value::from(text).to_string().replace('\u{7f}', "\\u007f")
}

/// A marker as a model writes it: the special token, where the vocabulary has one.
pub(crate) fn marker(text: &str, tokenizer: &Tokenizer) -> String {
    special(text, tokenizer).unwrap_or_else(|| quoted(text))
}

/// The rule `name`: a marker, and before it characters of the class `before`, if any, that make none.
///
/// A marker that is a special token may be spelled by ordinary ones as well, since whoever reads the
/// text sees no difference. What is spelled ends at its first marker: a lazy rule wins over whatever
/// else the same characters could be.
pub(crate) fn up_to(name: &str, before: &str, text: &str, tokenizer: &Tokenizer) -> String {
    let class = |op: &str| match before {
        "" => String::new(),
        class => format!("/{class}{op} "),
    };
    let spelled = class("*/") + &quoted(text);
    match special(text, tokenizer) {
        Some(token) => {
            let token = class("+/?") + &token;
            format!("{name}: {name}-spelled | {token}\n{name}-spelled[lazy]: {spelled}\n")
        }
        None => format!("{name}[lazy]: {spelled}\n"),
    }
}

fn special(text: &str, tokenizer: &Tokenizer) -> Option<String> {
    let id = tokenizer.id_of(text).filter(|&id| tokenizer.is_special(id))?;
    Some(format!("<[{id}]>"))
}
