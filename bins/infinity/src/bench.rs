//! `infinity bench MODEL`: tokens a second, and how near the floor they are.

use std::time::Instant;

use anyhow::{Result, bail};
use cpu_kernels::ceilings;
use model::{Batch, Decoder, Model, Outputs, Product};
use serde::Serialize;
use tensor::kv::SeqId;
use tensor::{Compute, DType};

use crate::load;
use crate::options::Runtime;

/// Measure prefill and decode, with the fraction of the floor measured in the same run.
#[derive(clap::Args)]
#[command(after_help = "Example: infinity bench model.gguf --prefill 512 --decode 64 --json\n\
    The floor of a step is the larger of the bytes it must read over the read bandwidth and the\n\
    operations it must do over the processor's rate, both measured in this run on as many bytes.")]
pub(crate) struct Args {
    /// A GGUF file, a Hugging Face folder, or ORG/NAME
    model: String,
    /// Prompt lengths
    #[arg(short, long, value_delimiter = ',', default_value = "128,512", value_name = "N,N")]
    prefill: Vec<usize>,
    /// Tokens to decode one after another
    #[arg(short = 'n', long, default_value_t = 64, value_name = "N")]
    decode: usize,
    /// Positions in the cache before decoding begins
    #[arg(short, long, default_value_t = 0, value_name = "N")]
    depth: usize,
    /// How often each figure is measured, after one run that does not count
    #[arg(short, long, default_value_t = 5, value_name = "N")]
    repetitions: usize,
    /// Print JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    runtime: Runtime,
}

#[derive(Serialize)]
struct Report {
    model: String,
    architecture: String,
    weight_bytes: usize,
    types: Vec<(String, usize)>,
    threads: usize,
    isa: String,
    load_seconds: f64,
    read_bytes_per_second: f64,
    operations_per_second: f64,
    figures: Vec<Figure>,
}

#[derive(Serialize)]
struct Figure {
    what: String,
    /// Tokens a second.
    median: f64,
    min: f64,
    max: f64,
    /// The floor's time over the median's.
    fraction_of_floor: f64,
    bound_by: &'static str,
}

pub(crate) fn run(args: &Args) -> Result<()> {
    if args.repetitions == 0 || args.decode == 0 || args.prefill.contains(&0) {
        bail!("--repetitions, --decode and --prefill must be at least 1");
    }
    let loaded = load::model(&args.model, &args.runtime.hardware)?;
    let model = &loaded.model;
    let decoder = &model.decoder()?.config;
    let longest = args.prefill.iter().copied().max().unwrap_or(0).max(args.depth + args.decode);
    if longest > decoder.context_length {
        bail!("{longest} positions are needed, the model was made for {}", decoder.context_length);
    }
    let cost = Cost::of(model.decoder()?, args.runtime.kv_type);
    let ceiling = Ceiling::measure(model.compute(), &cost);
    let mut figures = Vec::new();
    for &n in &args.prefill {
        let rates = repeat(args.repetitions, || prefill(model, args.runtime.kv_type, n))?;
        figures.push(figure(format!("prefill {n}"), rates, ceiling.floor(&cost, n, 0)));
    }
    let rates = repeat(args.repetitions, || decode(model, args))?;
    let floor = ceiling.floor(&cost, 1, args.depth + args.decode / 2);
    figures.push(figure(format!("decode {} at depth {}", args.decode, args.depth), rates, floor));
    let report = Report {
        model: loaded.path.display().to_string(),
        architecture: decoder.architecture.clone(),
        weight_bytes: cost.bytes,
        types: cost.types.clone(),
        threads: model.compute().pool().threads(),
        isa: model.compute().isa().to_string(),
        load_seconds: loaded.took.as_secs_f64(),
        read_bytes_per_second: ceiling.read,
        operations_per_second: ceiling.rate,
        figures,
    };
    if args.json {
        println!("{}", serde_json::to_string_pretty(&report)?);
    } else {
        print(&report);
    }
    Ok(())
}

fn print(r: &Report) {
    let types: Vec<String> =
        r.types.iter().map(|(t, n)| format!("{t} {:.1} MB", *n as f64 / 1e6)).collect();
    println!("{} ({}): {}", r.model, r.architecture, types.join(", "));
    println!(
        "{} threads, {}; ceilings in this run: {:.1} GB/s read, {:.0} G operations/s",
        r.threads,
        r.isa,
        r.read_bytes_per_second / 1e9,
        r.operations_per_second / 1e9
    );
    println!("{:24} {:>10} {:>20} {:>10}", "", "tokens/s", "min .. max", "of floor");
    for f in &r.figures {
        let spread = format!("{:.1} .. {:.1}", f.min, f.max);
        let floor = format!("{:.0} % ({})", f.fraction_of_floor * 100.0, f.bound_by);
        println!("{:24} {:>10.1} {spread:>20} {floor:>10}", f.what, f.median);
    }
}

/// What a step must read and compute.
struct Cost {
    /// Bytes of the weights that every step reads.
    bytes: usize,
    /// Multiplications and additions a token, twice the weights.
    operations: f64,
    kv_bytes_per_token: usize,
    quantized: bool,
    types: Vec<(String, usize)>,
}

impl Cost {
    fn of(decoder: &Decoder, kv: DType) -> Self {
        let kv_bytes_per_token = decoder.config.kv_layout(kv).bytes_per_token();
        let mut cost = Cost {
            bytes: 0,
            operations: 0.0,
            kv_bytes_per_token,
            quantized: false,
            types: Vec::new(),
        };
        for Product { linear, share } in decoder.products() {
            let weight = &linear.weight;
            let bytes = (weight.byte_len() as f64 * share) as usize;
            cost.bytes += bytes;
            cost.operations += 2.0 * share * weight.rows() as f64 * weight.cols() as f64;
            cost.quantized |= weight.dtype().is_quantized();
            let name = weight.dtype().name();
            match cost.types.iter_mut().find(|(t, _)| t == name) {
                Some((_, n)) => *n += bytes,
                None => cost.types.push((name.to_owned(), bytes)),
            }
        }
        cost
    }
}

struct Ceiling {
    read: f64,
    rate: f64,
}

impl Ceiling {
    fn measure(compute: &Compute, cost: &Cost) -> Self {
        let (pool, isa) = (compute.pool(), compute.isa());
        let read = ceilings::read_bandwidth(pool, cost.bytes.min(1 << 30));
        let f32_rate = ceilings::f32_rate(pool, isa);
        let int8 = ceilings::int8_rate(pool, isa).filter(|_| cost.quantized);
        Self { read, rate: int8.unwrap_or(f32_rate) }
    }

    /// Seconds that a step of `rows` rows takes at the least, and by what, over the rows.
    fn floor(&self, cost: &Cost, rows: usize, depth: usize) -> (f64, &'static str) {
        let read = (cost.bytes + depth * cost.kv_bytes_per_token) as f64 / self.read;
        let compute = cost.operations * rows as f64 / self.rate;
        let (seconds, by) = if read > compute { (read, "reading") } else { (compute, "computing") };
        (seconds / rows as f64, by)
    }
}

fn figure(what: String, mut rates: Vec<f64>, (floor, bound_by): (f64, &'static str)) -> Figure {
    rates.sort_by(f64::total_cmp);
    let median = (rates[rates.len() / 2] + rates[(rates.len() - 1) / 2]) / 2.0;
    Figure {
        what,
        median,
        min: rates[0],
        max: rates[rates.len() - 1],
        fraction_of_floor: floor * median,
        bound_by,
    }
}

fn repeat(n: usize, mut run: impl FnMut() -> Result<f64>) -> Result<Vec<f64>> {
    run()?;
    (0..n).map(|_| run()).collect()
}

fn tokens(model: &Model, n: usize) -> Vec<u32> {
    let vocab = model.decoder().map_or(1, |d| d.config.vocab_size) as u32;
    (0..n as u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 7) % vocab).collect()
}

fn prefill(model: &Model, kv: DType, n: usize) -> Result<f64> {
    let mut cache = model.new_cache(kv, n)?;
    let mut batch = Batch::new();
    batch.extend(SeqId(0), &tokens(model, n));
    let outputs = Outputs::last_logits(&batch);
    let start = Instant::now();
    model.forward(&batch, &mut cache, &outputs)?;
    Ok(n as f64 / start.elapsed().as_secs_f64())
}

fn decode(model: &Model, args: &Args) -> Result<f64> {
    let mut cache = model.new_cache(args.runtime.kv_type, args.depth + args.decode)?;
    for chunk in tokens(model, args.depth).chunks(512) {
        let mut batch = Batch::new();
        batch.extend(SeqId(0), chunk);
        model.forward(&batch, &mut cache, &Outputs::default())?;
    }
    let ids = tokens(model, args.decode);
    let start = Instant::now();
    for id in ids {
        let mut batch = Batch::new();
        batch.extend(SeqId(0), &[id]);
        model.forward(&batch, &mut cache, &Outputs::last_logits(&batch))?;
    }
    Ok(args.decode as f64 / start.elapsed().as_secs_f64())
}
