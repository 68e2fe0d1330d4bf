//! Sources to machine code: NVRTC, and a folder of what it has made.
//!
//! A cubin is for one architecture and, unlike PTX of a newer NVRTC, is taken by every driver that
//! knows the architecture. It lies in the cache under a hash of all that decides its content; a file that
//! is not what was written is made again, and a folder that cannot be written is done without.

use std::ffi::{CStr, CString, c_char};
use std::path::{Path, PathBuf};

use cudarc::nvrtc::{result, sys};
use sha2::{Digest, Sha256};

use crate::source::HEADERS;
use crate::symbols::missing;
use crate::{Error, Result, Source};

/// All of NVRTC's functions that are called.
const CALLED: &[&str] = &[
    "nvrtcVersion",
    "nvrtcCreateProgram",
    "nvrtcDestroyProgram",
    "nvrtcCompileProgram",
    "nvrtcGetProgramLogSize",
    "nvrtcGetProgramLog",
    "nvrtcGetCUBINSize",
    "nvrtcGetCUBIN",
];

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
        // SAFETY: only tries to load the library, then looks into it; the calls below would panic without it.
        if !unsafe { sys::is_culib_present() } || missing(unsafe { sys::culib() }, CALLED).is_some()
        {
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

    /// The machine code of a source for an architecture, from the folder or compiled. Without NVRTC, what any
    /// version of it has compiled is taken.
    ///
    /// # Errors
    /// [`Error::NoCompiler`], [`Error::Compile`].
    pub fn cubin(&self, source: &'static Source, architecture: &str) -> Result<Vec<u8>> {
        let nvrtc = Nvrtc::load();
        let version = nvrtc.as_ref().ok().map(Nvrtc::version);
        self.kept_or(source, architecture, version, || {
            Ok(nvrtc?.compile(source, architecture)?.bytes)
        })
    }

    fn kept_or(
        &self,
        source: &'static Source,
        architecture: &str,
        version: Option<(i32, i32)>,
        compile: impl FnOnce() -> Result<Vec<u8>>,
    ) -> Result<Vec<u8>> {
        // `norm-sm_90a-HASH-13.0.cubin`
        let key = source.hash(&[&Nvrtc::options(architecture).join(" ")]);
        let stem = format!("{}-{architecture}-{key}-", source.name.trim_end_matches(".cu"));
        let file =
            self.folder.as_ref().zip(version).map(|(folder, (major, minor))| {
                folder.join(format!("{stem}{major}.{minor}.cubin"))
            });
        let kept = match (&file, &self.folder) {
            (Some(file), _) => read(file),
            (None, Some(folder)) => of_any_version(folder, &stem),
            (None, None) => None,
        };
        if let Some(bytes) = kept {
            return Ok(bytes);
        }
        let begin = std::time::Instant::now();
        let bytes = compile()?;
        let took = begin.elapsed();
        tracing::debug!(source = source.name, architecture, ?took, "compiled a kernel");
        if let Some(file) = &file
            && let Err(error) = write(file, &bytes)
        {
            let file = file.display();
            tracing::warn!(%file, %error, "a compiled kernel is not kept");
        }
        Ok(bytes)
    }
}

fn of_any_version(folder: &Path, stem: &str) -> Option<Vec<u8>> {
    let files = std::fs::read_dir(folder).ok()?.filter_map(|entry| Some(entry.ok()?.path()));
    let named =
        |f: &PathBuf| f.file_name().is_some_and(|name| name.to_string_lossy().starts_with(stem));
    let mut files: Vec<PathBuf> = files.filter(named).collect();
    files.sort();
    files.iter().rev().find_map(|file| read(file))
}

fn read(file: &Path) -> Option<Vec<u8>> {
    let all = std::fs::read(file).ok()?;
    let (hash, bytes) = all.strip_prefix(MAGIC)?.split_at_checked(32)?;
    let whole = Sha256::digest(bytes).as_slice() == hash;
    if !whole {
        tracing::warn!(file = %file.display(), "a kept kernel is damaged and compiled again");
    }
    whole.then(|| bytes.to_vec())
}

fn write(file: &Path, bytes: &[u8]) -> std::io::Result<()> {
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

    /// What a cache gives for the source `vector_add.cu`; `compiled` counts compilations.
    fn asked(
        cache: &CubinCache,
        version: Option<(i32, i32)>,
        compiled: &mut u8,
    ) -> Result<Vec<u8>> {
        let source = &crate::source::VECTOR_ADD;
        cache.kept_or(source, "sm_80", version, || {
            version.ok_or(Error::NoCompiler)?;
            *compiled += 1;
            Ok(vec![*compiled; 1000])
        })
    }

    #[test]
    fn what_was_compiled_is_kept_and_what_is_damaged_is_made_again() {
        let folder = tempfile::tempdir().unwrap();
        let (cache, version) = (CubinCache::new(Some(folder.path().join("new"))), Some((13, 0)));
        let mut compiled = 0;
        let mut ask = |version| asked(&cache, version, &mut compiled);
        assert!(matches!(ask(None), Err(Error::NoCompiler)));
        for _ in 0..2 {
            assert_eq!(ask(version).unwrap(), [1; 1000]);
        }
        let mut files = std::fs::read_dir(folder.path().join("new")).unwrap();
        let file = files.next().unwrap().unwrap().path();
        assert!(files.next().is_none(), "one file and nothing besides");
        std::fs::write(&file, b"INFCUBIN and then not what was written").unwrap();
        assert!(matches!(ask(None), Err(Error::NoCompiler)));
        for _ in 0..2 {
            assert_eq!(ask(version).unwrap(), [2; 1000]);
        }
        // Another version compiles for itself; a machine without any takes what there is.
        assert_eq!(ask(Some((12, 4))).unwrap(), [3; 1000]);
        assert_eq!(ask(version).unwrap(), [2; 1000]);
        assert_eq!(ask(None).unwrap(), [2; 1000]);
        std::fs::remove_file(file).unwrap();
        assert_eq!(ask(None).unwrap(), [3; 1000]);
    }

    #[test]
    fn a_folder_that_cannot_be_written_is_done_without() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("a file");
        std::fs::write(&file, b"").unwrap();
        // Below a file nothing can be made, not even by root, for whom no folder is read-only.
        for cache in [CubinCache::new(Some(file.join("cache"))), CubinCache::new(None)] {
            let mut compiled = 0;
            for n in 1..=2 {
                assert_eq!(asked(&cache, Some((13, 0)), &mut compiled).unwrap(), [n; 1000]);
            }
        }
    }

    #[cfg(unix)]
    #[test]
    fn a_read_only_folder_still_gives_what_it_has() {
        use std::os::unix::fs::PermissionsExt;
        let folder = tempfile::tempdir().unwrap();
        let cache = CubinCache::new(Some(folder.path().to_owned()));
        let mut compiled = 0;
        assert_eq!(asked(&cache, Some((13, 0)), &mut compiled).unwrap(), [1; 1000]);
        std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(0o555)).unwrap();
        assert_eq!(asked(&cache, Some((13, 0)), &mut compiled).unwrap(), [1; 1000]);
        assert_eq!(asked(&cache, Some((12, 4)), &mut compiled).unwrap(), [2; 1000]);
        std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
    }
}
