//! A profile as a flame graph (Gregg 2016), drawn downwards: a box is as wide as its time, what ran
//! within it lies below. Runs of one name within the same outer names are one box, so an order of
//! time is not shown.

use std::fmt::Write as _;

use tensor::profile::{Line, Table};

/// Width of the picture, height of a box, and room around, in pixels.
const WIDTH: f64 = 1000.0;
const ROW: f64 = 24.0;
const MARGIN: f64 = 12.0;

/// About the width of a letter of a label.
const LETTER: f64 = 6.6;

/// Fills that dark letters can be read on; names take them in the order in which they appear.
const FILLS: [&str; 14] = [
    "#f4a582", "#92c5de", "#fddb9b", "#b8e0b0", "#d6c1e0", "#f7c6d5", "#bfd8d2", "#e3d0b0",
    "#c9cfe8", "#dddddd", "#ffd0b5", "#a9dfd5", "#e6e3a3", "#cdb7a5",
];

/// One graph for each outermost scope, such as prefill and decode, each over its own time. `None` if
/// nothing ran.
pub(crate) fn svg(table: &Table) -> Option<String> {
    let mut flames = Flames { out: String::new(), names: Vec::new(), y: MARGIN };
    for line in &table.lines {
        let scale = WIDTH / line.time.as_secs_f64();
        if scale.is_finite() {
            flames.draw(line, line.time.as_secs_f64(), scale, MARGIN, 0);
            flames.y += ROW * depth(line) as f64 + MARGIN;
        }
    }
    let Flames { out, y, .. } = flames;
    let width = WIDTH + 2.0 * MARGIN;
    let frame = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {y}\" width=\"{width}\" \
         height=\"{y}\" font-family=\"sans-serif\" font-size=\"12\">\n\
         <rect width=\"100%\" height=\"100%\" fill=\"#ffffff\"/>\n{out}</svg>\n"
    );
    (!out.is_empty()).then_some(frame)
}

struct Flames {
    out: String,
    names: Vec<&'static str>,
    y: f64,
}

/// Boxes on top of each other.
fn depth(line: &Line) -> usize {
    1 + line.within.iter().map(depth).max().unwrap_or(0)
}

impl Flames {
    /// Draws a line of a graph that takes `whole` seconds, and below it what ran within.
    fn draw(&mut self, line: &Line, whole: f64, scale: f64, x: f64, depth: usize) {
        let seconds = line.time.as_secs_f64();
        let (width, y) = (seconds * scale, self.y + ROW * depth as f64);
        let name = [line.name, line.detail].join(" ");
        let name = name.trim_end();
        let said = format!("{name}, {:.1} %, {:.1} ms", 100.0 * seconds / whole, 1e3 * seconds);
        let fill = self.fill(line.name);
        let _ = writeln!(
            self.out,
            "<g><title>{said}, {} calls</title><rect x=\"{x:.2}\" y=\"{y:.2}\" width=\"{width:.2}\" \
             height=\"{}\" fill=\"{fill}\" stroke=\"#ffffff\"/>",
            line.calls,
            ROW - 1.0
        );
        let letters = (width / LETTER) as usize;
        let label = [said.as_str(), name].into_iter().find(|label| label.len() + 1 < letters);
        if let Some(label) = label {
            let (x, y) = (x + 4.0, y + 16.0);
            let _ = write!(self.out, "<text x=\"{x:.2}\" y=\"{y:.2}\">{label}</text>");
        }
        self.out.push_str("</g>\n");
        let mut x = x;
        for within in &line.within {
            self.draw(within, whole, scale, x, depth + 1);
            x += within.time.as_secs_f64() * scale;
        }
    }

    fn fill(&mut self, name: &'static str) -> &'static str {
        let at = self.names.iter().position(|n| *n == name).unwrap_or_else(|| {
            self.names.push(name);
            self.names.len() - 1
        });
        FILLS[at % FILLS.len()]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;
    use tensor::profile::Work;

    fn line(name: &'static str, ms: u64, within: Vec<Line>) -> Line {
        let (time, work) = (Duration::from_millis(ms), Work::default());
        Line { name, detail: "", calls: 1, time, work, within }
    }

    #[test]
    fn boxes_are_as_wide_as_their_times_and_lie_below_what_they_are_within() {
        let decode = line("decode", 40, vec![line("linear", 30, vec![]), line("norm", 10, vec![])]);
        let svg = svg(&Table { lines: vec![decode, line("prefill", 7, vec![])] }).unwrap();
        assert!(svg.contains("<title>linear, 75.0 %, 30.0 ms, 1 calls</title>"));
        assert!(svg.contains("<rect x=\"12.00\" y=\"36.00\" width=\"750.00\""), "{svg}");
        assert!(svg.contains("<rect x=\"762.00\" y=\"36.00\" width=\"250.00\""), "{svg}");
        // Each graph over its own time, one below the other.
        assert!(svg.contains("<rect x=\"12.00\" y=\"72.00\" width=\"1000.00\""), "{svg}");
        assert!(super::svg(&Table { lines: vec![] }).is_none());
    }
}
