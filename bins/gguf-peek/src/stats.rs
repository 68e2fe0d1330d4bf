//! Bytes by type and by family of tensors, bits a weight, and what the values are like.

use std::io::{self, Write};

use blocks::DType;
use gguf::Gguf;
use serde_json::{Value as Json, json};

use crate::summary::Summary;
use crate::text;

/// Bins of the histograms.
const BINS: usize = 16;

/// Tensors that are counted together.
struct Group {
    name: String,
    types: Vec<DType>,
    tensors: usize,
    elements: u64,
    bytes: u64,
    summary: Summary,
}

impl Group {
    fn bits_a_weight(&self) -> f64 {
        self.bytes as f64 * 8.0 / self.elements as f64
    }

    fn json(&self) -> Json {
        let s = &self.summary;
        let types: Vec<_> = self.types.iter().map(|t| t.name()).collect();
        json!({
            "name": self.name, "types": types, "tensors": self.tensors,
            "elements": self.elements, "bytes": self.bytes,
            "bits_per_weight": self.bits_a_weight(),
            "min": s.min, "max": s.max, "mean": s.mean(), "rms": s.rms(),
            "nan": s.nan, "infinite": s.infinite, "histogram": s.histogram(BINS),
        })
    }
}

/// The statistics of a file.
pub(crate) struct Stats {
    by_type: Vec<Group>,
    by_family: Vec<Group>,
    all: Option<Group>,
}

impl Stats {
    /// Groups the tensors; `summaries` are theirs, in order.
    pub(crate) fn new(file: &Gguf, summaries: &[Summary]) -> Self {
        Self {
            by_type: groups(file, summaries, |_, dtype| dtype.name().to_owned()),
            by_family: groups(file, summaries, |name, _| family(name)),
            all: groups(file, summaries, |_, _| "all".to_owned()).pop(),
        }
    }

    /// For machines.
    pub(crate) fn json(&self) -> Json {
        let list = |groups: &[Group]| groups.iter().map(Group::json).collect::<Vec<_>>();
        json!({
            "by_type": list(&self.by_type),
            "by_family": list(&self.by_family),
            "all": self.all.as_ref().map(Group::json),
        })
    }

    /// For people.
    pub(crate) fn print(&self, out: &mut impl Write) -> io::Result<()> {
        let Some(all) = &self.all else {
            return writeln!(out, "--- Stats ---\nno tensors");
        };
        writeln!(out, "--- Stats ---")?;
        writeln!(
            out,
            "Weights: {}   Bytes: {} ({})   Bits a weight: {:.3}",
            text::count(all.elements),
            text::bytes(all.bytes),
            text::count(all.bytes),
            all.bits_a_weight()
        )?;
        let wide = |gs: &[Group]| gs.iter().map(|g| g.name.chars().count()).max().unwrap_or(0);
        let width = wide(&self.by_type).max(wide(&self.by_family)).max(6);
        for (title, groups) in [("type", &self.by_type), ("family", &self.by_family)] {
            writeln!(
                out,
                "\n{title:width$}  tensors          weights       bytes  share   bits         min          max         rms  histogram"
            )?;
            for g in groups.iter() {
                let s = &g.summary;
                writeln!(
                    out,
                    "{:width$}  {:>7}  {:>15}  {:>10}  {:>4.1}%  {:>5.2}  {:>10.4}  {:>11.4}  {:>10.5}  {}{}",
                    g.name,
                    text::count(g.tensors as u64),
                    text::count(g.elements),
                    text::bytes(g.bytes),
                    g.bytes as f64 * 100.0 / all.bytes as f64,
                    g.bits_a_weight(),
                    s.min,
                    s.max,
                    s.rms(),
                    bars(&s.histogram(BINS)),
                    not_finite(s),
                )?;
            }
        }
        Ok(())
    }
}

fn not_finite(s: &Summary) -> String {
    match (s.nan, s.infinite) {
        (0, 0) => String::new(),
        (nan, infinite) => format!("  {nan} NaN, {infinite} infinite"),
    }
}

/// Groups in the order in which their first tensors stand.
fn groups(file: &Gguf, summaries: &[Summary], key: fn(&str, DType) -> String) -> Vec<Group> {
    let mut groups: Vec<Group> = Vec::new();
    for (t, summary) in file.tensors().iter().zip(summaries) {
        let name = key(&t.name, t.dtype);
        let at = groups.iter().position(|g| g.name == name).unwrap_or_else(|| {
            let (types, summary) = (Vec::new(), Summary::default());
            groups.push(Group { name, types, tensors: 0, elements: 0, bytes: 0, summary });
            groups.len() - 1
        });
        let g = &mut groups[at];
        if !g.types.contains(&t.dtype) {
            g.types.push(t.dtype);
        }
        g.tensors += 1;
        g.elements += t.elements() as u64;
        g.bytes += t.size as u64;
        g.summary.merge(summary);
    }
    groups
}

/// The name without numbers of layers and experts and without `.weight`: `blk.3.attn_q.weight` is
/// of the family `attn_q`.
fn family(name: &str) -> String {
    let kept = name.split('.').filter(|part| {
        !matches!(*part, "blk" | "weight") && !part.bytes().all(|b| b.is_ascii_digit())
    });
    let family = kept.collect::<Vec<_>>().join(".");
    text::escape(if family.is_empty() { name } else { &family }.as_bytes())
}

/// Shares as bars, the largest the highest; what is there at all is seen.
fn bars(shares: &[f64]) -> String {
    const BARS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
    let most = shares.iter().copied().fold(0.0, f64::max);
    let bar = |&s: &f64| match s {
        0.0 => ' ',
        s => BARS[((s / most * 8.0).ceil() as usize).clamp(1, 8) - 1],
    };
    format!("|{}|", shares.iter().map(bar).collect::<String>())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn families_leave_out_layers() {
        assert_eq!(family("blk.12.attn_q.weight"), "attn_q");
        assert_eq!(family("blk.0.attn_q.bias"), "attn_q.bias");
        assert_eq!(family("token_embd.weight"), "token_embd");
        assert_eq!(family("blk.1.ffn_gate.3.weight"), "ffn_gate");
        assert_eq!(family("3"), "3");
    }

    #[test]
    fn bars_show_even_a_little() {
        assert_eq!(bars(&[0.0, 0.001, 0.5, 1.0]), "| ▁▄█|");
    }
}
