//! How far a walk over a model is.

use std::ops::ControlFlow;

/// One tensor is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Step<'a> {
    /// Its name in the output.
    pub tensor: &'a str,
    /// Tensors done, this one included.
    pub done: usize,
    /// Tensors of the output.
    pub of: usize,
    /// Bytes written so far.
    pub bytes: u64,
}

/// Called after each tensor; `Break` cancels, and nothing is left behind.
pub type Progress<'a> = &'a mut dyn FnMut(Step<'_>) -> ControlFlow<()>;
