//! Rounding as libggml's encoders do it, so that bytes agree: the results depend on it at ties and
//! where a scale is so small that its reciprocal overflows.

/// Adding and subtracting this, 1.5 * 2^23, rounds to an integer, ties to even.
pub(crate) const ROUND: f32 = 12_582_912.0;

/// The nearest integer, ties to even, of a number of magnitude at most 2^22.
///
/// Adding [`ROUND`] leaves the integer in the low bits of the mantissa. Larger numbers and NaN
/// give some integer between -2^22 and 2^22.
#[inline(always)]
pub(crate) fn nearest_int(x: f32) -> i32 {
    ((x + ROUND).to_bits() & 0x007f_ffff) as i32 - 0x0040_0000
}

/// The integer towards zero, of a number of magnitude at most 2^22; any other and NaN give the
/// lowest integer, as x86 instructions do out of range.
#[inline(always)]
pub(crate) fn truncate(x: f32) -> i32 {
    // A cast saturates, which the compiler does number by number; this vectorises.
    let nearest = (x + ROUND) - ROUND;
    let beyond = if nearest.abs() > x.abs() { 1.0f32 } else { 0.0 };
    let towards_zero = nearest - beyond.copysign(x);
    let integer = ((towards_zero + ROUND).to_bits() as i32).wrapping_sub(ROUND.to_bits() as i32);
    if x.abs() <= 4_194_304.0 { integer } else { i32::MIN }
}

/// The integer nearest, ties away from zero (C's `roundf`), out of range as in [`truncate`].
#[inline(always)]
pub(crate) fn round_away(x: f32) -> i32 {
    // The largest number below a half: adding a half itself would carry 0.49999997 to 1.
    truncate(x + 0.499_999_97_f32.copysign(x))
}

/// The largest magnitude; NaN if there is one.
#[inline(always)]
pub(crate) fn abs_max(x: &[f32]) -> f32 {
    // Numbers that are not negative are in the order of their bits, NaN last; and the maximum of
    // integers, unlike that of floats, may be taken in any order.
    f32::from_bits(x.iter().fold(0, |m, v| m.max(v.to_bits() as i32 & i32::MAX)) as u32)
}

/// The number of largest magnitude (the first of equals), with its sign; NaN does not count, and
/// without numbers it is 0.
#[inline(always)]
pub(crate) fn signed_max(x: &[f32]) -> f32 {
    // As in [`abs_max`], for the numbers and for their negatives.
    let (mut positive, mut negative) = (0, 0);
    for &v in x {
        let v = if v.is_nan() { 0.0 } else { v };
        positive = positive.max(v.to_bits() as i32);
        negative = negative.max((-v).to_bits() as i32);
    }
    let amax = f32::from_bits(positive.max(negative) as u32);
    let first_is_negative =
        || x.iter().find(|v| v.abs() == amax).is_some_and(|v| v.is_sign_negative());
    if amax > 0.0 && (negative > positive || negative == positive && first_is_negative()) {
        -amax
    } else {
        amax
    }
}

/// The smallest and the largest number, the first of equals. None may be NaN.
#[inline(always)]
pub(crate) fn extremes(x: &[f32; 32]) -> (f32, f32) {
    // Lanes first, a shape that vectorises.
    const LANES: usize = 8;
    let (mut min, mut max) = ([f32::MAX; LANES], [-f32::MAX; LANES]);
    for x in x.as_chunks::<LANES>().0 {
        for i in 0..LANES {
            min[i] = if x[i] < min[i] { x[i] } else { min[i] };
            max[i] = if x[i] > max[i] { x[i] } else { max[i] };
        }
    }
    let min = min.iter().fold(f32::MAX, |m, &v| if v < m { v } else { m });
    let max = max.iter().fold(-f32::MAX, |m, &v| if v > m { v } else { m });
    // Of all equals only zeros differ.
    let first = |m: f32| if m == 0.0 { *x.iter().find(|v| **v == 0.0).unwrap_or(&m) } else { m };
    (first(min), first(max))
}

/// `1 / x`, but 0 for 0.
#[inline(always)]
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
    fn truncating_is_casting() {
        for i in -200_000..=200_000 {
            for x in [i as f32 / 1000.0, i as f32 * 20.971_52, f32::from_bits(i as u32)] {
                let expected = if x.is_nan() { i32::MIN } else { x as i32 };
                assert_eq!(truncate(x), expected, "{x}");
            }
        }
    }

    #[test]
    fn rounding_away_is_the_standard_one() {
        for i in -200_000..200_000 {
            let x = i as f32 / 1000.0;
            assert_eq!(round_away(x), x.round() as i32, "{x}");
        }
    }
}
