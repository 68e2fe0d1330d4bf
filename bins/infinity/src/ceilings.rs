//! `infinity ceilings`: what this processor can do at most.

use std::fmt;
use std::path::Path;
use std::time::Duration;

use anyhow::{Result, bail};
use cpu_kernels::ceilings::{ReadBuffer, Unit};
use cpu_kernels::{Isa, ThreadPool};
use serde::Serialize;

/// Measure read bandwidth and the rate of each multiplying unit.
#[derive(clap::Args)]
#[command(after_help = "Example: infinity ceilings --threads 2 --json\n\n\
    A rate counts operations by instruction, a multiplication and an addition being two. Each\n\
    figure is the best of several passes within its time: on a shared machine, a lower bound.")]
pub(crate) struct Args {
    /// Threads (default: INFINITY_THREADS, or as many as the machine allows)
    #[arg(short, long, value_name = "N")]
    threads: Option<usize>,
    /// Milliseconds for each figure
    #[arg(long, default_value_t = 300, value_name = "MS")]
    time: u64,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct Ceilings {
    processor: String,
    threads: usize,
    /// The widest path of the kernels, or the one INFINITY_ISA names.
    isa: &'static str,
    rates: Vec<Rate>,
    reading: Vec<Reading>,
}

#[derive(Serialize)]
struct Rate {
    unit: &'static str,
    instruction: &'static str,
    operations_per_second: f64,
}

#[derive(Serialize)]
struct Reading {
    from: String,
    /// Bytes of all threads' buffers together.
    buffer_bytes: usize,
    bytes_per_second: f64,
}

pub(crate) fn run(args: &Args) -> Result<()> {
    if args.threads == Some(0) {
        bail!("--threads 0: at least one thread is needed");
    }
    let own = args.threads.map(ThreadPool::new);
    let pool = own.as_ref().unwrap_or_else(|| ThreadPool::global());
    let ceilings = measure(pool, Isa::active(), Duration::from_millis(args.time));
    if args.json {
        println!("{}", serde_json::to_string_pretty(&ceilings)?);
    } else {
        print!("{ceilings}");
    }
    Ok(())
}

fn measure(pool: &ThreadPool, isa: Isa, time: Duration) -> Ceilings {
    let rate = |unit: &Unit| {
        Some(Rate {
            unit: unit.name(),
            instruction: unit.instruction(isa)?,
            operations_per_second: unit.sample(pool, isa, time)?,
        })
    };
    let reading = |(from, buffer_bytes)| Reading {
        from,
        buffer_bytes,
        bytes_per_second: ReadBuffer::new(buffer_bytes).sample(pool, isa, time),
    };
    Ceilings {
        processor: processor(),
        threads: pool.threads(),
        isa: isa.name(),
        rates: Unit::ALL.iter().filter_map(rate).collect(),
        reading: buffers(pool.threads()).into_iter().map(reading).collect(),
    }
}

impl fmt::Display for Ceilings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}, {} threads, path {}", self.processor, self.threads, self.isa)?;
        for r in &self.rates {
            let rate = r.operations_per_second / 1e12;
            writeln!(f, "{:10} {rate:8.3} T operations/s  {}", r.unit, r.instruction)?;
        }
        for r in &self.reading {
            let (rate, mb) = (r.bytes_per_second / 1e9, r.buffer_bytes as f64 / 1048576.0);
            writeln!(f, "{:10} {rate:8.1} GB/s             a buffer of {mb:.2} MiB", r.from)?;
        }
        Ok(())
    }
}

/// Buffers that fit into each cache with room to spare, and one that fits into none.
fn buffers(threads: usize) -> Vec<(String, usize)> {
    const MIB: usize = 1 << 20;
    let caches = caches();
    let mut found: Vec<(String, usize)> = caches
        .iter()
        .map(|&(level, bytes)| {
            // The first two levels belong to a core; the others are shared, by others too.
            let buffer = if level <= 2 { bytes / 2 * threads } else { (bytes / 4).min(64 * MIB) };
            (format!("L{level}"), buffer)
        })
        .collect();
    let largest = caches.iter().map(|&(_, bytes)| bytes).max().unwrap_or(0);
    found.push(("memory".to_owned(), (2 * largest).clamp(1024 * MIB, 4096 * MIB)));
    found
}

/// Level and bytes of the first core's data caches, as Linux tells them; none elsewhere.
fn caches() -> Vec<(u32, usize)> {
    let read = |index: usize, name: &str| {
        let folder = Path::new("/sys/devices/system/cpu/cpu0/cache").join(format!("index{index}"));
        Some(std::fs::read_to_string(folder.join(name)).ok()?.trim().to_owned())
    };
    let cache = |index| {
        if read(index, "type")? == "Instruction" {
            return None;
        }
        let kib: usize = read(index, "size")?.strip_suffix('K')?.parse().ok()?;
        Some((read(index, "level")?.parse().ok()?, kib << 10))
    };
    (0..8).filter_map(cache).collect()
}

/// The processor's name, as Linux tells it; elsewhere that of the architecture.
pub(crate) fn processor() -> String {
    let info = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let name = info.lines().find_map(|line| {
        let (key, value) = line.split_once(':')?;
        (key.trim() == "model name").then(|| value.split_whitespace().collect::<Vec<_>>().join(" "))
    });
    name.unwrap_or_else(|| std::env::consts::ARCH.to_owned())
}
