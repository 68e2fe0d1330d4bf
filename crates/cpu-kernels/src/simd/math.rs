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

/// 2^x for x <= 0 to about 2 units in the last place, 1 for 0, NaN for NaN. Below -126, where
/// floats lose digits, it is 2^-126: next to a 1 in the same sum that is nothing.
///
/// x = n + r with |r| <= 1/2; 2^r by a polynomial through the Chebyshev nodes (5e-9 off).
#[inline(always)]
pub(crate) fn exp2_nonpositive<S: Simd>(s: S, x: S::F) -> S::F {
    let c = |v: f32| s.splat_f(v);
    // The second operand is kept if it is NaN.
    let x = s.max(c(-126.0), x);
    let n = s.to_i(x);
    let r = s.sub(x, s.to_f(n));
    let mut p = c(1.546_144_8e-4);
    p = s.fma(p, r, c(1.339_086_7e-3));
    p = s.fma(p, r, c(9.618_057e-3));
    p = s.fma(p, r, c(5.550_357e-2));
    p = s.fma(p, r, c(2.402_265e-1));
    p = s.fma(p, r, c(6.931_472e-1));
    p = s.fma(p, r, c(1.0));
    s.mul(p, s.as_f(s.shl(s.add_i(n, s.splat_i(127)), 23)))
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

    struct Exp2([f32; LANES]);

    impl Op for Exp2 {
        type Output = [f32; LANES];
        #[inline(always)]
        fn run<S: Simd>(self, s: S) -> [f32; LANES] {
            let mut out = [0.0; LANES];
            s.store_f(exp2_nonpositive(s, s.load_f(&self.0)), &mut out);
            out
        }
    }

    #[test]
    fn exp2_agrees_with_f64_up_to_zero() {
        for isa in Isa::supported() {
            for i in 0..20_000 {
                let x = i as f32 * (-126.0 / 20_000.0);
                let got = f64::from(dispatch(isa, Exp2([x; LANES]))[i % LANES]);
                let want = f64::from(x).exp2();
                assert!((got - want).abs() <= want * 3e-7, "{isa}: 2^{x} = {got}, {want}");
            }
            assert_eq!(dispatch(isa, Exp2([0.0; LANES])), [1.0; LANES]);
            let least = [f32::MIN_POSITIVE; LANES];
            assert_eq!(dispatch(isa, Exp2([f32::NEG_INFINITY; LANES])), least);
            assert!(dispatch(isa, Exp2([f32::NAN; LANES])).iter().all(|v| v.is_nan()), "{isa}");
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
