//! Memory asked for before it is needed: hints, for any address.

/// Bytes that come from memory together.
pub(crate) const CACHE_LINE: usize = 64;

/// Asks for the cache line of the byte at `at` to be brought to the second-level cache: to the first
/// level it would wait among the few lines that a core can have on their way there.
#[inline(always)]
pub(crate) fn prefetch(at: *const u8) {
    #[cfg(target_arch = "x86_64")]
    {
        use std::arch::x86_64::{_MM_HINT_T1, _mm_prefetch};
        // SAFETY: a prefetch reads nothing and faults at no address.
        unsafe { _mm_prefetch::<_MM_HINT_T1>(at.cast()) };
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = at;
}

/// As [`prefetch`], to the first-level cache: for what is needed soon, by a loop that waits for nothing
/// else.
#[inline(always)]
pub(crate) fn prefetch_near(at: *const u8) {
    #[cfg(target_arch = "x86_64")]
    {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        // SAFETY: a prefetch reads nothing and faults at no address.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(at.cast()) };
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = at;
}
