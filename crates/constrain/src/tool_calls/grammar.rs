//! The grammar of calls, for a text that must make some and for one that may.

use std::fmt::Write;

use serde_json::Value;
use tokenizer::Tokenizer;

use super::ToolSyntax;
use crate::lark::{ANY, marker, quoted, up_to};

/// What a call that nothing marks begins with: an object whose first keys are the name and the
/// arguments, a type before them at most. [`super::ToolCallParser::exact`] finds these and no others.
const HEAD: &str = r#"/\s*\{\s*("type"\s*:\s*"function"\s*,\s*)?"name"\s*:\s*/"#;
/// And between the name and the arguments.
const ARGUMENTS: &str = r#"/\s*,\s*"(parameters|arguments)"\s*:/"#;
/// White space where a model chooses it.
const SPACE: &str = r"/[ \t\n]{1,20}/?";

/// The grammar of calls of `tools`, `(name, schema)` each.
///
/// With `required` the text is calls and nothing else. Otherwise it is any text, and calls may end it:
/// what marks a call, or is the head of one that needs no mark, is followed by a call.
pub(crate) fn grammar(
    syntax: &ToolSyntax,
    tools: &[(&str, String)],
    parallel: bool,
    required: bool,
    tokenizer: &Tokenizer,
) -> String {
    let marker = |text: &str| marker(text, tokenizer);
    let written = syntax.open.filter(|_| syntax.writes_open);
    let each = match written {
        Some(open) if !syntax.list => format!("{} \"\\n\" call", marker(open)),
        _ => "call".to_owned(),
    };
    let more = match parallel {
        true => format!(" ({} {each})*", quoted(syntax.separator)),
        false => String::new(),
    };
    // From behind the first marker to the end.
    let rest = match (syntax.list, written) {
        (true, Some(_)) => format!("\" \"? \"[\" call{more} \"]\""),
        (true, None) => format!("\"[\" call{more} \"]\""),
        (false, Some(_)) => format!("\"\\n\" call{more}"),
        (false, None) => format!("call{more}"),
    };
    let mut text = String::new();
    if required {
        let open = written.map(marker).unwrap_or_default();
        let _ = writeln!(text, "start: {open} {rest}");
    } else {
        let _ = write!(text, "start: /{ANY}+/?");
        if syntax.open.is_some() {
            let _ = write!(text, " | opened {rest}");
        }
        if syntax.begins_bare() {
            let _ = write!(text, " | begun{more}");
        }
        text.push('\n');
        if let Some(open) = syntax.open {
            text.push_str(&up_to("opened", ANY, open, tokenizer));
        }
        if syntax.begins_bare() {
            begun(tools, &mut text);
        }
    }
    text.push_str("call: object");
    if let Some(close) = syntax.close {
        let _ = write!(text, " \"\\n\" {}", marker(close));
    }
    text.push_str("\nobject: ");
    for (i, (name, schema)) in tools.iter().enumerate() {
        let head = format!("{{\"name\": {}, \"{}\": ", Value::from(*name), syntax.arguments);
        let or = if i == 0 { "" } else { "\n  | " };
        let _ = write!(text, "{or}{} %json {schema} \"}}\"", quoted(&head));
    }
    text.push('\n');
    text
}

/// The rule `begun`: a call that a text begins with.
fn begun(tools: &[(&str, String)], text: &mut String) {
    let arguments =
        |i: usize, schema: &str| format!("head-{i} {SPACE} %json {schema} {SPACE} \"}}\"");
    let calls: Vec<String> =
        tools.iter().enumerate().map(|(i, (_, schema))| arguments(i, schema)).collect();
    let _ = writeln!(text, "begun: {}", calls.join("\n  | "));
    for (i, (name, _)) in tools.iter().enumerate() {
        let name = quoted(&Value::from(*name).to_string());
        let _ = writeln!(text, "head-{i}[lazy]: {HEAD} {name} {ARGUMENTS}");
    }
}
