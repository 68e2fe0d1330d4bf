//! `just gpu-bench`: the time of each kernel over its floor, on a GPU.
//!
//! A floor is the larger of bytes over the bandwidth of a copy and operations over the rate of the fastest product,
//! both measured in the same run. Writes a table, `kernels.csv` and `roofline.svg`.

mod families;
mod roofline;

use std::fmt::Write;
use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use clap::Parser;
use cuda_kernels::compile::CubinCache;
use cuda_kernels::emulator::Emulator;
use cuda_kernels::{Gpu, driver};

use families::{Case, FAMILIES, PRODUCTS};

/// Measure each kernel against its floor.
#[derive(Parser)]
struct Args {
    /// The GPU
    #[arg(long, default_value_t = 0, value_name = "N")]
    device: usize,
    /// Families to measure (default: all)
    families: Vec<String>,
    /// Folder for kernels.csv and roofline.svg
    #[arg(long, default_value = "target/gpu-bench", value_name = "DIR")]
    out: PathBuf,
    /// Small sizes on the emulator, to see that everything runs; the times mean nothing
    #[arg(long)]
    emulator: bool,
}

/// What a device can do at most.
pub(crate) struct Ceilings {
    /// Bytes a second, read and written.
    pub(crate) bandwidth: f64,
    /// Operations a second.
    pub(crate) rate: f64,
    /// The product that has this rate.
    pub(crate) product: &'static str,
}

/// A case's time.
pub(crate) struct Figure {
    /// The family.
    pub(crate) family: &'static str,
    /// The kernel and its sizes.
    pub(crate) name: String,
    /// Bytes that must move.
    pub(crate) bytes: f64,
    /// Operations.
    pub(crate) operations: f64,
    /// The median, in seconds.
    pub(crate) seconds: f64,
    /// The least time that the ceilings allow.
    pub(crate) floor: f64,
    /// Which of them.
    pub(crate) bound: &'static str,
}

impl Figure {
    fn new(family: &'static str, case: Case, seconds: f64, ceilings: &Ceilings) -> Self {
        let (by_bytes, by_operations) =
            (case.bytes / ceilings.bandwidth, case.operations / ceilings.rate);
        let bound = if by_bytes >= by_operations { "bytes" } else { "operations" };
        let (name, bytes, operations) = (case.name, case.bytes, case.operations);
        Self { family, name, bytes, operations, seconds, floor: by_bytes.max(by_operations), bound }
    }
}

fn main() -> Result<()> {
    let args = Args::parse();
    let gpu = if args.emulator {
        Emulator::gpu(0)
    } else {
        driver::open(args.device, CubinCache::from_environment())?
    };
    let (ceilings, figures) = measure(&gpu, !args.emulator, &args.families)?;
    print!("{}", table(&figures));
    std::fs::create_dir_all(&args.out)?;
    std::fs::write(args.out.join("kernels.csv"), csv(&gpu, &ceilings, &figures))?;
    std::fs::write(args.out.join("roofline.svg"), roofline::svg(&gpu, &ceilings, &figures)?)?;
    println!("\nin {}", args.out.display());
    Ok(())
}

/// The ceilings and the times of these families, or of all.
fn measure(gpu: &Gpu, full: bool, families: &[String]) -> Result<(Ceilings, Vec<Figure>)> {
    let known = || FAMILIES.iter().map(|&(family, _)| family);
    if let Some(unknown) = families.iter().find(|&f| known().all(|family| family != f)) {
        bail!("no family '{unknown}'; there are {}", known().collect::<Vec<_>>().join(", "));
    }
    let mut product = ("none", 0.0);
    for &(name, rate) in PRODUCTS {
        let Some(rate) = rate(gpu, full).with_context(|| name)? else {
            println!("{name}: not there");
            continue;
        };
        println!("{name}: {:.1} TFLOP/s bf16", rate / 1e12);
        if rate > product.1 {
            product = (name, rate);
        }
    }
    let ceilings =
        Ceilings { bandwidth: gpu.copy_bandwidth()?, rate: product.1, product: product.0 };
    println!("copy: {:.1} GB/s read and written\n", ceilings.bandwidth / 1e9);
    let mut figures = Vec::new();
    for &(family, cases) in FAMILIES {
        if !families.is_empty() && !families.iter().any(|f| f == family) {
            continue;
        }
        for case in cases(gpu, full).with_context(|| family)? {
            let took = gpu.time(&case.work).with_context(|| format!("{family}, {}", case.name))?;
            figures.push(Figure::new(family, case, took.as_secs_f64(), &ceilings));
        }
        gpu.trim();
    }
    Ok((ceilings, figures))
}

fn table(figures: &[Figure]) -> String {
    let width = figures.iter().map(|f| f.family.len() + 2 + f.name.len()).max().unwrap_or(0);
    let mut out = String::new();
    let heads = ("kernel", "time us", "floor us", "of floor", "GB/s", "TFLOP/s");
    let _ = writeln!(
        out,
        "{:width$}  {:>10}  {:>10}  {:>8}  {:>8}  {:>8}  bound by",
        heads.0, heads.1, heads.2, heads.3, heads.4, heads.5
    );
    for f in figures {
        let (name, us) = (format!("{}, {}", f.family, f.name), f.seconds * 1e6);
        let (floor, part) = (f.floor * 1e6, 100.0 * f.floor / f.seconds);
        let (bytes, operations) = (f.bytes / f.seconds / 1e9, f.operations / f.seconds / 1e12);
        let _ = writeln!(
            out,
            "{name:width$}  {us:>10.2}  {floor:>10.2}  {part:>7.1}%  {bytes:>8.1}  {operations:>8.2}  {}",
            f.bound
        );
    }
    out
}

fn csv(gpu: &Gpu, ceilings: &Ceilings, figures: &[Figure]) -> String {
    let device = gpu.properties();
    let mut out = format!(
        "# {}, {}; copy {:.4e} B/s; {} {:.4e} op/s\n",
        device.name,
        device.architecture(),
        ceilings.bandwidth,
        ceilings.product,
        ceilings.rate
    );
    out.push_str("family,case,bytes,operations,seconds,floor_seconds,of_floor,bound\n");
    for f in figures {
        let of_floor = f.floor / f.seconds;
        let _ = writeln!(
            out,
            "{},{},{},{},{:.4e},{:.4e},{of_floor:.4},{}",
            f.family,
            quoted(&f.name),
            f.bytes,
            f.operations,
            f.seconds,
            f.floor,
            f.bound
        );
    }
    out
}

/// A field of a CSV file (RFC 4180).
fn quoted(field: &str) -> String {
    match field.contains([',', '"', '\n', '\r']) {
        true => format!("\"{}\"", field.replace('"', "\"\"")),
        false => field.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_case_runs_on_the_emulator() {
        if let Err(why) = cuda_kernels::emulator::compiler() {
            assert!(std::env::var_os("CI").is_none(), "CI is set, but {why}");
            println!("skipped: {why}");
            return;
        }
        let gpu = Emulator::gpu(0);
        let (ceilings, figures) = measure(&gpu, false, &[]).unwrap();
        for (family, _) in FAMILIES {
            assert!(figures.iter().any(|figure| figure.family == *family), "{family}");
        }
        let csv = csv(&gpu, &ceilings, &figures);
        assert_eq!(csv.lines().count(), 2 + figures.len());
        assert!(csv.contains("\nrope,\"3 rows, cache in F16\","), "{csv}");
        assert!(table(&figures).lines().count() == 1 + figures.len());
        roofline::svg(&gpu, &ceilings, &figures).unwrap();
    }

    #[test]
    fn fields_with_commas_and_quotes_are_quoted() {
        assert_eq!(quoted("plain"), "plain");
        assert_eq!(quoted("one, \"two\""), "\"one, \"\"two\"\"\"");
    }
}
