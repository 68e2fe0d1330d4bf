//! From the messages of a chat to the tokens of a prompt.

use openai_api::{ApiError, ChatPromptOptions, Content, Message, ReasoningEffort, Role, Tool};
use serde_json::{Map, Value, json};
use tokenizer::Tokenizer;

use super::context::Template;

/// The prompt of a chat.
#[derive(Debug)]
pub(crate) struct ChatPrompt {
    pub(crate) tokens: Vec<u32>,
    pub(crate) text: String,
}

/// Renders the messages of a request and encodes them: what the template writes may be control
/// tokens, what the messages hold never.
pub(crate) fn chat_prompt(
    messages: &[Message],
    tools: &[Tool],
    options: &ChatPromptOptions,
    effort: Option<ReasoningEffort>,
    add_special: bool,
    template: &Template,
    tokenizer: &Tokenizer,
) -> Result<ChatPrompt, ApiError> {
    let continues = options.continue_final_message.unwrap_or(false);
    let mut request = options.chat_template_kwargs.clone().unwrap_or_default();
    set_effort(&mut request, effort, template)?;
    let messages: Vec<Value> = messages
        .iter()
        .enumerate()
        .map(|(i, m)| message(i, m, template))
        .collect::<Result<_, _>>()?;
    let last = messages.last().and_then(|m| m["content"].as_str()).unwrap_or_default().to_owned();
    request.insert("messages".to_owned(), Value::Array(messages));
    if !tools.is_empty() {
        request.insert("tools".to_owned(), json!(tools));
    }
    let add = options.add_generation_prompt.unwrap_or(!continues);
    request.insert("add_generation_prompt".to_owned(), json!(add));
    let rejected = |e: tokenizer::Error| ApiError::Rejected {
        param: "messages".to_owned(),
        reason: e.to_string(),
    };
    let request = Value::Object(request);
    let mut segments = template.chat.render_segments(&request, tokenizer).map_err(rejected)?;
    if continues {
        cut_behind(&mut segments, &last)?;
    }
    let parts: Vec<(&str, bool)> = segments.iter().map(|s| (s.as_str(), true)).collect();
    let tokens = tokenizer.encode_parts(&parts, add_special).map_err(rejected)?;
    Ok(ChatPrompt { tokens, text: segments.concat() })
}

/// A message as templates expect it: text as one string, arguments as JSON rather than as a string
/// of it.
fn message(index: usize, message: &Message, template: &Template) -> Result<Value, ApiError> {
    let role = match message.role {
        // Few templates know the newer name of the role.
        Role::Developer if !template.mentions("developer") => Role::System,
        role => role,
    };
    let content = message.content.as_ref().map(Content::text).unwrap_or_default();
    let mut object = Map::from_iter([
        ("role".to_owned(), json!(role)),
        ("content".to_owned(), Value::String(content)),
    ]);
    for (key, value) in [
        ("name", &message.name),
        ("reasoning_content", &message.reasoning_content),
        ("tool_call_id", &message.tool_call_id),
    ] {
        if let Some(value) = value {
            object.insert(key.to_owned(), json!(value));
        }
    }
    if !message.tool_calls.is_empty() {
        let mut calls = Vec::with_capacity(message.tool_calls.len());
        for (i, call) in message.tool_calls.iter().enumerate() {
            let function = &call.function;
            let arguments: Map<String, Value> = match function.arguments.trim() {
                "" => Map::new(),
                text => serde_json::from_str(text).map_err(|_| ApiError::Rejected {
                    param: format!("messages[{index}].tool_calls[{i}].function.arguments"),
                    reason: "it is not a JSON object".to_owned(),
                })?,
            };
            let function = json!({"name": function.name, "arguments": arguments});
            calls.push(json!({"id": call.id, "type": call.kind, "function": function}));
        }
        object.insert("tool_calls".to_owned(), Value::Array(calls));
    }
    Ok(Value::Object(object))
}

/// Tells the template how long to think, in the variable that it knows.
fn set_effort(
    request: &mut Map<String, Value>,
    effort: Option<ReasoningEffort>,
    template: &Template,
) -> Result<(), ApiError> {
    let Some(effort) = effort else { return Ok(()) };
    let (name, value) = if template.mentions("reasoning_effort") {
        ("reasoning_effort", json!(effort))
    } else if template.mentions("enable_thinking") {
        ("enable_thinking", json!(effort != ReasoningEffort::None))
    } else if effort == ReasoningEffort::None {
        return Ok(());
    } else {
        let reason = "the model's chat template does not know of it";
        return Err(ApiError::Unsupported { param: "reasoning_effort".to_owned(), reason });
    };
    request.entry(name).or_insert(value);
    Ok(())
}

/// Ends a prompt behind the text of its last message, as transformers does: with the spaces at the
/// text's end if the template kept them.
fn cut_behind(segments: &mut Vec<String>, last: &str) -> Result<(), ApiError> {
    let rendered = segments.concat();
    let found = rendered.rfind(last.trim()).filter(|_| !last.trim().is_empty());
    let start = found.ok_or_else(|| ApiError::Rejected {
        param: "continue_final_message".to_owned(),
        reason: "the chat template does not show the last message's text as it is".to_owned(),
    })?;
    let kept = last.trim_start();
    let text = if rendered[start..].starts_with(kept) { kept } else { last.trim() };
    let mut left = start + text.len();
    segments.retain_mut(|segment| {
        let keep = left > 0;
        segment.truncate(left);
        left -= segment.len();
        keep
    });
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::cut_behind;

    fn cut(segments: &[&str], last: &str) -> Option<Vec<String>> {
        let mut segments: Vec<String> = segments.iter().map(|s| (*s).to_owned()).collect();
        cut_behind(&mut segments, last).ok().map(|()| segments)
    }

    #[test]
    fn a_prompt_ends_behind_the_last_text() {
        assert_eq!(cut(&["[a] To be[/a]"], "To be"), Some(vec!["[a] To be".into()]));
        // A mark within the text, and spaces that the template kept or trimmed.
        let split = cut(&["[a] x <", "b> y [/a]", "z"], "x <b> y ");
        assert_eq!(split, Some(vec!["[a] x <".into(), "b> y ".into()]));
        assert_eq!(cut(&["[a]x[/a]"], " x  "), Some(vec!["[a]x".into()]));
        // The last of several.
        assert_eq!(cut(&["x x"], "x"), Some(vec!["x x".into()]));
        assert_eq!(cut(&["[a]X[/a]"], "x"), None);
        assert_eq!(cut(&["[a][/a]"], ""), None);
    }
}
