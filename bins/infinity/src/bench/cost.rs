//! What a forward must read and compute at the least: the floor's two counts.

use std::collections::BTreeMap;

use anyhow::Result;
use model::Model;
use tensor::DType;

use super::meter::Ceilings;
use super::unit::Unit;

/// Bytes and operations of a run.
#[derive(Clone, Debug, Default)]
pub(crate) struct Work {
    /// Weights once a forward, keys and values once a forward and sequence.
    pub(crate) bytes: f64,
    /// Multiplications and additions, each counted, by the unit that does them.
    pub(crate) operations: BTreeMap<Unit, f64>,
}

/// Seconds that a run takes at the least.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Floor {
    pub(crate) reading: f64,
    pub(crate) computing: f64,
}

impl Floor {
    pub(crate) fn seconds(self) -> f64 {
        self.reading.max(self.computing)
    }

    pub(crate) fn bound_by(self) -> &'static str {
        if self.reading > self.computing { "reading" } else { "computing" }
    }
}

impl Work {
    pub(crate) fn total_operations(&self) -> f64 {
        self.operations.values().sum()
    }

    /// The units work one after another, since one product follows the other; reading goes on
    /// meanwhile.
    pub(crate) fn floor(&self, ceilings: &Ceilings) -> Floor {
        let computing = self.operations.iter().map(|(unit, n)| n / ceilings.rates[unit]).sum();
        Floor { reading: self.bytes / ceilings.read, computing }
    }
}

/// Rows of one sequence in a forward: positions `start..start + len`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Span {
    pub(crate) start: usize,
    pub(crate) len: usize,
}

/// One forward: the rows of each sequence, and how many rows' logits are asked for.
#[derive(Clone, Debug)]
pub(crate) struct Forward {
    pub(crate) spans: Vec<Span>,
    pub(crate) logits: usize,
}

/// A model's share in the counts.
pub(crate) struct Cost {
    products: Vec<Product>,
    output: Product,
    /// Positions that each layer's attention sees at most.
    windows: Vec<usize>,
    /// Bytes of one position's keys and values in one layer.
    kv_bytes: f64,
    /// Operations of a row's attention over one position in one layer, and what does them.
    attention: f64,
    attends: Unit,
}

struct Product {
    dtype: DType,
    bytes: f64,
    weights: f64,
    /// Of one row: 1, or used experts over all.
    share: f64,
    unit: Unit,
}

impl Cost {
    pub(crate) fn of(model: &Model, kv: DType) -> Result<Self> {
        let decoder = model.decoder()?;
        let config = &decoder.config;
        let mut products: Vec<Product> = decoder
            .products()
            .into_iter()
            .map(|p| {
                let w = &p.linear.weight;
                Product {
                    dtype: w.dtype(),
                    bytes: w.byte_len() as f64,
                    weights: (w.rows() * w.cols()) as f64,
                    share: p.share,
                    unit: Unit::of_weight(w.dtype(), model.compute()),
                }
            })
            .collect();
        let output = products.pop().expect("every decoder has an output matrix");
        let layout = config.kv_layout(kv);
        Ok(Self {
            products,
            output,
            windows: config.windows.iter().map(|w| w.unwrap_or(usize::MAX)).collect(),
            kv_bytes: layout.bytes_per_token() as f64 / layout.layers as f64,
            // A product with a key and one with a value, each element twice an operation.
            attention: (4 * config.n_heads * config.head_dim) as f64,
            attends: Unit::of_attention(model.compute()),
        })
    }

    /// Bytes of all weights that products read.
    pub(crate) fn weight_bytes(&self) -> usize {
        self.all().map(|p| p.bytes).sum::<f64>() as usize
    }

    /// Bytes of the weights by type, in the order of the model.
    pub(crate) fn types(&self) -> Vec<(String, usize)> {
        let mut types: Vec<(String, usize)> = Vec::new();
        for p in self.all() {
            let name = p.dtype.name();
            match types.iter_mut().find(|(t, _)| t == name) {
                Some((_, n)) => *n += p.bytes as usize,
                None => types.push((name.to_owned(), p.bytes as usize)),
            }
        }
        types
    }

    /// The units that the model's operations need.
    pub(crate) fn units(&self) -> Vec<Unit> {
        let mut units: Vec<Unit> = self.all().map(|p| p.unit).chain([self.attends]).collect();
        units.sort();
        units.dedup();
        units
    }

    fn all(&self) -> impl Iterator<Item = &Product> {
        self.products.iter().chain([&self.output])
    }

    /// What these forwards need together.
    pub(crate) fn work(&self, forwards: &[Forward]) -> Work {
        let mut work = Work::default();
        for forward in forwards {
            let rows: usize = forward.spans.iter().map(|s| s.len).sum();
            for p in &self.products {
                work.product(p, rows);
            }
            if forward.logits > 0 {
                work.product(&self.output, forward.logits);
            }
            for &Span { start, len } in &forward.spans {
                for &window in &self.windows {
                    let seen: usize = (start..start + len).map(|p| window.min(p + 1)).sum();
                    let read = (start + len).min(window.saturating_add(len));
                    work.bytes += read as f64 * self.kv_bytes;
                    work.add(self.attends, seen as f64 * self.attention);
                }
            }
        }
        work
    }
}

impl Work {
    fn product(&mut self, p: &Product, rows: usize) {
        let rows = rows as f64;
        // Of routed experts, more rows need more, and at most all.
        self.bytes += p.bytes * (p.share * rows).min(1.0);
        self.add(p.unit, 2.0 * p.weights * p.share * rows);
    }

    fn add(&mut self, unit: Unit, operations: f64) {
        *self.operations.entry(unit).or_default() += operations;
    }
}

#[cfg(test)]
mod tests {
    use cpu_kernels::ceilings;

    use super::*;

    const INT8: Unit = Unit::Processor(ceilings::Unit::Int8);
    const F32: Unit = Unit::Processor(ceilings::Unit::F32);

    fn cost(windows: Vec<usize>) -> Cost {
        let product = |dtype, weights, unit| Product {
            dtype,
            bytes: weights / 2.0,
            weights,
            share: 1.0,
            unit,
        };
        Cost {
            products: vec![product(DType::Q4_0, 1000.0, INT8)],
            output: product(DType::F16, 100.0, F32),
            windows,
            kv_bytes: 8.0,
            attention: 4.0,
            attends: F32,
        }
    }

    #[test]
    fn a_prefill_reads_weights_once_and_asks_for_one_row_of_logits() {
        let chunk = Forward { spans: vec![Span { start: 0, len: 4 }], logits: 1 };
        let work = cost(vec![usize::MAX]).work(&[chunk]);
        assert_eq!(work.bytes, 500.0 + 50.0 + 4.0 * 8.0);
        assert_eq!(work.operations[&INT8], 2.0 * 1000.0 * 4.0);
        // 1 + 2 + 3 + 4 positions, and the output matrix for one row.
        assert_eq!(work.operations[&F32], 10.0 * 4.0 + 200.0);
    }

    #[test]
    fn a_window_bounds_what_attention_reads() {
        let step = Forward { spans: vec![Span { start: 99, len: 1 }; 2], logits: 2 };
        let work = cost(vec![10]).work(std::slice::from_ref(&step));
        assert_eq!(work.bytes, 550.0 + 2.0 * 11.0 * 8.0);
        assert_eq!(work.operations[&F32], 2.0 * 10.0 * 4.0 + 400.0);
        let all = cost(vec![usize::MAX]).work(&[step]);
        assert_eq!(all.bytes, 550.0 + 2.0 * 100.0 * 8.0);
    }

    #[test]
    fn the_floor_is_the_larger_of_the_two() {
        let ceilings = |read| Ceilings { read, rates: [(INT8, 10.0)].into() };
        let work = Work { bytes: 100.0, operations: [(INT8, 20.0)].into() };
        let slow = work.floor(&ceilings(10.0));
        assert_eq!((slow.seconds(), slow.bound_by()), (10.0, "reading"));
        let fast = work.floor(&ceilings(100.0));
        assert_eq!((fast.seconds(), fast.bound_by()), (2.0, "computing"));
    }
}
