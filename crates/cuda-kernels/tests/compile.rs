//! Every source compiles for every architecture, and no kernel spills. Needs NVRTC (no GPU): `.ci/run kernels`
//! installs it and sets `REQUIRE_NVRTC`.
//!
//! With `KERNEL_TABLE=FILE` the registers and shared memory of each kernel are written there as Markdown.

use std::fmt::Write;

use cuda_kernels::compile::Nvrtc;
use cuda_kernels::source;

const ARCHITECTURES: [&str; 2] = ["sm_80", "sm_90a"];

#[test]
fn every_kernel_compiles_and_none_spills() {
    let nvrtc = match Nvrtc::load() {
        Ok(nvrtc) => nvrtc,
        Err(why) => {
            assert!(std::env::var_os("REQUIRE_NVRTC").is_none(), "REQUIRE_NVRTC is set, but {why}");
            println!("skipped: {why}");
            return;
        }
    };
    let mut table = String::from(
        "| source | kernel | sm_80: registers, shared bytes | sm_90a |\n|---|---|---:|---:|\n",
    );
    let mut spilled = Vec::new();
    for source in source::ALL {
        let [old, new] = ARCHITECTURES.map(|architecture| {
            let report =
                nvrtc.compile(source, architecture).unwrap_or_else(|e| panic!("{e}")).report();
            assert!(!report.is_empty(), "{}: no kernel", source.name);
            for k in report.iter().filter(|k| k.spill_stores + k.spill_loads > 0) {
                spilled.push(format!("{} for {architecture}: {k:?}", source.name));
            }
            report
        });
        for (a, b) in old.iter().zip(&new) {
            assert_eq!(a.kernel, b.kernel);
            let (name, kernel) = (source.name, &a.kernel);
            let _ = writeln!(
                table,
                "| {name} | `{kernel}` | {}, {} | {}, {} |",
                a.registers, a.shared, b.registers, b.shared
            );
        }
    }
    let (major, minor) = nvrtc.version();
    println!("NVRTC {major}.{minor}\n{table}");
    if let Some(file) = std::env::var_os("KERNEL_TABLE") {
        std::fs::write(file, table).unwrap();
    }
    assert!(spilled.is_empty(), "registers spill:\n{}", spilled.join("\n"));
}
