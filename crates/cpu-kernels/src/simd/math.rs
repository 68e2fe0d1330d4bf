//! Elementary functions on 16 lanes.

use super::Simd;

/// e^x to about 2 units in the last place, over the whole range of f32: 0 below -104, infinite
/// above 88.8, NaN for NaN.
///
/// x = n ln 2 + r with |r| <= ln 2 / 2; e^r by the polynomial of Cephes' `expf`; 2^n in two
/// factors, so that results below the smallest normal number are right too.
#[inline(always)]
pub(crate) fn exp<S: Simd>(s: S, x: S::F) -> S::F {
    let c = |v: f32| s.splat_f(v);
    // The second operand is kept if it is NaN.
    let x = s.min(c(90.0), s.max(c(-105.0), x));
    // NaN would be an arbitrary integer, which only scales a NaN below.
    let n = s.to_i(s.mul(x, c(std::f32::consts::LOG2_E)));
    let nf = s.to_f(n);
    let r = s.fma(nf, c(-0.693_359_4), x);
    let r = s.fma(nf, c(2.121_944_4e-4), r);
    let mut p = c(1.987_569_2e-4);
    p = s.fma(p, r, c(1.398_199_9e-3));
    p = s.fma(p, r, c(8.333_452e-3));
    p = s.fma(p, r, c(4.166_579_6e-2));
    p = s.fma(p, r, c(1.666_666_5e-1));
    p = s.fma(p, r, c(0.5));
    let y = s.fma(p, s.mul(r, r), s.add(r, c(1.0)));
    let half = s.sar(n, 1);
    let rest = s.add_i(n, s.xor(half, s.splat_i(-1))); // n - half - 1
    let bias = s.splat_i(127);
    let up = s.as_f(s.shl(s.add_i(half, bias), 23));
    let up2 = s.as_f(s.shl(s.add_i(rest, s.splat_i(128)), 23));
    s.mul(s.mul(y, up), up2)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Isa;
    use crate::simd::{LANES, Op, dispatch};

    struct Exp([f32; LANES]);

    impl Op for Exp {
        type Output = [f32; LANES];
        #[inline(always)]
        fn run<S: Simd>(self, s: S) -> [f32; LANES] {
            let mut out = [0.0; LANES];
            s.store_f(exp(s, s.load_f(&self.0)), &mut out);
            out
        }
    }

    #[test]
    fn exp_agrees_with_f64() {
        for isa in Isa::supported() {
            for i in 0..20_000 {
                let x = -104.0 + i as f32 * (104.0 + 89.0) / 20_000.0;
                let got = dispatch(isa, Exp([x; LANES]))[i % LANES];
                let want = f64::from(x).exp();
                if want > f64::from(f32::MAX) {
                    assert!(got.is_infinite() || got > 3.4e38, "{isa}: exp({x}) = {got}");
                    continue;
                }
                let tolerance = (want * 3e-7).max(1.5e-45);
                assert!(
                    (f64::from(got) - want).abs() <= tolerance,
                    "{isa}: exp({x}) = {got}, {want}"
                );
            }
            let got = dispatch(isa, Exp([f32::NEG_INFINITY; LANES]));
            assert_eq!(got, [0.0; LANES], "{isa}");
            assert_eq!(dispatch(isa, Exp([f32::INFINITY; LANES])), [f32::INFINITY; LANES]);
            assert!(dispatch(isa, Exp([f32::NAN; LANES])).iter().all(|v| v.is_nan()), "{isa}");
            assert_eq!(dispatch(isa, Exp([0.0; LANES])), [1.0; LANES]);
        }
    }
}
