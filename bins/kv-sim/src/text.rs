//! The runs as text.

use std::fmt::Write;

use workload::Request;

use crate::experiment::{Run, Summary};
use crate::memory::{Allocator, Preemption, Shortage};
use crate::sim::{Event, Happening};
use files::units::{gigabytes, thousands};

/// What happened to each request, one line each.
pub fn log(run: &Run, trace: &[Request], bytes_per_token: u64) -> String {
    let mut out = String::new();
    let mut told = vec![Vec::new(); trace.len() + 1];
    for event in &run.history.events {
        told[event.request as usize].push(tell(run.allocator, event, bytes_per_token));
    }
    for r in trace {
        let _ = writeln!(
            out,
            "{:>7.2} s  request {:<4} {:>5} + {:<5} tokens: {}",
            seconds(r.arrival),
            r.id,
            r.prompt,
            r.output,
            told[r.id as usize].join("; ")
        );
    }
    out
}

fn seconds(micros: u64) -> f64 {
    micros as f64 / 1e6
}

fn tell(allocator: Allocator, event: &Event, bytes_per_token: u64) -> String {
    let gb = |slots: u64| gigabytes(slots * bytes_per_token);
    let lack = |s: Shortage| match allocator {
        Allocator::Pages => format!("need {}, {} free", gb(s.need), gb(s.free)),
        _ => format!(
            "need {}, largest hole {}, {} free in all",
            gb(s.need),
            gb(s.largest_hole),
            gb(s.free)
        ),
    };
    let at = seconds(event.at);
    match event.happening {
        Happening::Waits { shortage } if allocator == Allocator::Pages => {
            format!("waiting gracefully for release ({})", lack(shortage))
        }
        Happening::Waits { shortage } => format!("waits ({})", lack(shortage)),
        Happening::Starts { waited, cached } => {
            let found = if cached > 0 { format!(", {cached} cached") } else { String::new() };
            format!("starts after {:.2} s{found}", seconds(waited))
        }
        Happening::Preempted { how: Preemption::Swap, .. } => format!("swapped out at {at:.2} s"),
        Happening::Preempted { how: Preemption::Recompute, .. } => {
            format!("preempted at {at:.2} s")
        }
        Happening::Resumes => format!("resumes at {at:.2} s"),
        Happening::Finishes => format!("OK at {at:.2} s"),
        Happening::GivesUp { shortage } if shortage.fits() => {
            format!("ERROR - gave up behind others at {at:.2} s")
        }
        Happening::GivesUp { shortage } => {
            format!("ERROR - Out of Memory ({}) at {at:.2} s", lack(shortage))
        }
        Happening::TooLarge { need, total } => {
            format!("ERROR - can never fit (need {}, {} in all)", gb(need), gb(total))
        }
    }
}

/// The figures side by side; `until` is the time that is compared, in microseconds.
pub fn table(summaries: &[Summary], until: u64) -> String {
    let names: Vec<&str> = summaries.iter().map(|s| s.allocator.name()).collect();
    let mut rows = vec![("", names.iter().map(|n| (*n).to_owned()).collect::<Vec<_>>())];
    let mut row = |name, f: &dyn Fn(&Summary) -> String| {
        rows.push((name, summaries.iter().map(f).collect()));
    };
    let percent = |share: f64| format!("{:.1} %", 100.0 * share);
    row("requests served", &|s| s.outcomes.served.to_string());
    row("waited for a release", &|s| s.outcomes.waited.to_string());
    row("out of memory", &|s| s.outcomes.out_of_memory.to_string());
    row("  though enough was free", &|s| s.outcomes.fragmentation.to_string());
    row("gave up behind others", &|s| s.outcomes.gave_up.to_string());
    row("could never fit", &|s| s.outcomes.too_large.to_string());
    row("tokens generated", &|s| thousands(s.generated));
    let in_time = format!("  in the first {:.1} s", seconds(until));
    row(&in_time, &|s| thousands(s.generated_in_time));
    row("running at a time, mean", &|s| format!("{:.1}", s.running));
    row("running at a time, most", &|s| s.most_running.to_string());
    row("mean wait", &|s| format!("{:.2} s", s.mean_wait));
    row("preemptions", &|s| s.preemptions.to_string());
    row("memory: holds a token", &|s| percent(s.memory.held));
    row("  reserved for later", &|s| percent(s.memory.later));
    row("  never used (internal)", &|s| percent(s.memory.never));
    row("  free in pieces (external)", &|s| percent(s.memory.scattered));
    row("  free", &|s| percent(s.memory.free));
    row("waste of what is allocated", &|s| percent(s.waste));
    row("external fragmentation", &|s| percent(s.external_fragmentation));
    row("prefix cache hits", &|s| percent(s.prefix_hit_rate));
    aligned(&rows)
}

/// The first column to the left, the others to the right.
pub(crate) fn aligned(rows: &[(&str, Vec<String>)]) -> String {
    let first = rows.iter().map(|r| r.0.len()).max().unwrap_or(0);
    let columns = rows.first().map_or(0, |r| r.1.len());
    let widths: Vec<usize> =
        (0..columns).map(|i| rows.iter().map(|r| r.1[i].len()).max().unwrap_or(0)).collect();
    let mut out = String::new();
    for (name, cells) in rows {
        let _ = write!(out, "{name:<first$}");
        for (cell, width) in cells.iter().zip(&widths) {
            let _ = write!(out, "  {cell:>width$}");
        }
        out.push('\n');
    }
    out
}
