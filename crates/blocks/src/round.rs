//! Rounding as libggml's encoders do it, so that bytes agree: the results depend on it at ties and
//! where a scale is so small that its reciprocal overflows.

/// The nearest integer, ties to even, of a number of magnitude at most 2^22.
///
/// Adding 1.5 * 2^23 leaves the integer in the low bits of the mantissa. Larger numbers and NaN
/// give some integer between -2^22 and 2^22.
#[inline]
pub(crate) fn nearest_int(x: f32) -> i32 {
    ((x + 12_582_912.0).to_bits() & 0x007f_ffff) as i32 - 0x0040_0000
}

/// The integer towards zero; out of range and NaN give the lowest integer, as x86 instructions do.
#[inline]
pub(crate) fn truncate(x: f32) -> i32 {
    if (-2_147_483_648.0..2_147_483_648.0).contains(&x) { x as i32 } else { i32::MIN }
}

/// The nearest integer, ties away from zero (C's `roundf`), out of range as in [`truncate`].
#[inline]
pub(crate) fn round_away(x: f32) -> i32 {
    // The largest number below a half: adding a half itself would carry 0.49999997 to 1.
    truncate(x + 0.499_999_97_f32.copysign(x))
}

/// The value of largest magnitude (the first of equals), with its sign; 0 of an empty slice.
#[inline]
pub(crate) fn signed_max(x: &[f32]) -> f32 {
    let (mut amax, mut max) = (0.0, 0.0);
    for &v in x {
        if v.abs() > amax {
            amax = v.abs();
            max = v;
        }
    }
    max
}

/// The largest magnitude.
#[inline]
pub(crate) fn abs_max(x: &[f32]) -> f32 {
    x.iter().fold(0.0, |m, v| if v.abs() > m { v.abs() } else { m })
}

/// `1 / x`, but 0 for 0.
#[inline]
pub(crate) fn reciprocal(x: f32) -> f32 {
    if x == 0.0 { 0.0 } else { 1.0 / x }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ties() {
        assert_eq!([0.5, 1.5, 2.5, -0.5, -1.5].map(nearest_int), [0, 2, 2, 0, -2]);
        assert_eq!([0.5, 1.5, 2.5, -0.5, 0.499_999_97].map(round_away), [1, 2, 3, -1, 0]);
        assert_eq!([f32::NAN, f32::INFINITY, -3.9, 3.9].map(truncate), [i32::MIN, i32::MIN, -3, 3]);
    }

    #[test]
    fn rounding_away_is_the_standard_one() {
        for i in -200_000..200_000 {
            let x = i as f32 / 1000.0;
            assert_eq!(round_away(x), x.round() as i32, "{x}");
        }
    }
}
