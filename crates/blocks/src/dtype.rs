//! Element types: what a tensor's bytes mean, and how many of them a row takes.

use std::fmt;
use std::str::FromStr;

/// How the elements of a tensor are stored.
///
/// Plain types hold one element in `block_bytes()` bytes; block types hold `block_len()`
/// consecutive elements of a row in `block_bytes()` bytes. The names and ids of the GGML types are
/// those of `enum ggml_type` (ggml.h); types that GGML does not have carry no id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
#[allow(missing_docs, non_camel_case_types)]
pub enum DType {
    F32,
    F16,
    BF16,
    F64,
    I8,
    I16,
    I32,
    I64,
    U8,
    U16,
    U32,
    U64,
    Bool,
    Q1_0,
    Q2_0,
    Q4_0,
    Q4_1,
    Q5_0,
    Q5_1,
    Q8_0,
    Q8_1,
    Q2_K,
    Q3_K,
    Q4_K,
    Q5_K,
    Q6_K,
    Q8_K,
    IQ1_S,
    IQ1_M,
    IQ2_XXS,
    IQ2_XS,
    IQ2_S,
    IQ3_XXS,
    IQ3_S,
    IQ4_NL,
    IQ4_XS,
    TQ1_0,
    TQ2_0,
    MXFP4,
    NVFP4,
}

/// One line of the table of types.
struct Facts {
    dtype: DType,
    name: &'static str,
    ggml_id: Option<u32>,
    block_len: usize,
    block_bytes: usize,
}

macro_rules! table {
    ($($name:ident $id:expr, $len:expr, $bytes:expr;)*) => {
        const FACTS: &[Facts] = &[$(Facts {
            dtype: DType::$name, name: stringify!($name), ggml_id: $id, block_len: $len, block_bytes: $bytes,
        }),*];
        impl DType {
            /// Every type, in the order of the declaration.
            pub const ALL: &'static [DType] = &[$(DType::$name),*];
        }
    };
}

table! {
    // name, GGML id, elements a block, bytes a block
    F32 Some(0), 1, 4;
    F16 Some(1), 1, 2;
    BF16 Some(30), 1, 2;
    F64 Some(28), 1, 8;
    I8 Some(24), 1, 1;
    I16 Some(25), 1, 2;
    I32 Some(26), 1, 4;
    I64 Some(27), 1, 8;
    U8 None, 1, 1;
    U16 None, 1, 2;
    U32 None, 1, 4;
    U64 None, 1, 8;
    Bool None, 1, 1;
    Q1_0 Some(41), 128, 18;
    Q2_0 Some(42), 64, 18;
    Q4_0 Some(2), 32, 18;
    Q4_1 Some(3), 32, 20;
    Q5_0 Some(6), 32, 22;
    Q5_1 Some(7), 32, 24;
    Q8_0 Some(8), 32, 34;
    Q8_1 Some(9), 32, 36;
    Q2_K Some(10), 256, 84;
    Q3_K Some(11), 256, 110;
    Q4_K Some(12), 256, 144;
    Q5_K Some(13), 256, 176;
    Q6_K Some(14), 256, 210;
    Q8_K Some(15), 256, 292;
    IQ1_S Some(19), 256, 50;
    IQ1_M Some(29), 256, 56;
    IQ2_XXS Some(16), 256, 66;
    IQ2_XS Some(17), 256, 74;
    IQ2_S Some(22), 256, 82;
    IQ3_XXS Some(18), 256, 98;
    IQ3_S Some(21), 256, 110;
    IQ4_NL Some(20), 32, 18;
    IQ4_XS Some(23), 256, 136;
    TQ1_0 Some(34), 256, 54;
    TQ2_0 Some(35), 256, 66;
    MXFP4 Some(39), 32, 17;
    NVFP4 Some(40), 64, 36;
}

impl DType {
    const fn facts(self) -> &'static Facts {
        &FACTS[self as usize]
    }

    /// The name in GGML's spelling, `Q4_K` for example.
    pub const fn name(self) -> &'static str {
        self.facts().name
    }

    /// The id in a GGUF file, if GGML has the type.
    pub const fn ggml_id(self) -> Option<u32> {
        self.facts().ggml_id
    }

    /// The type with this id in a GGUF file.
    pub fn from_ggml_id(id: u32) -> Option<DType> {
        FACTS.iter().find(|f| f.ggml_id == Some(id)).map(|f| f.dtype)
    }

    /// Elements a block; 1 for plain types.
    pub const fn block_len(self) -> usize {
        self.facts().block_len
    }

    /// Bytes a block; the size of an element for plain types.
    pub const fn block_bytes(self) -> usize {
        self.facts().block_bytes
    }

    /// Bits that one element takes on average.
    pub fn bits_per_weight(self) -> f64 {
        self.block_bytes() as f64 * 8.0 / self.block_len() as f64
    }

    /// Whether elements come in blocks of more than one.
    pub const fn is_quantized(self) -> bool {
        self.block_len() > 1
    }

    /// Whether this is a plain floating-point type.
    pub const fn is_float(self) -> bool {
        matches!(self, DType::F32 | DType::F16 | DType::BF16 | DType::F64)
    }

    /// Bytes of `elements` elements; `None` if they are no whole number of blocks or the size
    /// overflows.
    pub const fn bytes_for(self, elements: usize) -> Option<usize> {
        if !elements.is_multiple_of(self.block_len()) {
            return None;
        }
        (elements / self.block_len()).checked_mul(self.block_bytes())
    }
}

impl fmt::Display for DType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// A name that no type has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnknownDType(pub String);

impl fmt::Display for UnknownDType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "unknown type '{}'", self.0)
    }
}

impl std::error::Error for UnknownDType {}

impl FromStr for DType {
    type Err = UnknownDType;

    /// Reads GGML's spelling in upper or lower case.
    fn from_str(s: &str) -> Result<Self, UnknownDType> {
        FACTS
            .iter()
            .find(|f| f.name.eq_ignore_ascii_case(s))
            .map(|f| f.dtype)
            .ok_or_else(|| UnknownDType(s.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_in_the_order_of_the_declaration() {
        for (i, f) in FACTS.iter().enumerate() {
            assert_eq!(f.dtype as usize, i, "{}", f.name);
            assert_eq!(f.dtype.name().parse(), Ok(f.dtype));
            if let Some(id) = f.ggml_id {
                assert_eq!(DType::from_ggml_id(id), Some(f.dtype));
            }
        }
    }

    #[test]
    fn bytes_are_checked() {
        assert_eq!(DType::Q4_K.bytes_for(512), Some(288));
        assert_eq!(DType::Q4_K.bytes_for(100), None);
        assert_eq!(DType::F64.bytes_for(usize::MAX), None);
    }
}
