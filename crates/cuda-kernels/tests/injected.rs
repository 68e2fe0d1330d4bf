//! What goes wrong is told, leaves nothing behind, and the process goes on: faults injected before the emulator.

mod common;

use std::sync::Arc;

use cuda_kernels::emulator::Faulty;
use cuda_kernels::ops::vector_add::{Affine, VectorAdd, quantized_vector_add};
use cuda_kernels::{Backend, Buffer, Error, Gpu, Result};

const N: usize = 256;

fn add(gpu: &Gpu, a: &Buffer, out: &Buffer) -> Result<()> {
    let unit = Affine { scale: 1.0, zero_point: 0 };
    quantized_vector_add(gpu, VectorAdd::Wide, N, (a, unit), (a, unit), (out, unit))
}

/// Uploads, adds, fills, copies and downloads.
fn run(gpu: &Gpu) -> Result<Vec<i8>> {
    let a = gpu.upload(&[3i8; N])?;
    let sum = gpu.filled(0, N)?;
    add(gpu, &a, &sum)?;
    let out = gpu.alloc(N)?;
    out.copy_from(&sum)?;
    gpu.synchronize()?;
    out.download()
}

#[test]
fn after_any_call_that_fails_the_device_goes_on_and_nothing_is_left() {
    if !common::emulator() {
        return;
    }
    for call in ["allocate", "upload", "launch", "fill", "copy", "download", "synchronize"] {
        let backend = Faulty::new(0, 1 << 20);
        let gpu = Gpu::new(Arc::clone(&backend) as Arc<dyn Backend>);
        backend.fail(call, 1);
        let error = run(&gpu).unwrap_err();
        let as_expected = match &error {
            Error::OutOfMemory { needed, free, .. } => {
                call == "allocate" && *needed == N && *free == 1 << 20
            }
            Error::Launch { kernel, .. } => call == "launch" && *kernel == "quantized_vector_add",
            Error::Call { call: of, .. } => of == call,
            _ => false,
        };
        assert!(as_expected, "{call}: {error}");
        assert_eq!(gpu.memory_stats().used, 0, "{call}");
        assert_eq!(run(&gpu).unwrap(), [6; N], "{call}");
        drop(gpu);
        assert_eq!(backend.held(), [0; 3], "{call}");
    }
}

#[test]
fn a_device_that_is_full_gives_what_is_kept_and_then_says_what_it_lacks() {
    let backend = Faulty::new(0, 1 << 20);
    let gpu = Gpu::new(Arc::clone(&backend) as Arc<dyn Backend>);
    let held = gpu.alloc(1000).unwrap();
    drop(gpu.alloc(5000).unwrap());
    backend.fail("allocate", 1);
    drop(gpu.alloc(7000).unwrap());
    assert_eq!(backend.held()[0], 1000 + 7000, "what was kept went first");
    backend.fail("allocate", 2);
    let error = gpu.alloc(9000).unwrap_err();
    assert!(
        matches!(error, Error::OutOfMemory { needed: 9000, free: 1047576, total: 1048576, .. }),
        "{error}"
    );
    drop((held, gpu));
    assert_eq!(backend.held(), [0; 3]);
}

#[test]
fn a_profile_that_fails_is_over() {
    if !common::emulator() {
        return;
    }
    for call in ["record", "elapsed", "launch"] {
        let backend = Faulty::new(0, 1 << 20);
        let gpu = Gpu::new(Arc::clone(&backend) as Arc<dyn Backend>);
        gpu.start_profile();
        run(&gpu).unwrap();
        backend.fail(call, 1);
        let worked = run(&gpu).and_then(|_| gpu.stop_profile());
        assert!(worked.is_err(), "{call}");
        gpu.stop_profile().unwrap();
        assert_eq!(backend.held()[1], 0, "{call}: events");
        // One that is never stopped gives its events back with the device.
        gpu.start_profile();
        assert_eq!(run(&gpu).unwrap(), [6; N], "{call}");
        assert!(backend.held()[1] > 0);
        drop(gpu);
        assert_eq!(backend.held(), [0; 3], "{call}");
    }
}

#[test]
fn a_graph_that_fails_leaves_nothing() {
    if !common::emulator() {
        return;
    }
    for call in ["begin_capture", "end_capture", "launch", "replay"] {
        let backend = Faulty::new(0, 1 << 20);
        let gpu = Gpu::new(Arc::clone(&backend) as Arc<dyn Backend>);
        let a = gpu.upload(&[3i8; N]).unwrap();
        let step = || {
            let out = gpu.alloc(N)?;
            add(&gpu, &a, &out)?;
            Ok(out)
        };
        drop(step().unwrap());
        backend.fail(call, 1);
        let replayed = gpu.capture(step).and_then(|(graph, _)| graph.replay());
        assert!(replayed.is_err(), "{call}");
        let (graph, out) = gpu.capture(step).unwrap();
        graph.replay().unwrap();
        assert_eq!(out.download::<i8>().unwrap(), [6; N], "{call}");
        drop((graph, out, a, gpu));
        assert_eq!(backend.held(), [0; 3], "{call}");
    }
}
