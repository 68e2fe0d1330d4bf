//! What the answer of a chat must follow: a structure, calls of tools, thoughts before either.

use constrain::Grammar;
use constrain::reasoning::ReasoningFormat;
use constrain::tool_calls::ToolFormat;
use openai_api::{ApiError, Structure, Tool, ToolChoice};
use serde_json::{Value, json};

use super::context::grammar_of;

/// The grammars that a request asks for, each with the parameter that does.
#[derive(Debug, Default)]
pub(crate) struct AnswerGrammar {
    structure: Option<(Grammar, &'static str)>,
    calls: Option<Grammar>,
}

impl AnswerGrammar {
    /// What `structure` and `choice` of the tools ask for together.
    ///
    /// # Errors
    /// Where an answer may be a structure or a call and the two could not be told apart.
    pub(crate) fn new(
        structure: Option<Structure>,
        choice: &ToolChoice,
        tools: &[Tool],
        parallel: bool,
        format: ToolFormat,
    ) -> Result<Self, ApiError> {
        let strict = tools.iter().position(|t| t.strict == Some(true));
        let structure = structure.map(grammar_of);
        let all: Vec<&Tool> = tools.iter().collect();
        let calls = match (choice, strict) {
            (ToolChoice::None, _) | (ToolChoice::Auto, None) => None,
            (ToolChoice::Auto, Some(i)) => {
                if structure.is_some() && format.begins_bare() {
                    return Err(ApiError::Conflict {
                        param: format!("tools[{i}].function.strict"),
                        other: "a structure, of which the model's calls are not told apart",
                    });
                }
                Some(grammar(&all, true, parallel, structure.is_some(), format))
            }
            (ToolChoice::Required, _) => Some(grammar(&all, false, parallel, true, format)),
            (ToolChoice::Function(name), _) => {
                let named: Vec<&Tool> = all.into_iter().filter(|t| t.name == *name).collect();
                Some(grammar(&named, false, false, true, format))
            }
        };
        Ok(Self { structure, calls })
    }

    /// Whether the answer may be any text, in which calls are held to their schemas.
    pub(crate) fn is_free(&self) -> bool {
        matches!(self.calls, Some(Grammar::Tools { required: false, .. }))
    }

    /// The parts, and what is to be compiled: `None` for an answer that follows nothing. `reasoning`
    /// says how thoughts before it are marked, and whether the prompt opened them.
    pub(crate) fn whole(
        self,
        reasoning: Option<(ReasoningFormat, bool)>,
    ) -> Option<(Grammar, &'static str)> {
        let (answer, param) = match (self.structure, self.calls) {
            (None, None) => return None,
            (Some(structure), None) => structure,
            (None, Some(calls)) => (calls, "tools"),
            (Some((structure, param)), Some(calls)) => {
                (Grammar::Either(vec![structure, calls]), param)
            }
        };
        Some(match reasoning {
            Some((format, inside)) => {
                (Grammar::AfterReasoning { format, inside, answer: Box::new(answer) }, param)
            }
            None => (answer, param),
        })
    }
}

/// The grammar of calls. With `auto` a tool's schema is followed where it is strict; a call that must
/// be made follows it in any case.
fn grammar(
    tools: &[&Tool],
    auto: bool,
    parallel: bool,
    required: bool,
    format: ToolFormat,
) -> Grammar {
    let nothing = || json!({"type": "object", "properties": {}, "additionalProperties": false});
    let of = |tool: &&Tool| {
        let follows = !auto || tool.strict == Some(true);
        let parameters = match follows {
            true => tool.parameters.clone().map_or_else(nothing, Value::Object),
            false => json!({"type": "object"}),
        };
        constrain::Tool { name: tool.name.clone(), parameters }
    };
    Grammar::Tools { format, tools: tools.iter().map(of).collect(), parallel, required }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tool(name: &str, strict: Option<bool>) -> Tool {
        let parameters = json!({"type": "object", "properties": {"a": {"type": "integer"}}});
        let parameters = parameters.as_object().cloned();
        Tool { name: name.to_owned(), description: None, parameters, strict }
    }

    fn of(
        structure: Option<Structure>,
        choice: ToolChoice,
        tools: &[Tool],
        format: ToolFormat,
    ) -> Result<AnswerGrammar, ApiError> {
        AnswerGrammar::new(structure, &choice, tools, true, format)
    }

    #[test]
    fn what_may_call_is_held_to_the_schemas_of_strict_tools() {
        let tools = [tool("f", Some(true)), tool("g", None)];
        let answer = of(None, ToolChoice::Auto, &tools, ToolFormat::Hermes).expect("honoured");
        assert!(answer.is_free());
        let Some((Grammar::Tools { tools, required: false, .. }, "tools")) = answer.whole(None)
        else {
            panic!("calls that need not be made")
        };
        assert!(tools[0].parameters["properties"]["a"].is_object());
        assert_eq!(tools[1].parameters, json!({"type": "object"}));
    }

    #[test]
    fn what_asks_for_nothing_has_no_grammar() {
        let tools = [tool("f", None), tool("g", Some(false))];
        for choice in [ToolChoice::Auto, ToolChoice::None] {
            let answer = of(None, choice, &tools, ToolFormat::Hermes).expect("honoured");
            assert!(!answer.is_free());
            assert_eq!(answer.whole(Some((ReasoningFormat::Think, true))), None);
        }
    }

    #[test]
    fn a_structure_or_a_call() {
        let tools = [tool("f", Some(true))];
        let structure = || Some(Structure::JsonObject);
        let answer =
            of(structure(), ToolChoice::Auto, &tools, ToolFormat::Hermes).expect("honoured");
        assert!(!answer.is_free());
        let whole = answer.whole(Some((ReasoningFormat::Think, false)));
        let Some((Grammar::AfterReasoning { answer, inside: false, .. }, "response_format")) =
            whole
        else {
            panic!("{whole:?}")
        };
        let Grammar::Either(parts) = *answer else { panic!("{answer:?}") };
        assert!(matches!(parts[1], Grammar::Tools { required: true, .. }));
        // JSON that calls a tool cannot be told from JSON that answers before it is written.
        let error = of(structure(), ToolChoice::Auto, &tools, ToolFormat::Json).unwrap_err();
        assert!(matches!(error, ApiError::Conflict { .. }), "{error}");
    }
}
