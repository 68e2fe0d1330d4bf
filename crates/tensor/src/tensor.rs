use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use blocks::DType;
use files::MappedFile;
use ndarray::{ArrayView2, ArrayViewD, IxDyn};

use crate::buffers::{Buffer, Buffers};
use crate::storage::{AlignedBytes, Storage};
use crate::{Device, Error, Result, Shape};

/// A row-major array of elements of one [`DType`].
///
/// Clones and row ranges share the storage; nothing is copied until it is written. Blocks run along
/// the last dimension, whose length must be a multiple of [`DType::block_len`].
#[derive(Clone)]
pub struct Tensor {
    dtype: DType,
    shape: Shape,
    storage: Storage,
    /// The bytes of the storage that are this tensor's.
    range: Range<usize>,
}

impl Tensor {
    /// An `f32` tensor of these elements.
    ///
    /// # Errors
    /// [`Error::Bytes`] if their number is not that of the shape.
    pub fn from_vec(shape: impl Into<Shape>, elements: Vec<f32>) -> Result<Self> {
        let shape = shape.into();
        let range = checked_range(DType::F32, &shape, 0..elements.len() * 4)?;
        Ok(Self { dtype: DType::F32, shape, storage: Storage::F32(Buffer::new(elements)), range })
    }

    /// An `f32` matrix of any content in memory of `buffers`, for an operation that writes all of
    /// it.
    pub(crate) fn unwritten(buffers: &Arc<Buffers>, [rows, cols]: [usize; 2]) -> Self {
        let (buffer, range) = buffers.take(rows * cols);
        Self {
            dtype: DType::F32,
            shape: Shape::from([rows, cols]),
            storage: Storage::F32(buffer),
            range: range.start * 4..range.end * 4,
        }
    }

    /// A tensor of any type that copies its bytes, little-endian elements or blocks.
    ///
    /// # Errors
    /// [`Error::Bytes`] if their number is not that of type and shape.
    pub fn from_bytes(dtype: DType, shape: impl Into<Shape>, bytes: &[u8]) -> Result<Self> {
        let shape = shape.into();
        let range = checked_range(dtype, &shape, 0..bytes.len())?;
        let storage = Storage::Bytes(Arc::new(AlignedBytes::copy_of(bytes)));
        Ok(Self { dtype, shape, storage, range })
    }

    /// A tensor whose bytes are a part of a mapped file; nothing is read.
    ///
    /// # Errors
    /// [`Error::Bytes`] if the range is not within the file or its length not that of the tensor.
    pub fn mapped(
        dtype: DType,
        shape: impl Into<Shape>,
        file: MappedFile,
        range: Range<usize>,
    ) -> Result<Self> {
        let shape = shape.into();
        if range.end > file.len() {
            return Err(Error::Bytes { dtype, shape, bytes: file.len() });
        }
        let range = checked_range(dtype, &shape, range)?;
        Ok(Self { dtype, shape, storage: Storage::Mapped(file), range })
    }

    /// An `f32` tensor of zeros.
    ///
    /// # Errors
    /// [`Error::Bytes`] if the size overflows.
    pub fn zeros(shape: impl Into<Shape>) -> Result<Self> {
        let shape = shape.into();
        match shape.elements() {
            Some(n) => Self::from_vec(shape, vec![0.0; n]),
            None => Err(Error::Bytes { dtype: DType::F32, shape, bytes: 0 }),
        }
    }

    /// How its elements are stored.
    pub fn dtype(&self) -> DType {
        self.dtype
    }

    /// The lengths of its dimensions, outermost first.
    pub fn shape(&self) -> &Shape {
        &self.shape
    }

    /// The product of all dimensions but the last.
    pub fn rows(&self) -> usize {
        self.shape.rows()
    }

    /// The length of the last dimension.
    pub fn cols(&self) -> usize {
        self.shape.cols()
    }

    /// How many bytes its elements take.
    pub fn byte_len(&self) -> usize {
        self.range.len()
    }

    /// Where it lies.
    pub fn device(&self) -> Device {
        match &self.storage {
            #[cfg(feature = "cuda")]
            Storage::Cuda(b) | Storage::Rounded(b, _) => crate::device::cuda::device_of(b),
            _ => Device::Cpu,
        }
    }

    /// Its bytes, little-endian elements or blocks.
    ///
    /// # Errors
    /// [`Error::WrongDevice`] if it is not in this machine's memory, [`Error::Interleaved`] if its
    /// rows do not lie one after the other.
    pub fn bytes(&self) -> Result<&[u8]> {
        self.storage.host(&self.range).ok_or_else(|| match self.device() {
            Device::Cpu => Error::Interleaved { op: "bytes" },
            got => Error::WrongDevice { op: "bytes", expected: Device::Cpu, got },
        })
    }

    pub(crate) fn storage(&self) -> &Storage {
        &self.storage
    }

    /// The bytes of the storage that are its own.
    pub(crate) fn range(&self) -> Range<usize> {
        self.range.clone()
    }

    /// The same tensor with its bytes elsewhere.
    pub(crate) fn with_storage(&self, storage: Storage) -> Self {
        Self { storage, range: 0..self.range.len(), ..self.clone() }
    }

    /// Its elements, without copying.
    ///
    /// # Errors
    /// [`Error::UnexpectedDType`] if they are not `f32` (or lie unaligned in a mapped file, which
    /// [`Tensor::to_f32`] handles), [`Error::WrongDevice`] if they are not in memory.
    pub fn as_f32(&self) -> Result<&[f32]> {
        let unexpected =
            || Error::UnexpectedDType { op: "as_f32", expected: DType::F32, got: self.dtype };
        if self.dtype != DType::F32 {
            return Err(unexpected());
        }
        bytemuck::try_cast_slice(self.bytes()?).map_err(|_| unexpected())
    }

    /// Its elements for writing; copied first if they are shared or not this tensor's own.
    ///
    /// # Errors
    /// As [`Tensor::as_f32`].
    pub fn as_f32_mut(&mut self) -> Result<&mut [f32]> {
        if self.dtype != DType::F32 {
            return Err(Error::UnexpectedDType {
                op: "as_f32_mut",
                expected: DType::F32,
                got: self.dtype,
            });
        }
        let own = match &mut self.storage {
            Storage::F32(b) => b.elements_mut().is_some(),
            _ => false,
        };
        if !own {
            *self = Tensor::from_vec(self.shape.clone(), self.decoded()?)?;
        }
        let range = self.range.start / 4..self.range.end / 4;
        let elements = match &mut self.storage {
            Storage::F32(b) => b.elements_mut(),
            _ => None,
        };
        Ok(&mut elements.expect("made an owned f32 tensor just above")[range])
    }

    /// Its elements as a vector; not copied if they are this tensor's own and it was made of a
    /// vector.
    ///
    /// # Errors
    /// As [`Tensor::to_f32`].
    pub fn into_vec(self) -> Result<Vec<f32>> {
        let whole = match &self.storage {
            Storage::F32(b) => self.range == (0..b.elements().len() * 4),
            _ => false,
        };
        match self.storage {
            Storage::F32(b) if whole => Ok(b.into_elements()),
            _ => self.decoded(),
        }
    }

    /// The same elements as `f32`, decoded if they are of another type.
    ///
    /// # Errors
    /// [`Error::Block`] for a type that does not decode to numbers, [`Error::WrongDevice`] if they
    /// are not in memory.
    pub fn to_f32(&self) -> Result<Tensor> {
        if self.as_f32().is_ok() {
            return Ok(self.clone());
        }
        Tensor::from_vec(self.shape.clone(), self.decoded()?)
    }

    fn decoded(&self) -> Result<Vec<f32>> {
        let mut out = vec![0.0; self.shape.elements().unwrap_or(0)];
        if self.is_interleaved() {
            let ids: Vec<u32> = (0..self.rows() as u32).collect();
            let pool = cpu_kernels::ThreadPool::global();
            cpu_kernels::embed::gather(pool, &self.weight()?, &ids, &mut out)?;
            return Ok(out);
        }
        cpu_kernels::codec::decode(self.dtype, self.bytes()?, &mut out)?;
        Ok(out)
    }

    /// The same elements as plain numbers or blocks of another type, made where the tensor lies. A GPU makes the bytes
    /// that the processor makes, of finite elements; see [`Device::can_encode`].
    ///
    /// # Errors
    /// [`Error::Block`] if the device cannot encode `dtype` ([`Device::can_encode`]) or, of the processor, an element, and
    /// [`Error::Bytes`] if its blocks do not divide a row.
    pub fn to_dtype(&self, dtype: DType) -> Result<Tensor> {
        if dtype == self.dtype {
            return Ok(self.clone());
        }
        let len = match self.cols().is_multiple_of(dtype.block_len()) {
            true => self.shape.elements().and_then(|n| dtype.bytes_for(n)),
            false => None,
        };
        let len = len.ok_or(Error::Bytes { dtype, shape: self.shape.clone(), bytes: 0 })?;
        #[cfg(feature = "cuda")]
        if self.device() != Device::Cpu {
            return crate::ops::cuda::to_dtype(self, dtype, len);
        }
        let source = self.to_f32()?;
        let elements = source.as_f32()?;
        let mut bytes = AlignedBytes::zeroed(len);
        cpu_kernels::codec::encode(dtype, elements, self.cols(), None, bytes.bytes_mut())?;
        let storage = Storage::Bytes(Arc::new(bytes));
        Ok(Tensor { dtype, shape: self.shape.clone(), storage, range: 0..len })
    }

    /// The same elements under another shape of as many.
    ///
    /// # Errors
    /// [`Error::Bytes`] if the numbers differ or blocks would straddle rows.
    pub fn reshape(&self, shape: impl Into<Shape>) -> Result<Tensor> {
        let shape = shape.into();
        checked_range(self.dtype, &shape, self.range.clone())?;
        Ok(Tensor { shape, ..self.clone() })
    }

    /// Rows `rows` of a matrix, sharing the storage: `[rows.len(), cols]`.
    ///
    /// # Errors
    /// [`Error::Index`] if there are fewer rows.
    pub fn slice_rows(&self, rows: Range<usize>) -> Result<Tensor> {
        let (have, cols) = (self.rows(), self.cols());
        if rows.end > have || rows.start > rows.end {
            return Err(Error::Index { op: "slice_rows", index: rows.end, len: have });
        }
        if self.is_interleaved() {
            return Err(Error::Interleaved { op: "slice_rows" });
        }
        let row_bytes = self.range.len().checked_div(have).unwrap_or(0);
        let start = self.range.start + rows.start * row_bytes;
        Ok(Tensor {
            dtype: self.dtype,
            shape: Shape::from([rows.len(), cols]),
            storage: self.storage.clone(),
            range: start..start + rows.len() * row_bytes,
        })
    }

    /// Its elements as an ndarray view of the same shape.
    ///
    /// # Errors
    /// As [`Tensor::as_f32`].
    pub fn view(&self) -> Result<ArrayViewD<'_, f32>> {
        let view = ArrayViewD::from_shape(IxDyn(self.shape.dims()), self.as_f32()?);
        Ok(view.expect("the number of elements is that of the shape"))
    }

    /// Its elements as an ndarray matrix `[rows, cols]`.
    ///
    /// # Errors
    /// As [`Tensor::as_f32`].
    pub fn matrix(&self) -> Result<ArrayView2<'_, f32>> {
        let view = ArrayView2::from_shape((self.rows(), self.cols()), self.as_f32()?);
        Ok(view.expect("the number of elements is that of the shape"))
    }

    /// The same tensor on `device`; shares the storage if it is there already.
    ///
    /// # Errors
    /// [`Error::DeviceUnavailable`] if the device is not there or a copy fails.
    pub fn to_device(&self, device: &Device) -> Result<Tensor> {
        if self.device() == *device {
            return Ok(self.clone());
        }
        #[cfg(feature = "cuda")]
        {
            let storage = match (&self.storage, device) {
                (Storage::Cuda(_) | Storage::Rounded(..), Device::Cpu)
                    if self.dtype == DType::F32 =>
                {
                    // Nothing is not waited for.
                    let empty = self.byte_len() == 0;
                    let elements = if empty { Vec::new() } else { self.buffer()?.download()? };
                    Storage::F32(Buffer::new(elements))
                }
                (Storage::Cuda(_) | Storage::Rounded(..), Device::Cpu) => {
                    let bytes: Vec<u8> = self.buffer()?.download()?;
                    Storage::Bytes(Arc::new(AlignedBytes::copy_of(&bytes)))
                }
                (Storage::Cuda(_) | Storage::Rounded(..), &Device::Cuda(ordinal)) => {
                    let bytes: Vec<u8> = self.buffer()?.download()?;
                    Storage::Cuda(crate::device::cuda::gpu(ordinal)?.upload(&bytes)?)
                }
                (_, &Device::Cuda(ordinal)) => {
                    Storage::Cuda(crate::device::cuda::gpu(ordinal)?.upload(self.bytes()?)?)
                }
                (_, Device::Cpu) => unreachable!("it is on another device"),
            };
            let range = 0..self.range.len();
            Ok(Tensor { dtype: self.dtype, shape: self.shape.clone(), storage, range })
        }
        #[cfg(not(feature = "cuda"))]
        Err(crate::device::unavailable(device))
    }
}

#[cfg(feature = "cuda")]
impl Tensor {
    /// An `f32` tensor of a buffer's bytes.
    pub(crate) fn on_gpu(
        shape: impl Into<Shape>,
        buffer: crate::device::cuda::Buffer,
    ) -> Result<Self> {
        Self::on_gpu_as(DType::F32, shape.into(), buffer)
    }

    /// A tensor of this type of a buffer's bytes.
    pub(crate) fn on_gpu_as(
        dtype: DType,
        shape: Shape,
        buffer: crate::device::cuda::Buffer,
    ) -> Result<Self> {
        let range = checked_range(dtype, &shape, 0..buffer.len())?;
        Ok(Self { dtype, shape, storage: Storage::Cuda(buffer), range })
    }

    /// Its bytes on a GPU.
    pub(crate) fn buffer(&self) -> Result<crate::device::cuda::Buffer> {
        match &self.storage {
            Storage::Cuda(buffer) | Storage::Rounded(buffer, _) => {
                Ok(buffer.slice(self.range.clone()))
            }
            _ => Err(Error::WrongDevice {
                op: "buffer",
                expected: Device::Cuda(0),
                got: Device::Cpu,
            }),
        }
    }

    /// Whether nobody else holds its memory on a GPU.
    pub(crate) fn is_unique_on_gpu(&self) -> bool {
        match &self.storage {
            Storage::Cuda(buffer) | Storage::Rounded(buffer, _) => buffer.is_unique(),
            _ => false,
        }
    }

    /// The same on a GPU with bytes and scales of all its elements.
    pub(crate) fn with_rounded(mut self, rounded: [crate::device::cuda::Buffer; 2]) -> Self {
        self = self.without_rounded();
        if let Storage::Cuda(buffer) = self.storage {
            self.storage = Storage::Rounded(buffer, rounded);
        }
        self
    }

    /// The same without them: what is written next is other elements.
    pub(crate) fn without_rounded(mut self) -> Self {
        if let Storage::Rounded(buffer, _) = self.storage {
            self.storage = Storage::Cuda(buffer);
        }
        self
    }

    /// Its bytes and scales, if it has them; parts of a tensor do not.
    pub(crate) fn rounded(&self) -> Option<&[crate::device::cuda::Buffer; 2]> {
        match &self.storage {
            Storage::Rounded(buffer, rounded) if self.range == (0..buffer.len()) => Some(rounded),
            _ => None,
        }
    }
}

/// `range`, if it has as many bytes as a tensor of this type and shape.
fn checked_range(dtype: DType, shape: &Shape, range: Range<usize>) -> Result<Range<usize>> {
    let bytes = match shape.cols().is_multiple_of(dtype.block_len()) {
        true => shape.elements().and_then(|n| dtype.bytes_for(n)),
        false => None,
    };
    match bytes {
        Some(n) if n == range.len() => Ok(range),
        _ => Err(Error::Bytes { dtype, shape: shape.clone(), bytes: range.len() }),
    }
}

impl fmt::Debug for Tensor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Tensor({} {} on {})", self.dtype, self.shape, self.device())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_share_storage_and_writing_copies() {
        let t = Tensor::from_vec([3, 2], (0..6).map(|i| i as f32).collect()).unwrap();
        let mut r = t.slice_rows(1..3).unwrap();
        assert_eq!(r.as_f32().unwrap(), [2.0, 3.0, 4.0, 5.0]);
        r.as_f32_mut().unwrap()[0] = 9.0;
        assert_eq!(r.as_f32().unwrap(), [9.0, 3.0, 4.0, 5.0]);
        assert_eq!(t.as_f32().unwrap()[2], 2.0);
        assert_eq!(t.slice_rows(1..2).unwrap().into_vec().unwrap(), [2.0, 3.0]);
        assert!(t.slice_rows(2..4).is_err());
    }

    #[test]
    fn sizes_are_checked() {
        assert!(Tensor::from_vec([2, 2], vec![0.0; 3]).is_err());
        assert!(
            Tensor::from_bytes(DType::Q4_0, [2, 16], &[0; 18]).is_err(),
            "blocks straddle rows"
        );
        assert!(Tensor::zeros([usize::MAX, 2]).is_err());
        assert!(Tensor::from_bytes(DType::Q4_0, [2, 32], &[0; 36]).is_ok());
    }

    #[test]
    fn other_types_decode() {
        let t = Tensor::from_vec([1, 32], (0..32).map(|i| i as f32 / 32.0).collect()).unwrap();
        let half = t.to_dtype(DType::F16).unwrap();
        assert_eq!(half.byte_len(), 64);
        assert_eq!(half.to_f32().unwrap().as_f32().unwrap(), t.as_f32().unwrap());
        assert!(t.to_dtype(DType::Q4_K).is_err());
    }
}
