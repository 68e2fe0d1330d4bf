//! Sums and products of two arrays, element by element.

use crate::matmul::DisjointMut;
use crate::simd::{LANES, Op, Simd, dispatch};
use crate::{Isa, ThreadPool};

/// Elements that a chunk of the pool's work has: about ten times what handing it out costs.
pub(crate) const CHUNK: usize = 16_384;

/// `x += y`.
///
/// # Panics
/// If lengths do not agree.
pub fn add(pool: &ThreadPool, isa: Isa, x: &mut [f32], y: &[f32]) {
    combine::<Add>(pool, isa, x, y);
}

/// `x *= y`.
///
/// # Panics
/// If lengths do not agree.
pub fn mul(pool: &ThreadPool, isa: Isa, x: &mut [f32], y: &[f32]) {
    combine::<Mul>(pool, isa, x, y);
}

/// What is done with two numbers.
trait Combine {
    fn lanes<S: Simd>(s: S, x: S::F, y: S::F) -> S::F;
}

struct Add;
struct Mul;

impl Combine for Add {
    #[inline(always)]
    fn lanes<S: Simd>(s: S, x: S::F, y: S::F) -> S::F {
        s.add(x, y)
    }
}

impl Combine for Mul {
    #[inline(always)]
    fn lanes<S: Simd>(s: S, x: S::F, y: S::F) -> S::F {
        s.mul(x, y)
    }
}

fn combine<C: Combine>(pool: &ThreadPool, isa: Isa, x: &mut [f32], y: &[f32]) {
    assert_eq!(x.len(), y.len(), "as many elements on both sides");
    let x = DisjointMut::new(x);
    pool.run(y.len().div_ceil(CHUNK), |i| {
        let range = i * CHUNK..y.len().min((i + 1) * CHUNK);
        // SAFETY: chunks are disjoint.
        let x = unsafe { x.slice_mut(range.clone()) };
        let what = std::marker::PhantomData::<C>;
        dispatch(isa, Combined { x, y: &y[range], what });
    });
}

struct Combined<'a, C> {
    x: &'a mut [f32],
    y: &'a [f32],
    what: std::marker::PhantomData<C>,
}

impl<C: Combine> Op for Combined<'_, C> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        combine_here::<S, C>(s, self.x, self.y);
    }
}

#[inline(always)]
fn combine_here<S: Simd, C: Combine>(s: S, x: &mut [f32], y: &[f32]) {
    let ((x, x_rest), (y, y_rest)) = (x.as_chunks_mut::<LANES>(), y.as_chunks::<LANES>());
    for (x, y) in x.iter_mut().zip(y) {
        s.store_f(C::lanes(s, s.load_f(x), s.load_f(y)), x);
    }
    let (mut a, mut b) = ([0.0; LANES], [0.0; LANES]);
    a[..x_rest.len()].copy_from_slice(x_rest);
    b[..y_rest.len()].copy_from_slice(y_rest);
    let last = C::lanes(s, s.load_f(&a), s.load_f(&b));
    s.store_f(last, &mut a);
    x_rest.copy_from_slice(&a[..x_rest.len()]);
}

/// `x += y` with the instructions of `s`.
#[inline(always)]
pub(crate) fn add_here<S: Simd>(s: S, x: &mut [f32], y: &[f32]) {
    combine_here::<S, Add>(s, x, y);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_element_on_every_path() {
        for n in [0, 1, 16, 37, CHUNK + 5] {
            let x: Vec<f32> = (0..n).map(|i| i as f32 * 0.5 - 7.0).collect();
            let y: Vec<f32> = (0..n).map(|i| 3.0 - i as f32).collect();
            for isa in Isa::supported() {
                let pool = ThreadPool::new(2);
                let (mut sum, mut product) = (x.clone(), x.clone());
                add(&pool, isa, &mut sum, &y);
                mul(&pool, isa, &mut product, &y);
                let exact = |i| sum[i] == x[i] + y[i] && product[i] == x[i] * y[i];
                assert!((0..n).all(exact), "{isa}");
            }
        }
    }
}
