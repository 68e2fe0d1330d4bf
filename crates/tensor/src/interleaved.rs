//! Matrices repacked for the kernels: sixteen rows interleaved by words.

use std::sync::Arc;

use cpu_kernels::matmul::{self, Layout, Weight};

use crate::storage::{AlignedBytes, Storage};
use crate::{Compute, Device, Result, Tensor};

impl Tensor {
    /// The same matrix with its rows interleaved in groups of sixteen, in memory of its own: what
    /// products read fastest. Same type, same numbers, same size (rows rounded up to a multiple of
    /// 16). `None` if its type or shape does not allow it, or it lies on another device.
    ///
    /// # Errors
    /// The kernel's own.
    pub fn interleaved(&self, compute: &Compute) -> Result<Option<Tensor>> {
        let fits = self.shape().dims().len() == 2
            && self.dtype().is_quantized()
            && matmul::can_interleave(self.dtype(), self.cols());
        if !fits || self.is_interleaved() || self.device() != Device::Cpu {
            return Ok(None);
        }
        let len = matmul::interleaved_bytes(self.dtype(), self.rows(), self.cols())?;
        let mut bytes = AlignedBytes::zeroed(len);
        matmul::interleave(compute.pool(), &self.weight()?, bytes.bytes_mut())?;
        if let Storage::Mapped(file) = self.storage() {
            // The file's pages are not needed in memory any more.
            file.release(self.range());
        }
        Ok(Some(self.with_storage(Storage::Interleaved(Arc::new(bytes)))))
    }

    /// Whether its rows are interleaved: then it can be multiplied by and its rows be looked up, but
    /// has no bytes to show.
    pub fn is_interleaved(&self) -> bool {
        matches!(self.storage(), Storage::Interleaved(_))
    }

    /// This matrix as the kernels take it.
    pub(crate) fn weight(&self) -> Result<Weight<'_>> {
        let (bytes, layout) = match self.storage() {
            Storage::Interleaved(bytes) => (bytes.bytes(), Layout::Interleaved),
            _ => (self.bytes()?, Layout::Rows),
        };
        Ok(Weight { dtype: self.dtype(), rows: self.rows(), cols: self.cols(), bytes, layout })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::DType;

    #[test]
    fn products_and_rows_are_the_same() {
        let compute = Compute::cpu().with_threads(2);
        let numbers: Vec<f32> = (0..21 * 64).map(|i| (i as f32 * 0.37).sin()).collect();
        let rows = Tensor::from_vec([21, 64], numbers).unwrap().to_dtype(DType::Q8_0).unwrap();
        let packed = rows.interleaved(&compute).unwrap().unwrap();
        let x = Tensor::from_vec([2, 64], (0..128).map(|i| i as f32 * 0.01).collect()).unwrap();
        let (a, b) = (compute.linear(&x, &rows, None), compute.linear(&x, &packed, None));
        assert_eq!(a.unwrap().as_f32().unwrap(), b.unwrap().as_f32().unwrap());
        assert_eq!(
            rows.to_f32().unwrap().as_f32().unwrap(),
            packed.to_f32().unwrap().as_f32().unwrap()
        );
        let ids = [20, 3];
        let (a, b) = (compute.embedding(&rows, &ids), compute.embedding(&packed, &ids));
        assert_eq!(a.unwrap().as_f32().unwrap(), b.unwrap().as_f32().unwrap());
        assert!(packed.bytes().is_err() && packed.slice_rows(0..16).is_err());
        assert!(packed.interleaved(&compute).unwrap().is_none());
        assert!(x.interleaved(&compute).unwrap().is_none());
    }
}
