//! Matrices repacked for the kernels: sixteen rows interleaved by words.

use std::ops::Range;
use std::sync::Arc;

use cpu_kernels::matmul::{self, Layout, Weight};
use files::LargeMemory;

use crate::storage::{InterleavedBytes, Storage};
use crate::{Compute, DType, Device, Error, Result, Tensor};

pub use cpu_kernels::matmul::INTERLEAVED_VERSION as VERSION;

/// Writes the interleaved forms of `weights` to `out`, one right after the other, each
/// [`Tensor::interleaved_len`] long. The pages of mapped files that they were read from are given
/// back.
///
/// # Errors
/// [`Error::Interleaved`] if one of them has no such form, and the kernel's own.
pub fn interleave_all(compute: &Compute, weights: &[Tensor], out: &mut [u8]) -> Result<()> {
    if weights.iter().any(|w| w.interleaved_len().is_none()) {
        return Err(Error::Interleaved { op: "interleave_all" });
    }
    let sources: Vec<Weight<'_>> = weights.iter().map(Tensor::weight).collect::<Result<_>>()?;
    matmul::interleave_all(compute.pool(), &sources, out)?;
    weights.iter().for_each(Tensor::release);
    Ok(())
}

impl Compute {
    /// Whether products with weights of this type, as this makes them, are faster if they are interleaved.
    pub fn gains_from_interleaving(&self, dtype: DType) -> bool {
        matmul::gains_from_interleaving(self.isa(), self.activations(), dtype)
    }
}

impl Tensor {
    /// Bytes of its [`interleaved`](Tensor::interleaved) form, a multiple of 64. `None` if its type
    /// or shape does not allow it, it has it already, or it lies on another device.
    pub fn interleaved_len(&self) -> Option<usize> {
        let fits = self.shape().dims().len() == 2
            && (self.dtype().is_quantized() || self.dtype() == DType::BF16)
            && matmul::can_interleave(self.dtype(), self.cols())
            && !self.is_interleaved()
            && self.device() == Device::Cpu;
        let len = || matmul::interleaved_bytes(self.dtype(), self.rows(), self.cols()).ok();
        if fits { len() } else { None }
    }

    /// The same matrix with its rows interleaved in groups of sixteen, in memory of its own: what
    /// products read fastest. Same type, same numbers, same size (rows rounded up to a multiple of
    /// 16). `None` if there is no [`interleaved_len`](Tensor::interleaved_len).
    ///
    /// # Errors
    /// [`Error::Memory`] if there is none, and the kernel's own.
    pub fn interleaved(&self, compute: &Compute) -> Result<Option<Tensor>> {
        let Some(len) = self.interleaved_len() else { return Ok(None) };
        let memory = LargeMemory::zeroed(len).map_err(|error| Error::Memory { len, error });
        let mut memory = memory?;
        interleave_all(compute, std::slice::from_ref(self), memory.bytes_mut())?;
        self.with_interleaved(InterleavedBytes::Memory(Arc::new(memory)), 0..len).map(Some)
    }

    /// The same matrix, whose interleaved form was written to `range` of `bytes`. What the bytes say
    /// is not looked at.
    ///
    /// # Errors
    /// [`Error::Bytes`] if the range is not within them, does not begin at a multiple of 64 or its
    /// length is not [`interleaved_len`](Tensor::interleaved_len).
    pub fn with_interleaved(&self, bytes: InterleavedBytes, range: Range<usize>) -> Result<Tensor> {
        let fits = bytes.bytes().get(range.clone()).is_some_and(|part| {
            part.as_ptr().align_offset(64) == 0 && Some(part.len()) == self.interleaved_len()
        });
        if !fits {
            let (dtype, shape) = (self.dtype(), self.shape().clone());
            return Err(Error::Bytes { dtype, shape, bytes: range.len() });
        }
        Ok(self.with_storage(Storage::Interleaved(bytes, range)))
    }

    /// Gives back the memory of the pages that it is mapped from; they come back from the file when
    /// they are looked at. A tensor that is not mapped stays as it is.
    fn release(&self) {
        if let Storage::Mapped(file) = self.storage() {
            file.release(self.range());
        }
    }

    /// Whether its rows are interleaved: then it can be multiplied by and its rows be looked up, but
    /// has no bytes to show.
    pub fn is_interleaved(&self) -> bool {
        matches!(self.storage(), Storage::Interleaved(..))
    }

    /// This matrix as the kernels take it.
    pub(crate) fn weight(&self) -> Result<Weight<'_>> {
        let (bytes, layout) = match self.storage() {
            Storage::Interleaved(bytes, range) => {
                (&bytes.bytes()[range.clone()], Layout::Interleaved)
            }
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
        for dtype in [DType::Q8_0, DType::BF16] {
            products_and_rows_of(dtype, &compute);
        }
    }

    fn products_and_rows_of(dtype: DType, compute: &Compute) {
        let numbers: Vec<f32> = (0..21 * 64).map(|i| (i as f32 * 0.37).sin()).collect();
        let rows = Tensor::from_vec([21, 64], numbers).unwrap().to_dtype(dtype).unwrap();
        let packed = rows.interleaved(compute).unwrap().unwrap();
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
        assert!(packed.interleaved(compute).unwrap().is_none());
        assert!(x.interleaved(compute).unwrap().is_none());
    }

    #[test]
    fn where_the_rows_lie_is_checked() {
        let weight = Tensor::from_bytes(DType::Q8_0, [16, 64], &[1; 16 * 68]).unwrap();
        let len = weight.interleaved_len().unwrap();
        let bytes = InterleavedBytes::Memory(Arc::new(LargeMemory::zeroed(len + 128).unwrap()));
        let at = |range: Range<usize>| weight.with_interleaved(bytes.clone(), range);
        assert!(at(64..64 + len).unwrap().is_interleaved());
        for range in [0..len - 1, 0..len + 64, 4..len + 4, 192..len + 192] {
            assert!(matches!(at(range), Err(Error::Bytes { .. })));
        }
        let packed = at(0..len).unwrap();
        assert!(packed.with_interleaved(bytes.clone(), 0..len).is_err());
        let compute = Compute::cpu().with_threads(1);
        assert!(interleave_all(&compute, &[packed], &mut vec![0; len]).is_err());
    }
}
