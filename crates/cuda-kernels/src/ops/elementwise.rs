//! Operations on each element, softmax of rows.
