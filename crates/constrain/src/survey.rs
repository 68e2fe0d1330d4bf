//! A look at a schema or grammar before it is compiled, for what the compiler does not bound itself.
//!
//! An intersection of regular expressions is compiled by combining the alternatives of all of them, in
//! one step that nothing interrupts: some are quick, a dozen take minutes. What thousands of optional
//! parts in a row cost grows with their square or worse, and is hardly counted. And each property's name
//! is set against all others.

use serde_json::{Deserializer, Map, Value};

use crate::{ConstrainError, GrammarKind, Limits};

/// What was seen.
#[derive(Debug, Default)]
struct Survey {
    /// Strings that a regular expression describes.
    patterns: usize,
    /// Whether one schema is combined with another.
    combines: bool,
    /// Bytes of the longest of their regular expressions.
    longest: usize,
    /// Properties of the largest object.
    properties: usize,
    /// Whether a number lies below what the compiler counts with.
    below: bool,
}

/// Whether a schema is one that can be compiled in time.
///
/// # Errors
/// [`ConstrainError::TooDeep`], [`ConstrainError::Uncompilable`].
pub(crate) fn check_schema(
    schema: &Value,
    kind: GrammarKind,
    limits: &Limits,
) -> Result<(), ConstrainError> {
    let mut survey = Survey::default();
    if !survey.visit(schema, limits.depth) {
        return Err(ConstrainError::TooDeep { kind, limit: limits.depth });
    }
    let refuse = |reason| Err(ConstrainError::Uncompilable { kind, reason });
    let (most, many) = (limits.properties, survey.properties);
    if many > most {
        return refuse(format!("an object has {many} properties; the limit is {most}"));
    }
    let most = if survey.combines { limits.intersections + 1 } else { limits.patterns };
    let many = survey.patterns;
    if many > most {
        let beside = if survey.combines { " where schemas are combined" } else { "" };
        return refuse(format!(
            "there are {many} patterns and formats; the limit{beside} is {most}"
        ));
    }
    regex_within(survey.longest, kind, limits)?;
    if survey.below {
        return refuse("a limit of numbers is below -2^63".to_owned());
    }
    Ok(())
}

/// The same for a grammar: its intersections, and the schemas in it.
///
/// # Errors
/// As [`check_schema`].
pub(crate) fn check_lark(text: &str, limits: &Limits) -> Result<(), ConstrainError> {
    let kind = GrammarKind::Lark;
    let Operators { intersections, quantifiers, longest } = operators(text);
    regex_within(longest, kind, limits)?;
    for (what, many, most) in [
        ("intersections ('&')", intersections, limits.intersections),
        ("optional or repeated parts", quantifiers, limits.quantifiers),
    ] {
        if many > most {
            let reason = format!("there are {many} {what}; the limit is {most}");
            return Err(ConstrainError::Uncompilable { kind, reason });
        }
    }
    const SCHEMA: &str = "%json";
    let mut rest = text;
    while let Some(at) = rest.find(SCHEMA) {
        rest = &rest[at + SCHEMA.len()..];
        let mut values = Deserializer::from_str(rest).into_iter::<Value>();
        if let Some(Ok(schema)) = values.next() {
            check_schema(&schema, kind, limits)?;
            rest = &rest[values.byte_offset()..];
        }
    }
    Ok(())
}

fn regex_within(size: usize, kind: GrammarKind, limits: &Limits) -> Result<(), ConstrainError> {
    let limit = limits.regex_bytes;
    match size <= limit {
        true => Ok(()),
        false => Err(ConstrainError::Uncompilable {
            kind,
            reason: format!("a regular expression takes {size} bytes; the limit is {limit}"),
        }),
    }
}

impl Survey {
    /// Looks at a value and all in it; says whether it is nested no deeper than `depth`.
    fn visit(&mut self, value: &Value, depth: usize) -> bool {
        match value {
            Value::Array(_) | Value::Object(_) if depth == 0 => false,
            Value::Array(items) => items.iter().all(|v| self.visit(v, depth - 1)),
            Value::Object(object) => {
                self.look(object);
                object.values().all(|v| self.visit(v, depth - 1))
            }
            _ => true,
        }
    }

    fn look(&mut self, object: &Map<String, Value>) {
        let size = |key: &str| object.get(key).and_then(Value::as_object).map_or(0, Map::len);
        self.properties = self.properties.max(size("properties"));
        self.patterns += size("patternProperties");
        let names = object.get("patternProperties").and_then(Value::as_object);
        let names = names.into_iter().flat_map(Map::keys).map(String::len);
        let pattern = object.get("pattern").and_then(Value::as_str).map(str::len);
        self.longest = names.chain(pattern).fold(self.longest, usize::max);
        self.patterns += ["pattern", "format"].iter().filter(|&&k| object.contains_key(k)).count();
        for key in ["minimum", "exclusiveMinimum", "maximum", "exclusiveMaximum"] {
            let number = object.get(key).and_then(Value::as_f64);
            self.below |= number.is_some_and(|n| n <= i64::MIN as f64);
        }
        // An applicator beside another, or beside what says something itself.
        let applies = |key: &str| matches!(key, "allOf" | "anyOf" | "oneOf" | "$ref");
        let says = |key: &str| {
            !matches!(
                key,
                "type"
                    | "title"
                    | "description"
                    | "default"
                    | "examples"
                    | "$defs"
                    | "definitions"
                    | "$schema"
                    | "$id"
                    | "$comment"
            )
        };
        let applicators = object.keys().filter(|k| applies(k)).count();
        let statements = object.keys().filter(|k| says(k)).count();
        self.combines |= object.contains_key("allOf") || applicators > 0 && statements > 1;
    }
}

/// What is written outside strings and comments of a grammar.
#[derive(Debug, Default, PartialEq, Eq)]
struct Operators {
    /// `&` outside regular expressions.
    intersections: usize,
    /// `?` and `*`, and `{` of regular expressions.
    quantifiers: usize,
    /// Bytes of the longest regular expression.
    longest: usize,
}

fn operators(text: &str) -> Operators {
    let bytes = text.as_bytes();
    let mut found = Operators::default();
    let mut at = 0;
    while at < bytes.len() {
        let comment = bytes[at] == b'#' || bytes[at..].starts_with(b"//");
        match bytes[at] {
            _ if comment => {
                at += bytes[at..].iter().position(|&b| b == b'\n').unwrap_or(bytes.len() - at);
            }
            quote @ (b'"' | b'/') => {
                let start = at + 1;
                at = start;
                while at < bytes.len() && bytes[at] != quote {
                    at += if bytes[at] == b'\\' { 2 } else { 1 };
                }
                if quote == b'/' {
                    let regex = &bytes[start..at.min(bytes.len())];
                    found.longest = found.longest.max(regex.len());
                    let quantifiers = regex.iter().filter(|b| matches!(b, b'?' | b'*' | b'{'));
                    found.quantifiers += quantifiers.count();
                }
            }
            b'&' => found.intersections += 1,
            b'?' | b'*' => found.quantifiers += 1,
            _ => {}
        }
        at += 1;
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn intersections_are_counted_where_they_are_operators() {
        for (text, count) in [
            ("T: /a/ & /b/ & ~/c/", 2),
            ("T: \"a&b\" & /[a-z&&[^b]]\\/&/ # & &\n & // & /\n", 2),
            ("T: \"\\\"&\" & \"\\\\\" & \"x\"", 2),
            ("\"&", 0),
            ("/&\\", 0),
            ("# &", 0),
        ] {
            assert_eq!(operators(text).intersections, count, "{text}");
        }
    }

    #[test]
    fn regular_expressions_are_measured() {
        let found = operators("T: /a?c/ | \"d*efghi\"* | /d\\/e{2}g/i # ?");
        assert_eq!(found, Operators { intersections: 0, quantifiers: 3, longest: 8 });
        let limits = Limits { regex_bytes: 3, ..Limits::default() };
        assert!(check_lark("T: /abc/", &limits).is_ok());
        assert!(check_lark("T: /abcd/", &limits).is_err());
        let check = |value| check_schema(&value, GrammarKind::JsonSchema, &limits);
        assert!(check(json!({"pattern": "abc", "patternProperties": {"abc": {}}})).is_ok());
        assert!(check(json!({"pattern": "abcd"})).is_err());
        assert!(check(json!({"items": {"patternProperties": {"abcd": {}}}})).is_err());
    }

    #[test]
    fn schemas_are_surveyed() {
        let limits = Limits { properties: 2, patterns: 3, intersections: 1, ..Limits::default() };
        let check = |value| check_schema(&value, GrammarKind::JsonSchema, &limits);
        let pattern = json!({"pattern": "a"});
        assert!(check(json!({"items": [pattern, pattern, {"format": "date"}]})).is_ok());
        assert!(check(json!({"items": [pattern, pattern, pattern, pattern]})).is_err());
        assert!(check(json!({"allOf": [pattern, pattern]})).is_ok());
        assert!(check(json!({"allOf": [pattern, pattern, pattern]})).is_err());
        assert!(check(json!({"$ref": "#/a", "items": [pattern, pattern, pattern]})).is_err());
        assert!(check(json!({"anyOf": [pattern, pattern, pattern], "title": "t"})).is_ok());
        assert!(check(json!({"properties": {"a": 1, "b": 1, "c": 1}})).is_err());
        assert!(check(json!({"minimum": -1e19})).is_err());
        assert!(check(json!({"minimum": -1e18, "maximum": 1e19})).is_ok());
        assert!(check_lark("start: %json {\"minimum\": -1e19} \"a\"", &limits).is_err());
        assert!(check_lark("start: %json %json {\"minimum\": 1} \"a\"", &limits).is_ok());
    }

    #[test]
    fn depth_counts_arrays_and_objects() {
        let value = json!({"a": [{"b": 1}]});
        assert!(Survey::default().visit(&value, 3));
        assert!(!Survey::default().visit(&value, 2));
        let mut deep = json!(1);
        for _ in 0..10_000 {
            deep = Value::Array(vec![deep]);
        }
        assert!(!Survey::default().visit(&deep, 64));
        // Dropping it would recurse; take it apart.
        while let Value::Array(mut items) = deep {
            deep = items.pop().unwrap_or_default();
        }
    }
}
