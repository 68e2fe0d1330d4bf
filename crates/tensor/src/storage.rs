use std::ops::Range;
use std::sync::Arc;

use files::{LargeMemory, MappedFile};

use crate::buffers::Buffer;

/// Where the bytes of a tensor lie. Clones share them.
#[derive(Clone, Debug)]
pub(crate) enum Storage {
    /// `f32` elements of our own; the bytes begin at one of them.
    F32(Buffer),
    /// Bytes of our own, aligned for every plain element type.
    Bytes(Arc<AlignedBytes>),
    /// A part of a mapped file.
    Mapped(MappedFile),
    /// A matrix whose rows are interleaved, in this range: no bytes in the order of its elements.
    Interleaved(InterleavedBytes, Range<usize>),
    /// A buffer on a GPU.
    #[cfg(feature = "cuda")]
    Cuda(crate::device::cuda::Buffer),
    /// Activations on a GPU: `f32`, and the same as bytes with their scales, as products with blocks take them.
    #[cfg(feature = "cuda")]
    Rounded(crate::device::cuda::Buffer, [crate::device::cuda::Buffer; 2]),
}

impl Storage {
    /// The bytes, if they lie in this machine's memory.
    pub(crate) fn host(&self, range: &Range<usize>) -> Option<&[u8]> {
        match self {
            Storage::F32(b) => Some(&bytemuck::cast_slice(b.elements())[range.clone()]),
            Storage::Bytes(b) => Some(&b.bytes()[range.clone()]),
            Storage::Mapped(m) => Some(&m.bytes()[range.clone()]),
            Storage::Interleaved(..) => None,
            #[cfg(feature = "cuda")]
            Storage::Cuda(_) | Storage::Rounded(..) => None,
        }
    }
}

/// Where the interleaved rows of matrices lie. Clones share them.
#[derive(Clone, Debug)]
pub enum InterleavedBytes {
    /// Memory of the process's own.
    Memory(Arc<LargeMemory>),
    /// A file that was written with them.
    File(MappedFile),
}

impl InterleavedBytes {
    pub(crate) fn bytes(&self) -> &[u8] {
        match self {
            InterleavedBytes::Memory(memory) => memory.bytes(),
            InterleavedBytes::File(file) => file.bytes(),
        }
    }
}

/// Bytes that begin at a cache line.
#[derive(Debug)]
pub(crate) struct AlignedBytes {
    /// Plain words, whose zeros the system gives without writing them.
    words: Vec<u64>,
    /// Words before the first byte.
    skip: usize,
    len: usize,
}

impl AlignedBytes {
    pub(crate) fn zeroed(len: usize) -> Self {
        const LINE: usize = 64;
        let words = vec![0u64; len.div_ceil(8) + LINE / 8];
        let skip = words.as_ptr().align_offset(LINE).min(LINE / 8);
        Self { words, skip, len }
    }

    pub(crate) fn copy_of(bytes: &[u8]) -> Self {
        let mut b = Self::zeroed(bytes.len());
        b.bytes_mut().copy_from_slice(bytes);
        b
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        &bytemuck::cast_slice(&self.words[self.skip..])[..self.len]
    }

    pub(crate) fn bytes_mut(&mut self) -> &mut [u8] {
        &mut bytemuck::cast_slice_mut(&mut self.words[self.skip..])[..self.len]
    }
}
