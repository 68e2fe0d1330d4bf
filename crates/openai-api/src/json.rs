//! JSON from anybody: depth and number of values are bounded before anything is allocated.

use serde_json::Value;

use crate::ApiError;
use crate::error::quoted;

/// What a body may cost to parse. Its bytes are bounded by whoever reads it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct JsonLimits {
    /// Arrays and objects within each other; at most 127, where serde_json stops.
    pub depth: usize,
    /// Values, each of which takes 72 bytes when parsed, so that 2^18 take 18 MiB; a prompt of token ids
    /// has one a token. What holds values counts as well: an object for eight, an array for five, a key
    /// for two.
    pub values: usize,
}

impl Default for JsonLimits {
    /// 100 levels and 2^18 values.
    fn default() -> Self {
        Self { depth: 100, values: 1 << 18 }
    }
}

/// Parses a body.
pub(crate) fn parse(body: &[u8], limits: JsonLimits) -> Result<Value, ApiError> {
    scan(body, limits)?;
    serde_json::from_slice(body)
        .map_err(|e| ApiError::MalformedJson { reason: quoted(&e.to_string()) })
}

/// What a small object takes, as a multiple of a value.
const OBJECT: usize = 8;
/// The same of an array, which has room for four from the beginning.
const ARRAY: usize = 5;
/// The same of a key.
const KEY: usize = 2;

/// Walks over the brackets and commas outside strings, in one pass and no memory.
fn scan(body: &[u8], limits: JsonLimits) -> Result<(), ApiError> {
    let (mut depth, mut values) = (0usize, 1usize);
    let (mut in_string, mut escaped) = (false, false);
    for &byte in body {
        if in_string {
            match byte {
                _ if escaped => escaped = false,
                b'\\' => escaped = true,
                b'"' => in_string = false,
                _ => {}
            }
            continue;
        }
        match byte {
            b'"' => in_string = true,
            b'[' => {
                depth += 1;
                values += ARRAY;
            }
            b'{' => {
                depth += 1;
                values += OBJECT;
            }
            b']' | b'}' => depth = depth.saturating_sub(1),
            b',' => values += 1,
            b':' => values += KEY,
            _ => {}
        }
        if depth > limits.depth {
            return Err(ApiError::JsonTooDeep { limit: limits.depth });
        }
        if values > limits.values {
            return Err(ApiError::JsonTooLarge { limit: limits.values });
        }
    }
    Ok(())
}

/// The name of a value's type, with its article.
pub(crate) fn type_name(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(n) if n.is_f64() => "a decimal",
        Value::Number(_) => "an integer",
        Value::String(_) => "a string",
        Value::Array(_) => "an array",
        Value::Object(_) => "an object",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn depth_and_values_are_bounded() {
        let limits = JsonLimits { depth: 3, values: 16 };
        assert!(parse(b"[[[1]]]", limits).is_ok());
        assert_eq!(parse(b"[[[[1]]]]", limits), Err(ApiError::JsonTooDeep { limit: 3 }));
        assert!(parse(b"[1,2,3,4,5,6,7,8,9,10,11]", limits).is_ok());
        let twelve = parse(b"[1,2,3,4,5,6,7,8,9,10,11,12]", limits);
        assert_eq!(twelve, Err(ApiError::JsonTooLarge { limit: 16 }));
        // Objects and keys take more than what they hold.
        let limits = JsonLimits { values: 14, ..limits };
        assert!(parse(br#"{"a":0,"b":1}"#, limits).is_ok());
        let three = parse(br#"{"a":0,"b":1,"c":2}"#, limits);
        assert_eq!(three, Err(ApiError::JsonTooLarge { limit: 14 }));
        // Brackets and commas within strings are text.
        assert!(parse(br#"["[[[[[\"[[[[", ",,,,,,,,,,,,,,"]"#, limits).is_ok());
    }

    #[test]
    fn what_is_no_json_is_said_to_be_none() {
        for body in [
            &b""[..],
            b"{",
            b"nan",
            b"{\"temperature\": NaN}",
            b"1e999",
            br#""\ud800""#,
            b"\"\xff\"",
            b"\0",
            b"{} {}",
        ] {
            let error = parse(body, JsonLimits::default()).unwrap_err();
            assert!(matches!(error, ApiError::MalformedJson { .. }), "{body:?}: {error}");
        }
        let deep = "[".repeat(3000);
        assert_eq!(
            parse(deep.as_bytes(), JsonLimits::default()),
            Err(ApiError::JsonTooDeep { limit: 100 })
        );
    }
}
