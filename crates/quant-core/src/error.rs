//! What can go wrong with a whole tensor.

use blocks::{BlockError, DType};

/// Why a tensor could not be quantized, dequantized or compared.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum QuantError {
    /// The lengths, the importances or the type itself do not fit.
    #[error(transparent)]
    Block(#[from] BlockError),
    /// The product of rows and columns, or the bytes they take, exceed what memory can hold.
    #[error("{rows} rows of {cols} {dtype} elements exceed the address space")]
    TooLarge {
        /// Rows of the tensor.
        rows: usize,
        /// Elements a row.
        cols: usize,
        /// The type they were to have.
        dtype: DType,
    },
    /// The number of values is not rows times columns.
    #[error("{rows} rows of {cols} values are {expected} values, not {got}")]
    ValueCount {
        /// Rows of the tensor.
        rows: usize,
        /// Elements a row.
        cols: usize,
        /// Their product.
        expected: usize,
        /// The values given.
        got: usize,
    },
    /// There is not one importance for each column, or for each column of each matrix.
    #[error(
        "{got} importances do not fit {rows} rows of {cols}: give {cols}, or {cols} for each matrix of equally many rows"
    )]
    ImportanceCount {
        /// Rows of the tensor.
        rows: usize,
        /// Elements a row.
        cols: usize,
        /// The importances given.
        got: usize,
    },
    /// A value is infinite or NaN, which the target cannot hold.
    #[error("the value in row {row}, column {col} is infinite or NaN, which {dtype} cannot hold")]
    NotFinite {
        /// The type to encode to.
        dtype: DType,
        /// Its row.
        row: usize,
        /// Its column.
        col: usize,
    },
    /// A value is so large that its encoding is infinite.
    #[error(
        "the value {value:e} in row {row}, column {col} is too large for {dtype}; BF16 and F32 can hold it"
    )]
    Overflow {
        /// The type to encode to.
        dtype: DType,
        /// Its row.
        row: usize,
        /// Its column.
        col: usize,
        /// The value.
        value: f32,
    },
    /// The progress callback asked to stop.
    #[error("cancelled")]
    Cancelled,
}

impl QuantError {
    /// The same error of a tensor of which what was encoded begins at row `first`.
    #[must_use]
    pub fn in_rows_from(mut self, first: usize) -> Self {
        if let Self::NotFinite { row, .. } | Self::Overflow { row, .. } = &mut self {
            *row += first;
        }
        self
    }
}
