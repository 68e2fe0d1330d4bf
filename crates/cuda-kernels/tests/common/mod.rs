//! Where the kernels are tested: on the emulator, under four schedules, and on a GPU if there is one.
//!
//! With `REQUIRE_GPU` set only the GPU counts, and its absence fails the test: so that a test program can be
//! copied to a machine that has a GPU and no compiler.
#![allow(dead_code)] // not every test needs everything

#[cfg(target_os = "linux")]
pub(crate) mod fake;

use cuda_kernels::compile::CubinCache;
use cuda_kernels::emulator::{self, Emulator};
use cuda_kernels::{Buffer, Gpu, driver};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// Runs a test on every device that there is, with a name for messages.
pub(crate) fn on_each(test: impl Fn(&Gpu, &str)) {
    let required = std::env::var_os("REQUIRE_GPU").is_some();
    match driver::open(0, CubinCache::from_environment()) {
        Ok(gpu) => {
            test(&gpu, &gpu.properties().name.clone());
            gpu.synchronize().expect("nothing went wrong on the GPU");
        }
        Err(why) => {
            assert!(!required, "REQUIRE_GPU is set, but {why}");
            println!("skipped: no GPU ({why})");
        }
    }
    if required || !emulator() {
        return;
    }
    // AddressSanitizer looks at one order, which is enough to see what is out of bounds.
    let schedules = if std::env::var_os("INFINITY_EMULATOR_SANITIZE").is_some() { 1 } else { 4 };
    for schedule in 0..schedules {
        test(&Emulator::gpu(schedule), &format!("emulator, schedule {schedule}"));
    }
}

/// Whether kernels can run on the emulator; says why not. With `CI` set they must.
pub(crate) fn emulator() -> bool {
    let Err(why) = emulator::compiler() else { return true };
    assert!(std::env::var_os("CI").is_none(), "CI is set, but {why}");
    println!("skipped: {why}");
    false
}

/// Numbers that differ from run to run where `FRESH_INPUTS` is set, and are the same otherwise; the seed is
/// printed, so that a failure can be had again.
pub(crate) fn random(salt: u64) -> ChaCha8Rng {
    let seed = match std::env::var("FRESH_INPUTS").map(|seed| seed.parse()) {
        Ok(Ok(seed)) => seed,
        Ok(Err(_)) => std::time::UNIX_EPOCH.elapsed().map_or(0, |t| t.as_nanos() as u64),
        Err(_) => 0,
    };
    println!("FRESH_INPUTS={seed}");
    ChaCha8Rng::seed_from_u64(seed ^ salt.rotate_left(32))
}

/// Numbers from a normal distribution, about.
pub(crate) fn normal(random: &mut impl Rng, n: usize, deviation: f32) -> Vec<f32> {
    let mut one = || {
        let sum: f32 = (0..12).map(|_| random.next_u32() as f32 / u32::MAX as f32).sum();
        (sum - 6.0) * deviation
    };
    (0..n).map(|_| one()).collect()
}

/// A result's memory, full of what is not a number.
pub(crate) fn poisoned(gpu: &Gpu, bytes: usize) -> Buffer {
    gpu.filled(0xff, bytes).expect("memory")
}

/// Whether each number is that of an f64 reference, up to `tolerance` of the largest.
#[track_caller]
pub(crate) fn assert_close(got: &[f32], want: &[f64], tolerance: f64, what: &str) {
    assert_eq!(got.len(), want.len(), "{what}");
    let scale = want.iter().fold(1e-30f64, |most, x| most.max(x.abs()));
    for (i, (&got, &want)) in got.iter().zip(want).enumerate() {
        let error = (f64::from(got) - want).abs() / scale;
        assert!(
            error <= tolerance,
            "{what}: element {i} is {got}, not {want}: {error:e} of {scale}"
        );
    }
}
