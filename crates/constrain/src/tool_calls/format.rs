//! The formats in which models write calls.

/// How a model writes calls of tools.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ToolFormat {
    /// `<tool_call>` around an object of `name` and `arguments`.
    Hermes,
    /// An object of `name` and `parameters`.
    Llama3,
    /// A list of objects behind `[TOOL_CALLS]`.
    Mistral,
    /// An object of `name` and `arguments`, or a list of these.
    Json,
}

/// The parts of a format.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ToolSyntax {
    /// The marker before a call, or before the list of calls.
    pub(crate) open: Option<&'static str>,
    /// Whether a call that must be made is written with that marker.
    pub(crate) writes_open: bool,
    /// The marker behind a call.
    pub(crate) close: Option<&'static str>,
    /// Whether calls are written as a list.
    pub(crate) list: bool,
    /// What is written between calls.
    pub(crate) separator: &'static str,
    /// The key of the arguments.
    pub(crate) arguments: &'static str,
    /// Whether a text may begin with a call without a marker.
    pub(crate) bare: bool,
}

impl ToolSyntax {
    /// Whether calls are written without a marker, at the start of a text.
    pub(crate) fn begins_bare(&self) -> bool {
        self.bare && (self.open.is_none() || !self.writes_open)
    }
}

impl ToolFormat {
    /// All formats.
    pub const ALL: [Self; 4] = [Self::Hermes, Self::Llama3, Self::Mistral, Self::Json];

    /// The format that a chat template teaches, by the markers in its source; plain JSON where it
    /// has none.
    ///
    /// ```
    /// use constrain::tool_calls::ToolFormat;
    /// let template = "{%- if tools %}Write <tool_call>..</tool_call>{% endif %}";
    /// assert_eq!(ToolFormat::of_template(template), ToolFormat::Hermes);
    /// assert_eq!(ToolFormat::of_template("{{ messages }}"), ToolFormat::Json);
    /// ```
    pub fn of_template(source: &str) -> Self {
        if source.contains("<tool_call>") {
            Self::Hermes
        } else if source.contains("[TOOL_CALLS]") {
            Self::Mistral
        } else if source.contains("<|python_tag|>")
            || source.contains("<|start_header_id|>") && source.contains("parameters")
        {
            Self::Llama3
        } else {
            Self::Json
        }
    }

    /// The name under which it is chosen.
    pub fn name(self) -> &'static str {
        match self {
            Self::Hermes => "hermes",
            Self::Llama3 => "llama3",
            Self::Mistral => "mistral",
            Self::Json => "json",
        }
    }

    /// The format of that name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|format| format.name() == name)
    }

    /// The texts that mark calls. Where a vocabulary has one as a special token, it must be decoded
    /// all the same for calls to be found.
    pub fn markers(self) -> impl Iterator<Item = &'static str> {
        let syntax = self.syntax();
        [syntax.open, syntax.close].into_iter().flatten()
    }

    /// Whether calls are written without a marker, at the start of a text: they begin like any JSON.
    pub fn begins_bare(self) -> bool {
        self.syntax().begins_bare()
    }

    /// An identifier for call `index` of an answer. Mistral's templates want nine letters or digits.
    ///
    /// The same for the same `seed` and `index`; 53 bits of the seed or more are in it.
    pub fn call_id(self, seed: u64, index: usize) -> String {
        const DIGITS: &[u8] = b"0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ";
        let (prefix, len) = match self {
            Self::Mistral => ("", 9),
            _ => ("call_", 24),
        };
        let mut state = seed.wrapping_add((index as u64).wrapping_mul(0xD134_2543_DE82_EF95));
        let mut id = String::from(prefix);
        for _ in 0..len {
            state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
            let digit = mix(state) % DIGITS.len() as u64;
            id.push(DIGITS[digit as usize] as char);
        }
        id
    }

    pub(crate) fn syntax(self) -> ToolSyntax {
        let plain = ToolSyntax {
            open: None,
            writes_open: true,
            close: None,
            list: false,
            separator: "\n",
            arguments: "arguments",
            bare: true,
        };
        match self {
            Self::Hermes => ToolSyntax {
                open: Some("<tool_call>"),
                close: Some("</tool_call>"),
                bare: false,
                ..plain
            },
            Self::Llama3 => ToolSyntax {
                open: Some("<|python_tag|>"),
                writes_open: false,
                separator: "; ",
                arguments: "parameters",
                ..plain
            },
            Self::Mistral => {
                ToolSyntax { open: Some("[TOOL_CALLS]"), list: true, separator: ", ", ..plain }
            }
            Self::Json => plain,
        }
    }
}

/// The finalizer of SplitMix64 (Steele, Lea and Flood 2014).
fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn identifiers_have_the_form_that_is_wanted() {
        let id = ToolFormat::Mistral.call_id(1, 0);
        assert!(id.len() == 9 && id.chars().all(|c| c.is_ascii_alphanumeric()), "{id}");
        let ids: std::collections::BTreeSet<String> = (0..50)
            .flat_map(|seed| (0..50).map(move |i| ToolFormat::Hermes.call_id(seed, i)))
            .collect();
        assert_eq!(ids.len(), 2500);
        assert!(ids.iter().all(|id| id.starts_with("call_") && id.len() == 29));
    }

    #[test]
    fn templates_are_told_apart() {
        for (source, format) in [
            ("<|im_start|> <tool_call> {{ tools }}", ToolFormat::Hermes),
            ("[AVAILABLE_TOOLS] [TOOL_CALLS]", ToolFormat::Mistral),
            ("<|start_header_id|> \"parameters\": dictionary", ToolFormat::Llama3),
            ("<|start_header_id|>", ToolFormat::Json),
        ] {
            assert_eq!(ToolFormat::of_template(source), format, "{source}");
        }
        for format in ToolFormat::ALL {
            assert_eq!(ToolFormat::from_name(format.name()), Some(format));
        }
        assert_eq!(ToolFormat::from_name("smoke signals"), None);
    }
}
