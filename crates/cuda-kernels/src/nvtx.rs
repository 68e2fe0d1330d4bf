//! Ranges with names in the timeline of Nsight Systems, by the optional library of NVTX.
//!
//! Where the library is missing ranges do nothing. CUDA 12 installs it as `libnvToolsExt.so.1`, the wheel
//! `nvidia-nvtx` also as `libnvtx3interop.so.1`; `INFINITY_NVTX` names another file, or none if it is empty.

use std::ffi::{CString, OsString, c_char, c_int};
use std::fmt;
use std::marker::PhantomData;
use std::sync::LazyLock;

use libloading::Library;

type Push = unsafe extern "C" fn(*const c_char) -> c_int;
type Pop = unsafe extern "C" fn() -> c_int;

struct Nvtx {
    push: Push,
    pop: Pop,
    /// The functions are its own.
    _library: Library,
}

static NVTX: LazyLock<Option<Nvtx>> = LazyLock::new(|| {
    let names = match std::env::var_os("INFINITY_NVTX") {
        Some(name) if name.is_empty() => Vec::new(),
        Some(name) => vec![name],
        None => ["libnvtx3interop.so.1", "libnvToolsExt.so.1"].map(OsString::from).to_vec(),
    };
    names.into_iter().find_map(Nvtx::load)
});

impl Nvtx {
    fn load(name: OsString) -> Option<Self> {
        // SAFETY: the library's initialisers ask for a profiler and do nothing else.
        let library = unsafe { Library::new(name) }.ok()?;
        // SAFETY: the types are those of nvToolsExt.h.
        let (push, pop) = unsafe {
            (
                *library.get::<Push>(b"nvtxRangePushA\0").ok()?,
                *library.get::<Pop>(b"nvtxRangePop\0").ok()?,
            )
        };
        Some(Self { push, pop, _library: library })
    }

    fn push(&'static self, name: &str) -> Range {
        let name = CString::new(name).unwrap_or_default();
        // SAFETY: the text ends with NUL; the function copies it.
        unsafe { (self.push)(name.as_ptr()) };
        Range { within: Some(self), thread: PhantomData }
    }
}

/// A range of the thread that began it; it ends when dropped.
#[must_use = "a range ends when dropped"]
pub struct Range {
    within: Option<&'static Nvtx>,
    thread: PhantomData<*const ()>,
}

/// Begins a range.
pub fn range(name: &str) -> Range {
    NVTX.as_ref().map_or(Range { within: None, thread: PhantomData }, |nvtx| nvtx.push(name))
}

impl Drop for Range {
    fn drop(&mut self) {
        if let Some(nvtx) = self.within {
            // SAFETY: this thread began the range and has ended those within.
            unsafe { (nvtx.pop)() };
        }
    }
}

impl fmt::Debug for Range {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a range")
    }
}
