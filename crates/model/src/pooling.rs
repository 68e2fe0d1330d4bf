//! One vector a text from one a token.
//!
//! ```
//! use model::pooling::{Pooling, l2_normalise, pool};
//! // Two texts, of two tokens and of one.
//! let hidden = tensor::Tensor::from_vec([3, 2], vec![1.0, 2.0, 5.0, 6.0, 0.0, 2.0])?;
//! let vectors = l2_normalise(pool(&hidden, &[2, 1], Pooling::Mean)?)?;
//! assert_eq!(vectors.as_f32()?, [0.6, 0.8, 0.0, 1.0]);
//! # Ok::<(), model::Error>(())
//! ```

use tensor::Tensor;

use crate::Error;

/// How the vectors of a text's tokens become one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Pooling {
    /// Their mean (sentence-transformers' usual choice).
    #[default]
    Mean,
    /// That of the first token (`[CLS]`).
    First,
    /// That of the last token (embedding models made of decoders).
    Last,
}

/// One vector a text: `hidden` `[sum of lengths, width]`, texts behind each other, to
/// `[texts, width]`. A text without tokens gives zeros.
///
/// # Errors
/// [`Error::Tensor`] if the lengths do not add up to the rows.
pub fn pool(hidden: &Tensor, lengths: &[usize], pooling: Pooling) -> Result<Tensor, Error> {
    let (width, mut start) = (hidden.cols(), 0);
    let mut out = vec![0.0; lengths.len() * width];
    for (&len, y) in lengths.iter().zip(out.chunks_exact_mut(width.max(1))) {
        let text = hidden.slice_rows(start..start + len)?;
        let rows = text.as_f32()?.chunks_exact(width.max(1));
        start += len;
        match pooling {
            Pooling::Mean => {
                for row in rows {
                    y.iter_mut().zip(row).for_each(|(y, x)| *y += x);
                }
                y.iter_mut().for_each(|y| *y /= len.max(1) as f32);
            }
            Pooling::First => rows.take(1).for_each(|row| y.copy_from_slice(row)),
            Pooling::Last => rows.skip(len.saturating_sub(1)).for_each(|r| y.copy_from_slice(r)),
        }
    }
    Ok(Tensor::from_vec([lengths.len(), width], out)?)
}

/// Each row divided by its Euclidean length; a row of zeros stays.
///
/// # Errors
/// [`Error::Tensor`] if it does not hold `f32`.
pub fn l2_normalise(mut x: Tensor) -> Result<Tensor, Error> {
    let width = x.cols();
    for row in x.as_f32_mut()?.chunks_exact_mut(width.max(1)) {
        let length = row.iter().map(|v| f64::from(*v).powi(2)).sum::<f64>().sqrt() as f32;
        if length > 0.0 {
            row.iter_mut().for_each(|v| *v /= length);
        }
    }
    Ok(x)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_pooled_each_for_itself() {
        let x = Tensor::from_vec([3, 2], vec![1.0, 2.0, 3.0, 4.0, 6.0, 8.0]).unwrap();
        let pooled = |p| pool(&x, &[2, 0, 1], p).unwrap().into_vec().unwrap();
        assert_eq!(pooled(Pooling::Mean), [2.0, 3.0, 0.0, 0.0, 6.0, 8.0]);
        assert_eq!(pooled(Pooling::First), [1.0, 2.0, 0.0, 0.0, 6.0, 8.0]);
        assert_eq!(pooled(Pooling::Last), [3.0, 4.0, 0.0, 0.0, 6.0, 8.0]);
        assert!(pool(&x, &[4], Pooling::Mean).is_err());
        let unit = l2_normalise(pool(&x, &[2, 0, 1], Pooling::Last).unwrap()).unwrap();
        assert_eq!(unit.as_f32().unwrap(), [0.6, 0.8, 0.0, 0.0, 0.6, 0.8]);
    }
}
