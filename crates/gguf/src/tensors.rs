//! The tensor table: names, shapes, types, and where the data lie.

use std::ops::Range;

use blocks::DType;

use crate::Error;
use crate::index::NameIndex;

/// A tensor's line in the table.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct TensorInfo {
    /// The name, `blk.0.attn_q.weight` for example.
    pub name: String,
    /// Dimensions in row-major order, outermost first: `ne` of GGML, reversed. A row, the last
    /// dimension, is contiguous and a whole number of blocks. Empty for a scalar.
    pub shape: Vec<usize>,
    /// The type of the elements.
    pub dtype: DType,
    /// Where the data begin, in bytes from the start of the data section of its part.
    pub offset: u64,
    /// Which file of a split model holds it, from 0.
    pub part: usize,
    /// Bytes of the data.
    pub size: usize,
    /// Where the data begin, in bytes from the start of the file.
    pub(crate) start: usize,
}

impl TensorInfo {
    /// A tensor not yet placed in a file.
    pub(crate) fn new(
        name: String,
        shape: Vec<usize>,
        dtype: DType,
        offset: u64,
    ) -> Result<Self, Error> {
        let row = shape.last().copied().unwrap_or(1);
        let elements = shape.iter().try_fold(1usize, |n, &d| n.checked_mul(d));
        // GGML counts elements in an i64.
        let Some(elements) = elements.filter(|&n| i64::try_from(n).is_ok()) else {
            return Err(Error::SizeOverflow { tensor: name });
        };
        if !row.is_multiple_of(dtype.block_len()) {
            return Err(Error::PartialBlock { tensor: name, row, dtype });
        }
        let Some(size) = dtype.bytes_for(elements) else {
            return Err(Error::SizeOverflow { tensor: name });
        };
        Ok(Self { name, shape, dtype, offset, part: 0, size, start: 0 })
    }

    /// The number of elements.
    pub fn elements(&self) -> usize {
        self.shape.iter().product()
    }

    /// Elements a row: the last dimension, 1 for a scalar.
    pub fn row_len(&self) -> usize {
        self.shape.last().copied().unwrap_or(1)
    }

    /// The bytes of its file that hold the data.
    pub fn range(&self) -> Range<usize> {
        self.start..self.start + self.size
    }
}

/// Checks names, offsets, ends and overlaps, and sets where each tensor's data begin.
pub(crate) fn place(
    tensors: &mut [TensorInfo],
    file_len: usize,
    data_offset: usize,
    alignment: usize,
) -> Result<(), Error> {
    let available = file_len.saturating_sub(data_offset);
    for t in &mut *tensors {
        if !t.offset.is_multiple_of(alignment as u64) {
            return Err(Error::Misaligned { tensor: t.name.clone(), offset: t.offset, alignment });
        }
        let end = usize::try_from(t.offset).ok().and_then(|o| o.checked_add(t.size));
        if end.is_none_or(|end| end > available) {
            let (tensor, offset, size) = (t.name.clone(), t.offset, t.size);
            return Err(Error::OutOfBounds { tensor, offset, size, available });
        }
        t.start = data_offset + t.offset as usize;
    }
    index(tensors)?;

    // GGML's tools write tensors in order without gaps; others need not, so only overlaps are wrong.
    let mut order: Vec<u32> = (0..tensors.len() as u32).collect();
    order.sort_unstable_by_key(|&i| tensors[i as usize].start);
    for pair in order.windows(2) {
        let (first, second) = (&tensors[pair[0] as usize], &tensors[pair[1] as usize]);
        if first.range().end > second.start {
            let (first, second) = (first.name.clone(), second.name.clone());
            return Err(Error::Overlap { first, second });
        }
    }
    Ok(())
}

/// Where each name stands; an error if one stands twice.
pub(crate) fn index(tensors: &[TensorInfo]) -> Result<NameIndex, Error> {
    let mut index = NameIndex::default();
    for (i, t) in tensors.iter().enumerate() {
        if !index.insert(&t.name, i, |j| &tensors[j].name) {
            return Err(Error::DuplicateTensor { tensor: t.name.clone() });
        }
    }
    Ok(index)
}
