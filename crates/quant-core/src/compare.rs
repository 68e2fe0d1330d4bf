//! The loss between two encodings of a tensor.

use std::sync::Mutex;

use crate::chunks::{Work, for_each_chunk, rows_per_chunk};
use crate::{ErrorStats, QuantError, Source};

/// Measures `approximation` against `reference`, both `rows` rows of `cols` elements of any type,
/// without expanding either whole.
///
/// # Errors
/// If lengths disagree, rows are no whole blocks, or the callback cancels.
pub fn compare(
    reference: Source<'_>,
    approximation: Source<'_>,
    rows: usize,
    cols: usize,
    work: Work<'_>,
) -> Result<ErrorStats, QuantError> {
    let elements = reference.check(rows, cols)?;
    approximation.check(rows, cols)?;
    let mut total = ErrorStats::default();
    if elements == 0 {
        return Ok(total);
    }
    let per_chunk = rows_per_chunk(cols);
    let chunks = rows.div_ceil(per_chunk);
    let parts = Mutex::new(vec![ErrorStats::default(); chunks]);
    let rows_of = |chunk: &usize| per_chunk.min(rows - chunk * per_chunk);
    for_each_chunk(work, rows, 0..chunks, rows_of, Default::default, |index, chunk, scratch| {
        let (x, y): &mut (Vec<f32>, Vec<f32>) = scratch;
        let (first, count) = (chunk * per_chunk, rows_of(&chunk));
        let x = reference.rows(first, count, cols, x);
        let part = ErrorStats::of(x, approximation.rows(first, count, cols, y));
        parts.lock().expect("no panic while it is held")[index] = part;
        Ok(())
    })?;
    // In the order of the rows, whoever computed them: the same sum for any number of threads.
    for part in parts.into_inner().expect("no panic while it is held") {
        total.merge(&part);
    }
    Ok(total)
}
