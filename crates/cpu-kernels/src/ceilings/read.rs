//! Read bandwidth.

use std::hint::black_box;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use super::best_of;
use crate::{Isa, ThreadPool};

/// Words of a cache line.
const LINE: usize = 8;

/// Streams that a thread reads at once: one alone does not keep enough requests to memory under
/// way.
const STREAMS: usize = 4;

/// Bytes between a load and what is prefetched with it.
const AHEAD: usize = 2048;

/// Words of a short buffer are read again and again until so many bytes have gone by, since a
/// pass of microseconds would measure the pool.
const LEAST_BYTES: usize = 32 << 20;

/// Memory that threads read together to see how fast that goes: from memory where it is far
/// larger than the caches, from a cache where each thread's share fits into it.
#[derive(Debug)]
pub struct ReadBuffer {
    words: Vec<u64>,
}

impl ReadBuffer {
    /// A buffer of `bytes` bytes (rounded down to 64, at least 64), all of them written once.
    pub fn new(bytes: usize) -> ReadBuffer {
        let lines = (bytes / (8 * LINE)).max(1);
        ReadBuffer { words: (0..(lines * LINE) as u64).collect() }
    }

    /// Bytes that a pass reads.
    pub fn bytes(&self) -> usize {
        self.words.len() * 8
    }

    /// Bytes a second that the pool's threads read together with loads of `isa`'s widest
    /// registers: the best of the passes that fit in `time`, and of at least three.
    pub fn sample(&self, pool: &ThreadPool, isa: Isa, time: Duration) -> f64 {
        let rounds = (LEAST_BYTES / self.bytes()).max(1);
        best_of(time, || {
            let start = Instant::now();
            black_box(self.read(pool, isa, rounds));
            (rounds * self.bytes()) as f64 / start.elapsed().as_secs_f64()
        })
    }

    /// The sum of all words, read in one pass.
    #[cfg(test)]
    pub(super) fn sum(&self, pool: &ThreadPool, isa: Isa) -> u64 {
        self.read(pool, isa, 1)
    }

    fn read(&self, pool: &ThreadPool, isa: Isa, rounds: usize) -> u64 {
        // A few long pieces a thread, as the rows of a weight are divided; where they are read
        // again, one a thread, which then stays with it.
        let pieces = if rounds > 1 { pool.threads() } else { 4 * pool.threads() };
        let lines = self.words.len() / LINE;
        let each = lines.div_ceil(pieces);
        let sum = AtomicU64::new(0);
        pool.run(pieces, |i| {
            let piece = (i * each).min(lines) * LINE..((i + 1) * each).min(lines) * LINE;
            let mut part = 0u64;
            for _ in 0..rounds {
                part = part.wrapping_add(add_up(isa, black_box(&self.words[piece.clone()])));
            }
            sum.fetch_add(part, Ordering::Relaxed);
        });
        sum.into_inner()
    }
}

/// The wrapping sum of whole lines of words.
fn add_up(isa: Isa, words: &[u64]) -> u64 {
    let part = words.len() / (STREAMS * LINE) * LINE;
    let streams: [&[u64]; STREAMS] = std::array::from_fn(|s| &words[s * part..][..part]);
    let rest = words[STREAMS * part..].iter().fold(0u64, |sum, word| sum.wrapping_add(*word));
    let sum = match isa {
        #[cfg(target_arch = "x86_64")]
        isa if isa >= Isa::Avx512 && isa.is_supported() => {
            // SAFETY: the processor has this set, and the sets below it in order.
            unsafe { x86::add_up_512(streams) }
        }
        #[cfg(target_arch = "x86_64")]
        isa if isa >= Isa::Avx2 && isa.is_supported() => {
            // SAFETY: as above.
            unsafe { x86::add_up_256(streams) }
        }
        _ => portable(streams),
    };
    sum.wrapping_add(rest)
}

fn portable(streams: [&[u64]; STREAMS]) -> u64 {
    let mut lanes = [0u64; LINE];
    for at in (0..streams[0].len()).step_by(LINE) {
        for stream in streams {
            for (lane, word) in lanes.iter_mut().zip(&stream[at..at + LINE]) {
                *lane = lane.wrapping_add(*word);
            }
        }
    }
    lanes.iter().fold(0, |sum, lane| sum.wrapping_add(*lane))
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::*;

    use super::{AHEAD, LINE, STREAMS};

    #[target_feature(enable = "avx512f")]
    pub(super) fn add_up_512(streams: [&[u64]; STREAMS]) -> u64 {
        let mut sums = [_mm512_setzero_si512(); STREAMS];
        for at in (0..streams[0].len()).step_by(LINE) {
            for (sum, stream) in sums.iter_mut().zip(streams) {
                let line = stream[at..at + LINE].as_ptr();
                // SAFETY: a line of 64 bytes was bounds-checked; a prefetch may name any address.
                let words = unsafe {
                    _mm_prefetch::<_MM_HINT_T0>(line.cast::<i8>().wrapping_add(AHEAD));
                    _mm512_loadu_si512(line.cast())
                };
                *sum = _mm512_add_epi64(*sum, words);
            }
        }
        sums.iter().fold(0u64, |all, sum| all.wrapping_add(_mm512_reduce_add_epi64(*sum) as u64))
    }

    #[target_feature(enable = "avx2")]
    pub(super) fn add_up_256(streams: [&[u64]; STREAMS]) -> u64 {
        let mut sums = [[_mm256_setzero_si256(); 2]; STREAMS];
        for at in (0..streams[0].len()).step_by(LINE) {
            for (sums, stream) in sums.iter_mut().zip(streams) {
                let line = stream[at..at + LINE].as_ptr();
                // SAFETY: as in `add_up_512`.
                let words = unsafe {
                    _mm_prefetch::<_MM_HINT_T0>(line.cast::<i8>().wrapping_add(AHEAD));
                    [_mm256_loadu_si256(line.cast()), _mm256_loadu_si256(line.add(4).cast())]
                };
                for (sum, words) in sums.iter_mut().zip(words) {
                    *sum = _mm256_add_epi64(*sum, words);
                }
            }
        }
        let mut all = 0u64;
        for sum in sums.as_flattened() {
            let mut lanes = [0u64; 4];
            // SAFETY: 32 bytes are stored to 32 bytes.
            unsafe { _mm256_storeu_si256(lanes.as_mut_ptr().cast(), *sum) };
            all = lanes.iter().fold(all, |all, lane| all.wrapping_add(*lane));
        }
        all
    }
}
