//! What goes wrong is told, leaves nothing behind, and the process goes on: faults injected before the emulator.

mod common;

use std::ops::RangeInclusive;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use cuda_kernels::emulator::Emulator;
use cuda_kernels::ops::vector_add::{Affine, VectorAdd, quantized_vector_add};
use cuda_kernels::{
    Arg, Backend, Buffer, DevicePtr, Error, EventId, Gpu, GraphId, Kernel, Launch, Properties,
    Result,
};

/// The emulator, but the next calls of one name fail.
#[derive(Debug)]
struct Faulty {
    inner: Emulator,
    fails: Mutex<Option<(&'static str, u32)>>,
    bytes: AtomicI64,
    events: AtomicI64,
    graphs: AtomicI64,
}

impl Faulty {
    fn new() -> Arc<Self> {
        let (bytes, events, graphs) = Default::default();
        let inner = Emulator::new(0, 1 << 20);
        Arc::new(Self { inner, fails: Mutex::default(), bytes, events, graphs })
    }

    /// From now on `times` calls of this name fail.
    fn fail(&self, call: &'static str, times: u32) {
        *self.fails.lock().unwrap() = Some((call, times));
    }

    fn check(&self, call: &'static str) -> Result<()> {
        let mut fails = self.fails.lock().unwrap();
        match &mut *fails {
            Some((name, times)) if *name == call && *times > 0 => {
                *times -= 1;
                Err(Error::Call { ordinal: 0, call: call.into(), reason: "as injected".into() })
            }
            _ => Ok(()),
        }
    }

    /// Bytes, events and graphs that were taken and not given back.
    fn held(&self) -> [i64; 3] {
        [&self.bytes, &self.events, &self.graphs].map(|n| n.load(Ordering::Relaxed))
    }
}

impl Backend for Faulty {
    fn properties(&self) -> &Properties {
        self.inner.properties()
    }

    fn sizes(&self, bytes: usize) -> RangeInclusive<usize> {
        self.inner.sizes(bytes)
    }

    fn memory(&self) -> Result<(usize, usize)> {
        self.inner.memory()
    }

    fn allocate(&self, bytes: usize) -> Result<DevicePtr> {
        if self.check("allocate").is_err() {
            let (free, total) = self.memory()?;
            return Err(Error::OutOfMemory { ordinal: 0, needed: bytes, free, total });
        }
        let at = self.inner.allocate(bytes)?;
        self.bytes.fetch_add(bytes as i64, Ordering::Relaxed);
        Ok(at)
    }

    unsafe fn free(&self, at: DevicePtr, bytes: usize) {
        self.bytes.fetch_sub(bytes as i64, Ordering::Relaxed);
        // SAFETY: the caller's promise.
        unsafe { self.inner.free(at, bytes) };
    }

    unsafe fn upload(&self, to: DevicePtr, from: &[u8]) -> Result<()> {
        self.check("upload")?;
        // SAFETY: the caller's promise.
        unsafe { self.inner.upload(to, from) }
    }

    unsafe fn download(&self, to: &mut [u8], from: DevicePtr) -> Result<()> {
        self.check("download")?;
        // SAFETY: the caller's promise.
        unsafe { self.inner.download(to, from) }
    }

    unsafe fn copy(&self, to: DevicePtr, from: DevicePtr, bytes: usize) -> Result<()> {
        self.check("copy")?;
        // SAFETY: the caller's promise.
        unsafe { self.inner.copy(to, from, bytes) }
    }

    unsafe fn fill(&self, to: DevicePtr, byte: u8, bytes: usize) -> Result<()> {
        self.check("fill")?;
        // SAFETY: the caller's promise.
        unsafe { self.inner.fill(to, byte, bytes) }
    }

    unsafe fn launch(&self, kernel: &Kernel, launch: &Launch, args: &[Arg]) -> Result<()> {
        if self.check("launch").is_err() {
            return Err(Error::Launch {
                ordinal: 0,
                kernel: kernel.name,
                reason: "as injected".into(),
            });
        }
        // SAFETY: the caller's promise.
        unsafe { self.inner.launch(kernel, launch, args) }
    }

    fn synchronize(&self) -> Result<()> {
        self.check("synchronize")
    }

    fn record(&self) -> Result<EventId> {
        self.check("record")?;
        self.events.fetch_add(1, Ordering::Relaxed);
        self.inner.record()
    }

    unsafe fn elapsed(&self, from: EventId, to: EventId) -> Result<Duration> {
        self.check("elapsed")?;
        // SAFETY: the caller's promise.
        unsafe { self.inner.elapsed(from, to) }
    }

    unsafe fn free_event(&self, _: EventId) {
        self.events.fetch_sub(1, Ordering::Relaxed);
    }

    fn begin_capture(&self) -> Result<()> {
        self.check("begin_capture")?;
        self.inner.begin_capture()
    }

    fn end_capture(&self) -> Result<GraphId> {
        let captured = self.inner.end_capture()?;
        if let Err(error) = self.check("end_capture") {
            // SAFETY: nobody else has it.
            unsafe { self.inner.free_graph(captured) };
            return Err(error);
        }
        self.graphs.fetch_add(1, Ordering::Relaxed);
        Ok(captured)
    }

    unsafe fn replay(&self, graph: GraphId) -> Result<()> {
        self.check("replay")?;
        // SAFETY: the caller's promise.
        unsafe { self.inner.replay(graph) }
    }

    unsafe fn free_graph(&self, graph: GraphId) {
        self.graphs.fetch_sub(1, Ordering::Relaxed);
        // SAFETY: the caller's promise.
        unsafe { self.inner.free_graph(graph) };
    }
}

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
        let backend = Faulty::new();
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
    let backend = Faulty::new();
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
        let backend = Faulty::new();
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
        let backend = Faulty::new();
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
