//! Keys and values on their way into a cache.
//!
//! Queries and keys are turned by the angles of their positions, and keys and values are written as
//! the cache stores them, in one pass over the rows while they are in the first-level cache.

use crate::matmul::DisjointMut;
use crate::rope::Rotation;
use crate::{Isa, ThreadPool, elementwise};
use blocks::{BlockError, DType};
use std::sync::{Mutex, PoisonError};

/// Memory of consecutive positions of one sequence in one layer.
#[derive(Debug)]
pub struct KvRunMut<'a> {
    /// `[len, n_kv_heads * head_dim]` in the type of the cache.
    pub keys: &'a mut [u8],
    /// As the keys.
    pub values: &'a mut [u8],
    /// Positions.
    pub len: usize,
}

/// What attention is given of some rows.
#[derive(Debug)]
pub struct KvRows<'a> {
    /// `[rows, n_heads * head_dim]`
    pub q: &'a mut [f32],
    /// `[rows, n_kv_heads * head_dim]`
    pub k: &'a mut [f32],
    /// As the keys.
    pub v: &'a [f32],
}

/// Turns the queries and keys of `run.len` rows in place, if there is a `rotation`, and writes keys
/// and values to `run` as elements of `dtype`.
///
/// # Errors
/// A type that is not encoded, a row that is no whole number of its blocks, `run` of another length
/// than the rows, or an infinity or NaN that the type cannot hold; some rows may be written then.
///
/// # Panics
/// If the rows or angles are not `run.len`.
pub fn turn_and_store(
    pool: &ThreadPool,
    isa: Isa,
    rotation: Option<&Rotation<'_>>,
    KvRows { q, k, v }: KvRows<'_>,
    dtype: DType,
    run: KvRunMut<'_>,
) -> Result<(), BlockError> {
    let n = run.len;
    if n == 0 {
        return Ok(());
    }
    let (q_width, width) = (q.len() / n, k.len() / n);
    assert!(q.len() == n * q_width && k.len() == n * width && v.len() == k.len(), "whole rows");
    if let Some(rotation) = rotation {
        rotation.check(n, q_width);
        rotation.check(n, width);
    }
    let slot = match dtype.bytes_for(width) {
        Some(slot) if run.keys.len() == n * slot && run.values.len() == n * slot => slot,
        Some(slot) => {
            let (elements, got) = (n * width, run.keys.len().min(run.values.len()));
            return Err(BlockError::ByteCount { dtype, elements, expected: n * slot, got });
        }
        None => return Err(BlockError::PartialBlock { dtype, elements: width }),
    };
    let (q, k) = (DisjointMut::new(q), DisjointMut::new(k));
    let (keys, values) = (DisjointMut::new(run.keys), DisjointMut::new(run.values));
    let failed = Mutex::new(None);
    // About ten times what handing out a chunk costs.
    let step = (elementwise::CHUNK / (q_width + 2 * width).max(1)).max(1);
    pool.run(n.div_ceil(step), |chunk| {
        let rows = chunk * step..n.min((chunk + 1) * step);
        let of = |width: usize| rows.start * width..rows.end * width;
        // SAFETY: rows are disjoint, and each belongs to one chunk.
        let (q, k) = unsafe { (q.slice_mut(of(q_width)), k.slice_mut(of(width))) };
        if let Some(rotation) = rotation {
            let rotation = rotation.of_rows(rows.clone());
            rotation.turn(isa, q, q_width);
            rotation.turn(isa, k, width);
        }
        // SAFETY: as above, a slot a row.
        let (keys, values) = unsafe { (keys.slice_mut(of(slot)), values.slice_mut(of(slot))) };
        let stored = blocks::encode_on(isa, dtype, k, width, None, keys)
            .and_then(|()| blocks::encode_on(isa, dtype, &v[of(width)], width, None, values));
        if let Err(error) = stored {
            *failed.lock().unwrap_or_else(PoisonError::into_inner) = Some(error);
        }
    });
    failed.into_inner().unwrap_or_else(PoisonError::into_inner).map_or(Ok(()), Err)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rope::{self, RopeLayout};

    const HEAD: usize = 32;

    fn noise(n: usize, seed: f32) -> Vec<f32> {
        (0..n).map(|i| (i as f32 * 0.37 + seed).sin() * 3.0).collect()
    }

    #[test]
    fn one_pass_is_the_rotation_and_then_the_encoding() {
        let n = 300; // several chunks
        let (cos, sin) = (noise(n * 8, 1.0), noise(n * 8, 2.0));
        let layout = RopeLayout::Half;
        let turn = Rotation { head_dim: HEAD, rotary_dim: 16, layout, cos: &cos, sin: &sin };
        let (q, k, v) =
            (noise(n * 4 * HEAD, 3.0), noise(n * 2 * HEAD, 4.0), noise(n * 2 * HEAD, 5.0));
        let pools = [(ThreadPool::new(1), Some(&turn)), (ThreadPool::new(3), None)];
        for (isa, (pool, rotation)) in
            Isa::supported().flat_map(|isa| pools.iter().map(move |pool| (isa, pool)))
        {
            let rotation = *rotation;
            for dtype in [DType::F32, DType::F16, DType::BF16, DType::Q8_0] {
                let (mut q_want, mut k_want) = (q.clone(), k.clone());
                if let Some(rotation) = rotation {
                    rope::apply(pool, isa, &mut q_want, 4 * HEAD, rotation);
                    rope::apply(pool, isa, &mut k_want, 2 * HEAD, rotation);
                }
                let bytes = |x: &[f32]| {
                    let mut out = vec![0; dtype.bytes_for(x.len()).unwrap()];
                    blocks::encode(dtype, x, 2 * HEAD, None, &mut out).unwrap();
                    out
                };
                let (keys_want, values_want) = (bytes(&k_want), bytes(&v));
                let (mut q, mut k) = (q.clone(), k.clone());
                let (mut keys, mut values) = (vec![1; keys_want.len()], vec![1; keys_want.len()]);
                let run = KvRunMut { keys: &mut keys, values: &mut values, len: n };
                let rows = KvRows { q: &mut q, k: &mut k, v: &v };
                turn_and_store(pool, isa, rotation, rows, dtype, run).unwrap();
                assert!((q, k) == (q_want, k_want), "{isa} {dtype}");
                assert!((keys, values) == (keys_want, values_want), "{isa} {dtype}");
            }
        }
    }

    #[test]
    fn what_a_type_cannot_hold_is_an_error() {
        let pool = ThreadPool::new(1);
        let (mut q, mut k) = ([0.0; HEAD], [f32::NAN; HEAD]);
        let (mut keys, mut values) = ([0; 34], [0; 34]);
        let rows = KvRows { q: &mut q, k: &mut k, v: &[0.0; HEAD] };
        let run = KvRunMut { keys: &mut keys, values: &mut values, len: 1 };
        let result = turn_and_store(&pool, Isa::active(), None, rows, DType::Q8_0, run);
        assert_eq!(result, Err(BlockError::NotFinite { dtype: DType::Q8_0, index: 0 }));
    }
}
