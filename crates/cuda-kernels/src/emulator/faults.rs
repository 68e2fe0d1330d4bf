//! Faults of a driver, injected before the emulator.

use std::ops::RangeInclusive;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::Emulator;
use crate::{Arg, Backend, DevicePtr, Error, EventId, GraphId, Kernel, Launch, Properties, Result};

/// The emulator, but the next calls of one name fail; and it counts what was taken of it.
#[derive(Debug)]
pub struct Faulty {
    inner: Emulator,
    fails: Mutex<Option<(&'static str, u32)>>,
    bytes: AtomicI64,
    events: AtomicI64,
    graphs: AtomicI64,
}

impl Faulty {
    /// An emulator of this number and so many bytes of memory.
    pub fn new(ordinal: usize, memory: usize) -> Arc<Self> {
        let (bytes, events, graphs) = Default::default();
        let inner = Emulator::new(0, memory).numbered(ordinal);
        Arc::new(Self { inner, fails: Mutex::default(), bytes, events, graphs })
    }

    /// From now on `times` calls of this method of [`Backend`] fail.
    pub fn fail(&self, call: &'static str, times: u32) {
        *self.fails() = Some((call, times));
    }

    fn fails(&self) -> MutexGuard<'_, Option<(&'static str, u32)>> {
        self.fails.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn check(&self, call: &'static str) -> Result<()> {
        let ordinal = self.inner.properties.ordinal;
        match &mut *self.fails() {
            Some((name, times)) if *name == call && *times > 0 => {
                *times -= 1;
                Err(Error::Call { ordinal, call: call.into(), reason: "as injected".into() })
            }
            _ => Ok(()),
        }
    }

    /// Bytes, events and graphs that were taken and not given back.
    pub fn held(&self) -> [i64; 3] {
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
            let ordinal = self.inner.properties.ordinal;
            let (free, total) = self.memory()?;
            return Err(Error::OutOfMemory { ordinal, needed: bytes, free, total });
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
                ordinal: self.inner.properties.ordinal,
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
