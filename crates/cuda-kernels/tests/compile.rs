//! Every source compiles for every architecture, and no kernel keeps anything in local memory, which is slow: no
//! registers that it lacks, no array whose places the compiler does not know. Needs NVRTC (no GPU): `.ci/run kernels`
//! installs it and sets `REQUIRE_NVRTC`.
//!
//! With `KERNEL_TABLE=FILE` the registers and shared memory of each kernel are written there as Markdown.

use std::fmt::Write;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use cuda_kernels::compile::{KernelReport, Nvrtc};
use cuda_kernels::source;

const ARCHITECTURES: [&str; 2] = ["sm_80", "sm_90a"];

/// For all sources and architectures, on a machine that does nothing else.
const MOST_TIME: Duration = Duration::from_secs(180);

/// What each source takes on each architecture, compiled on all processors.
fn compiled(nvrtc: Nvrtc) -> Vec<[Vec<KernelReport>; 2]> {
    let (next, count) = (AtomicUsize::new(0), 2 * source::ALL.len());
    let reports = Mutex::new(vec![Default::default(); source::ALL.len()]);
    let work = || {
        loop {
            let i = next.fetch_add(1, Ordering::Relaxed);
            if i >= count {
                return;
            }
            let (source, architecture) = (source::ALL[i / 2], ARCHITECTURES[i % 2]);
            let report =
                nvrtc.compile(source, architecture).unwrap_or_else(|e| panic!("{e}")).report();
            assert!(!report.is_empty(), "{}: no kernel", source.name);
            let mut reports: std::sync::MutexGuard<'_, Vec<[_; 2]>> = reports.lock().unwrap();
            reports[i / 2][i % 2] = report;
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..processors() {
            scope.spawn(work);
        }
    });
    reports.into_inner().unwrap()
}

fn processors() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// What this process has taken of all processors so far, where the system tells: unlike the clock, it is the same
/// while others compute.
fn processor_time() -> Duration {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    // Behind the name in parentheses the 12th and 13th: of the process, and of the system for it, in hundredths.
    let fields = stat.rsplit(')').next().unwrap_or_default().split_whitespace();
    let ticks = fields.skip(11).take(2).filter_map(|n| n.parse::<u64>().ok());
    Duration::from_millis(10 * ticks.sum::<u64>())
}

#[test]
fn every_kernel_compiles_and_none_uses_local_memory() {
    let nvrtc = match Nvrtc::load() {
        Ok(nvrtc) => nvrtc,
        Err(why) => {
            assert!(std::env::var_os("REQUIRE_NVRTC").is_none(), "REQUIRE_NVRTC is set, but {why}");
            println!("skipped: {why}");
            return;
        }
    };
    let (major, minor) = nvrtc.version();
    let [a, b] = ARCHITECTURES;
    let mut table = format!(
        "By NVRTC {major}.{minor}: registers of a thread, bytes of static shared memory of a block.\n\n\
         | source | kernel | {a}: registers | shared | {b}: registers | shared |\n\
         |---|---|---:|---:|---:|---:|\n"
    );
    let mut local = Vec::new();
    let all = compiled(nvrtc);
    let took = processor_time() / processors() as u32;
    for (source, reports) in source::ALL.iter().zip(all) {
        for (architecture, report) in ARCHITECTURES.iter().zip(&reports) {
            for k in report {
                assert!(k.registers > 0, "{} for {architecture}: {k:?}", source.name);
                if k.spill_stores + k.spill_loads + k.stack > 0 {
                    local.push(format!("{} for {architecture}: {k:?}", source.name));
                }
            }
        }
        let [old, new] = reports;
        assert_eq!(old.len(), new.len(), "{}", source.name);
        for (a, b) in old.iter().zip(&new) {
            assert_eq!(a.kernel, b.kernel);
            let _ = writeln!(
                table,
                "| `{}` | `{}` | {} | {} | {} | {} |",
                source.name, a.kernel, a.registers, a.shared, b.registers, b.shared
            );
        }
    }
    println!("{table}\ncompiled in {:.0} s on {} processors", took.as_secs_f64(), processors());
    if let Some(file) = std::env::var_os("KERNEL_TABLE") {
        std::fs::write(file, table).unwrap();
    }
    assert!(local.is_empty(), "local memory:\n{}", local.join("\n"));
    assert!(took < MOST_TIME, "compiled in {took:?}");
}
