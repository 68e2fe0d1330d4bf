//! The units that multiply, and how fast each can.

use std::fmt;
use std::hint::black_box;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use super::best_of;
use crate::{Isa, ThreadPool};

/// A kind of multiplying instruction.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Unit {
    /// Fused multiply-adds of f32.
    F32,
    /// Dot products of pairs of bf16, summed in f32 (`vdpbf16ps`).
    Bf16,
    /// Dot products of int8, summed in i32 (`vpdpbusd`, or the AVX2 instructions for it).
    Int8,
    /// Products of bf16 tiles (`tdpbf16ps`).
    AmxBf16,
    /// Products of int8 tiles (`tdpbusd`).
    AmxInt8,
}

/// Does so many rounds of an instruction and says how many operations these were.
type Loop = fn(u64) -> u64;

impl Unit {
    /// All of them.
    pub const ALL: &'static [Unit] =
        &[Unit::F32, Unit::Bf16, Unit::Int8, Unit::AmxBf16, Unit::AmxInt8];

    /// What tables call it.
    pub const fn name(self) -> &'static str {
        match self {
            Unit::F32 => "f32 FMA",
            Unit::Bf16 => "bf16 dot",
            Unit::Int8 => "int8 dot",
            Unit::AmxBf16 => "AMX bf16",
            Unit::AmxInt8 => "AMX int8",
        }
    }

    /// Whether the paths up to `isa` have such an instruction on this processor.
    pub fn is_available(self, isa: Isa) -> bool {
        self.instruction(isa).is_some()
    }

    /// The instruction that stands for the unit, if the paths up to `isa` have it.
    pub fn instruction(self, isa: Isa) -> Option<&'static str> {
        Some(self.measured_by(isa)?.0)
    }

    /// Operations a second of all threads together: the best of the passes (of about a
    /// millisecond) that fit in `time`, and of at least three. `None` where there is no such
    /// instruction.
    pub fn sample(self, pool: &ThreadPool, isa: Isa, time: Duration) -> Option<f64> {
        let (_, work) = self.measured_by(isa)?;
        // A thousandth of a second's rounds, so that the pool's barrier does not count.
        let start = Instant::now();
        black_box(work(black_box(1 << 12)));
        let second = (1 << 12) as f64 / start.elapsed().as_secs_f64();
        let rounds = (second / 1e3).clamp(64.0, 1e7) as u64;
        Some(best_of(time, || {
            let done = AtomicU64::new(0);
            let start = Instant::now();
            pool.run(pool.threads(), |_| {
                done.fetch_add(work(rounds), Ordering::Relaxed);
            });
            done.into_inner() as f64 / start.elapsed().as_secs_f64()
        }))
    }

    /// The instruction and a loop of it.
    fn measured_by(self, isa: Isa) -> Option<(&'static str, Loop)> {
        if !isa.is_supported() {
            return None;
        }
        #[cfg(target_arch = "x86_64")]
        if let Some(found) = x86::measured_by(self, isa) {
            return Some(found);
        }
        match self {
            Unit::F32 => Some(("f32 multiply and add", portable as Loop)),
            _ => None,
        }
    }
}

impl fmt::Display for Unit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

fn portable(rounds: u64) -> u64 {
    let mut acc = [0.5f32; 32];
    let (a, b) = (black_box(0.999f32), black_box(0.001f32));
    for _ in 0..rounds {
        for x in &mut acc {
            *x = *x * a + b;
        }
    }
    black_box(acc);
    rounds * 32 * 2
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::asm;
    use std::arch::x86_64::*;
    use std::hint::black_box;

    use super::{Loop, Unit};
    use crate::Isa;
    use crate::amx::{self, TileConfig};

    /// Independent accumulators, enough to cover the latency of an instruction twice over.
    const CHAINS: usize = 12;

    /// The widest instruction for `unit` among those of the paths up to `isa`, which this
    /// processor has.
    pub(super) fn measured_by(unit: Unit, isa: Isa) -> Option<(&'static str, Loop)> {
        // Each loop is reached only where the processor has its instructions: they belong to
        // `isa`, which the caller found supported, or were detected.
        macro_rules! measured {
            ($name:literal, $work:ident) => {{
                let work: Loop = |rounds| {
                    // SAFETY: the condition of the match's arm, as said above.
                    unsafe { $work(rounds) }
                };
                Some(($name, work))
            }};
        }
        match unit {
            Unit::F32 if isa >= Isa::Avx512 => measured!("vfmadd zmm", fma_512),
            Unit::F32 if isa >= Isa::Avx2 => measured!("vfmadd ymm", fma_256),
            Unit::Bf16 if isa >= Isa::Avx512 && is_x86_feature_detected!("avx512bf16") => {
                measured!("vdpbf16ps zmm", bf16_512)
            }
            Unit::Int8 if isa >= Isa::Avx512 => measured!("vpdpbusd zmm", int8_512),
            Unit::Int8 if isa >= Isa::Avx2Vnni => {
                measured!("vpdpbusd ymm", int8_256)
            }
            Unit::Int8 if isa >= Isa::Avx2 => {
                measured!("vpmaddubsw, vpaddw ymm", maddubs_256)
            }
            Unit::AmxBf16 if isa >= Isa::Avx512 && amx::detect().bf16 => {
                measured!("tdpbf16ps", amx_bf16)
            }
            Unit::AmxInt8 if isa >= Isa::Avx512 && amx::detect().int8 => {
                measured!("tdpbusd", amx_int8)
            }
            _ => None,
        }
    }

    #[target_feature(enable = "avx512f")]
    fn fma_512(rounds: u64) -> u64 {
        let (a, b) = (_mm512_set1_ps(black_box(0.999)), _mm512_set1_ps(black_box(0.001)));
        let mut acc = [_mm512_set1_ps(0.5); CHAINS];
        for _ in 0..rounds {
            for x in &mut acc {
                *x = _mm512_fmadd_ps(*x, a, b);
            }
        }
        black_box(acc);
        rounds * (CHAINS * 16 * 2) as u64
    }

    #[target_feature(enable = "avx2,fma")]
    fn fma_256(rounds: u64) -> u64 {
        let (a, b) = (_mm256_set1_ps(black_box(0.999)), _mm256_set1_ps(black_box(0.001)));
        let mut acc = [_mm256_set1_ps(0.5); CHAINS];
        for _ in 0..rounds {
            for x in &mut acc {
                *x = _mm256_fmadd_ps(*x, a, b);
            }
        }
        black_box(acc);
        rounds * (CHAINS * 8 * 2) as u64
    }

    #[target_feature(enable = "avx512f,avx512bf16")]
    fn bf16_512(rounds: u64) -> u64 {
        let a = _mm512_cvtne2ps_pbh(_mm512_set1_ps(black_box(0.5)), _mm512_set1_ps(0.25));
        let b = _mm512_cvtne2ps_pbh(_mm512_set1_ps(black_box(0.001)), _mm512_set1_ps(0.002));
        let mut acc = [_mm512_set1_ps(0.5); CHAINS];
        for _ in 0..rounds {
            for x in &mut acc {
                *x = _mm512_dpbf16_ps(*x, a, b);
            }
        }
        black_box(acc);
        rounds * (CHAINS * 32 * 2) as u64
    }

    #[target_feature(enable = "avx512f,avx512vnni")]
    fn int8_512(rounds: u64) -> u64 {
        let (a, b) = (_mm512_set1_epi8(black_box(3)), _mm512_set1_epi8(black_box(-1)));
        let mut acc = [_mm512_setzero_si512(); CHAINS];
        for _ in 0..rounds {
            for x in &mut acc {
                *x = _mm512_dpbusd_epi32(*x, a, b);
            }
        }
        black_box(acc);
        rounds * (CHAINS * 64 * 2) as u64
    }

    #[target_feature(enable = "avx2,avxvnni")]
    fn int8_256(rounds: u64) -> u64 {
        let (a, b) = (_mm256_set1_epi8(black_box(3)), _mm256_set1_epi8(black_box(-1)));
        let mut acc = [_mm256_setzero_si256(); CHAINS];
        for _ in 0..rounds {
            for x in &mut acc {
                *x = _mm256_dpbusd_avx_epi32(*x, a, b);
            }
        }
        black_box(acc);
        rounds * (CHAINS * 32 * 2) as u64
    }

    /// How many products of pairs the kernels add in 16 bits before they widen the sum: of 4-bit
    /// weights, with a scale for each 32 of k.
    const IN_16_BITS: u64 = 8;

    #[target_feature(enable = "avx2")]
    fn maddubs_256(rounds: u64) -> u64 {
        const SUMS: usize = 8;
        let (a, b) = (_mm256_set1_epi8(black_box(3)), _mm256_set1_epi8(black_box(-1)));
        let ones = _mm256_set1_epi16(1);
        let (mut pairs, mut acc) = ([b; SUMS], [b; SUMS / 2]);
        for _ in 0..rounds {
            for _ in 0..IN_16_BITS {
                for x in &mut pairs {
                    // SAFETY: nothing but these registers. The compiler would see that all products are the same.
                    unsafe {
                        asm!(
                            "vpmaddubsw {t}, {a}, {b}",
                            "vpaddw {x}, {x}, {t}",
                            x = inout(ymm_reg) *x, t = out(ymm_reg) _,
                            a = in(ymm_reg) a, b = in(ymm_reg) b,
                            options(nomem, nostack, preserves_flags),
                        );
                    }
                }
            }
            for (i, pairs) in pairs.into_iter().enumerate() {
                let x = &mut acc[i / 2];
                *x = _mm256_add_epi32(*x, _mm256_madd_epi16(pairs, ones));
            }
        }
        black_box(acc);
        rounds * IN_16_BITS * (SUMS * 32 * 2) as u64
    }

    /// Every tile 16 rows of 64 bytes.
    const WHOLE_TILES: TileConfig = TileConfig::new([(16, 64); 8]);

    /// A loop of one tile instruction with four accumulators, two left and two right factors, as
    /// a kernel has them.
    macro_rules! tiles {
        ($name:ident, $instruction:literal, $depth:literal) => {
            /// # Safety
            /// [`amx::detect`] found the instruction.
            unsafe fn $name(rounds: u64) -> u64 {
                // SAFETY: the caller's promise. The loop touches no register but tiles, which are
                // configured, and its counter.
                unsafe {
                    let _configured = WHOLE_TILES.load();
                    asm!(
                        "2:",
                        concat!($instruction, " tmm0, tmm4, tmm6"),
                        concat!($instruction, " tmm1, tmm4, tmm7"),
                        concat!($instruction, " tmm2, tmm5, tmm6"),
                        concat!($instruction, " tmm3, tmm5, tmm7"),
                        "dec {rounds}",
                        "jnz 2b",
                        rounds = inout(reg) rounds.max(1) => _,
                        options(nostack, nomem),
                    );
                }
                // 16 by 16 sums of `depth` products a tile.
                rounds.max(1) * 4 * 16 * 16 * $depth * 2
            }
        };
    }

    tiles!(amx_int8, "tdpbusd", 64);
    tiles!(amx_bf16, "tdpbf16ps", 32);
}
