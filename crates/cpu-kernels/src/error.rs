//! What a kernel refuses.

use crate::Isa;
use blocks::DType;

/// Why a kernel did not run. Nothing was written to the output then.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum KernelError {
    /// A slice does not have the length that the shapes ask for.
    #[error("{what} has {got} elements, expected {expected}")]
    Length {
        /// Which argument.
        what: &'static str,
        /// Elements that the shapes ask for.
        expected: usize,
        /// Elements found.
        got: usize,
    },
    /// A slice is no whole number of rows.
    #[error("{what} has {got} elements, which is no whole number of rows of {row}")]
    Rows {
        /// Which argument.
        what: &'static str,
        /// Elements of a row.
        row: usize,
        /// Elements found.
        got: usize,
    },
    /// A row of a block type ends within a block.
    #[error("a row of {cols} elements is no whole number of {dtype} blocks of {}", dtype.block_len())]
    PartialBlock {
        /// Type of the weight.
        dtype: DType,
        /// Elements of a row.
        cols: usize,
    },
    /// Rows that are no whole number of words, or that are interleaved already.
    #[error("rows of {cols} {dtype} elements cannot be interleaved")]
    NotInterleavable {
        /// Type of the weight.
        dtype: DType,
        /// Elements of a row.
        cols: usize,
    },
    /// No kernel reads this type here.
    #[error("{what} of type {dtype} are not supported")]
    UnsupportedDType {
        /// Which argument.
        what: &'static str,
        /// Its type.
        dtype: DType,
    },
    /// The processor lacks the instruction set that was asked for.
    #[error("this processor does not have the instruction set '{isa}'")]
    UnsupportedIsa {
        /// The set asked for.
        isa: Isa,
    },
    /// A row index outside the table.
    #[error("row {id} is outside a table of {rows} rows")]
    RowOutOfRange {
        /// The index.
        id: u32,
        /// Rows of the table.
        rows: usize,
    },
    /// A query row that sees no position, or one past the end of its runs.
    #[error("query row {row} sees positions {from}..{to}, but its runs hold {len}")]
    Positions {
        /// Index of the query row.
        row: usize,
        /// First position seen.
        from: usize,
        /// One past the last position seen.
        to: usize,
        /// Positions in the runs.
        len: usize,
    },
    /// Query heads cannot be shared evenly among key-value heads, or a count is zero.
    #[error("{n_heads} query heads of {head_dim} cannot share {n_kv_heads} key-value heads")]
    Heads {
        /// Query heads.
        n_heads: usize,
        /// Key and value heads.
        n_kv_heads: usize,
        /// Elements of a head.
        head_dim: usize,
    },
}

/// `Ok` if `got == expected`.
pub(crate) fn check_len(
    what: &'static str,
    expected: usize,
    got: usize,
) -> Result<(), KernelError> {
    if expected == got { Ok(()) } else { Err(KernelError::Length { what, expected, got }) }
}

/// The number of rows of `row` elements in `got` elements.
pub(crate) fn check_rows(what: &'static str, row: usize, got: usize) -> Result<usize, KernelError> {
    match got.checked_rem(row) {
        Some(0) => Ok(got / row),
        None if got == 0 => Ok(0),
        _ => Err(KernelError::Rows { what, row, got }),
    }
}
