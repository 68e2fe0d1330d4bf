//! What a bench found, as a table or as JSON.

use std::fmt;

use anyhow::Result;
use serde::Serialize;
use tensor::Device;

use super::Args;
use super::cost::{Cost, Work};
use super::meter::{Meter, Sample};
use crate::ceilings::processor;
use crate::load::Loaded;

/// Everything, with what it was measured on.
#[derive(Serialize)]
pub(crate) struct Report {
    pub(crate) model: String,
    pub(crate) architecture: String,
    pub(crate) weight_bytes: usize,
    /// Bytes of the weights by type.
    pub(crate) types: Vec<(String, usize)>,
    pub(crate) kv_type: String,
    /// Or the GPU.
    pub(crate) processor: String,
    #[serde(skip)]
    device: Device,
    pub(crate) threads: usize,
    /// The path of the kernels.
    pub(crate) isa: String,
    /// What activations are rounded to.
    pub(crate) activations: String,
    pub(crate) load_seconds: f64,
    pub(crate) decode_tokens: usize,
    pub(crate) read_bytes_per_second: Spread,
    pub(crate) units: Vec<UnitRate>,
    pub(crate) figures: Vec<Figure>,
    pub(crate) skipped: Vec<Skipped>,
}

/// A unit's rate over the run.
#[derive(Serialize)]
pub(crate) struct UnitRate {
    pub(crate) unit: &'static str,
    pub(crate) instruction: &'static str,
    pub(crate) operations_per_second: Spread,
}

/// Median and range of a set of samples.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct Spread {
    pub(crate) median: f64,
    pub(crate) min: f64,
    pub(crate) max: f64,
}

impl Spread {
    /// Of at least one sample.
    pub(crate) fn of(samples: impl IntoIterator<Item = f64>) -> Self {
        let mut sorted: Vec<f64> = samples.into_iter().collect();
        sorted.sort_by(f64::total_cmp);
        let n = sorted.len();
        let median = (sorted[n / 2] + sorted[(n - 1) / 2]) / 2.0;
        Self { median, min: sorted[0], max: sorted[n - 1] }
    }
}

/// What was run.
#[derive(Clone, Copy, Debug, Serialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub(crate) enum Kind {
    /// A prompt.
    Prefill {
        /// Its length.
        tokens: usize,
    },
    /// Sequences that decode together.
    Decode {
        /// Positions each holds before.
        depth: usize,
        /// How many.
        sequences: usize,
    },
}

impl Kind {
    /// The positions that a sequence reaches.
    pub(crate) fn positions(self, decode: usize) -> usize {
        match self {
            Kind::Prefill { tokens } => tokens,
            Kind::Decode { depth, .. } => depth + decode,
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Kind::Prefill { tokens } => write!(f, "prefill {tokens}"),
            Kind::Decode { depth, sequences: 1 } => write!(f, "decode at depth {depth}"),
            Kind::Decode { depth, sequences } => write!(f, "decode {sequences} at depth {depth}"),
        }
    }
}

/// One line of the table.
#[derive(Serialize)]
pub(crate) struct Figure {
    pub(crate) what: String,
    #[serde(flatten)]
    kind: Kind,
    /// Tokens a second of all sequences together: the median, the least and the most.
    #[serde(flatten)]
    pub(crate) rate: Spread,
    samples: Vec<f64>,
    /// Tokens a second at the floor: the median over the runs.
    floor: f64,
    /// The floor's time over the measured one: the median over the runs, each with the ceilings
    /// just before and after it.
    fraction_of_floor: f64,
    bound_by: &'static str,
    pub(crate) bytes_per_token: f64,
    pub(crate) operations_per_token: f64,
}

impl Figure {
    /// `tokens` tokens took `samples`, and needed `work`.
    pub(crate) fn new(kind: Kind, tokens: usize, work: &Work, samples: &[Sample]) -> Self {
        let tokens = tokens as f64;
        let rates: Vec<f64> = samples.iter().map(|s| tokens / s.seconds).collect();
        let median = |f: &dyn Fn(&Sample) -> f64| Spread::of(samples.iter().map(f)).median;
        let middle = &samples[samples.len() / 2].ceilings;
        Self {
            what: kind.to_string(),
            kind,
            rate: Spread::of(rates.iter().copied()),
            floor: median(&|s| tokens / work.floor(&s.ceilings).seconds()),
            fraction_of_floor: median(&|s| work.floor(&s.ceilings).seconds() / s.seconds),
            bound_by: work.floor(middle).bound_by(),
            samples: rates,
            bytes_per_token: work.bytes / tokens,
            operations_per_token: work.total_operations() / tokens,
        }
    }
}

/// What was asked for and not run.
#[derive(Serialize)]
pub(crate) struct Skipped {
    pub(crate) what: String,
    pub(crate) reason: String,
}

impl Report {
    pub(crate) fn new(
        args: &Args,
        loaded: &Loaded,
        cost: &Cost,
        meter: &Meter<'_>,
        figures: Vec<Figure>,
        skipped: Vec<Skipped>,
    ) -> Result<Self> {
        let compute = loaded.model.compute();
        let units = cost.units().into_iter().filter_map(|unit| {
            Some(UnitRate {
                unit: unit.name(),
                instruction: unit.instruction(compute)?,
                operations_per_second: Spread::of(meter.history.iter().map(|c| c.rates[&unit])),
            })
        });
        Ok(Self {
            model: loaded.path.display().to_string(),
            architecture: loaded.model.decoder()?.config.architecture.clone(),
            weight_bytes: cost.weight_bytes(),
            types: cost.types(),
            kv_type: args.runtime.kv_type.to_string(),
            processor: match compute.device() {
                Device::Cpu => processor(),
                device => named(device),
            },
            device: compute.device(),
            threads: compute.pool().threads(),
            isa: compute.isa().to_string(),
            activations: compute.activations().to_string(),
            load_seconds: loaded.took.as_secs_f64(),
            decode_tokens: args.decode,
            read_bytes_per_second: Spread::of(meter.history.iter().map(|c| c.read)),
            units: units.collect(),
            figures,
            skipped,
        })
    }
}

/// What a GPU's maker calls it.
fn named(device: Device) -> String {
    let known = Device::list().into_iter().find(|info| info.device == device);
    known.map_or_else(|| device.to_string(), |info| info.name)
}

impl Report {
    /// What it was measured on, in a few words.
    pub(crate) fn machine(&self) -> String {
        match self.device {
            Device::Cpu => format!("{}, {} threads", self.processor, self.threads),
            device => format!("{device}: {}", self.processor),
        }
    }

    /// A line a figure, for a spreadsheet: what it is, tokens a second, the floor's, and how much of it.
    pub(crate) fn csv(&self) -> String {
        let mut out = format!(
            "# {}, {}; {:.4e} B/s\nmodel,what,tokens_per_second,floor,of_floor,bound_by\n",
            self.model, self.processor, self.read_bytes_per_second.median
        );
        for f in &self.figures {
            let (what, rate, floor) = (&f.what, f.rate.median, f.floor);
            let line = format!(
                "{},{what},{rate:.2},{floor:.2},{:.4},{}\n",
                self.model, f.fraction_of_floor, f.bound_by
            );
            out.push_str(&line);
        }
        out
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let types: Vec<String> =
            self.types.iter().map(|(t, n)| format!("{t} {:.1} MB", *n as f64 / 1e6)).collect();
        writeln!(f, "{} ({}): {}", self.model, self.architecture, types.join(", "))?;
        let Report { isa, activations, kv_type, .. } = self;
        write!(f, "{}", self.machine())?;
        if self.device == Device::Cpu {
            write!(f, ", path {isa}, activations {activations}")?;
        }
        writeln!(f, ", cache {kv_type}")?;
        let range = |s: &Spread, unit: f64| {
            format!("{:.2} ({:.2} .. {:.2})", s.median / unit, s.min / unit, s.max / unit)
        };
        writeln!(f, "ceilings between the runs, median and range:")?;
        writeln!(f, "  {:28} {} GB/s", "reading", range(&self.read_bytes_per_second, 1e9))?;
        for u in &self.units {
            let name = format!("{} ({})", u.unit, u.instruction);
            writeln!(f, "  {name:28} {} T operations/s", range(&u.operations_per_second, 1e12))?;
        }
        let heads = ["", "tokens/s", "min .. max", "floor", "of it"];
        let [what, rate, range, floor, share] = heads;
        writeln!(f, "{what:24} {rate:>10} {range:>20} {floor:>10} {share:>18}")?;
        for figure in &self.figures {
            let Figure { what, rate, floor, .. } = figure;
            let range = format!("{:.1} .. {:.1}", rate.min, rate.max);
            let share = format!("{:.0} % ({})", figure.fraction_of_floor * 100.0, figure.bound_by);
            writeln!(f, "{what:24} {:>10.1} {range:>20} {floor:>10.1} {share:>18}", rate.median)?;
        }
        for Skipped { what, reason } in &self.skipped {
            writeln!(f, "{what:24} left out: {reason}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::meter::Ceilings;
    use crate::bench::unit::Unit;
    use cpu_kernels::ceilings;

    #[test]
    fn the_fraction_pairs_each_run_with_its_own_ceilings() {
        const F32: Unit = Unit::Processor(ceilings::Unit::F32);
        // The machine slows to half for two of three runs: the fraction stays what it was.
        let run = |seconds: f64, read: f64| Sample {
            seconds,
            ceilings: Ceilings { read, rates: [(F32, 1e9)].into() },
        };
        let samples = [run(2.0, 100.0), run(4.0, 50.0), run(4.0, 50.0)];
        let work = Work { bytes: 100.0, operations: [(F32, 10.0)].into() };
        let figure = Figure::new(Kind::Prefill { tokens: 8 }, 8, &work, &samples);
        assert_eq!(figure.fraction_of_floor, 0.5);
        assert_eq!((figure.rate.median, figure.rate.max), (2.0, 4.0));
        assert_eq!(figure.bytes_per_token, 12.5);
    }

    #[test]
    fn an_even_number_of_samples_has_the_mean_of_the_middle_two() {
        let s = Spread::of([4.0, 1.0, 3.0, 2.0]);
        assert_eq!((s.min, s.median, s.max), (1.0, 2.5, 4.0));
    }
}
