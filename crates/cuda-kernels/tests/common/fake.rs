//! A driver, NVRTC, cuBLASLt and NVTX that are made of `tests/fake`, so that what calls them is tested where they are not.
//!
//! A library is loaded once a process, so what is tested on them runs in a process of its own: this test program
//! again, for one test.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::LazyLock;

use cuda_kernels::emulator;

/// In the environment of a test's own process.
const WITHIN: &str = "FAKE_DRIVER";

/// By the name of the library.
const SOURCES: [(&str, &str); 4] = [
    ("cuda", include_str!("../fake/cuda.cpp")),
    ("nvrtc", include_str!("../fake/nvrtc.cpp")),
    ("cublasLt", include_str!("../fake/cublaslt.cpp")),
    ("nvtx", include_str!("../fake/nvtx.cpp")),
];

/// Where the libraries lie; nowhere without a C++ compiler.
static FOLDER: LazyLock<Option<PathBuf>> = LazyLock::new(|| {
    if !super::emulator() {
        return None;
    }
    // Beside the program, like the emulator's.
    let program = std::env::current_exe().unwrap();
    let folder = program.with_extension("fake");
    std::fs::create_dir_all(&folder).unwrap();
    for (name, text) in SOURCES {
        std::fs::write(folder.join(name).with_extension("cpp"), text).unwrap();
        let (source, object) = (format!("{name}.cpp"), format!("{name}.o"));
        cxx(&folder, &["-std=c++17", "-fPIC", "-Wall", "-Wextra", "-c", &source, "-o", &object]);
        link(&folder, name, &folder, &[]);
    }
    Some(folder)
});

fn cxx(folder: &Path, args: &[&str]) {
    let mut compiler = Command::new(emulator::compiler().unwrap());
    let out = compiler.args(args).current_dir(folder).env_remove("LD_PRELOAD").output().unwrap();
    assert!(out.status.success(), "{args:?}: {}", String::from_utf8_lossy(&out.stderr));
}

/// Makes a library in the folder `to`.
fn link(folder: &Path, name: &str, to: &Path, options: &[&str]) {
    let (object, library) = (format!("{name}.o"), to.join(format!("lib{name}.so")));
    let mut args = vec!["-shared", &object, "-o", library.to_str().unwrap()];
    args.extend(options);
    if name == "cublasLt" {
        args.extend(["-L.", "-lcuda"]);
    }
    cxx(folder, &args);
}

/// Runs a test with the libraries, as its own process: `body` is what it does there.
pub(crate) fn with_driver(test: &str, settings: &[(&str, &str)], body: impl FnOnce()) {
    if std::env::var_os(WITHIN).is_some() {
        return body();
    }
    if let Some(folder) = &*FOLDER {
        run(&[test, "--exact"], &[folder], settings);
    }
}

/// Runs all tests of this program, but for the one that asks for it, where the only GPU is the driver's.
pub(crate) fn all_again(test: &str) {
    if std::env::var_os("REQUIRE_GPU").is_none()
        && let Some(folder) = &*FOLDER
    {
        run(&["--skip", test], &[folder], &[("REQUIRE_GPU", "1")]);
    }
}

/// The same for each function of a library, with a library that lacks it.
pub(crate) fn without_each(test: &str, library: &str, body: impl FnOnce(&str)) {
    if let Ok(function) = std::env::var(WITHIN) {
        return body(&function);
    }
    let Some(folder) = &*FOLDER else { return };
    let (_, source) = SOURCES.iter().find(|(name, _)| *name == library).unwrap();
    let functions = source.lines().filter_map(|line| line.strip_prefix("CALL ")?.split('(').next());
    let lacking = tempfile::tempdir().unwrap();
    let script = lacking.path().join("hidden.map");
    let option = format!("-Wl,--version-script={}", script.display());
    for function in functions {
        std::fs::write(&script, format!("{{ local: {function}; }};")).unwrap();
        link(folder, library, lacking.path(), &[&option]);
        run(&[test, "--exact"], &[lacking.path(), folder], &[(WITHIN, function)]);
    }
}

/// Runs tests of this program, one by one, with the libraries of some folders.
fn run(tests: &[&str], folders: &[&Path], settings: &[(&str, &str)]) {
    let before = std::env::var_os("LD_LIBRARY_PATH").unwrap_or_default();
    let folders = folders.iter().map(|f| f.to_path_buf()).chain(std::env::split_paths(&before));
    let mut program = Command::new(std::env::current_exe().unwrap());
    program
        .args(tests)
        .args(["--nocapture", "--test-threads=1"])
        .env(WITHIN, "")
        .envs(settings.iter().copied());
    program.env("LD_LIBRARY_PATH", std::env::join_paths(folders).unwrap());
    program.env("INFINITY_KERNEL_CACHE", "");
    let out = program.output().unwrap();
    let [stdout, stderr] =
        [out.stdout, out.stderr].map(|s| String::from_utf8_lossy(&s).into_owned());
    assert!(out.status.success(), "{tests:?} {settings:?}: {stdout}{stderr}");
    assert!(!stdout.contains("running 0 tests"), "{tests:?}: {stdout}");
}

/// What a library counts: `fake_alive` or `fake_ever`.
fn counted(library: &str, counter: &str, what: &str) -> i64 {
    // SAFETY: it is loaded already.
    let library = unsafe { libloading::Library::new(format!("lib{library}.so")) }.unwrap();
    let what = std::ffi::CString::new(what).unwrap();
    type Counter = unsafe extern "C" fn(*const std::ffi::c_char) -> std::ffi::c_long;
    // SAFETY: the type is that of the function, which reads the text.
    unsafe { library.get::<Counter>(counter.as_bytes()).unwrap()(what.as_ptr()) }
}

/// How many contexts and the like there ever were.
pub(crate) fn ever(what: &str) -> i64 {
    counted("cuda", "fake_ever", what)
}

/// That everything was given back.
#[track_caller]
pub(crate) fn assert_nothing_is_left() {
    for what in ["context", "stream", "memory", "pinned", "event", "module", "graph", "executable"]
    {
        assert_eq!(counted("cuda", "fake_alive", what), 0, "{what}");
    }
}

/// How often a range of that name began, and how many have not ended.
pub(crate) fn ranges(name: &str) -> [i64; 2] {
    ["fake_ever", "fake_alive"].map(|counter| counted("nvtx", counter, name))
}
