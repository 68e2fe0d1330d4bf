use std::fmt;

/// The lengths of a tensor's dimensions, outermost first; the last one is contiguous in memory.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Shape(Dims);

/// As many dimensions as activations have, without an allocation; more of them on the heap.
#[derive(Clone, PartialEq, Eq, Hash)]
enum Dims {
    /// The first `len`; the others are 0.
    Few {
        len: u8,
        dims: [usize; FEW],
    },
    Many(Box<[usize]>),
}

const FEW: usize = 2;

impl Shape {
    /// The lengths, outermost first.
    pub fn dims(&self) -> &[usize] {
        match &self.0 {
            Dims::Few { len, dims } => &dims[..usize::from(*len)],
            Dims::Many(dims) => dims,
        }
    }

    /// How many elements; `None` if the product overflows.
    pub fn elements(&self) -> Option<usize> {
        self.dims().iter().try_fold(1usize, |n, &d| n.checked_mul(d))
    }

    /// The length of the last dimension (1 for a scalar).
    pub fn cols(&self) -> usize {
        self.dims().last().copied().unwrap_or(1)
    }

    /// The product of all dimensions but the last.
    pub fn rows(&self) -> usize {
        self.dims().split_last().map_or(1, |(_, outer)| outer.iter().product())
    }
}

impl<const N: usize> From<[usize; N]> for Shape {
    fn from(dims: [usize; N]) -> Self {
        Shape::from(&dims[..])
    }
}

impl From<&[usize]> for Shape {
    fn from(from: &[usize]) -> Self {
        let mut dims = [0; FEW];
        match dims.get_mut(..from.len()) {
            Some(first) => {
                first.copy_from_slice(from);
                Shape(Dims::Few { len: from.len() as u8, dims })
            }
            None => Shape(Dims::Many(from.into())),
        }
    }
}

impl From<Vec<usize>> for Shape {
    fn from(dims: Vec<usize>) -> Self {
        Shape::from(&dims[..])
    }
}

impl From<&Shape> for Shape {
    fn from(shape: &Shape) -> Self {
        shape.clone()
    }
}

impl fmt::Display for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self.dims(), f)
    }
}

impl fmt::Debug for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self.dims(), f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_number_of_dimensions() {
        for n in 0..7 {
            let dims: Vec<usize> = (2..2 + n).collect();
            let shape = Shape::from(&dims[..]);
            assert_eq!(shape.dims(), dims);
            assert_eq!(shape, Shape::from(dims.clone()));
            assert_eq!(shape.elements(), Some(dims.iter().product()));
            assert_eq!(shape.rows() * shape.cols(), dims.iter().product());
            assert_eq!(shape.to_string(), format!("{dims:?}"));
        }
        assert_ne!(Shape::from([2]), Shape::from([2, 0]));
    }
}
