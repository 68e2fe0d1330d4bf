//! What can be wrong with the arguments of [`decode`](crate::decode) and [`encode`](crate::encode).

use std::fmt;

use crate::DType;

/// Why rows could not be decoded or encoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum BlockError {
    /// The elements (of a row, when encoding) are no whole number of blocks.
    PartialBlock {
        /// The block type.
        dtype: DType,
        /// The elements given.
        elements: usize,
    },
    /// The bytes are not as many as the elements take.
    ByteCount {
        /// The element type.
        dtype: DType,
        /// The elements given.
        elements: usize,
        /// The bytes they take.
        expected: usize,
        /// The bytes given.
        got: usize,
    },
    /// The values are no whole number of rows.
    PartialRow {
        /// The length of a row.
        row_len: usize,
        /// The values given.
        elements: usize,
    },
    /// There is not one importance for each column.
    ImportanceCount {
        /// The length of a row.
        expected: usize,
        /// The importances given.
        got: usize,
    },
    /// An importance is negative, infinite or NaN.
    Importance {
        /// The column it belongs to.
        column: usize,
    },
    /// A value is infinite or NaN, which the type cannot hold.
    NotFinite {
        /// The type to encode to.
        dtype: DType,
        /// The position of the value in the input.
        index: usize,
    },
    /// The type can be decoded only.
    NoEncoder {
        /// The type to encode to.
        dtype: DType,
    },
}

impl fmt::Display for BlockError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::PartialBlock { dtype, elements } => {
                write!(
                    f,
                    "{elements} elements are no whole number of {dtype} blocks of {}",
                    dtype.block_len()
                )
            }
            Self::ByteCount { dtype, elements, expected, got } => {
                write!(f, "{elements} elements of {dtype} take {expected} bytes, not {got}")
            }
            Self::PartialRow { row_len, elements } => {
                write!(f, "{elements} values are no whole number of rows of {row_len}")
            }
            Self::ImportanceCount { expected, got } => {
                write!(f, "rows of {expected} need {expected} importances, not {got}")
            }
            Self::Importance { column } => {
                write!(f, "the importance of column {column} is not a finite number of at least 0")
            }
            Self::NotFinite { dtype, index } => {
                write!(f, "value {index} is infinite or NaN, which {dtype} cannot hold")
            }
            Self::NoEncoder { dtype } => {
                write!(
                    f,
                    "{dtype} can be decoded but not encoded; choose IQ4_XS, a k-quant or TQ1_0 instead"
                )
            }
        }
    }
}

impl std::error::Error for BlockError {}
