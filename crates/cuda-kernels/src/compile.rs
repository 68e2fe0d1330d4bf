//! Sources to machine code: NVRTC, and a folder of what it has made.
//!
//! A cubin is for one architecture and, unlike PTX of a newer NVRTC, is taken by every driver that
//! knows the architecture. It lies in the cache under a hash of all that decides its content; a file that
//! is not what was written is made again, and a folder that cannot be written is done without.

use std::ffi::{CStr, CString, c_char};
use std::path::PathBuf;

use cudarc::nvrtc::{result, sys};
use sha2::{Digest, Sha256};

use crate::source::HEADERS;
use crate::{Error, Result, Source};

/// NVRTC, if it is installed.
#[derive(Clone, Copy, Debug)]
pub struct Nvrtc {
    version: (i32, i32),
}

/// A compiled source.
#[derive(Clone, Debug)]
pub struct Cubin {
    /// Machine code, an ELF file.
    pub bytes: Vec<u8>,
    /// What the compiler says of it.
    pub log: String,
}

/// What a compiled kernel takes, as ptxas says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KernelReport {
    /// The function.
    pub kernel: String,
    /// Registers of a thread.
    pub registers: u32,
    /// Static shared memory of a block, in bytes.
    pub shared: u32,
    /// Bytes that a thread writes to memory for want of registers.
    pub spill_stores: u32,
    /// Bytes that it reads back.
    pub spill_loads: u32,
    /// Bytes of a thread's stack.
    pub stack: u32,
}

impl Nvrtc {
    /// Loads the library.
    ///
    /// # Errors
    /// [`Error::NoCompiler`].
    pub fn load() -> Result<Self> {
        // SAFETY: only tries to load the library; the calls below would panic without it.
        if !unsafe { sys::is_culib_present() } {
            return Err(Error::NoCompiler);
        }
        let (mut major, mut minor) = (0, 0);
        // SAFETY: writes two integers.
        let asked = unsafe { sys::nvrtcVersion(&mut major, &mut minor) }.result();
        asked.map_err(|_| Error::NoCompiler)?;
        Ok(Self { version: (major, minor) })
    }

    /// Major and minor.
    pub fn version(&self) -> (i32, i32) {
        self.version
    }

    /// Options for an architecture. Nothing is rounded otherwise than C++ says, but for fused
    /// multiply-add; ptxas tells what kernels take.
    fn options(architecture: &str) -> [String; 4] {
        [
            format!("--gpu-architecture={architecture}"),
            "--std=c++17".into(),
            "--ptxas-options=-v".into(),
            "--generate-line-info".into(),
        ]
    }

    /// Compiles a source for an architecture, `sm_80` for example.
    ///
    /// # Errors
    /// [`Error::Compile`] with the compiler's log.
    pub fn compile(&self, source: &'static Source, architecture: &str) -> Result<Cubin> {
        let failed = |log: String| Error::Compile {
            source_name: source.name,
            architecture: architecture.to_owned(),
            log: log.trim().to_owned(),
        };
        let c = |text: &str| CString::new(text).map_err(|_| failed("a NUL in the source".into()));
        let (text, name) = (c(source.text)?, c(source.name)?);
        let headers = HEADERS.iter().map(|h| c(h.text)).collect::<Result<Vec<_>>>()?;
        let names = HEADERS.iter().map(|h| c(h.name)).collect::<Result<Vec<_>>>()?;
        let pointers =
            |list: &[CString]| -> Vec<*const c_char> { list.iter().map(|s| s.as_ptr()).collect() };
        let (headers, names) = (pointers(&headers), pointers(&names));
        let mut program = std::ptr::null_mut();
        // SAFETY: the strings end with NUL and live until the call is over, which copies them.
        let made = unsafe {
            let count = HEADERS.len() as i32;
            let (headers, names) = (headers.as_ptr(), names.as_ptr());
            sys::nvrtcCreateProgram(
                &mut program,
                text.as_ptr(),
                name.as_ptr(),
                count,
                headers,
                names,
            )
        };
        made.result().map_err(|e| failed(format!("{e:?}")))?;
        let program = Program(program);
        let options = Self::options(architecture);
        // SAFETY: the program was made above and is destroyed below.
        let compiled = unsafe { result::compile_program(program.0, &options) };
        let log = program.log();
        if compiled.is_err() {
            return Err(failed(log));
        }
        let bytes = program.cubin().map_err(|e| failed(format!("{e:?}")))?;
        Ok(Cubin { bytes, log })
    }
}

struct Program(sys::nvrtcProgram);

impl Program {
    fn log(&self) -> String {
        // SAFETY: the program is alive.
        let log = unsafe { result::get_program_log(self.0) }.unwrap_or_default();
        let bytes: Vec<u8> = log.iter().map(|&c| c as u8).collect();
        CStr::from_bytes_until_nul(&bytes)
            .map(|s| s.to_string_lossy().into_owned())
            .unwrap_or_default()
    }

    fn cubin(&self) -> Result<Vec<u8>, result::NvrtcError> {
        let mut size = 0;
        // SAFETY: the program is alive; writes a size.
        unsafe { sys::nvrtcGetCUBINSize(self.0, &mut size) }.result()?;
        let mut bytes = vec![0u8; size];
        // SAFETY: there is room for as many bytes as it said.
        unsafe { sys::nvrtcGetCUBIN(self.0, bytes.as_mut_ptr().cast()) }.result()?;
        Ok(bytes)
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        // SAFETY: it was made by `compile` and is used no more.
        let _ = unsafe { result::destroy_program(self.0) };
    }
}

impl Cubin {
    /// What its kernels take, by name.
    pub fn report(&self) -> Vec<KernelReport> {
        let mut all: Vec<KernelReport> = Vec::new();
        for line in self.log.lines() {
            if let Some(kernel) = quoted(line, "Compiling entry function") {
                all.push(KernelReport {
                    kernel: kernel.to_owned(),
                    registers: 0,
                    shared: 0,
                    spill_stores: 0,
                    spill_loads: 0,
                    stack: 0,
                });
            }
            let Some(last) = all.last_mut() else { continue };
            let number = |unit| number_before(line, unit);
            if let Some(stack) = number(" bytes stack frame") {
                last.stack = stack;
                last.spill_stores = number(" bytes spill stores").unwrap_or(0);
                last.spill_loads = number(" bytes spill loads").unwrap_or(0);
            }
            if let Some(registers) = number(" registers") {
                last.registers = registers;
                last.shared = number(" bytes smem").unwrap_or(0);
            }
        }
        all.sort_by(|a, b| a.kernel.cmp(&b.kernel));
        all
    }
}

fn quoted<'a>(line: &'a str, after: &str) -> Option<&'a str> {
    line.split_once(after)?.1.split('\'').nth(1)
}

fn number_before(line: &str, unit: &str) -> Option<u32> {
    let before = line.split_once(unit)?.0;
    before.rsplit(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
}

/// Where compiled sources are kept.
#[derive(Clone, Debug, Default)]
pub struct CubinCache {
    folder: Option<PathBuf>,
}

/// What a file begins with: this, then a hash of what follows.
const MAGIC: &[u8; 8] = b"INFCUBIN";

impl CubinCache {
    /// Keeps them in a folder, or nowhere.
    pub fn new(folder: Option<PathBuf>) -> Self {
        Self { folder }
    }

    /// `INFINITY_KERNEL_CACHE` if it is set (nowhere if it is empty), else `infinity/kernels` in the user's
    /// folder for caches.
    pub fn from_environment() -> Self {
        let folder = match std::env::var_os("INFINITY_KERNEL_CACHE") {
            Some(folder) => Some(PathBuf::from(folder)).filter(|f| !f.as_os_str().is_empty()),
            None => dirs::cache_dir().map(|caches| caches.join("infinity/kernels")),
        };
        Self { folder }
    }

    /// The machine code of a source for an architecture, from the folder or compiled. NVRTC is loaded only
    /// to compile.
    ///
    /// # Errors
    /// [`Error::NoCompiler`], [`Error::Compile`].
    pub fn cubin(&self, source: &'static Source, architecture: &str) -> Result<Vec<u8>> {
        let nvrtc = Nvrtc::load();
        // What a machine without NVRTC has was compiled by any.
        let version = nvrtc.as_ref().map_or((0, 0), Nvrtc::version);
        let options = Nvrtc::options(architecture).join(" ");
        let key = source.hash(&[&options, &format!("{version:?}")]);
        let stem = source.name.trim_end_matches(".cu");
        let file =
            self.folder.as_ref().map(|f| f.join(format!("{stem}-{architecture}-{key}.cubin")));
        if let Some(file) = &file
            && let Some(bytes) = read(file)
        {
            return Ok(bytes);
        }
        let begin = std::time::Instant::now();
        let cubin = nvrtc?.compile(source, architecture)?;
        let took = begin.elapsed();
        tracing::debug!(source = source.name, architecture, ?took, "compiled a kernel");
        if let Some(file) = &file
            && let Err(error) = write(file, &cubin.bytes)
        {
            let file = file.display();
            tracing::warn!(%file, %error, "a compiled kernel is not kept");
        }
        Ok(cubin.bytes)
    }
}

fn read(file: &std::path::Path) -> Option<Vec<u8>> {
    let all = std::fs::read(file).ok()?;
    let (hash, bytes) = all.strip_prefix(MAGIC)?.split_at_checked(32)?;
    let whole = Sha256::digest(bytes).as_slice() == hash;
    if !whole {
        tracing::warn!(file = %file.display(), "a kept kernel is damaged and compiled again");
    }
    whole.then(|| bytes.to_vec())
}

fn write(file: &std::path::Path, bytes: &[u8]) -> std::io::Result<()> {
    if let Some(folder) = file.parent() {
        std::fs::create_dir_all(folder)?;
    }
    let all = [&MAGIC[..], Sha256::digest(bytes).as_slice(), bytes].concat();
    files::write_atomically(file, &all)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_kernels_take_is_read_from_the_log() {
        let log = "ptxas info    : 0 bytes gmem\n\
            ptxas info    : Compiling entry function 'b' for 'sm_80'\n\
            ptxas info    : Function properties for b\n\
            \u{20}   16 bytes stack frame, 4 bytes spill stores, 8 bytes spill loads\n\
            ptxas info    : Used 40 registers, used 1 barriers, 1024 bytes smem, 368 bytes cmem[0]\n\
            ptxas info    : Compiling entry function 'a' for 'sm_80'\n\
            ptxas info    : Function properties for a\n\
            \u{20}   0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads\n\
            ptxas info    : Used 8 registers, 368 bytes cmem[0]\n";
        let cubin = Cubin { bytes: Vec::new(), log: log.into() };
        let [a, b] = &cubin.report()[..] else { panic!("two kernels") };
        assert_eq!((a.kernel.as_str(), a.registers, a.shared, a.stack), ("a", 8, 0, 0));
        assert_eq!(
            (b.registers, b.shared, b.spill_stores, b.spill_loads, b.stack),
            (40, 1024, 4, 8, 16)
        );
    }

    #[test]
    fn a_damaged_file_is_not_taken() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("new/k.cubin");
        write(&file, b"code").unwrap();
        assert_eq!(read(&file).unwrap(), b"code");
        for damage in [&b""[..], b"INFCUBIN", b"INFCUBINshort", &[0; 60]] {
            std::fs::write(&file, damage).unwrap();
            assert_eq!(read(&file), None);
        }
        write(&file, b"code").unwrap();
        let mut bytes = std::fs::read(&file).unwrap();
        *bytes.last_mut().unwrap() ^= 1;
        std::fs::write(&file, bytes).unwrap();
        assert_eq!(read(&file), None);
    }
}
