//! A validator for the keywords that the tests use, written from the specification (JSON Schema
//! 2020-12) and not from the compiler.

use serde_json::Value;

/// Whether `value` satisfies `schema`; `root` resolves `#/..`.
pub(crate) fn satisfies(value: &Value, schema: &Value, root: &Value) -> bool {
    let Value::Object(keywords) = schema else {
        return schema.as_bool().expect("a schema is an object or a truth value");
    };
    keywords.iter().all(|(keyword, argument)| {
        let of = |schema: &Value| satisfies(value, schema, root);
        let all = || argument.as_array().expect("a list").iter();
        let number = |limit: fn(f64, f64) -> bool| {
            value.as_f64().is_none_or(|v| limit(v, argument.as_f64().expect("a number")))
        };
        let size = argument.as_u64().map(|n| n as usize);
        let within = |len: Option<usize>, limit: fn(usize, usize) -> bool| {
            len.is_none_or(|len| limit(len, size.expect("a size")))
        };
        let chars = value.as_str().map(|s| s.chars().count());
        let items = value.as_array().map(Vec::len);
        let members = value.as_object().map(serde_json::Map::len);
        match keyword.as_str() {
            "type" => match argument {
                Value::Array(types) => types.iter().any(|t| is_of(value, t)),
                one => is_of(value, one),
            },
            "const" => value == argument,
            "enum" => all().any(|v| v == value),
            "anyOf" => all().any(of),
            "oneOf" => all().filter(|s| of(s)).count() == 1,
            "allOf" => all().all(of),
            "$ref" => of(root.pointer(&argument.as_str().expect("text")[1..]).expect("it exists")),
            "minimum" => number(|v, limit| v >= limit),
            "maximum" => number(|v, limit| v <= limit),
            "exclusiveMinimum" => number(|v, limit| v > limit),
            "exclusiveMaximum" => number(|v, limit| v < limit),
            "multipleOf" => number(|v, d| (v / d - (v / d).round()).abs() < 1e-9),
            "minLength" => within(chars, |len, limit| len >= limit),
            "maxLength" => within(chars, |len, limit| len <= limit),
            "pattern" => value.as_str().is_none_or(|s| {
                regex::Regex::new(argument.as_str().expect("text")).expect("a pattern").is_match(s)
            }),
            "minItems" => within(items, |len, limit| len >= limit),
            "maxItems" => within(items, |len, limit| len <= limit),
            "minProperties" => within(members, |len, limit| len >= limit),
            "maxProperties" => within(members, |len, limit| len <= limit),
            "prefixItems" => value.as_array().is_none_or(|items| {
                items.iter().zip(all()).all(|(item, schema)| satisfies(item, schema, root))
            }),
            "items" => value.as_array().is_none_or(|items| {
                let first =
                    keywords.get("prefixItems").and_then(Value::as_array).map_or(0, Vec::len);
                items.iter().skip(first).all(|item| satisfies(item, argument, root))
            }),
            "required" => value
                .as_object()
                .is_none_or(|o| all().all(|name| o.contains_key(name.as_str().expect("text")))),
            "properties" => value.as_object().is_none_or(|o| {
                let schemas = argument.as_object().expect("an object");
                o.iter().all(|(name, v)| schemas.get(name).is_none_or(|s| satisfies(v, s, root)))
            }),
            "additionalProperties" => value.as_object().is_none_or(|o| {
                let named = keywords.get("properties").and_then(Value::as_object);
                o.iter()
                    .filter(|(name, _)| named.is_none_or(|n| !n.contains_key(*name)))
                    .all(|(_, v)| satisfies(v, argument, root))
            }),
            "format" => value.as_str().is_none_or(|s| {
                assert_eq!(argument, "date");
                let digits = |s: &str| s.bytes().all(|b| b.is_ascii_digit());
                s.len() == 10 && digits(&s[..4]) && digits(&s[5..7]) && digits(&s[8..])
            }),
            "$defs" | "title" | "description" | "default" => true,
            other => panic!("the validator does not know {other}"),
        }
    })
}

fn is_of(value: &Value, name: &Value) -> bool {
    match name.as_str().expect("a type") {
        "null" => value.is_null(),
        "boolean" => value.is_boolean(),
        "string" => value.is_string(),
        "array" => value.is_array(),
        "object" => value.is_object(),
        "number" => value.is_number(),
        "integer" => value.as_f64().is_some_and(|v| v.fract() == 0.0),
        other => panic!("no type {other}"),
    }
}
