//! Memory maps and usage over time, as one SVG picture that follows the reader's light or dark
//! setting.
//!
//! In a map, time runs to the right and addresses upwards. A rectangle is a stretch of memory that
//! one request holds for a time; its strong part is what holds tokens by then.

use std::fmt::Write;

use workload::Request;

use crate::experiment::{Experiment, Run};
use crate::memory::{Allocator, Tenure};
use crate::sim::{Happening, Sample};
use crate::text;

const WIDTH: f64 = 960.0;
const LEFT: f64 = 64.0;
const RIGHT: f64 = 16.0;
const MAP: f64 = 170.0;
const USAGE: f64 = 90.0;
const GAP: f64 = 26.0;
const TITLE: f64 = 30.0;
const HEAD: f64 = 66.0;
const AXIS: f64 = 42.0;
/// Hues that the colour-blind can tell apart (Okabe and Ito 2008), request after request.
const COLOURS: usize = 8;

const STYLE: &str = "
.paper{fill:#fff}.frame{fill:#f4f4f2;stroke:#cfcfcb}text{fill:#1a1a1a;font:13px system-ui,sans-serif}
.soft{fill:#5c5c5c}.title{font-weight:600}.right{text-anchor:end}.middle{text-anchor:middle}
.r{fill-opacity:.28}.h{fill-opacity:.9}.error{stroke:#c2185b;stroke-width:2}.grid{stroke:#cfcfcb}
.c0{fill:#0072b2}.c1{fill:#e69f00}.c2{fill:#009e73}.c3{fill:#cc79a7}.c4{fill:#56b4e9}.c5{fill:#d55e00}
.c6{fill:#8a7f00}.c7{fill:#6a51a3}
.held{fill:#0072b2}.later{fill:#9ecae1}.never{fill:#e69f00}.scattered{fill:#c2185b;fill-opacity:.55}
@media(prefers-color-scheme:dark){.paper{fill:#161616}.frame{fill:#202020;stroke:#3d3d3d}text{fill:#ececec}
.soft{fill:#a8a8a8}.grid{stroke:#3d3d3d}.error{stroke:#ff6e9c}.r{fill-opacity:.34}.later{fill:#2f5d7c}
.held{fill:#56b4e9}.scattered{fill:#ff6e9c}.c6{fill:#f0e442}.c7{fill:#b09ae0}.c0{fill:#3b9bdc}}
";

/// Draws the runs below each other, over one axis of time.
pub fn picture(experiment: &Experiment, runs: &[Run], title: &str) -> String {
    let end = runs.iter().map(|r| r.history.end).max().unwrap_or(0).max(1);
    let row = TITLE + MAP + 8.0 + USAGE + GAP;
    let height = HEAD + row * runs.len() as f64 + AXIS;
    let mut out = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" role=\"img\" \
         aria-label=\"Memory maps and usage over time\">\n<style>{STYLE}</style>\n\
         <rect class=\"paper\" width=\"{WIDTH}\" height=\"{height}\"/>\n"
    );
    // A title in lines that fit.
    for (i, line) in title.splitn(2, ": ").enumerate() {
        let class = if i == 0 { "title" } else { "soft" };
        let y = 20 + 17 * i;
        let _ = writeln!(out, "<text class=\"{class}\" x=\"12\" y=\"{y}\">{line}</text>");
    }
    legend(&mut out);
    for (i, run) in runs.iter().enumerate() {
        let top = HEAD + row * i as f64;
        let plot = Plot { end, slots: experiment.pages.slots.max(1) };
        panel(&mut out, &plot, experiment, run, top);
    }
    axis(&mut out, end, height - AXIS);
    out.push_str("</svg>\n");
    out
}

/// From times and slots to places.
struct Plot {
    end: u64,
    slots: u64,
}

impl Plot {
    fn x(&self, time: u64) -> f64 {
        LEFT + (WIDTH - LEFT - RIGHT) * time as f64 / self.end as f64
    }

    fn y(&self, slot: u64, top: f64, height: f64) -> f64 {
        top + height * (1.0 - slot as f64 / self.slots as f64)
    }
}

fn legend(out: &mut String) {
    let parts = [
        ("held", "holds tokens", 12.0),
        ("later", "reserved for later", 150.0),
        ("never", "reserved, never used", 310.0),
        ("scattered", "free, but in pieces", 490.0),
    ];
    for (class, label, x) in parts {
        let _ = writeln!(
            out,
            "<rect class=\"{class}\" x=\"{x}\" y=\"47\" width=\"12\" height=\"12\"/>\
             <text x=\"{}\" y=\"58\">{label}</text>",
            x + 18.0
        );
    }
    let _ = writeln!(
        out,
        "<path class=\"error\" d=\"M680 46v14\"/><text x=\"690\" y=\"58\">a request runs out of \
         memory</text>"
    );
}

fn panel(out: &mut String, plot: &Plot, experiment: &Experiment, run: &Run, top: f64) {
    let (map, usage) = (top + TITLE, top + TITLE + MAP + 8.0);
    let width = WIDTH - LEFT - RIGHT;
    let events = &run.history.events;
    let count = |f: fn(&Happening) -> bool| events.iter().filter(|e| f(&e.happening)).count();
    let lost = count(|h| matches!(h, Happening::GivesUp { .. }));
    let served = count(|h| matches!(h, Happening::Finishes));
    let name = run.allocator.name();
    let _ = writeln!(
        out,
        "<text class=\"title\" x=\"{LEFT}\" y=\"{}\">{name}</text>\
         <text class=\"soft right\" x=\"{}\" y=\"{}\">{served} served, {lost} given up</text>",
        top + 21.0,
        WIDTH - RIGHT,
        top + 21.0
    );
    for (label, top, height) in [("address", map, MAP), ("usage", usage, USAGE)] {
        let _ = writeln!(
            out,
            "<rect class=\"frame\" x=\"{LEFT}\" y=\"{top}\" width=\"{width}\" height=\"{height}\"/>\
             <text class=\"soft right\" x=\"{}\" y=\"{}\">{label}</text>",
            LEFT - 8.0,
            top + 14.0
        );
    }
    match run.allocator {
        Allocator::Pages => blocks(out, plot, &run.history.memory.tenures, map),
        _ => stretches(out, plot, &experiment.trace, &run.history.memory.tenures, map),
    }
    areas(out, plot, &run.history.samples, usage);
    let gone = events.iter().filter(|e| matches!(e.happening, Happening::GivesUp { .. }));
    let marks: String = gone.map(|e| format!("M{:.1} {map:.1}v-7", plot.x(e.at))).collect();
    let _ = writeln!(out, "<path class=\"error\" d=\"{marks}\"/>");
}

/// One path for all blocks of a request.
fn blocks(out: &mut String, plot: &Plot, tenures: &[Tenure], top: f64) {
    let mut sorted = tenures.to_vec();
    sorted.sort_unstable_by_key(|t| (t.request, t.from, t.to, t.start));
    for of_one in sorted.chunk_by(|a, b| a.request == b.request) {
        let mut path = String::new();
        let together =
            |a: &Tenure, b: &Tenure| (a.from, a.to, a.start + a.len) == (b.from, b.to, b.start);
        for run in of_one.chunk_by(together) {
            let (first, last) = (run[0], run[run.len() - 1]);
            let (x, right) = (plot.x(first.from), plot.x(first.to));
            let y = plot.y(last.start + last.len, top, MAP);
            let height = plot.y(first.start, top, MAP) - y;
            let _ = write!(path, "M{x:.1} {y:.2}H{right:.1}v{height:.2}H{x:.1}z");
        }
        let colour = of_one[0].request as usize % COLOURS;
        let _ = writeln!(out, "<path class=\"h c{colour}\" d=\"{path}\"/>");
    }
}

/// What is reserved, and within it the tokens, which grow from the prompt to the whole.
fn stretches(out: &mut String, plot: &Plot, trace: &[Request], tenures: &[Tenure], top: f64) {
    for t in tenures {
        let Some(request) = trace.get(t.request as usize - 1) else { continue };
        let (x, right) = (plot.x(t.from), plot.x(t.to));
        let at = |slots: u64| plot.y(t.start + slots, top, MAP);
        let (bottom, reserved) = (at(0), at(t.len));
        let (prompt, total) = (at(request.prompt as u64), at(request.total() as u64));
        let colour = t.request as usize % COLOURS;
        let _ = writeln!(
            out,
            "<path class=\"r c{colour}\" d=\"M{x:.1} {bottom:.2}V{reserved:.2}H{right:.1}V{bottom:.2}z\"/>\
             <path class=\"h c{colour}\" d=\"M{x:.1} {bottom:.2}V{prompt:.2}L{right:.1} {total:.2}V{bottom:.2}z\"/>"
        );
    }
}

/// The upper edge of an area, in slots.
type Level = fn(&Sample) -> u64;

/// Where the memory goes over time, one above the other.
fn areas(out: &mut String, plot: &Plot, samples: &[Sample], top: f64) {
    // A step is less than a pixel wide.
    let every = samples.len().div_ceil(600).max(1);
    let samples: Vec<&Sample> = samples.iter().step_by(every).collect();
    let levels: [(&str, Level); 4] = [
        ("scattered", |s| s.usage.allocated() + s.usage.scattered),
        ("never", |s| s.usage.allocated()),
        ("later", |s| s.usage.held + s.usage.later),
        ("held", |s| s.usage.held),
    ];
    for (class, level) in levels {
        let mut path = String::new();
        for (i, s) in samples.iter().enumerate() {
            let command = if i == 0 { 'M' } else { 'L' };
            let (x, y) = (plot.x(s.from), plot.y(level(s), top, USAGE));
            let _ = write!(path, "{command}{x:.1} {y:.1}");
        }
        if let (Some(first), Some(last)) = (samples.first(), samples.last()) {
            let bottom = top + USAGE;
            let (left, right) = (plot.x(first.from), plot.x(last.from));
            let _ = write!(path, "L{right:.1} {bottom}L{left:.1} {bottom}z");
            let _ = writeln!(out, "<path class=\"{class}\" d=\"{path}\"/>");
        }
    }
}

fn axis(out: &mut String, end: u64, top: f64) {
    let seconds = end as f64 / 1e6;
    // Five to ten marks, at 1, 2 or 5 times a power of ten.
    let rough = seconds / 8.0;
    let power = 10f64.powf(rough.log10().floor());
    let step = [1.0, 2.0, 5.0, 10.0].map(|m| m * power).into_iter().find(|&s| s >= rough);
    let step = step.unwrap_or(power);
    let plot = Plot { end, slots: 1 };
    for i in 0..=(seconds / step) as u64 {
        let time = i as f64 * step;
        let x = plot.x((time * 1e6) as u64);
        let _ = writeln!(
            out,
            "<path class=\"grid\" d=\"M{x:.1} {top}v5\"/>\
             <text class=\"soft middle\" x=\"{x:.1}\" y=\"{}\">{time}{}</text>",
            top + 19.0,
            if i == 0 { " s" } else { "" }
        );
    }
}

/// What a screen reader or a search finds of a run; and the table below a page's pictures.
pub(crate) fn caption(runs: &[Run], until: u64) -> String {
    let summaries: Vec<_> = runs.iter().map(|r| r.summary(until)).collect();
    text::table(&summaries, until)
}
