//! The emulator sees faults that are planted for it, and is what PTX says of the instructions.

mod common;

use std::process::Command;

use cuda_kernels::emulator::Emulator;
use cuda_kernels::{Arg, Buffer, Gpu, Kernel, Launch, Result, Source};

static PLANTED: Source = Source { name: "planted.cu", text: include_str!("planted.cu") };

fn run(gpu: &Gpu, name: &'static str, threads: u32, args: &[Arg]) -> Result<()> {
    // SAFETY: the buffers are as long as the kernels above read, but where that is what is tested.
    unsafe { gpu.launch(&Kernel::new(&PLANTED, name), Launch::new(1, threads), args) }
}

fn arg(buffer: &Buffer) -> Arg {
    Arg::Ptr(buffer.ptr())
}

/// What a kernel makes of 0, 1, 2, ... under a schedule.
fn turned(name: &'static str, threads: u32, schedule: u64) -> Vec<f32> {
    let gpu = Emulator::gpu(schedule);
    let x: Vec<f32> = (0..128).map(|i| i as f32).collect();
    let (x, out) = (gpu.upload(&x).unwrap(), gpu.filled(0xff, 4 * threads as usize).unwrap());
    run(&gpu, name, threads, &[arg(&x), arg(&out)]).unwrap();
    out.download().unwrap()
}

#[test]
fn a_missing_barrier_shows() {
    if !common::emulator() {
        return;
    }
    let want: Vec<f32> = (0..64).rev().map(|i| i as f32).collect();
    assert_ne!(turned("planted_race_of_warps", 64, 2), want);
    for schedule in 0..5 {
        assert_eq!(turned("planted_race_mended", 64, schedule), want);
        assert_ne!(turned("planted_race", 64, schedule), want, "schedule {schedule}");
    }
}

#[test]
fn a_copy_that_nobody_waits_for_shows() {
    if !common::emulator() {
        return;
    }
    assert!(turned("planted_no_wait", 32, 0).iter().all(|x| x.is_nan()));
}

#[test]
fn threads_that_part_are_a_fault() {
    if !common::emulator() {
        return;
    }
    let gpu = Emulator::gpu(0);
    let out = gpu.alloc(256).unwrap();
    for (name, threads, says) in [
        ("planted_divergent_barrier", 64, "32 at __syncthreads"),
        ("planted_divergent_warp", 32, "different operations"),
    ] {
        let error = run(&gpu, name, threads, &[arg(&out)]).unwrap_err().to_string();
        assert!(error.contains(says), "{error}");
    }
    let error = run(&gpu, "planted_race", 96, &[arg(&out), arg(&out)]).unwrap_err().to_string();
    assert!(error.contains("more threads"), "{error}");
    let error = run(&gpu, "planted_race", 32, &[arg(&out)]).unwrap_err().to_string();
    assert!(error.contains("parameters"), "{error}");
}

#[test]
fn memory_that_is_not_there_is_an_error_and_comes_back() {
    let gpu = Emulator::with_memory(0, 1000);
    let held = gpu.alloc(600).unwrap();
    let error = gpu.alloc(500).unwrap_err().to_string();
    assert_eq!(error, "cuda:0: out of memory: 500 bytes needed, 400 of 1000 free");
    drop(held);
    // What is kept is given back for what does not fit beside it.
    let other = gpu.alloc(500).unwrap();
    assert_eq!((gpu.memory_stats().used, gpu.memory_stats().kept), (500, 0));
    drop(other);
    gpu.alloc(500).unwrap();
    assert_eq!(gpu.memory_stats().reused, 1);
    gpu.trim();
    assert_eq!(gpu.memory().unwrap(), (1000, 1000));
}

/// Runs a test of this program in a process with AddressSanitizer; its output where it fails.
fn sanitized(test: &str) -> Option<String> {
    let compiler = std::env::var("CXX").unwrap_or_else(|_| "c++".into());
    let library = Command::new(compiler).arg("-print-file-name=libasan.so").output().unwrap();
    let library = String::from_utf8(library.stdout).unwrap();
    let out = Command::new(std::env::current_exe().unwrap())
        .args([test, "--exact", "--ignored", "--nocapture"])
        .env("INFINITY_EMULATOR_SANITIZE", "1")
        .env("LD_PRELOAD", library.trim())
        .env("ASAN_OPTIONS", "detect_leaks=0:abort_on_error=0")
        .output()
        .unwrap();
    let text = [out.stdout, out.stderr].concat();
    (!out.status.success()).then(|| String::from_utf8_lossy(&text).into_owned())
}

#[test]
fn address_sanitizer_sees_what_is_out_of_bounds() {
    if !common::emulator() {
        return;
    }
    for (test, says) in [
        ("overrun_of_global_memory", "heap-buffer-overflow"),
        ("overrun_of_shared_memory", "heap-buffer-overflow"),
    ] {
        let output = sanitized(test).unwrap_or_default();
        assert!(output.contains(says) && output.contains("planted.cu"), "{test}: {output}");
    }
    assert_eq!(sanitized("nothing_out_of_bounds"), None);
}

#[test]
#[ignore = "run by another, under AddressSanitizer"]
fn overrun_of_global_memory() {
    let gpu = Emulator::gpu(0);
    let (x, out) = (gpu.upload(&[1.0f32; 8]).unwrap(), gpu.alloc(4).unwrap());
    run(&gpu, "planted_global_overrun", 32, &[arg(&x), arg(&out), Arg::I32(8)]).unwrap();
}

#[test]
#[ignore = "run by another, under AddressSanitizer"]
fn overrun_of_shared_memory() {
    let gpu = Emulator::gpu(0);
    let out = gpu.alloc(128).unwrap();
    run(&gpu, "planted_shared_overrun", 32, &[arg(&out)]).unwrap();
}

#[test]
#[ignore = "run by another, under AddressSanitizer"]
fn nothing_out_of_bounds() {
    assert_eq!(turned("planted_race_mended", 64, 0)[0], 63.0);
}
