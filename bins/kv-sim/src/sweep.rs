//! Pages of several block sizes: small ones waste less and share more, large ones mean less
//! bookkeeping and longer runs for attention.

use paged_kv::PagedKvError;
use serde::Serialize;

use crate::experiment::Experiment;
use crate::memory::Allocator;
use crate::text::aligned;
use files::units::thousands;

/// The sizes that are tried.
pub const BLOCK_SIZES: [usize; 9] = [1, 2, 4, 8, 16, 32, 64, 128, 256];

/// Pages of one size.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct SweepPoint {
    /// Positions a block.
    pub block_size: usize,
    /// Allocated slots that held no position, of all allocated ones.
    pub waste: f64,
    /// Tokens generated in the time that is compared.
    pub generated_in_time: u64,
    /// Requests served.
    pub served: usize,
    /// Preemptions.
    pub preemptions: usize,
    /// Of looked-up tokens, those found in the prefix cache.
    pub prefix_hit_rate: f64,
    /// Blocks of the table of a mean request at its end: runs of attention, and entries that every
    /// layer of every step reads.
    pub table_entries: f64,
    /// Bytes of one block's keys in one layer and head, the stretch that is read at once where a
    /// head's positions lie together.
    pub bytes_a_run: usize,
    /// Time of attention over blocks of this size to that over one piece, where it was measured.
    pub attention_time: Option<f64>,
}

/// Plays the pages at each size; `bytes_a_slot` are those of one head's key of a position in one
/// layer.
///
/// # Errors
/// [`PagedKvError::BlockSize`], which the sizes here cannot cause.
pub fn sweep(
    experiment: &Experiment,
    until: u64,
    bytes_a_slot: usize,
    mut attention_time: impl FnMut(usize) -> Option<f64>,
) -> Result<Vec<SweepPoint>, PagedKvError> {
    let lengths: usize = experiment.trace.iter().map(|r| r.total()).sum();
    let mean = lengths as f64 / experiment.trace.len() as f64;
    let points = BLOCK_SIZES.iter().map(|&block_size| {
        let mut experiment = experiment.clone();
        experiment.pages.block_size = block_size;
        let summary = experiment.run(Allocator::Pages)?.summary(until);
        Ok(SweepPoint {
            block_size,
            waste: summary.waste,
            generated_in_time: summary.generated_in_time,
            served: summary.outcomes.served,
            preemptions: summary.preemptions,
            prefix_hit_rate: summary.prefix_hit_rate,
            table_entries: mean / block_size as f64,
            bytes_a_run: bytes_a_slot * block_size,
            attention_time: attention_time(block_size),
        })
    });
    points.collect()
}

/// The points as a table.
pub fn table(points: &[SweepPoint], until: u64) -> String {
    let seconds = until as f64 / 1e6;
    let in_time = format!("tokens in {seconds:.1} s");
    let heads = ["waste", &in_time, "served", "preempted", "prefix hits", "blocks a request"];
    let mut head: Vec<String> = heads.map(str::to_owned).to_vec();
    head.push("bytes a run".to_owned());
    let measured = points.iter().any(|p| p.attention_time.is_some());
    if measured {
        head.push("attention".to_owned());
    }
    let names: Vec<String> = points.iter().map(|p| p.block_size.to_string()).collect();
    let mut rows = vec![("block size", head)];
    for (point, name) in points.iter().zip(&names) {
        let mut cells = vec![
            format!("{:.2} %", 100.0 * point.waste),
            thousands(point.generated_in_time),
            point.served.to_string(),
            point.preemptions.to_string(),
            format!("{:.1} %", 100.0 * point.prefix_hit_rate),
            format!("{:.1}", point.table_entries),
            thousands(point.bytes_a_run as u64),
        ];
        if measured {
            cells.push(point.attention_time.map_or(String::new(), |t| format!("{t:.2} x")));
        }
        rows.push((name, cells));
    }
    aligned(&rows)
}
