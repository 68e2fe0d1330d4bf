//! A panel times all activations.

use super::activations::ActivationBlock;
use super::{Format, Int8Group, Scales, sums};
use crate::Isa;
use crate::matmul::PANEL_GROUPS;
use crate::simd::{LANES, Op, Simd, dispatch};
use std::hint::black_box;
use std::marker::PhantomData;

/// Adds the products of `span` of k to `sums[i * PANEL_GROUPS + g]`.
pub(super) fn sweep<F: Format>(
    isa: Isa,
    groups: &[Int8Group],
    span: usize,
    acts: &[ActivationBlock],
    sums: &mut [[f32; LANES]],
) {
    const { assert!(sums::alike::<F, F::Sums>()) };
    let subs = span / F::SUB;
    dispatch(isa, Sweep { groups, subs, acts, sums, format: PhantomData::<F::Sums> });
}

struct Sweep<'a, F> {
    groups: &'a [Int8Group],
    subs: usize,
    acts: &'a [ActivationBlock],
    sums: &'a mut [[f32; LANES]],
    format: PhantomData<F>,
}

impl<F: Format> Op for Sweep<'_, F> {
    type Output = ();
    const DOTS: bool = true;

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Sweep { groups, subs, acts, sums, .. } = self;
        let mut g = 0;
        while g < groups.len() {
            let quad = S::MANY_REGISTERS && groups.len() - g >= 4;
            let groups = &groups[g..];
            let mut i = 0;
            while i < acts.len() {
                let (acts, sums) = (&acts[i..], &mut sums[i * PANEL_GROUPS + g..]);
                i += match (quad, acts.len()) {
                    (true, 3..) => tile::<S, F, 4, 3>(s, groups, subs, acts, sums),
                    (true, _) => tile::<S, F, 4, 1>(s, groups, subs, acts, sums),
                    (false, 2..) if S::FEW_REGISTERS => {
                        tile::<S, F, 1, 2>(s, groups, subs, acts, sums)
                    }
                    (false, 3..) => tile::<S, F, 1, 3>(s, groups, subs, acts, sums),
                    (false, _) => tile::<S, F, 1, 1>(s, groups, subs, acts, sums),
                };
            }
            g += if quad { 4 } else { 1 };
        }
    }
}

/// `G` groups by `M` activations in registers. Returns `M`.
#[inline(always)]
fn tile<S: Simd, F: Format, const G: usize, const M: usize>(
    s: S,
    groups: &[Int8Group],
    subs: usize,
    acts: &[ActivationBlock],
    sums: &mut [[f32; LANES]],
) -> usize {
    assert!(subs * F::SUB <= super::SPAN);
    match F::SCALES {
        Scales::Integer => integer_tile::<S, F, G, M>(s, groups, subs, acts, sums),
        Scales::PerBlock32 => float_tile::<S, F, G, M>(s, groups, subs, acts, sums),
    }
    M
}

/// Sub-blocks whose scales are f32.
#[inline(always)]
fn float_tile<S: Simd, F: Format, const G: usize, const M: usize>(
    s: S,
    groups: &[Int8Group],
    subs: usize,
    acts: &[ActivationBlock],
    sums: &mut [[f32; LANES]],
) {
    let (groups, acts) = (&groups[..G], &acts[..M]);
    let mut total = [[s.splat_f(0.0); M]; G];
    for sub in 0..subs {
        let dots = add_dots::<S, F, G, M>(s, groups, sub, acts, [[s.splat_i(0); M]; G]);
        for g in 0..G {
            let scale = s.as_f(s.load_i(&groups[g].scales[sub]));
            for i in 0..M {
                let scale = s.mul(scale, s.splat_f(acts[i].scale[sub * F::SUB / 32]));
                total[g][i] = s.fma(s.to_f(dots[g][i]), scale, total[g][i]);
            }
            if F::MIN {
                let min = s.as_f(s.load_i(&groups[g].mins[sub]));
                for i in 0..M {
                    total[g][i] = s.fma(min, s.splat_f(acts[i].sum[sub]), total[g][i]);
                }
            }
        }
    }
    for i in 0..M {
        for g in 0..G {
            let sum = &mut sums[i * PANEL_GROUPS + g];
            s.store_f(s.add(total[g][i], s.load_f(sum)), sum);
        }
    }
}

/// Sub-blocks whose scales are integers.
#[inline(always)]
fn integer_tile<S: Simd, F: Format, const G: usize, const M: usize>(
    s: S,
    groups: &[Int8Group],
    subs: usize,
    acts: &[ActivationBlock],
    sums: &mut [[f32; LANES]],
) {
    let (groups, acts) = (&groups[..G], &acts[..M]);
    let mut total = [[s.splat_i(0); M]; G];
    for sub in 0..subs {
        total = add_dots::<S, F, G, M>(s, groups, sub, acts, total);
    }
    for i in 0..M {
        for g in 0..G {
            let sum = &mut sums[i * PANEL_GROUPS + g];
            let after = add_block::<S, F>(s, &groups[g], total[g][i], &acts[i], s.load_f(sum));
            s.store_f(after, sum);
        }
    }
}

/// A block's exact sum `total`, with its mins, factors and the activation's scale, added to `sum`.
#[inline(always)]
pub(super) fn add_block<S: Simd, F: Format>(
    s: S,
    group: &Int8Group,
    total: S::I,
    act: &ActivationBlock,
    sum: S::F,
) -> S::F {
    let mut value = s.mul(s.to_f(total), s.load_f(&group.d[0]));
    if F::MIN {
        let mut mins = s.splat_i(0);
        for pair in 0..super::SPAN / F::SUB / 2 {
            mins = s.dot_16(mins, s.load_i(&group.mins[pair]), s.splat_i(act.pairs[pair]));
        }
        value = s.fma(s.to_f(mins), s.load_f(&group.d[1]), value);
    }
    s.fma(value, s.splat_f(act.scale[0]), sum)
}

/// `total` plus the integer sums of sub-block `sub`, times their scale where that is an integer.
#[inline(always)]
fn add_dots<S: Simd, F: Format, const G: usize, const M: usize>(
    s: S,
    groups: &[Int8Group],
    sub: usize,
    acts: &[ActivationBlock],
    mut total: [[S::I; M]; G],
) -> [[S::I; M]; G] {
    let mut first = 0;
    while first < F::SUB / 4 {
        let end = (F::SUB / 4).min(first + sums::lines::<S, F>());
        let mut dots = [[s.splat_i(0); M]; G];
        for i in 0..M {
            let start = sums::start::<S, F>(s, &acts[i], sub, first);
            for g in 0..G {
                dots[g][i] = start;
            }
        }
        // Where registers are few the loop must stay one: compilers that see its end keep all lines in registers,
        // more than there are.
        let from = sub * F::SUB / 4 + first;
        let n = if S::MANY_REGISTERS { end - first } else { black_box(end - first) };
        let mut lines = [&groups[0].lines[from..][..n]; G];
        for g in 1..G {
            lines[g] = &groups[g].lines[from..][..n];
        }
        let mut words = [&acts[0].words[from..][..n]; M];
        for i in 1..M {
            words[i] = &acts[i].words[from..][..n];
        }
        for line in 0..n {
            let mut w = [s.splat_i(0); G];
            for g in 0..G {
                w[g] = s.load_i(&lines[g][line]);
            }
            for i in 0..M {
                let a = s.splat_i(words[i][line]);
                for g in 0..G {
                    dots[g][i] = sums::add_line::<S, F>(s, dots[g][i], w[g], a);
                }
            }
        }
        for g in 0..G {
            let factor = sums::factor::<S, F>(s, &groups[g], sub);
            for i in 0..M {
                total[g][i] = sums::widen::<S, F>(s, total[g][i], dots[g][i], factor);
            }
        }
        first = end;
    }
    total
}
