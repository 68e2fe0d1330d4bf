//! What this processor can do at most: bytes read and multiplications a second, measured.
//!
//! The larger of (bytes to read / read bandwidth) and (multiplications / rate) is the floor of a
//! step's time; a measured time is judged as a fraction of it. Machines are shared and their memory
//! bandwidth drifts, so that a ceiling is only worth something in the run that it was measured in.

use std::hint::black_box;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::{Isa, ThreadPool};

/// Bytes a second that the pool's threads read together from a buffer of `bytes` bytes: memory
/// bandwidth where the buffer is far larger than the caches, cache bandwidth where it is not.
/// The best of several passes.
pub fn read_bandwidth(pool: &ThreadPool, bytes: usize) -> f64 {
    let words = (bytes / 8).max(1 << 14);
    let buffer: Vec<u64> = (0..words as u64).collect();
    let sum = AtomicU64::new(0);
    // A few long pieces a thread, as the rows of a weight are divided; each is read as several
    // streams at once, since one alone does not keep enough requests to memory under way.
    const STREAMS: usize = 4;
    let pieces = pool.threads() * 4;
    let part = words / (pieces * STREAMS);
    let read = pieces * STREAMS * part * 8;
    let pass = || {
        let start = Instant::now();
        pool.run(pieces, |i| {
            let piece = &buffer[i * STREAMS * part..][..STREAMS * part];
            let streams: [&[u64]; STREAMS] = std::array::from_fn(|s| &piece[s * part..][..part]);
            let mut lanes = [0u64; 16];
            for at in (0..part / 16 * 16).step_by(16) {
                for stream in streams {
                    for (lane, word) in lanes.iter_mut().zip(&stream[at..at + 16]) {
                        *lane = lane.wrapping_add(*word);
                    }
                }
            }
            sum.fetch_add(lanes.iter().fold(0, |a, b| a.wrapping_add(*b)), Ordering::Relaxed);
        });
        read as f64 / start.elapsed().as_secs_f64()
    };
    let best = best_of(Duration::from_millis(250), 5, pass);
    black_box(sum.load(Ordering::Relaxed));
    best
}

/// Operations a second (a multiplication and an addition are two) of all threads together with
/// `f32` fused multiply-adds of the instruction set's widest registers.
pub fn f32_rate(pool: &ThreadPool, isa: Isa) -> f64 {
    rate(pool, move |n| match isa {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: an `Isa` value exists only where the processor has its instructions.
        Isa::Avx512 | Isa::Amx => unsafe { x86::fma_512(n) },
        #[cfg(target_arch = "x86_64")]
        // SAFETY: as above.
        Isa::Avx2 | Isa::Avx2Vnni => unsafe { x86::fma_256(n) },
        _ => portable(n),
    })
}

/// Operations a second of all threads together with the instruction set's eight-bit dot products;
/// `None` where it has none.
pub fn int8_rate(pool: &ThreadPool, isa: Isa) -> Option<f64> {
    #[cfg(target_arch = "x86_64")]
    match isa {
        Isa::Avx512 | Isa::Amx if std::arch::is_x86_feature_detected!("avx512vnni") => {
            // SAFETY: the feature was detected just above.
            return Some(rate(pool, |n| unsafe { x86::dot_512(n) }));
        }
        Isa::Avx2 | Isa::Avx2Vnni => {
            // SAFETY: an `Isa` value exists only where the processor has its instructions.
            return Some(rate(pool, |n| unsafe { x86::maddubs_256(n) }));
        }
        _ => {}
    }
    let _ = (pool, isa);
    None
}

/// Runs `work(n)`, which says how many operations its `n` rounds were, on every thread.
fn rate(pool: &ThreadPool, work: impl Fn(u64) -> u64 + Sync) -> f64 {
    const ROUNDS: u64 = 1 << 20;
    best_of(Duration::from_millis(100), 5, || {
        let done = AtomicU64::new(0);
        let start = Instant::now();
        pool.run(pool.threads(), |_| {
            done.fetch_add(work(ROUNDS), Ordering::Relaxed);
        });
        done.load(Ordering::Relaxed) as f64 / start.elapsed().as_secs_f64()
    })
}

/// The best figure of at least `passes` passes and `time`.
fn best_of(time: Duration, passes: usize, mut pass: impl FnMut() -> f64) -> f64 {
    let start = Instant::now();
    let (mut best, mut n) = (0f64, 0);
    while n < passes || start.elapsed() < time {
        best = best.max(pass());
        n += 1;
    }
    best
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
    use std::arch::x86_64::*;
    use std::hint::black_box;

    /// Independent accumulators, enough to cover the latency of an instruction twice over.
    const CHAINS: usize = 12;

    #[target_feature(enable = "avx512f")]
    pub(super) fn fma_512(rounds: u64) -> u64 {
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
    pub(super) fn fma_256(rounds: u64) -> u64 {
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

    #[target_feature(enable = "avx512f,avx512vnni")]
    pub(super) fn dot_512(rounds: u64) -> u64 {
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

    #[target_feature(enable = "avx2")]
    pub(super) fn maddubs_256(rounds: u64) -> u64 {
        let (mut a, b) = (_mm256_set1_epi8(black_box(3)), _mm256_set1_epi8(black_box(-1)));
        let ones = _mm256_set1_epi16(1);
        let mut acc = [_mm256_setzero_si256(); CHAINS];
        for _ in 0..rounds {
            // The product is not the same in each round, or it would be hoisted.
            a = _mm256_xor_si256(a, ones);
            for x in &mut acc {
                let pairs = _mm256_maddubs_epi16(a, _mm256_xor_si256(b, *x));
                *x = _mm256_add_epi32(*x, _mm256_madd_epi16(pairs, ones));
            }
        }
        black_box(acc);
        rounds * (CHAINS * 32 * 2) as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ceilings_are_of_a_plausible_size() {
        let pool = ThreadPool::new(1);
        let read = read_bandwidth(&pool, 1 << 22);
        assert!((1e8..1e13).contains(&read), "{read}");
        let f32 = f32_rate(&pool, Isa::active());
        assert!((1e8..1e13).contains(&f32), "{f32}");
        if let Some(int8) = int8_rate(&pool, Isa::active()) {
            assert!((1e8..1e14).contains(&int8), "{int8}");
        }
    }
}
