//! Reading an object field by field, so that every field is honoured or refused by its name.
//!
//! Fields are taken out of the object one after another; what remains at the end is unknown and
//! refused. A *reader* turns a value into a type and checks its range; `null` counts as absence.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use crate::ApiError;
use crate::error::quoted;
use crate::json::{self, JsonLimits, type_name};

/// An object that is being read.
pub(crate) struct Fields {
    /// What its fields are called after: empty for the body, `messages[0]` within it.
    path: String,
    map: Map<String, Value>,
}

impl Fields {
    /// The body of a request.
    pub(crate) fn of_body(body: &[u8], limits: JsonLimits) -> Result<Self, ApiError> {
        Self::of("body", json::parse(body, limits)?).map(|f| Self { path: String::new(), ..f })
    }

    /// The object at `path`.
    pub(crate) fn of(path: &str, value: Value) -> Result<Self, ApiError> {
        match value {
            Value::Object(map) => Ok(Self { path: path.to_owned(), map }),
            other => Err(wrong_type(path, "an object", &other)),
        }
    }

    /// What a field is called in an error.
    pub(crate) fn path(&self, name: &str) -> String {
        if self.path.is_empty() { name.to_owned() } else { format!("{}.{name}", self.path) }
    }

    /// A field, if it is there and not null.
    pub(crate) fn read<T>(
        &mut self,
        name: &str,
        reader: impl FnOnce(&str, Value) -> Result<T, ApiError>,
    ) -> Result<Option<T>, ApiError> {
        match self.map.remove(name) {
            None | Some(Value::Null) => Ok(None),
            Some(value) => reader(&self.path(name), value).map(Some),
        }
    }

    /// A field that must be there.
    pub(crate) fn require<T>(
        &mut self,
        name: &str,
        reader: impl FnOnce(&str, Value) -> Result<T, ApiError>,
    ) -> Result<T, ApiError> {
        match self.map.get(name) {
            None => Err(ApiError::Missing { param: self.path(name) }),
            Some(Value::Null) => reader(&self.path(name), Value::Null),
            Some(_) => Ok(self.read(name, reader)?.expect("it is there and not null")),
        }
    }

    /// A field that is not honoured: accepted where its value changes nothing.
    pub(crate) fn neutral(
        &mut self,
        name: &str,
        changes_nothing: impl FnOnce(&Value) -> bool,
        reason: &'static str,
    ) -> Result<(), ApiError> {
        match self.map.remove(name) {
            Some(value) if !value.is_null() && !changes_nothing(&value) => {
                Err(ApiError::Unsupported { param: self.path(name), reason })
            }
            _ => Ok(()),
        }
    }

    /// A field that is not honoured, whatever its value.
    pub(crate) fn refuse(&mut self, name: &str, reason: &'static str) -> Result<(), ApiError> {
        self.neutral(name, |_| false, reason)
    }

    /// Refuses what was not read.
    pub(crate) fn finish(self) -> Result<(), ApiError> {
        match self.map.keys().next() {
            Some(name) => Err(ApiError::UnknownParameter { param: quoted(&self.path(name)) }),
            None => Ok(()),
        }
    }
}

/// Declares a group of optional fields of a request: each with its documentation, its type and the
/// reader that checks it. They are written only where they are set.
macro_rules! fields {
    ($(#[$meta:meta])* pub struct $group:ident {
        $($(#[$doc:meta])* $name:ident: $type:ty = $reader:expr,)*
    }) => {
        $(#[$meta])*
        #[derive(Clone, Debug, Default, PartialEq, serde::Serialize)]
        pub struct $group {
            $($(#[$doc])* #[serde(skip_serializing_if = "Option::is_none")] pub $name: Option<$type>,)*
        }

        impl $group {
            pub(crate) fn read(fields: &mut crate::fields::Fields) -> Result<Self, crate::ApiError> {
                Ok(Self { $($name: fields.read(stringify!($name), $reader)?,)* })
            }
        }
    };
}
pub(crate) use fields;

pub(crate) fn wrong_type(path: &str, expected: &'static str, got: &Value) -> ApiError {
    ApiError::WrongType { param: path.to_owned(), expected, got: type_name(got) }
}

pub(crate) fn boolean(path: &str, value: Value) -> Result<bool, ApiError> {
    value.as_bool().ok_or_else(|| wrong_type(path, "a boolean", &value))
}

/// A number in a range.
pub(crate) fn number(
    minimum: f64,
    maximum: f64,
) -> impl FnOnce(&str, Value) -> Result<f64, ApiError> {
    move |path, value| {
        let Some(got) = value.as_f64() else { return Err(wrong_type(path, "a number", &value)) };
        if (minimum..=maximum).contains(&got) {
            Ok(got)
        } else {
            Err(ApiError::NumberOutOfRange { param: path.to_owned(), minimum, maximum, got })
        }
    }
}

/// An integer in a range; `3.0` is one, as in JSON schema.
pub(crate) fn integer(minimum: i64, maximum: i64) -> impl Fn(&str, Value) -> Result<i64, ApiError> {
    move |path, value| {
        let whole = |f: f64| (f.fract() == 0.0 && f.abs() < 9e15).then_some(f as i64);
        let Value::Number(n) = &value else { return Err(wrong_type(path, "an integer", &value)) };
        let range = minimum..=maximum;
        match n.as_i64().or_else(|| n.as_f64().filter(|_| n.is_f64()).and_then(whole)) {
            Some(got) if range.contains(&got) => Ok(got),
            // Too large for an i64, or a number like 10^30: an integer all the same.
            _ if n.as_f64().is_none_or(|f| f.fract() == 0.0) => {
                let (param, got) = (path.to_owned(), quoted(&n.to_string()));
                Err(ApiError::IntegerOutOfRange { param, minimum, maximum, got })
            }
            _ => Err(wrong_type(path, "an integer", &value)),
        }
    }
}

/// The largest count that is read; what it is used for has limits of its own.
pub(crate) const LARGEST: i64 = i32::MAX as i64;

/// A count in a range.
pub(crate) fn count(
    minimum: usize,
    maximum: usize,
) -> impl Fn(&str, Value) -> Result<usize, ApiError> {
    let read = integer(minimum as i64, maximum as i64);
    move |path, value| read(path, value).map(|n| n as usize)
}

/// A count from `minimum`.
pub(crate) fn at_least(minimum: usize) -> impl Fn(&str, Value) -> Result<usize, ApiError> {
    count(minimum, LARGEST as usize)
}

/// A string of any length.
pub(crate) fn text(path: &str, value: Value) -> Result<String, ApiError> {
    match value {
        Value::String(text) => Ok(text),
        other => Err(wrong_type(path, "a string", &other)),
    }
}

/// A string whose length in bytes is in a range.
pub(crate) fn string(
    minimum: usize,
    maximum: usize,
) -> impl Fn(&str, Value) -> Result<String, ApiError> {
    move |path, value| {
        let text = text(path, value)?;
        check_length(path, text.len(), minimum, maximum, "bytes")?;
        Ok(text)
    }
}

/// One of several words.
pub(crate) fn word<T: Copy>(
    words: &'static [(&'static str, T)],
    expected: &'static str,
) -> impl Fn(&str, Value) -> Result<T, ApiError> {
    move |path, value| {
        let got = text(path, value)?;
        let found = words.iter().find(|(word, _)| *word == got);
        found.map(|&(_, meaning)| meaning).ok_or_else(|| ApiError::InvalidValue {
            param: path.to_owned(),
            expected,
            got: quoted(&got),
        })
    }
}

/// An array whose length is in a range.
pub(crate) fn array<T>(
    minimum: usize,
    maximum: usize,
    item: impl Fn(&str, Value) -> Result<T, ApiError>,
) -> impl Fn(&str, Value) -> Result<Vec<T>, ApiError> {
    move |path, value| {
        let Value::Array(items) = value else { return Err(wrong_type(path, "an array", &value)) };
        check_length(path, items.len(), minimum, maximum, "elements")?;
        items.into_iter().enumerate().map(|(i, v)| item(&format!("{path}[{i}]"), v)).collect()
    }
}

/// Token ids; whether the vocabulary has them is for whoever knows it.
pub(crate) fn token_ids(path: &str, value: Value) -> Result<Vec<u32>, ApiError> {
    let Value::Array(items) = value else { return Err(wrong_type(path, "an array", &value)) };
    // A prompt may have a hundred thousand: paths are made for the one that is wrong.
    let id = |(i, v): (usize, Value)| match v.as_u64().and_then(|n| u32::try_from(n).ok()) {
        Some(id) if i64::from(id) <= LARGEST => Ok(id),
        _ => token_id(&format!("{path}[{i}]"), v),
    };
    items.into_iter().enumerate().map(id).collect()
}

fn token_id(path: &str, value: Value) -> Result<u32, ApiError> {
    integer(0, LARGEST)(path, value).map(|n| n as u32)
}

/// Numbers by token id, written as an object with the ids as keys.
pub(crate) fn bias(path: &str, value: Value) -> Result<BTreeMap<u32, f64>, ApiError> {
    let Value::Object(map) = value else { return Err(wrong_type(path, "an object", &value)) };
    check_length(path, map.len(), 0, 1024, "entries")?;
    map.into_iter()
        .map(|(key, value)| {
            let token = key.parse().map_err(|_| ApiError::InvalidValue {
                param: path.to_owned(),
                expected: "token ids as keys",
                got: quoted(&key),
            })?;
            Ok((token, number(-100.0, 100.0)(&format!("{path}.{token}"), value)?))
        })
        .collect()
}

pub(crate) fn object(path: &str, value: Value) -> Result<Map<String, Value>, ApiError> {
    match value {
        Value::Object(map) => Ok(map),
        other => Err(wrong_type(path, "an object", &other)),
    }
}

pub(crate) fn check_length(
    path: &str,
    got: usize,
    minimum: usize,
    maximum: usize,
    unit: &'static str,
) -> Result<(), ApiError> {
    if (minimum..=maximum).contains(&got) {
        return Ok(());
    }
    Err(ApiError::LengthOutOfRange { param: path.to_owned(), minimum, maximum, unit, got })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn of(value: Value) -> Fields {
        Fields::of("", value).unwrap()
    }

    #[test]
    fn a_field_is_read_once_and_null_is_absence() {
        let mut fields = of(json!({"a": 1, "b": null}));
        assert_eq!(fields.read("a", integer(0, 5)), Ok(Some(1)));
        assert_eq!(fields.read("a", integer(0, 5)), Ok(None));
        assert_eq!(fields.read("b", integer(0, 5)), Ok(None));
        assert_eq!(fields.finish(), Ok(()));
        let unknown = of(json!({"x": null})).finish();
        assert_eq!(unknown, Err(ApiError::UnknownParameter { param: "x".into() }));
    }

    #[test]
    fn integers_of_every_size_meet_their_range() {
        let read = |value| integer(1, 10)("n", value);
        assert_eq!(read(json!(3)), Ok(3));
        assert_eq!(read(json!(3.0)), Ok(3));
        for outside in
            [json!(0), json!(-1), json!(11), json!(u64::MAX), json!(1u64 << 63), json!(1e30)]
        {
            let error = read(outside.clone()).unwrap_err();
            assert!(matches!(error, ApiError::IntegerOutOfRange { .. }), "{outside}: {error}");
        }
        for other in [json!(1.5), json!("3"), json!(true), json!([3])] {
            let error = read(other.clone()).unwrap_err();
            assert!(matches!(error, ApiError::WrongType { .. }), "{other}: {error}");
        }
    }

    #[test]
    fn errors_name_the_place_within_the_body() {
        let error = array(0, 9, integer(0, 1))("list", json!([0, 1, 2])).unwrap_err();
        assert_eq!(error.param(), Some("list[2]"));
        let error = token_ids("prompt", json!([0, -1])).unwrap_err();
        assert_eq!(error.param(), Some("prompt[1]"));
        let error = bias("logit_bias", json!({"5": 101})).unwrap_err();
        assert_eq!(error.param(), Some("logit_bias.5"));
    }
}
