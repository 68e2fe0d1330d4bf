//! Half precision to and from f32 in arithmetic that vectorises: neither branches nor calls, so that
//! a loop of them becomes vectors of whatever instructions it is compiled for.

/// The half-precision number with these bits, exactly; a signalling NaN becomes quiet.
#[inline(always)]
pub(crate) fn widen(half: u16) -> f32 {
    let bits = u32::from(half);
    let magnitude = (bits & 0x7fff) << 13;
    // The exponents' biases differ by 112; as a product this is right for subnormal numbers too.
    let number = (f32::from_bits(magnitude) * f32::from_bits((127 + 112) << 23)).to_bits();
    let quiet = if magnitude > 0x0f80_0000 { 0x0040_0000 } else { 0 };
    let magnitude = if magnitude >= 0x0f80_0000 { 0x7000_0000 | magnitude | quiet } else { number };
    f32::from_bits(magnitude | (bits & 0x8000) << 16)
}

/// The bits of the nearest half-precision number, ties to even; too large becomes infinite, NaN
/// stays NaN and becomes quiet.
#[inline(always)]
pub(crate) fn narrow(x: f32) -> u16 {
    let bits = x.to_bits();
    let magnitude = bits & 0x7fff_ffff;
    // Below 2^-14: the unit in the last place of 0.5 is 2^-24, that of subnormal halves.
    let small = (f32::from_bits(magnitude) + 0.5).to_bits() & 0xffff;
    let even = magnitude >> 13 & 1;
    let rounded = (magnitude.wrapping_add(0xfff + even).wrapping_sub(112 << 23) >> 13).min(0x7c00);
    let number = if magnitude < 113 << 23 { small } else { rounded };
    let nan = 0x7e00 | magnitude >> 13 & 0x1ff;
    let half = if magnitude > 0x7f80_0000 { nan } else { number };
    (half | bits >> 16 & 0x8000) as u16
}

#[cfg(test)]
mod tests {
    use super::*;
    use half::f16;

    #[test]
    fn every_half_widens_as_the_crate_half_does() {
        for bits in 0..=u16::MAX {
            let expected = f16::from_bits(bits).to_f32();
            assert_eq!(widen(bits).to_bits(), expected.to_bits(), "{bits:#x}");
        }
    }

    #[test]
    fn narrowing_is_that_of_the_crate_half_at_and_around_every_half_and_midpoint() {
        let check = |bits: u32| {
            let x = f32::from_bits(bits);
            assert_eq!(narrow(x), f16::from_f32(x).to_bits(), "{bits:#x}");
        };
        for half in 0..0x7c00u16 {
            let (low, high) = (widen(half).to_bits(), widen(half + 1).to_bits());
            let midpoint =
                (f32::from_bits(low) / 2.0 + f32::from_bits(high.min(0x4780_0000)) / 2.0).to_bits();
            for at in [low, midpoint] {
                for bits in at.saturating_sub(2)..=at + 2 {
                    check(bits);
                    check(bits | 1 << 31);
                }
            }
        }
        for bits in (0..=u32::MAX).step_by(65_521) {
            check(bits);
        }
    }
}
