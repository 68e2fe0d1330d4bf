//! Memory for results, used again once nobody holds it.
//!
//! A step of a model makes some hundred tensors of a few sizes, each of which lives for a moment.
//! Fresh memory for them would be asked of the allocator, filled with zeros and, where it is
//! large, mapped page by page each time. So a [`Compute`](crate::Compute) keeps what its tensors
//! let go of, by sizes of powers of two: it holds at most about twice what its largest step used.

use std::fmt;
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};

/// Sizes: up to 2^39 elements.
const CLASSES: usize = 40;

/// Elements of a cache line, at whose beginning the elements of a buffer begin.
const LINE: usize = 16;

/// `f32` elements that tensors share. The last to let go gives them back where they came from.
#[derive(Clone)]
pub(crate) struct Buffer {
    /// `None` only while it is dropped.
    elements: Option<Arc<Vec<f32>>>,
    home: Option<Arc<Buffers>>,
}

/// Buffers that nobody uses.
pub(crate) struct Buffers {
    /// `free[c]` have `2^c` elements and what it takes to begin at a cache line.
    free: Mutex<[Vec<Arc<Vec<f32>>>; CLASSES]>,
}

impl Buffer {
    /// Elements that go back to the allocator.
    pub(crate) fn new(elements: Vec<f32>) -> Self {
        Self { elements: Some(Arc::new(elements)), home: None }
    }

    pub(crate) fn elements(&self) -> &[f32] {
        self.elements.as_ref().map_or(&[], |v| v)
    }

    /// The elements for writing, if nobody shares them.
    pub(crate) fn elements_mut(&mut self) -> Option<&mut [f32]> {
        Arc::get_mut(self.elements.as_mut()?).map(Vec::as_mut_slice)
    }

    /// The elements, copied only if they are shared.
    pub(crate) fn into_elements(mut self) -> Vec<f32> {
        let elements = self.elements.take().unwrap_or_default();
        Arc::try_unwrap(elements).unwrap_or_else(|shared| shared.to_vec())
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        // Where two holders let go at once neither may see itself alone; then it is freed.
        if let (Some(mut elements), Some(home)) = (self.elements.take(), &self.home)
            && Arc::get_mut(&mut elements).is_some()
        {
            home.give_back(elements);
        }
    }
}

impl Buffers {
    pub(crate) fn new() -> Self {
        Self { free: Mutex::new([const { Vec::new() }; CLASSES]) }
    }

    /// A buffer of at least `len` elements of any content, and where in it `len` elements begin at
    /// a cache line.
    pub(crate) fn take(self: &Arc<Self>, len: usize) -> (Buffer, Range<usize>) {
        let class = len.next_power_of_two().trailing_zeros() as usize;
        let mut free = self.free.lock().unwrap_or_else(PoisonError::into_inner);
        let used = free.get_mut(class).and_then(Vec::pop);
        drop(free);
        let mut elements = used.unwrap_or_else(|| Arc::new(vec![0.0; (1 << class) + LINE]));
        let start = elements.as_ptr().align_offset(LINE * size_of::<f32>()).min(LINE);
        let range = start..start + len;
        if cfg!(debug_assertions)
            && let Some(elements) = Arc::get_mut(&mut elements)
        {
            elements[range.clone()].fill(f32::NAN); // so that what is not written shows
        }
        (Buffer { elements: Some(elements), home: Some(Arc::clone(self)) }, range)
    }

    fn give_back(&self, elements: Arc<Vec<f32>>) {
        let class = (elements.len() - LINE).trailing_zeros() as usize;
        let mut free = self.free.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(free) = free.get_mut(class) {
            free.push(elements);
        }
    }
}

impl fmt::Debug for Buffer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Buffer({} elements)", self.elements().len())
    }
}

impl fmt::Debug for Buffers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Buffers")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_let_go_of_is_used_again() {
        let buffers = Arc::new(Buffers::new());
        let (a, range) = buffers.take(1000);
        assert_eq!(range.len(), 1000);
        let at = a.elements()[range.clone()].as_ptr();
        assert_eq!(at as usize % 64, 0);
        let shared = a.clone();
        drop(a);
        let (other, _) = buffers.take(1000);
        assert_ne!(other.elements().as_ptr(), shared.elements().as_ptr());
        drop(shared);
        let (again, range) = buffers.take(700); // the same power of two
        assert_eq!(again.elements()[range].as_ptr(), at);
    }

    #[test]
    fn every_size_has_room() {
        let buffers = Arc::new(Buffers::new());
        for len in [0, 1, 2, 15, 16, 17, 4096, 4097] {
            for _ in 0..2 {
                let (mut b, range) = buffers.take(len);
                assert_eq!(b.elements_mut().unwrap()[range].len(), len);
            }
        }
    }

    #[test]
    fn one_that_is_taken_out_does_not_come_back() {
        let buffers = Arc::new(Buffers::new());
        let (b, _) = buffers.take(8);
        let at = b.elements().as_ptr();
        let own = b.into_elements();
        assert_eq!(own.as_ptr(), at);
        assert_ne!(buffers.take(8).0.elements().as_ptr(), at);
    }
}
