//! A run as lines.

use std::collections::HashMap;
use std::fmt::Write;

use crate::alone::Difference;
use crate::frame::{BlockFrame, Event, Frame, Name, Rows, State, Totals};

/// Tells the frames of a run; a table is told again when it has changed.
#[derive(Debug, Default)]
pub struct Plain {
    told: HashMap<Name, (State, Vec<u32>)>,
}

impl Plain {
    /// The lines of a frame.
    pub fn frame(&mut self, frame: &Frame) -> String {
        let rows: usize = frame.rows.iter().map(|r| r.rows).sum();
        let mut out = format!("step {}: {rows} {}\n", frame.step, plural(rows, "row"));
        let mut line = |kind: &str, text: &str| {
            writeln!(out, "  {kind:<9} {text}").expect("a string takes everything");
        };
        // A fork or an end follows from a token, and so from the rows.
        let (after, before): (Vec<_>, Vec<_>) = frame
            .events
            .iter()
            .partition(|e| matches!(e, Event::Forks { .. } | Event::Ends { .. }));
        for event in before {
            let (kind, text) = tell(event);
            line(kind, &text);
        }
        let is_prefill = |r: &&Rows| r.rows > 1 || r.prompt > 0;
        for rows in frame.rows.iter().filter(is_prefill) {
            line("prefill", &prefill(rows));
        }
        let of = |rows: usize| {
            let some = frame.rows.iter().filter(|r| !is_prefill(r) && r.rows == rows);
            some.map(decode).collect::<Vec<_>>().join("  ")
        };
        for (kind, text) in [("decode", of(1)), ("first", of(0))] {
            if !text.is_empty() {
                line(kind, &text);
            }
        }
        for event in after {
            let (kind, text) = tell(event);
            line(kind, &text);
        }
        for s in &frame.sequences {
            let now = (s.state, s.table.clone());
            let changed = self.told.insert(s.name, now.clone()) != Some(now);
            if changed && s.state == State::Running {
                let table = table(&s.table, &frame.blocks);
                line("table", &format!("{}  {table}  ({} positions)", s.name, s.positions));
            }
        }
        let p = &frame.pool;
        let pool = format!(
            "{} used ({} shared), {} cached, {} free; {} table entries; {:.1} % of the used slots empty",
            p.used,
            p.shared,
            p.idle,
            p.free,
            p.entries,
            100.0 * p.waste
        );
        line("pool", &pool);
        out
    }
}

/// A block table, logical order: `7` is a block of its own, `7*3` one that three tables hold.
pub fn table(table: &[u32], blocks: &[BlockFrame]) -> String {
    let entry = |&b: &u32| match blocks[b as usize].references {
        0 | 1 => b.to_string(),
        n => format!("{b}*{n}"),
    };
    table.iter().map(entry).collect::<Vec<_>>().join(" ")
}

/// What kind of event it is, and the rest of the sentence.
pub fn tell(event: &Event) -> (&'static str, String) {
    match event {
        Event::Arrives { request, prompt, answers } => (
            "arrives",
            format!(
                "request {request}: {prompt} prompt tokens, {answers} {}",
                plural(*answers, "answer")
            ),
        ),
        Event::Starts { sequence, prompt, cached: 0, .. } => {
            ("starts", format!("{sequence}: none of its {prompt} prompt tokens are cached"))
        }
        Event::Starts { sequence, prompt, cached, blocks } => (
            "starts",
            format!(
                "{sequence}: {cached} of its {prompt} prompt tokens are cached, in {}",
                list(blocks)
            ),
        ),
        Event::Preempted { sequence, positions } => {
            ("preempted", format!("{sequence} loses its blocks ({positions} positions)"))
        }
        Event::Resumes { sequence, kept } => {
            ("resumes", format!("{sequence} with {kept} positions found again"))
        }
        Event::CopyOnWrite { sequence, from, to, slots } => (
            "copy",
            format!(
                "{sequence} writes to block {from}, which others see: {slots} {} copied to block {to}",
                plural(*slots, "slot")
            ),
        ),
        Event::Merges { sequence, from, to } => (
            "merge",
            format!("{sequence} gives up block {from} for block {to}, which holds the same"),
        ),
        Event::Forks { parent, child, blocks } => {
            ("fork", format!("{child} shares {} with {parent}", list(blocks)))
        }
        Event::Evicts { blocks } => {
            let n = *blocks as usize;
            ("evict", format!("{n} cached {} taken for something new", plural(n, "block")))
        }
        Event::Ends { sequence, tokens, freed, kept, held } => {
            let mut parts = Vec::new();
            for (what, blocks) in [("free", freed), ("cached", kept), ("held by others", held)] {
                if !blocks.is_empty() {
                    parts.push(format!("{} {what}", list(blocks)));
                }
            }
            ("ends", format!("{sequence} after {tokens} tokens: {}", parts.join(", ")))
        }
    }
}

fn prefill(r: &Rows) -> String {
    let mut out =
        format!("{}: positions {} to {}", r.sequence, r.first, r.first + r.rows.max(1) - 1);
    // Rows of the prompt that are computed for the first time are counted; others were lost.
    if r.prompt < r.rows {
        out += ", after a preemption";
    }
    if let Some(token) = &r.token {
        write!(out, " -> {token:?}").expect("a string takes everything");
    }
    out
}

fn decode(r: &Rows) -> String {
    match &r.token {
        Some(token) => format!("{} {token:?}", r.sequence),
        None => r.sequence.to_string(),
    }
}

fn list(blocks: &[u32]) -> String {
    let ids: Vec<String> = blocks.iter().map(u32::to_string).collect();
    format!("{} {}", plural(blocks.len(), "block"), ids.join(" "))
}

fn plural(n: usize, word: &str) -> String {
    if n == 1 { word.to_owned() } else { format!("{word}s") }
}

/// The answers, what the check says, and the totals.
pub fn end(last: &Frame, totals: &Totals, differences: &[Difference]) -> String {
    let mut out = String::from("\nanswers\n");
    let mut line = |text: String| writeln!(out, "  {text}").expect("a string takes everything");
    for s in &last.sequences {
        line(format!("{}  {:?}", s.name, s.text));
    }
    let answers = last.sequences.len();
    out.push('\n');
    let mut line = |text: String| writeln!(out, "  {text}").expect("a string takes everything");
    match differences {
        [] => line(format!(
            "equal      all {answers} answers are those that each gets alone with a contiguous cache"
        )),
        _ => {
            for d in differences {
                let name = Name { request: d.request, answer: d.answer };
                let token =
                    |t: Option<u32>| t.map_or("nothing".to_owned(), |t| format!("token {t}"));
                line(format!(
                    "DIFFERENT  {name} at token {}: {} here, {} alone",
                    d.at,
                    token(d.paged),
                    token(d.alone)
                ));
            }
        }
    }
    let t = totals;
    let share = |part: f64, of: f64| if of > 0.0 { 100.0 * part / of } else { 0.0 };
    line(format!(
        "computed   {} steps, {} rows of prompts, {} tokens generated",
        t.steps, t.prompt_rows, t.generated
    ));
    line(format!(
        "hits       {} of {} looked-up tokens found ({:.1} %)",
        t.prefix_hits,
        t.prefix_queries,
        share(t.prefix_hits as f64, t.prefix_queries as f64)
    ));
    line(format!(
        "sharing    {} blocks at most, {} without sharing ({:.1} % saved)",
        t.peak_used,
        t.entries_at_peak,
        share(t.entries_at_peak as f64 - t.peak_used as f64, t.entries_at_peak as f64)
    ));
    line(format!(
        "waste      {:.1} % of the used slots empty, mean over the steps",
        100.0 * t.mean_waste
    ));
    line(format!(
        "moved      {} copies on write, {} merged, {} evicted, {} preempted",
        t.copies, t.merged, t.evictions, t.preemptions
    ));
    let p = &last.pool;
    line(format!("left       {} blocks used, {} cached, {} free", p.used, p.idle, p.free));
    out
}
