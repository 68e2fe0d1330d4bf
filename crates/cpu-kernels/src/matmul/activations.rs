//! How precise activations are when they meet a weight.

use std::fmt;
use std::str::FromStr;

/// How activations meet a weight: the numbers that are multiplied, the same for every instruction
/// set.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Activations {
    /// As they are, times the decoded weight.
    F32,
    /// As precise as the weight, as llama.cpp does: for block types rounded to int8 with a scale for
    /// each 32 or 256 of k, for BF16 to bf16 (ties to even). F32 and F16 weights, and types without an
    /// int8 kernel, take them as they are.
    #[default]
    Int8,
    /// As [`Int8`](Self::Int8), and F16 weights and their activations are rounded to bf16 too: faster
    /// where the processor multiplies bf16, at the price of three bits of the weights.
    Bf16,
}

impl Activations {
    /// Every way, the most precise first.
    pub const ALL: &'static [Activations] =
        &[Activations::F32, Activations::Int8, Activations::Bf16];

    /// `f32`, `int8` or `bf16`.
    pub const fn name(self) -> &'static str {
        match self {
            Activations::F32 => "f32",
            Activations::Int8 => "int8",
            Activations::Bf16 => "bf16",
        }
    }
}

impl fmt::Display for Activations {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// A name that no precision of activations has.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("unknown activations '{0}': use f32, int8 or bf16")]
pub struct UnknownActivations(pub String);

impl FromStr for Activations {
    type Err = UnknownActivations;

    fn from_str(s: &str) -> Result<Self, UnknownActivations> {
        let found = Self::ALL.iter().copied().find(|a| a.name().eq_ignore_ascii_case(s));
        found.ok_or_else(|| UnknownActivations(s.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_back() {
        for &a in Activations::ALL {
            assert_eq!(a.to_string().parse(), Ok(a));
        }
        let error = "f64".parse::<Activations>().unwrap_err().to_string();
        assert!(error.contains("f64") && error.contains("bf16"), "{error}");
    }
}
