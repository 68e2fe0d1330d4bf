//! Instruction sets, and which of them this process uses.

use std::fmt;
use std::str::FromStr;
use std::sync::OnceLock;

/// An instruction set that the kernels have a path for. Results are reproducible within one of
/// them; between two they agree to rounding (integer parts exactly).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Isa {
    /// What every processor has: SSE2 on x86-64, elsewhere plain Rust compiled for the target's baseline.
    Portable,
    /// AVX2, FMA and F16C.
    Avx2,
    /// AVX2 with the dot products of AVX-VNNI (same results as [`Isa::Avx2`]).
    Avx2Vnni,
    /// AVX-512 F, BW, DQ, VL and VNNI; AVX512_BF16 for products of bf16 where the processor has it.
    Avx512,
    /// AVX-512, and AMX's int8 tiles for products with 8 rows or more (same results as
    /// [`Isa::Avx512`]); where the processor has them, its bf16 tiles for products of bf16 with any
    /// number of rows.
    Amx,
}

/// A name that no instruction set has.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("unknown instruction set '{0}': use portable, avx2, avx2-vnni, avx512 or amx")]
pub struct UnknownIsa(pub String);

impl Isa {
    /// Every path, the slowest first.
    pub const ALL: &'static [Isa] =
        &[Isa::Portable, Isa::Avx2, Isa::Avx2Vnni, Isa::Avx512, Isa::Amx];

    /// The name, as `INFINITY_ISA` spells it.
    pub const fn name(self) -> &'static str {
        match self {
            Isa::Portable => "portable",
            Isa::Avx2 => "avx2",
            Isa::Avx2Vnni => "avx2-vnni",
            Isa::Avx512 => "avx512",
            Isa::Amx => "amx",
        }
    }

    /// Whether this processor can run the path.
    pub fn is_supported(self) -> bool {
        match self {
            Isa::Portable => true,
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => {
                is_x86_feature_detected!("avx2")
                    && is_x86_feature_detected!("fma")
                    && is_x86_feature_detected!("f16c")
            }
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2Vnni => Isa::Avx2.is_supported() && is_x86_feature_detected!("avxvnni"),
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 => {
                Isa::Avx2.is_supported()
                    && is_x86_feature_detected!("avx512f")
                    && is_x86_feature_detected!("avx512bw")
                    && is_x86_feature_detected!("avx512dq")
                    && is_x86_feature_detected!("avx512vl")
                    && is_x86_feature_detected!("avx512vnni")
            }
            #[cfg(target_arch = "x86_64")]
            Isa::Amx => Isa::Avx512.is_supported() && crate::amx::detect().int8,
            #[cfg(not(target_arch = "x86_64"))]
            Isa::Avx2 | Isa::Avx2Vnni | Isa::Avx512 | Isa::Amx => false,
        }
    }

    /// The paths that this processor can run, the slowest first.
    pub fn supported() -> impl Iterator<Item = Isa> {
        Isa::ALL.iter().copied().filter(|isa| isa.is_supported())
    }

    /// The path this process uses: the fastest supported one, or the one that the environment
    /// variable `INFINITY_ISA` names ([`Isa::name`]). Decided once. A name that is unknown or not
    /// supported here is passed over with a warning.
    pub fn active() -> Isa {
        static ACTIVE: OnceLock<Isa> = OnceLock::new();
        *ACTIVE.get_or_init(|| {
            let best = Isa::supported().last().unwrap_or(Isa::Portable);
            let Ok(name) = std::env::var("INFINITY_ISA") else { return best };
            match name.parse::<Isa>() {
                Ok(isa) if isa.is_supported() => isa,
                Ok(isa) => {
                    tracing::warn!("INFINITY_ISA={isa} is not available here, using {best}");
                    best
                }
                Err(unknown) => {
                    tracing::warn!("INFINITY_ISA: {unknown}; using {best}");
                    best
                }
            }
        })
    }
}

impl fmt::Display for Isa {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for Isa {
    type Err = UnknownIsa;

    fn from_str(s: &str) -> Result<Self, UnknownIsa> {
        Isa::ALL
            .iter()
            .copied()
            .find(|isa| isa.name().eq_ignore_ascii_case(s))
            .ok_or_else(|| UnknownIsa(s.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_round_trip() {
        for &isa in Isa::ALL {
            assert_eq!(isa.name().parse(), Ok(isa));
        }
        assert!("sse9".parse::<Isa>().is_err());
        assert!(Isa::active().is_supported());
    }
}
