//! Graphs, moments, profiles and memory: on the emulator, and on a GPU if there is one.

mod common;

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use common::{on_each, poisoned};
use cuda_kernels::ops::vector_add::{Affine, VectorAdd, quantized_vector_add};
use cuda_kernels::{Buffer, Error, Gpu, Result};

const UNIT: Affine = Affine { scale: 1.0, zero_point: 0 };

fn add(gpu: &Gpu, a: &Buffer, b: &Buffer, out: &Buffer) -> Result<()> {
    quantized_vector_add(gpu, VectorAdd::Wide, out.len(), (a, UNIT), (b, UNIT), (out, UNIT))
}

/// 2 (a + b) + a, with memory of its own in between.
fn step(gpu: &Gpu, a: &Buffer, b: &Buffer) -> Result<Buffer> {
    let sum = gpu.filled(0, a.len())?;
    add(gpu, a, b, &sum)?;
    let twice = gpu.alloc(a.len())?;
    add(gpu, &sum, &sum, &twice)?;
    drop(sum);
    let copy = gpu.alloc(a.len())?;
    copy.copy_from(&twice)?;
    let out = gpu.alloc(a.len())?;
    add(gpu, &copy, a, &out)?;
    Ok(out)
}

fn values(buffer: &Buffer) -> Vec<i8> {
    buffer.download().unwrap()
}

#[test]
fn a_graph_does_again_what_was_captured() {
    on_each(|gpu, name| {
        let a = gpu.upload(&[1i8; 4096]).unwrap();
        let b = gpu.upload(&[2i8; 4096]).unwrap();
        assert_eq!(values(&step(gpu, &a, &b).unwrap()), [7; 4096], "{name}");
        let before = gpu.memory_stats();
        let (graph, out) = gpu.capture(|| step(gpu, &a, &b)).unwrap();
        let after = gpu.memory_stats();
        assert_eq!(after.allocations, before.allocations, "{name}: all from what was kept");
        assert!(after.used > before.used, "{name}: the graph holds memory");
        // What a capture leaves in the memory that it took is another's result; nothing has run yet.
        for (x, y) in [(1i8, 2i8), (3, 4), (-5, 9)] {
            a.write(&[x; 4096]).unwrap();
            b.write(&[y; 4096]).unwrap();
            // Memory that others take meanwhile is none of the graph's.
            let others: Vec<Buffer> = (0..4).map(|_| gpu.filled(0x55, 4096).unwrap()).collect();
            graph.replay().unwrap();
            assert_eq!(values(&out), [2 * (x + y) + x; 4096], "{name}");
            assert!(
                others.iter().all(|o| values(o) == [0x55; 4096]),
                "{name}: written by a replay"
            );
        }
        // Only the result keeps the memory when the graph has gone.
        drop(graph);
        assert_eq!(values(&out), [3; 4096], "{name}");
        drop(out);
        assert_eq!(gpu.memory_stats().used, before.used, "{name}: memory is given back");
    });
}

#[test]
fn a_graph_keeps_the_buffers_that_it_uses() {
    on_each(|gpu, name| {
        let a = gpu.upload(&[1i8; 64]).unwrap();
        let b = gpu.upload(&[2i8; 64]).unwrap();
        let out = poisoned(gpu, 64);
        add(gpu, &a, &b, &out).unwrap();
        let (graph, ()) = gpu.capture(|| add(gpu, &a, &b, &out)).unwrap();
        assert!(!a.is_unique());
        drop((a, b));
        let others: Vec<Buffer> = (0..4).map(|_| gpu.filled(0x55, 64).unwrap()).collect();
        graph.replay().unwrap();
        assert_eq!(values(&out), [3; 64], "{name}");
        drop(others);
        drop(graph);
        assert!(out.is_unique());
    });
}

#[test]
fn what_cannot_be_captured_is_refused_and_the_device_goes_on() {
    on_each(|gpu, name| {
        let a = gpu.upload(&[1i8; 256]).unwrap();
        let out = poisoned(gpu, 256);
        let refused = |what: &str, work: &dyn Fn() -> Result<()>| {
            let used = gpu.memory_stats().used;
            let error = gpu.capture(work).unwrap_err();
            assert!(matches!(error, Error::Capture { .. }), "{name}: {what}: {error}");
            assert!(error.to_string().contains(what), "{name}: {what}: {error}");
            assert_eq!(gpu.memory_stats().used, used, "{name}: {what}");
        };
        refused("launched for the first time", &|| add(gpu, &a, &a, &out));
        add(gpu, &a, &a, &out).unwrap();
        refused("are kept", &|| gpu.alloc(123_457).map(drop));
        refused("download", &|| a.download::<i8>().map(drop));
        refused("upload", &|| a.write(&[1u8]));
        refused("waiting", &|| gpu.synchronize());
        refused("a moment", &|| gpu.record().map(drop));
        refused("another capture", &|| gpu.capture(|| Ok(())).map(drop));
        let (empty, ()) = gpu.capture(|| Ok(())).unwrap();
        refused("another graph", &|| empty.replay());
        empty.replay().unwrap();
        assert_eq!(values(&out), [2; 256], "{name}");
    });
}

#[test]
fn a_capture_that_panics_is_over() {
    on_each(|gpu, name| {
        let a = gpu.upload(&[1i8; 256]).unwrap();
        let out = poisoned(gpu, 256);
        add(gpu, &a, &a, &out).unwrap();
        let captured = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            gpu.capture(|| -> Result<()> {
                add(gpu, &out, &out, &out)?;
                panic!("as planned")
            })
        }));
        assert!(captured.is_err());
        assert_eq!(values(&out), [2; 256], "{name}: nothing of the capture was done");
        add(gpu, &out, &out, &out).unwrap();
        assert_eq!(values(&out), [4; 256], "{name}");
    });
}

#[test]
fn other_threads_wait_for_a_capture() {
    on_each(|gpu, name| {
        let a = gpu.upload(&[1i8; 256]).unwrap();
        let (out, other) = (poisoned(gpu, 256), poisoned(gpu, 256));
        add(gpu, &a, &a, &out).unwrap();
        let done = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let (graph, ()) = gpu
                .capture(|| {
                    scope.spawn(|| {
                        add(gpu, &a, &a, &other).unwrap();
                        done.store(true, Ordering::SeqCst);
                    });
                    std::thread::sleep(Duration::from_millis(20));
                    assert!(!done.load(Ordering::SeqCst), "{name}");
                    add(gpu, &out, &out, &out)
                })
                .unwrap();
            graph.replay().unwrap();
            graph.replay().unwrap();
        });
        assert_eq!(values(&out), [8; 256], "{name}: the graph is its own thread's work");
        assert_eq!(values(&other), [2; 256], "{name}");
    });
}

#[test]
fn a_profile_counts_and_times_each_kernel() {
    on_each(|gpu, name| {
        let a = gpu.upload(&vec![1i8; 1 << 16]).unwrap();
        let out = poisoned(gpu, a.len());
        add(gpu, &a, &a, &out).unwrap();
        gpu.start_profile();
        let begin = std::time::Instant::now();
        for _ in 0..5 {
            add(gpu, &a, &a, &out).unwrap();
        }
        out.copy_from(&a).unwrap();
        let (graph, ()) = gpu.capture(|| add(gpu, &a, &a, &out)).unwrap();
        graph.replay().unwrap();
        values(&out);
        let profile = gpu.stop_profile().unwrap();
        let wall = begin.elapsed();
        let count = |of: &str| profile.kernels.iter().find(|k| k.name == of).map(|k| k.count);
        let counts =
            ["quantized_vector_add", "copy", "graph replay", "download", "fill"].map(count);
        assert_eq!(counts, [Some(5), Some(1), Some(1), Some(1), None], "{name}");
        assert!(profile.kernels.is_sorted_by(|a, b| a.total >= b.total), "{name}");
        assert!(profile.kernels[0].total > Duration::ZERO, "{name}");
        // Events step by half a microsecond, so that sums may be beyond what the host saw.
        assert!(profile.busy() + profile.gaps < wall + Duration::from_millis(1), "{name}");
        let table = profile.to_string();
        assert!(table.starts_with("kernel ") && table.contains("quantized_vector_add "), "{table}");
        // And nothing when it is off.
        add(gpu, &a, &a, &out).unwrap();
        assert_eq!(gpu.stop_profile().unwrap().kernels, []);
    });
}

#[test]
fn moments_and_bandwidths_are_measured() {
    on_each(|gpu, name| {
        let begin = gpu.record().unwrap();
        std::thread::sleep(Duration::from_millis(20));
        let end = gpu.record().unwrap();
        let took = begin.until(&end).unwrap();
        assert!((15..2000).contains(&took.as_millis()), "{name}: {took:?}");
        let bandwidth = gpu.copy_bandwidth().unwrap();
        // From a slow processor under load to beyond what any device has.
        assert!((1e8..1e14).contains(&bandwidth), "{name}: {bandwidth:e}");
    });
}

#[test]
fn long_copies_arrive() {
    on_each(|gpu, name| {
        // Shorter than what goes through pinned memory, longer than its ring, and neither a multiple.
        for n in [1usize, 65_537, 21_000_001] {
            let bytes: Vec<u8> = (0..n).map(|i| (i ^ (i >> 8) ^ (i >> 16)) as u8).collect();
            let buffer = gpu.upload(&bytes).unwrap();
            assert!(buffer.download::<u8>().unwrap() == bytes, "{name}: {n}");
        }
    });
}

#[test]
#[cfg(target_os = "linux")]
fn the_same_on_a_fake_driver() {
    common::fake::all_again("the_same_on_a_fake_driver");
}
