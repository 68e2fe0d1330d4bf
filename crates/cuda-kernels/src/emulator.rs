//! Kernels on the processor, for tests: their sources compiled as C++ behind `emulator/emulator.h`.
//!
//! What the host code does and what the kernels compute is checked where there is no GPU; how fast they are
//! is not. Needs a C++ compiler: `CXX`, else `c++`.
//!
//! With `INFINITY_EMULATOR_SANITIZE` set the kernels are built with AddressSanitizer, whose library must
//! then be loaded before the program (`LD_PRELOAD`).

mod faults;

use std::alloc::Layout;
use std::collections::{HashMap, HashSet};
use std::ffi::{CStr, CString, c_char, c_void};
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use libloading::Library;

pub use faults::Faulty;

use crate::source::HEADERS;
use crate::{
    Arg, Backend, DevicePtr, Error, EventId, Gpu, GraphId, Kernel, Launch, Properties, Result,
    Source,
};

const EMULATOR: &str = include_str!("../emulator/emulator.h");
const PTX: &str = include_str!("../emulator/ptx.h");

/// A device whose kernels run on the processor.
#[derive(Debug)]
pub struct Emulator {
    properties: Properties,
    schedule: u64,
    used: AtomicUsize,
    begun: Instant,
    graphs: Mutex<Graphs>,
}

#[derive(Debug, Default)]
struct Graphs {
    /// What a capture has noted so far.
    noted: Option<Vec<Work>>,
    captured: HashMap<u64, Arc<Vec<Work>>>,
    next: u64,
    /// Kernels that were launched: like a driver's, they are loaded.
    launched: HashSet<&'static str>,
}

/// What can be part of a graph.
#[derive(Debug)]
enum Work {
    Launch(Kernel, Launch, Vec<Arg>),
    Copy { to: DevicePtr, from: DevicePtr, bytes: usize },
    Fill { to: DevicePtr, byte: u8, bytes: usize },
}

/// Libraries that were loaded, by the path of their files. Never unloaded: one launch at a time runs in
/// all of them, since their state is global.
static LIBRARIES: LazyLock<Mutex<HashMap<PathBuf, Library>>> = LazyLock::new(Mutex::default);

type EmulatorLaunch = unsafe extern "C" fn(
    name: *const c_char,
    grid: *const u32,
    block: *const u32,
    shared: u32,
    args: *mut *mut c_void,
    count: u32,
    schedule: u64,
) -> *const c_char;

impl Emulator {
    /// A device that runs threads in the order of a schedule: 0 ascending, 1 descending with asynchronous copies
    /// at once, 2 each warp as far ahead of the others as it goes, others shuffled.
    pub fn gpu(schedule: u64) -> Gpu {
        Self::with_memory(schedule, 8 << 30)
    }

    /// The same with so many bytes of memory.
    pub fn with_memory(schedule: u64, memory: usize) -> Gpu {
        Gpu::new(Arc::new(Self::new(schedule, memory)))
    }

    /// The same as a backend.
    pub fn new(schedule: u64, memory: usize) -> Self {
        let properties = Properties {
            ordinal: 0,
            name: "emulator".into(),
            compute_capability: (8, 0),
            multiprocessors: 4,
            memory,
            shared_per_block: 227 << 10,
        };
        let (used, begun, graphs) = (AtomicUsize::new(0), Instant::now(), Mutex::default());
        Self { properties, schedule, used, begun, graphs }
    }

    /// The same as the device of this number.
    #[must_use]
    pub fn numbered(mut self, ordinal: usize) -> Self {
        self.properties.ordinal = ordinal;
        self
    }

    fn graphs(&self) -> MutexGuard<'_, Graphs> {
        self.graphs.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes some work if a capture goes on, or does it.
    ///
    /// # Safety
    /// As for the work.
    unsafe fn do_or_note(&self, work: Work) -> Result<()> {
        let mut graphs = self.graphs();
        if let Work::Launch(kernel, ..) = &work {
            if graphs.noted.is_some() && !graphs.launched.contains(kernel.name) {
                let what = format!(
                    "kernel {} is launched for the first time: do the same once before",
                    kernel.name
                );
                return Err(Error::Capture { ordinal: self.properties.ordinal, what });
            }
            graphs.launched.insert(kernel.name);
        }
        if let Some(noted) = &mut graphs.noted {
            noted.push(work);
            return Ok(());
        }
        drop(graphs);
        // SAFETY: the caller's promise.
        unsafe { self.do_now(&work) }
    }

    /// # Safety
    /// As for the work.
    unsafe fn do_now(&self, work: &Work) -> Result<()> {
        match *work {
            // SAFETY: the caller's promise.
            Work::Launch(ref kernel, ref launch, ref args) => unsafe {
                self.run(kernel, launch, args)
            },
            Work::Copy { to, from, bytes } => {
                // SAFETY: the caller's promise.
                unsafe { address(to).copy_from_nonoverlapping(address(from), bytes) };
                Ok(())
            }
            Work::Fill { to, byte, bytes } => {
                // SAFETY: the caller's promise.
                unsafe { address(to).write_bytes(byte, bytes) };
                Ok(())
            }
        }
    }

    fn failed(&self, kernel: &Kernel, reason: impl Into<String>) -> Error {
        let ordinal = self.properties.ordinal;
        Error::Launch { ordinal, kernel: kernel.name, reason: reason.into() }
    }

    /// # Safety
    /// As for [`Backend::launch`].
    unsafe fn run(&self, kernel: &Kernel, launch: &Launch, args: &[Arg]) -> Result<()> {
        let mut libraries = LIBRARIES.lock().unwrap_or_else(PoisonError::into_inner);
        let path = library(kernel.source)?;
        let library = match libraries.get(&path) {
            Some(library) => library,
            None => {
                // SAFETY: it was made of a source of this crate; its initialisers fill a list.
                let loaded = unsafe { Library::new(&path) }
                    .map_err(|e| self.failed(kernel, e.to_string()))?;
                libraries.entry(path).or_insert(loaded)
            }
        };
        // SAFETY: the type is that of the function in `emulator.h`.
        let run = unsafe { library.get::<EmulatorLaunch>(b"emulator_launch") };
        let run = run.map_err(|e| self.failed(kernel, e.to_string()))?;
        let mut words: Vec<u64> = args.iter().map(|arg| arg.word()).collect();
        let mut pointers: Vec<*mut c_void> =
            words.iter_mut().map(|w| std::ptr::from_mut(w).cast()).collect();
        let name = CString::new(kernel.name).map_err(|e| self.failed(kernel, e.to_string()))?;
        // SAFETY: the caller's promise; the lists are as long as said, and the text that comes back is
        // read while no other launch can change it.
        let fault = unsafe {
            let (grid, block) = (launch.grid.as_ptr(), launch.block.as_ptr());
            let (args, count) = (pointers.as_mut_ptr(), pointers.len() as u32);
            let fault = run(name.as_ptr(), grid, block, launch.shared, args, count, self.schedule);
            if fault.is_null() {
                None
            } else {
                Some(CStr::from_ptr(fault).to_string_lossy().into_owned())
            }
        };
        fault.map_or(Ok(()), |fault| Err(self.failed(kernel, fault)))
    }

    fn layout(bytes: usize) -> Layout {
        Layout::from_size_align(bytes.max(1), 256).expect("a size that was allocated before")
    }
}

/// The C++ compiler: `CXX`, else `c++`.
///
/// # Errors
/// [`Error::NoCxx`] if it does not run.
pub fn compiler() -> Result<String> {
    let compiler = std::env::var("CXX").unwrap_or_else(|_| "c++".into());
    let runs = Command::new(&compiler).arg("--version").env_remove("LD_PRELOAD").output();
    match runs {
        Ok(out) if out.status.success() => Ok(compiler),
        _ => Err(Error::NoCxx { compiler }),
    }
}

/// Compiles a source to a library, unless it is there from before.
fn library(source: &'static Source) -> Result<PathBuf> {
    let compiler = std::env::var("CXX").unwrap_or_else(|_| "c++".into());
    let sanitize = std::env::var_os("INFINITY_EMULATOR_SANITIZE").is_some();
    let mut flags: Vec<&str> =
        "-std=c++17 -O2 -march=native -fPIC -shared -fno-strict-aliasing -fvisibility=hidden \
        -Wall -Wextra -Wno-unused-function -Wno-unused-parameter -Wno-unknown-pragmas"
            .split_ascii_whitespace()
            .collect();
    if sanitize {
        // Lines for its reports; more optimisation takes longer to compile than the tests gain.
        flags.extend(["-fsanitize=address", "-g1", "-O1"]);
    }
    let failed = |log: String| Error::Compile {
        source_name: source.name,
        architecture: "the emulator".into(),
        log: log.trim().to_owned(),
    };
    let key = source.hash(&[EMULATOR, PTX, &compiler, &flags.join(" ")]);
    let folder = folder().join(&key[..16]);
    let library = folder.join("kernels.so");
    if library.exists() {
        return Ok(library);
    }
    let io = |e: std::io::Error| failed(format!("{}: {e}", folder.display()));
    std::fs::create_dir_all(&folder).map_err(io)?;
    let text = format!("#include \"emulator.h\"\n#line 1 \"{}\"\n{}", source.name, source.text);
    let files = [("emulator.h", EMULATOR), ("ptx.h", PTX), ("kernels.cpp", text.as_str())];
    for (name, text) in HEADERS.iter().map(|h| (h.name, h.text)).chain(files) {
        files::write_atomically(folder.join(name), text.as_bytes()).map_err(io)?;
    }
    // Other processes may be at the same: the last to rename wins, and all have made the same.
    let made = folder.join(format!("kernels-{}.so", std::process::id()));
    let out = Command::new(&compiler)
        .args(&flags)
        .arg("-o")
        .arg(&made)
        .arg(folder.join("kernels.cpp"))
        .env_remove("LD_PRELOAD")
        .output()
        .map_err(|e| failed(format!("{compiler}: {e}")))?;
    if !out.status.success() {
        return Err(failed(String::from_utf8_lossy(&out.stderr).into_owned()));
    }
    std::fs::rename(&made, &library).map_err(io)?;
    Ok(library)
}

/// Where libraries are kept: beside the programs that cargo builds.
fn folder() -> PathBuf {
    let program = std::env::current_exe().unwrap_or_default();
    let deps = program.parent().unwrap_or(Path::new("."));
    deps.parent().unwrap_or(deps).join("cuda-emulator")
}

impl Backend for Emulator {
    fn properties(&self) -> &Properties {
        &self.properties
    }

    /// To the byte, so that AddressSanitizer sees where a buffer ends.
    fn sizes(&self, bytes: usize) -> RangeInclusive<usize> {
        bytes..=bytes
    }

    fn memory(&self) -> Result<(usize, usize)> {
        let total = self.properties.memory;
        Ok((total - self.used.load(Ordering::Relaxed), total))
    }

    fn allocate(&self, bytes: usize) -> Result<DevicePtr> {
        let (free, total) = self.memory()?;
        let ordinal = self.properties.ordinal;
        if bytes > free {
            return Err(Error::OutOfMemory { ordinal, needed: bytes, free, total });
        }
        // SAFETY: the layout has a size.
        let at = unsafe { std::alloc::alloc(Self::layout(bytes)) };
        if at.is_null() {
            return Err(Error::OutOfMemory { ordinal, needed: bytes, free: 0, total });
        }
        // SAFETY: it was allocated just now. Not a number, wherever nothing is written.
        unsafe { at.write_bytes(0xff, bytes) };
        self.used.fetch_add(bytes, Ordering::Relaxed);
        Ok(at.expose_provenance() as u64)
    }

    unsafe fn free(&self, at: DevicePtr, bytes: usize) {
        self.used.fetch_sub(bytes, Ordering::Relaxed);
        // SAFETY: the caller's promise.
        unsafe { std::alloc::dealloc(address(at), Self::layout(bytes)) };
    }

    unsafe fn upload(&self, to: DevicePtr, from: &[u8]) -> Result<()> {
        // SAFETY: the caller's promise.
        unsafe { address(to).copy_from_nonoverlapping(from.as_ptr(), from.len()) };
        Ok(())
    }

    unsafe fn download(&self, to: &mut [u8], from: DevicePtr) -> Result<()> {
        // SAFETY: the caller's promise.
        unsafe { to.as_mut_ptr().copy_from_nonoverlapping(address(from), to.len()) };
        Ok(())
    }

    unsafe fn copy(&self, to: DevicePtr, from: DevicePtr, bytes: usize) -> Result<()> {
        // SAFETY: the caller's promise.
        unsafe { self.do_or_note(Work::Copy { to, from, bytes }) }
    }

    unsafe fn fill(&self, to: DevicePtr, byte: u8, bytes: usize) -> Result<()> {
        // SAFETY: the caller's promise.
        unsafe { self.do_or_note(Work::Fill { to, byte, bytes }) }
    }

    unsafe fn launch(&self, kernel: &Kernel, launch: &Launch, args: &[Arg]) -> Result<()> {
        // SAFETY: the caller's promise.
        unsafe { self.do_or_note(Work::Launch(*kernel, *launch, args.to_vec())) }
    }

    fn synchronize(&self) -> Result<()> {
        Ok(())
    }

    fn record(&self) -> Result<EventId> {
        Ok(EventId(self.begun.elapsed().as_nanos() as u64))
    }

    unsafe fn elapsed(&self, from: EventId, to: EventId) -> Result<Duration> {
        Ok(Duration::from_nanos(to.0.saturating_sub(from.0)))
    }

    unsafe fn free_event(&self, _: EventId) {}

    fn begin_capture(&self) -> Result<()> {
        self.graphs().noted = Some(Vec::new());
        Ok(())
    }

    fn end_capture(&self) -> Result<GraphId> {
        let mut graphs = self.graphs();
        let noted = graphs.noted.take().unwrap_or_default();
        graphs.next += 1;
        let id = graphs.next;
        graphs.captured.insert(id, Arc::new(noted));
        Ok(GraphId(id))
    }

    unsafe fn replay(&self, graph: GraphId) -> Result<()> {
        let captured = self.graphs().captured.get(&graph.0).map(Arc::clone).unwrap_or_default();
        for work in &*captured {
            // SAFETY: the caller's promise: what the work needs is still there.
            unsafe { self.do_now(work) }?;
        }
        Ok(())
    }

    unsafe fn free_graph(&self, graph: GraphId) {
        self.graphs().captured.remove(&graph.0);
    }
}

fn address(at: DevicePtr) -> *mut u8 {
    std::ptr::with_exposed_provenance_mut(at as usize)
}
