//! Reading the object of one call character by character.

/// What a character meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// The object goes on.
    More,
    /// The object is closed.
    Done,
    /// This cannot be the object of a call.
    Broken,
}

/// The object of one call, from behind its `{`.
///
/// Of the arguments no more is looked at than where they end, so that they can be passed on as they
/// come.
#[derive(Clone, Debug, Default)]
pub(super) struct CallObject {
    /// The name, once it is read.
    pub(super) name: Option<String>,
    /// Whether arguments have begun.
    pub(super) has_arguments: bool,
    /// Arguments that were read and not yet taken.
    pub(super) arguments: String,
    wanted: Wanted,
    place: Place,
    key: String,
    /// The key as it is written, and the one before it.
    keys: [String; 2],
    /// The string or number that is being read, as it is written.
    raw: String,
    /// Inside a string, and behind a backslash in it.
    quoted: bool,
    escaped: bool,
    depth: usize,
}

/// Which objects are taken for calls.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Wanted {
    /// All that have a name.
    #[default]
    Named,
    /// Those with no key that no call has.
    Plain,
    /// Those that begin as a grammar of calls has them, which then holds the rest to a schema: the
    /// name and then the arguments, before both the type at most.
    Exact,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Place {
    /// A key or the end.
    #[default]
    Begin,
    /// A key.
    Key,
    InKey,
    Colon,
    Value,
    InString,
    InNumber,
    InContainer,
    Behind,
}

/// Keys that an object of a call has.
const KEYS: [&str; 6] = ["name", "arguments", "parameters", "type", "id", "function"];
/// Two of them as they are written.
const NAME: &str = "\"name\"";
const TYPE: &str = "\"type\"";

impl CallObject {
    pub(super) fn new(wanted: Wanted) -> Self {
        Self { wanted, ..Self::default() }
    }

    /// Reads one character.
    pub(super) fn push(&mut self, c: char) -> Step {
        match self.place {
            Place::InKey => {
                self.raw.push(c);
                if self.ends_string(c) {
                    self.key = decoded(&self.raw);
                    self.keys.swap(0, 1);
                    self.keys[1] = std::mem::take(&mut self.raw);
                    if !self.is_wanted() {
                        return Step::Broken;
                    }
                    self.place = Place::Colon;
                }
            }
            Place::InString => {
                self.raw.push(c);
                if self.ends_string(c) {
                    return self.scalar();
                }
            }
            Place::InNumber if matches!(c, ',' | '}') || c.is_whitespace() => {
                return match self.scalar() {
                    Step::More => self.push(c),
                    broken => broken,
                };
            }
            Place::InNumber => self.raw.push(c),
            Place::InContainer => self.container(c),
            _ if c.is_whitespace() => {}
            Place::Begin | Place::Key if c == '"' => self.string(Place::InKey),
            Place::Begin if c == '}' => return Step::Done,
            Place::Colon if c == ':' => self.place = Place::Value,
            Place::Value => return self.value(c),
            Place::Behind if c == ',' => self.place = Place::Key,
            Place::Behind if c == '}' => return Step::Done,
            _ => return Step::Broken,
        }
        Step::More
    }

    /// Whether a call may have this key here.
    fn is_wanted(&self) -> bool {
        let [before, key] = self.keys.each_ref().map(String::as_str);
        match self.wanted {
            Wanted::Named => true,
            Wanted::Plain => KEYS.contains(&self.key.as_str()),
            Wanted::Exact => matches!(
                (before, key),
                ("", TYPE | NAME) | (TYPE, NAME) | (NAME, "\"arguments\"" | "\"parameters\"")
            ),
        }
    }

    fn is_name(&self) -> bool {
        self.key == "name" && self.name.is_none()
    }

    fn is_arguments(&self) -> bool {
        matches!(self.key.as_str(), "arguments" | "parameters")
    }

    /// The first character of a value.
    fn value(&mut self, c: char) -> Step {
        // Names and types are strings, arguments objects.
        let first = if [NAME, TYPE].contains(&self.keys[1].as_str()) { '"' } else { '{' };
        if self.wanted == Wanted::Exact && c != first {
            return Step::Broken;
        }
        match c {
            '"' => self.string(Place::InString),
            _ if self.is_name() => return Step::Broken,
            '{' | '[' => {
                // Of two values the first counts.
                if self.is_arguments() && self.has_arguments {
                    self.key.clear();
                }
                self.has_arguments |= self.is_arguments();
                (self.place, self.depth, self.quoted) = (Place::InContainer, 0, false);
                self.container(c);
            }
            '-' | '0'..='9' | 'a'..='z' | 'A'..='Z' => {
                self.place = Place::InNumber;
                self.raw = c.to_string();
            }
            _ => return Step::Broken,
        }
        Step::More
    }

    fn string(&mut self, place: Place) {
        (self.place, self.escaped) = (place, false);
        self.raw = "\"".to_owned();
    }

    /// Whether `c` is the quote that ends a string.
    fn ends_string(&mut self, c: char) -> bool {
        let escaped = std::mem::take(&mut self.escaped);
        self.escaped = c == '\\' && !escaped;
        c == '"' && !escaped
    }

    /// A string or number is whole.
    fn scalar(&mut self) -> Step {
        self.place = Place::Behind;
        if self.wanted == Wanted::Exact {
            let sound = match self.keys[1].as_str() {
                TYPE => self.raw == "\"function\"",
                NAME => !self.raw.contains('\\'),
                _ => false,
            };
            if !sound {
                return Step::Broken;
            }
        }
        if self.is_name() {
            self.name = Some(decoded(&self.raw));
        } else if self.is_arguments() && !self.has_arguments {
            self.has_arguments = true;
            self.arguments = match self.raw.as_str() {
                "null" => "{}".to_owned(),
                raw => decoded(raw),
            };
        }
        Step::More
    }

    /// A character of an array or object.
    fn container(&mut self, c: char) {
        if self.is_arguments() {
            self.arguments.push(c);
        }
        if self.quoted {
            self.quoted = !self.ends_string(c);
            return;
        }
        match c {
            '"' => (self.quoted, self.escaped) = (true, false),
            '{' | '[' => self.depth += 1,
            '}' | ']' => {
                self.depth -= 1;
                if self.depth == 0 {
                    self.place = Place::Behind;
                }
            }
            _ => {}
        }
    }
}

/// The text of a string as JSON writes it; what is no JSON stays as it is written.
fn decoded(raw: &str) -> String {
    serde_json::from_str(raw).unwrap_or_else(|_| raw.trim_matches('"').to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str, wanted: Wanted) -> (Step, CallObject) {
        let mut object = CallObject::new(wanted);
        let mut step = Step::More;
        for c in text.chars() {
            assert_eq!(step, Step::More, "{text}");
            step = object.push(c);
        }
        (step, object)
    }

    #[test]
    fn objects() {
        for (text, name, arguments) in [
            (
                r#""name": "f", "arguments": {"a": "}\"]", "b": [1, {}]} }"#,
                "f",
                r#"{"a": "}\"]", "b": [1, {}]}"#,
            ),
            (r#""parameters":{},"name":"g\u0041"}"#, "gA", "{}"),
            (r#""name":"f","arguments":"{\"a\":1}"}"#, "f", r#"{"a":1}"#),
            (r#""name":"f","arguments":null}"#, "f", "{}"),
            (r#""type":"function","id":7,"x":{"name":"no"},"name":"f","arguments":[]}"#, "f", "[]"),
            (r#""name":"f","arguments":{"a":1},"parameters":{"b":2}}"#, "f", r#"{"a":1}"#),
            (r#""name":"f","name":"g","arguments":{}}"#, "f", "{}"),
        ] {
            let (step, object) = read(text, Wanted::Named);
            assert_eq!(step, Step::Done, "{text}");
            assert_eq!(
                (object.name.as_deref(), object.arguments.as_str()),
                (Some(name), arguments)
            );
        }
    }

    #[test]
    fn what_is_none() {
        for text in
            ["x", "\"a\" x", "\"name\": 1", "\"name\": {", "\"a\":1,}", "\"a\":,", "\"a\":\"b\" \""]
        {
            assert_eq!(read(text, Wanted::Named).0, Step::Broken, "{text}");
        }
        assert_eq!(read(r#""city""#, Wanted::Plain).0, Step::Broken);
        assert_eq!(read(r#""city""#, Wanted::Named).0, Step::More);
        for text in [
            r#""parameters""#,
            r#""id""#,
            r#""n\u0061me""#,
            r#""type": "f""#,
            r#""type": {"#,
            r#""name": "f\u0041""#,
            r#""name": "f", "name""#,
            r#""name": "f", "type""#,
            r#""name": "f", "arguments": ""#,
            r#""name": "f", "arguments": 1"#,
            r#""name": 1"#,
        ] {
            assert_eq!(read(text, Wanted::Exact).0, Step::Broken, "{text}");
        }
        let (_, object) =
            read(r#""type":"function", "name" : "f","parameters": {"a""#, Wanted::Exact);
        assert_eq!((object.name.as_deref(), object.arguments.as_str()), (Some("f"), r#"{"a""#));
    }
}
