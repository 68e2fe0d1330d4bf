//! Typed access to a JSON object, with errors that name the key.

use serde_json::{Map, Value};

use crate::Error;

/// An object of `config.json`; a key whose value is `null` counts as absent, as in transformers.
#[derive(Clone, Copy)]
pub(crate) struct Params<'a> {
    map: &'a Map<String, Value>,
}

/// The largest count that makes sense for a width, a vocabulary or a context.
pub(crate) const MAX_COUNT: usize = 1 << 31;
/// The most layers, heads or experts that make sense; what is allocated for each is small.
pub(crate) const MAX_PARTS: usize = 1 << 14;
/// The most elements of a head that make sense; a frequency is computed for each pair.
pub(crate) const MAX_HEAD: usize = 1 << 16;

impl<'a> Params<'a> {
    pub(crate) fn new(map: &'a Map<String, Value>) -> Self {
        Self { map }
    }

    pub(crate) fn get(&self, key: &str) -> Option<&'a Value> {
        self.map.get(key).filter(|v| !v.is_null())
    }

    /// Whether the key is there, be it `null`.
    pub(crate) fn contains(&self, key: &str) -> bool {
        self.map.contains_key(key)
    }

    /// A whole number from 1 to `max`.
    pub(crate) fn count(&self, key: &str, max: usize) -> Result<Option<usize>, Error> {
        let Some(value) = self.get(key) else { return Ok(None) };
        match value.as_u64().and_then(|v| usize::try_from(v).ok()) {
            Some(v) if (1..=max).contains(&v) => Ok(Some(v)),
            _ => Err(invalid(key, value, format!("a whole number from 1 to {max}"))),
        }
    }

    /// A whole number from 0.
    pub(crate) fn natural(&self, key: &str) -> Result<Option<usize>, Error> {
        let Some(value) = self.get(key) else { return Ok(None) };
        match value.as_u64().and_then(|v| usize::try_from(v).ok()) {
            Some(v) if v <= MAX_COUNT => Ok(Some(v)),
            _ => Err(invalid(key, value, format!("a whole number from 0 to {MAX_COUNT}"))),
        }
    }

    /// A finite number above zero, in single precision too.
    pub(crate) fn positive(&self, key: &str) -> Result<Option<f64>, Error> {
        let Some(value) = self.get(key) else { return Ok(None) };
        match value.as_f64() {
            Some(v) if v as f32 > 0.0 && (v as f32).is_finite() => Ok(Some(v)),
            _ => Err(invalid(key, value, "a number above zero")),
        }
    }

    pub(crate) fn flag(&self, key: &str) -> Result<Option<bool>, Error> {
        let Some(value) = self.get(key) else { return Ok(None) };
        value.as_bool().map(Some).ok_or_else(|| invalid(key, value, "true or false"))
    }

    pub(crate) fn text(&self, key: &str) -> Result<Option<&'a str>, Error> {
        let Some(value) = self.get(key) else { return Ok(None) };
        value.as_str().map(Some).ok_or_else(|| invalid(key, value, "a string"))
    }

    pub(crate) fn object(&self, key: &str) -> Result<Option<Params<'a>>, Error> {
        let Some(value) = self.get(key) else { return Ok(None) };
        let object = value.as_object().ok_or_else(|| invalid(key, value, "an object"))?;
        Ok(Some(Params::new(object)))
    }

    pub(crate) fn list(&self, key: &str) -> Result<Option<&'a [Value]>, Error> {
        let Some(value) = self.get(key) else { return Ok(None) };
        let list = value.as_array().ok_or_else(|| invalid(key, value, "a list"))?;
        Ok(Some(list))
    }

    /// A list of finite numbers above zero.
    pub(crate) fn positives(&self, key: &str) -> Result<Option<Vec<f32>>, Error> {
        let Some(list) = self.list(key)? else { return Ok(None) };
        let number = |v: &Value| match v.as_f64().map(|v| v as f32) {
            Some(v) if v > 0.0 && v.is_finite() => Ok(v),
            _ => Err(invalid(key, v, "a list of numbers above zero")),
        };
        list.iter().map(number).collect::<Result<_, _>>().map(Some)
    }
}

/// The error for a value that makes no sense, with the value cut to a readable length.
pub(crate) fn invalid(
    key: &str,
    value: impl std::fmt::Display,
    expected: impl Into<String>,
) -> Error {
    let value = value.to_string().chars().take(60).collect();
    Error::InvalidParameter { key: key.to_owned(), value, expected: expected.into() }
}
