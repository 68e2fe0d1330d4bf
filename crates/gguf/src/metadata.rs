//! The metadata of a file: keys and values in the order of the file, asked for by type.

use crate::array::Strings;
use crate::index::NameIndex;
use crate::{Error, Value, ValueType};

/// Keys and values, in the order in which they were read or set.
///
/// The getters name the key, what was expected and what is there:
///
/// ```
/// let mut m = gguf::Metadata::default();
/// m.set("llama.block_count", 6u64);
/// assert_eq!(m.u32("llama.block_count")?, 6); // integers convert between widths
/// assert_eq!(m.optional::<f32>("llama.rope.freq_base")?, None);
/// let e = m.str("llama.block_count").unwrap_err();
/// assert_eq!(e.to_string(), "metadata 'llama.block_count' must be a string: it is U64");
/// # Ok::<(), gguf::Error>(())
/// ```
#[derive(Clone, Debug, Default)]
pub struct Metadata {
    entries: Vec<(String, Value)>,
    index: NameIndex,
}

impl Metadata {
    pub(crate) fn with_capacity(n: usize) -> Self {
        Self { entries: Vec::with_capacity(n), index: NameIndex::default() }
    }

    /// The value of `key`.
    pub fn get(&self, key: &str) -> Option<&Value> {
        self.index.find(key, |i| &self.entries[i].0).map(|i| &self.entries[i].1)
    }

    /// Whether there is a value for `key`.
    pub fn contains(&self, key: &str) -> bool {
        self.get(key).is_some()
    }

    /// The number of keys.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there are no keys.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Keys and values in order.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (&str, &Value)> {
        self.entries.iter().map(|(k, v)| (k.as_str(), v))
    }

    /// Sets `key`: a new key goes to the end, a known one keeps its place.
    pub fn set(&mut self, key: impl Into<String>, value: impl Into<Value>) {
        let (key, value) = (key.into(), value.into());
        match self.index.find(&key, |i| &self.entries[i].0) {
            Some(i) => self.entries[i].1 = value,
            None => assert!(self.push(key, value).is_ok(), "the key was looked for"),
        }
    }

    /// Takes `key` out; what follows moves up.
    pub fn remove(&mut self, key: &str) -> Option<Value> {
        let at = self.index.find(key, |i| &self.entries[i].0)?;
        let (_, value) = self.entries.remove(at);
        self.index = NameIndex::default();
        for (i, (k, _)) in self.entries.iter().enumerate() {
            self.index.insert(k, i, |j| &self.entries[j].0);
        }
        Some(value)
    }

    /// Adds a key that must be new.
    pub(crate) fn push(&mut self, key: String, value: Value) -> Result<(), Error> {
        if !self.index.insert(&key, self.entries.len(), |i| &self.entries[i].0) {
            return Err(Error::DuplicateKey { key });
        }
        self.entries.push((key, value));
        Ok(())
    }

    /// The value of `key` as a `T`, `None` where the key is absent.
    ///
    /// # Errors
    /// [`Error::WrongType`], [`Error::OutOfRange`] or [`Error::StringNotUtf8`].
    pub fn optional<'a, T: FromValue<'a>>(&'a self, key: &str) -> Result<Option<T>, Error> {
        self.get(key).map(|v| T::from_value(v).map_err(|m| m.at(key, T::EXPECTED, v))).transpose()
    }

    /// The value of `key` as a `T`.
    ///
    /// # Errors
    /// [`Error::MissingKey`], and what [`Metadata::optional`] says.
    pub fn required<'a, T: FromValue<'a>>(&'a self, key: &str) -> Result<T, Error> {
        self.optional(key)?.ok_or_else(|| Error::MissingKey { key: key.to_owned() })
    }
}

macro_rules! getters {
    ($($name:ident: $t:ty, $doc:literal;)*) => {
        impl Metadata {$(
            #[doc = $doc]
            ///
            /// # Errors
            /// What [`Metadata::required`] says.
            pub fn $name(&self, key: &str) -> Result<$t, Error> {
                self.required(key)
            }
        )*}
    };
}

getters! {
    u32: u32, "An integer of any width that fits.";
    u64: u64, "An integer of any width that fits.";
    i32: i32, "An integer of any width that fits.";
    i64: i64, "An integer of any width that fits.";
    usize: usize, "An integer of any width that fits.";
    f32: f32, "A floating-point number; an `F64` is rounded.";
    bool: bool, "A boolean.";
    str: &str, "A string.";
    strings: Strings<'_>, "The strings of an array, as bytes.";
    strs: Vec<&str>, "The strings of an array, all of which must be UTF-8.";
    f32s: Vec<f32>, "An array of floating-point numbers.";
    i32s: Vec<i32>, "An array of integers that fit.";
    u32s: Vec<u32>, "An array of integers that fit.";
    bools: Vec<bool>, "An array of booleans.";
}

/// Why a value is not what was asked for.
#[derive(Clone, Copy, Debug)]
pub enum Mismatch {
    /// It is of another type.
    Type,
    /// It, or an element of it, is this integer, which does not fit.
    Range(i128),
    /// The string at this index is not UTF-8.
    Utf8(usize),
}

impl Mismatch {
    fn at(self, key: &str, expected: &'static str, value: &Value) -> Error {
        let key = key.to_owned();
        match self {
            Mismatch::Type => Error::WrongType { key, expected, got: value.type_name() },
            Mismatch::Range(value) => Error::OutOfRange { key, expected, value },
            Mismatch::Utf8(index) => Error::StringNotUtf8 { key, index },
        }
    }
}

/// A type that metadata can be asked for.
pub trait FromValue<'a>: Sized {
    /// What is expected, in words.
    const EXPECTED: &'static str;

    /// Converts the value where that loses nothing but floating-point digits.
    ///
    /// # Errors
    /// Why it does not convert.
    fn from_value(value: &'a Value) -> Result<Self, Mismatch>;
}

macro_rules! integers {
    ($($t:ty, $one:literal, $many:literal;)*) => {$(
        impl FromValue<'_> for $t {
            const EXPECTED: &'static str = $one;
            fn from_value(value: &Value) -> Result<Self, Mismatch> {
                let v = value.as_integer().ok_or(Mismatch::Type)?;
                v.try_into().map_err(|_| Mismatch::Range(v))
            }
        }
        impl FromValue<'_> for Vec<$t> {
            const EXPECTED: &'static str = $many;
            fn from_value(value: &Value) -> Result<Self, Mismatch> {
                scalars(value, |k| k.is_integer())?.map(|v| <$t>::from_value(&v)).collect()
            }
        }
    )*};
}

integers! {
    i8, "an integer (i8)", "an array of integers (i8)";
    u8, "an integer (u8)", "an array of integers (u8)";
    i16, "an integer (i16)", "an array of integers (i16)";
    u16, "an integer (u16)", "an array of integers (u16)";
    i32, "an integer (i32)", "an array of integers (i32)";
    u32, "an integer (u32)", "an array of integers (u32)";
    i64, "an integer (i64)", "an array of integers (i64)";
    u64, "an integer (u64)", "an array of integers (u64)";
    usize, "an integer (usize)", "an array of integers (usize)";
}

/// The elements of an array of numbers or booleans whose type is wanted.
fn scalars(
    value: &Value,
    wanted: fn(ValueType) -> bool,
) -> Result<impl Iterator<Item = Value> + '_, Mismatch> {
    let array = value.as_array().filter(|a| wanted(a.kind())).ok_or(Mismatch::Type)?;
    array.scalars().ok_or(Mismatch::Type)
}

impl FromValue<'_> for f32 {
    const EXPECTED: &'static str = "a floating-point number";
    fn from_value(value: &Value) -> Result<Self, Mismatch> {
        value.as_float().map(|v| v as f32).ok_or(Mismatch::Type)
    }
}

impl FromValue<'_> for f64 {
    const EXPECTED: &'static str = "a floating-point number";
    fn from_value(value: &Value) -> Result<Self, Mismatch> {
        value.as_float().ok_or(Mismatch::Type)
    }
}

impl FromValue<'_> for Vec<f32> {
    const EXPECTED: &'static str = "an array of floating-point numbers";
    fn from_value(value: &Value) -> Result<Self, Mismatch> {
        scalars(value, |k| k.is_float())?.map(|v| f32::from_value(&v)).collect()
    }
}

impl FromValue<'_> for bool {
    const EXPECTED: &'static str = "a boolean";
    fn from_value(value: &Value) -> Result<Self, Mismatch> {
        value.as_bool().ok_or(Mismatch::Type)
    }
}

impl FromValue<'_> for Vec<bool> {
    const EXPECTED: &'static str = "an array of booleans";
    fn from_value(value: &Value) -> Result<Self, Mismatch> {
        scalars(value, |k| k == ValueType::Bool)?.map(|v| bool::from_value(&v)).collect()
    }
}

impl<'a> FromValue<'a> for &'a str {
    const EXPECTED: &'static str = "a string";
    fn from_value(value: &'a Value) -> Result<Self, Mismatch> {
        value.as_str().ok_or(Mismatch::Type)
    }
}

impl<'a> FromValue<'a> for Strings<'a> {
    const EXPECTED: &'static str = "an array of strings";
    fn from_value(value: &'a Value) -> Result<Self, Mismatch> {
        value.as_array().and_then(|a| a.strings()).ok_or(Mismatch::Type)
    }
}

impl<'a> FromValue<'a> for Vec<&'a str> {
    const EXPECTED: &'static str = "an array of strings";
    fn from_value(value: &'a Value) -> Result<Self, Mismatch> {
        let utf8 = |(i, s)| std::str::from_utf8(s).map_err(|_| Mismatch::Utf8(i));
        Strings::from_value(value)?.enumerate().map(utf8).collect()
    }
}
