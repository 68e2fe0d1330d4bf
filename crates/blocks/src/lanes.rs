//! Sixteen groups side by side: the shape of every search in [`fit`](crate::fit).
//!
//! `x[i][g]` is element i of group g. Within a group every sum runs in the order of the elements,
//! as in libggml, so that results are equal to the last bit; the compiler vectorises across groups.

/// Groups side by side: one AVX-512 register of f32.
pub(crate) const LANES: usize = 16;

/// A number of each group.
pub(crate) type Lane<T> = [T; LANES];

/// `N` numbers of each group.
pub(crate) type Lanes<T, const N: usize> = [Lane<T>; N];

/// Consecutive groups of `N`, at most [`LANES`], side by side; those that are missing repeat the
/// last.
#[inline(always)]
pub(crate) fn transpose<const N: usize>(x: &[f32]) -> Lanes<f32, N> {
    let groups = x.as_chunks::<N>().0;
    let mut out = [[0.0; LANES]; N];
    if let Some(groups) = groups.first_chunk::<LANES>() {
        for i in 0..N {
            for g in 0..LANES {
                out[i][g] = groups[g][i];
            }
        }
    } else {
        for g in 0..LANES {
            let group = &groups[g.min(groups.len() - 1)];
            for i in 0..N {
                out[i][g] = group[i];
            }
        }
    }
    out
}

/// `f` of each element, group by group.
#[inline(always)]
pub(crate) fn map<const N: usize>(
    x: &Lanes<f32, N>,
    f: impl Fn(usize, f32) -> f32,
) -> Lanes<f32, N> {
    let mut out = [[0.0; LANES]; N];
    for i in 0..N {
        for g in 0..LANES {
            out[i][g] = f(g, x[i][g]);
        }
    }
    out
}

/// A number of each group.
#[inline(always)]
pub(crate) fn each(f: impl Fn(usize) -> f32) -> Lane<f32> {
    let mut out = [0.0; LANES];
    for g in 0..LANES {
        out[g] = f(g);
    }
    out
}

/// The sum of each group's numbers, in order.
#[inline(always)]
pub(crate) fn sums<const N: usize>(x: &Lanes<f32, N>) -> Lane<f32> {
    let mut sums = [0.0; LANES];
    for x in x {
        for g in 0..LANES {
            sums[g] += x[g];
        }
    }
    sums
}

/// Of each group the number of largest magnitude (the first of equals), with its sign.
#[inline(always)]
pub(crate) fn signed_maxima<const N: usize>(x: &Lanes<f32, N>) -> Lane<f32> {
    let (mut amax, mut max) = ([0.0f32; LANES], [0.0f32; LANES]);
    for x in x {
        for g in 0..LANES {
            let larger = x[g].abs() > amax[g];
            amax[g] = if larger { x[g].abs() } else { amax[g] };
            max[g] = if larger { x[g] } else { max[g] };
        }
    }
    max
}

/// Replaces `to` by `from` in the groups whose mask is all ones. On bits: of a condition the
/// compiler would make a branch a group.
#[inline(always)]
pub(crate) fn replace(mask: &Lane<u32>, to: &mut Lane<f32>, from: &Lane<f32>) {
    for g in 0..LANES {
        let (old, new) = (to[g].to_bits(), from[g].to_bits());
        to[g] = f32::from_bits(old ^ ((old ^ new) & mask[g]));
    }
}

/// All ones for true.
#[inline(always)]
pub(crate) fn mask(condition: bool) -> u32 {
    u32::from(condition).wrapping_neg()
}
