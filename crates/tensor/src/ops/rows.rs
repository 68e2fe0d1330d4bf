//! Rows of a matrix picked, added up and ranked: what routing to experts needs.

use super::shapes;
use crate::{Compute, Device, Error, Result, Tensor};

impl Compute {
    /// Rows `indices` of an f32 matrix: `[indices.len(), cols]`.
    ///
    /// # Errors
    /// [`Error::Index`] for a row beyond the matrix.
    pub fn gather_rows(&self, x: &Tensor, indices: &[usize]) -> Result<Tensor> {
        self.expect_here("gather_rows", &[x])?;
        let (rows, cols) = (x.rows(), x.cols());
        if let Some(&index) = indices.iter().find(|&&i| i >= rows) {
            return Err(Error::Index { op: "gather_rows", index, len: rows });
        }
        on_gpu!(self, |gpu| gpu.gather_rows(x, indices));
        let source = x.as_f32()?;
        let mut out = self.unwritten([indices.len(), cols]);
        let _scope = self.scope("gather rows", &[&out, &out]);
        for (&i, to) in indices.iter().zip(out.as_f32_mut()?.chunks_exact_mut(cols.max(1))) {
            to.copy_from_slice(&source[i * cols..(i + 1) * cols]);
        }
        Ok(out)
    }

    /// `acc[indices[i]] += weights[i] * y[i]` for each row of `y`, in place where `acc` is not
    /// shared.
    ///
    /// # Errors
    /// [`Error::Shapes`] or [`Error::Index`].
    pub fn scatter_add_rows(
        &self,
        mut acc: Tensor,
        indices: &[usize],
        weights: &[f32],
        y: &Tensor,
    ) -> Result<Tensor> {
        self.expect_here("scatter_add_rows", &[&acc, y])?;
        let (rows, cols) = (acc.rows(), acc.cols());
        if y.cols() != cols || y.rows() != indices.len() || weights.len() != indices.len() {
            return Err(shapes("scatter_add_rows", "a row and a weight an index", &[&acc, y]));
        }
        if let Some(&index) = indices.iter().find(|&&i| i >= rows) {
            return Err(Error::Index { op: "scatter_add_rows", index, len: rows });
        }
        on_gpu!(self, |gpu| gpu.scatter_add_rows(acc, indices, weights, y));
        let (out, source) = (acc.as_f32_mut()?, y.as_f32()?);
        for ((&i, &w), row) in indices.iter().zip(weights).zip(source.chunks_exact(cols.max(1))) {
            for (a, b) in out[i * cols..(i + 1) * cols].iter_mut().zip(row) {
                *a += w * b;
            }
        }
        Ok(acc)
    }

    /// The `k` largest elements of each row with their columns, largest first; of equal elements
    /// the lower column.
    ///
    /// # Errors
    /// [`Error::Index`] if a row has fewer than `k`.
    pub fn top_k(&self, x: &Tensor, k: usize) -> Result<Vec<Vec<(usize, f32)>>> {
        self.expect_here("top_k", &[x])?;
        if k > x.cols() {
            return Err(Error::Index { op: "top_k", index: k, len: x.cols() });
        }
        let best = |row: &[f32]| {
            let mut order: Vec<(usize, f32)> = row.iter().copied().enumerate().collect();
            order.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
            order.truncate(k);
            order
        };
        // The columns are wanted here: routing chooses on the host.
        let x = x.to_device(&Device::Cpu)?;
        Ok(x.as_f32()?.chunks_exact(x.cols().max(1)).map(best).collect())
    }

    /// Each row divided by its sum, in place where `x` is not shared.
    ///
    /// # Errors
    /// As [`Tensor::as_f32_mut`].
    pub fn normalise_rows(&self, mut x: Tensor) -> Result<Tensor> {
        self.expect_here("normalise_rows", &[&x])?;
        on_gpu!(self, |gpu| gpu.normalise_rows(x));
        let cols = x.cols();
        for row in x.as_f32_mut()?.chunks_exact_mut(cols.max(1)) {
            let sum: f32 = row.iter().sum();
            row.iter_mut().for_each(|v| *v /= sum);
        }
        Ok(x)
    }

    /// Columns `columns` of an f32 matrix, copied: `[rows, columns.len()]`.
    ///
    /// # Errors
    /// [`Error::Index`] if there are fewer columns.
    pub fn slice_cols(&self, x: &Tensor, columns: std::ops::Range<usize>) -> Result<Tensor> {
        self.expect_here("slice_cols", &[x])?;
        let cols = x.cols();
        if columns.end > cols || columns.start > columns.end {
            return Err(Error::Index { op: "slice_cols", index: columns.end, len: cols });
        }
        on_gpu!(self, |gpu| gpu.slice_cols(x, columns));
        let out = x.as_f32()?.chunks_exact(cols.max(1)).flat_map(|r| &r[columns.clone()]);
        Tensor::from_vec([x.rows(), columns.len()], out.copied().collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_picked_and_added() {
        let c = Compute::cpu();
        let x = Tensor::from_vec([3, 2], vec![0.0, 1.0, 2.0, 3.0, 4.0, 5.0]).unwrap();
        let y = c.gather_rows(&x, &[2, 0]).unwrap();
        assert_eq!(y.as_f32().unwrap(), [4.0, 5.0, 0.0, 1.0]);
        let z = c.scatter_add_rows(x.clone(), &[0, 0], &[1.0, 10.0], &y).unwrap();
        assert_eq!(z.as_f32().unwrap(), [4.0, 16.0, 2.0, 3.0, 4.0, 5.0]);
        assert!(c.gather_rows(&x, &[3]).is_err());
        assert!(c.scatter_add_rows(x.clone(), &[3, 0], &[1.0, 1.0], &y).is_err());
        let shares = c.normalise_rows(z).unwrap();
        assert_eq!(shares.as_f32().unwrap(), [0.2, 0.8, 0.4, 0.6, 4.0 / 9.0, 5.0 / 9.0]);
        assert_eq!(c.slice_cols(&x, 1..2).unwrap().as_f32().unwrap(), [1.0, 3.0, 5.0]);
    }

    #[test]
    fn the_largest_come_first_and_ties_go_to_the_lower_column() {
        let x = Tensor::from_vec([1, 4], vec![1.0, 3.0, 3.0, 2.0]).unwrap();
        assert_eq!(Compute::cpu().top_k(&x, 3).unwrap(), [[(1, 3.0), (2, 3.0), (3, 2.0)]]);
    }
}
