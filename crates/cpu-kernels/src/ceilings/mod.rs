//! What this processor can do at most: bytes read and operations a second, measured.
//!
//! The larger of (bytes to read / read bandwidth) and (operations / rate of the unit that does
//! them) is the floor of a step's time; a measured time is judged as a fraction of it. Operations
//! are counted by instruction, a multiplication and an addition being two: `vpdpbusd` on 64-byte
//! registers does 128, whatever a kernel needs besides.
//!
//! Machines are shared and their memory bandwidth drifts while a process runs, so that a ceiling is
//! worth something only beside what it is compared with: [`ReadBuffer::sample`] and
//! [`Unit::sample`] are short, to be taken between the runs of a measurement.

mod read;
mod unit;

use std::time::{Duration, Instant};

pub use read::ReadBuffer;
pub use unit::Unit;

/// The best figure of as many passes as fit in `time`, and of at least three.
fn best_of(time: Duration, mut pass: impl FnMut() -> f64) -> f64 {
    let start = Instant::now();
    let (mut best, mut n) = (0f64, 0);
    while n < 3 || start.elapsed() < time {
        best = best.max(pass());
        n += 1;
    }
    best
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Isa, ThreadPool};

    const SHORT: Duration = Duration::from_millis(5);

    #[test]
    fn every_unit_that_is_there_has_a_plausible_rate() {
        let pool = ThreadPool::new(2);
        for isa in Isa::supported() {
            assert!(Unit::F32.is_available(isa));
            let plain = Unit::F32.sample(&pool, isa, SHORT).unwrap();
            for &unit in Unit::ALL {
                let rate = unit.sample(&pool, isa, SHORT);
                assert_eq!(rate.is_some(), unit.is_available(isa), "{unit} with {isa}");
                // A tile's instruction does 32 times the operations of a vector's, in sixteen times as long.
                let plausible = rate.is_none_or(|r| (1e8..100.0 * plain).contains(&r));
                assert!(plausible, "{unit} with {isa}: {rate:?}, {plain} in f32");
            }
        }
    }

    #[test]
    fn a_cache_reads_no_slower_than_a_tenth_of_memory() {
        let pool = ThreadPool::new(1);
        let isa = Isa::active();
        let rate = |bytes| ReadBuffer::new(bytes).sample(&pool, isa, SHORT);
        let (cache, memory) = (rate(1 << 18), rate(1 << 25));
        assert!((1e8..1e14).contains(&cache), "{cache}");
        assert!(cache > memory / 10.0, "{cache} from cache, {memory} from memory");
    }

    #[test]
    fn every_byte_is_read() {
        let pool = ThreadPool::new(3);
        for isa in Isa::supported() {
            for bytes in [0, 64, 1 << 16, (1 << 16) + 64 * 7] {
                let buffer = ReadBuffer::new(bytes);
                let want = (0..buffer.bytes() as u64 / 8).fold(0, u64::wrapping_add);
                assert_eq!(buffer.sum(&pool, isa), want, "{bytes} bytes with {isa}");
            }
        }
    }
}
