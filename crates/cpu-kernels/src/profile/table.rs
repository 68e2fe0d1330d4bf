//! Events added up: a tree of names with times, shares and rates.

use super::{Event, Work};
use std::cmp::Reverse;
use std::fmt;
use std::time::Duration;

/// The times of what ran, by name within name; prints as a table, the longest first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Table {
    /// The scopes that are in no other.
    pub lines: Vec<Line>,
}

/// All runs of one name within the same outer names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    /// What ran.
    pub name: &'static str,
    /// Which of its kind.
    pub detail: &'static str,
    /// How often.
    pub calls: usize,
    /// The time of all runs, with what ran within.
    pub time: Duration,
    /// The work of all runs.
    pub work: Work,
    /// What ran within, the longest first.
    pub within: Vec<Line>,
}

impl Table {
    pub(super) fn of(mut events: Vec<Event>) -> Self {
        // Outer events first: they begin earlier, or end later.
        events.sort_by_key(|e| (e.thread, e.start, Reverse(e.took)));
        let mut lines = Vec::new();
        let mut rest = events.as_slice();
        while let Some(first) = rest.first() {
            let of_thread = rest.iter().take_while(|e| e.thread == first.thread).count();
            let (mut part, others) = rest.split_at(of_thread);
            add(&mut lines, &mut part, Duration::MAX);
            rest = others;
        }
        sort(&mut lines);
        Self { lines }
    }
}

/// Takes the events that begin before `end` off `events`, those within others along with them.
fn add(lines: &mut Vec<Line>, events: &mut &[Event], end: Duration) {
    while let Some((event, rest)) = events.split_first().filter(|(e, _)| e.start < end) {
        let &Event { name, detail, start, took, work, .. } = event;
        let same = |l: &Line| (l.name, l.detail) == (name, detail);
        let at = lines.iter().position(same).unwrap_or_else(|| {
            let (time, work, within) = (Duration::ZERO, Work::default(), Vec::new());
            lines.push(Line { name, detail, calls: 0, time, work, within });
            lines.len() - 1
        });
        let line = &mut lines[at];
        line.calls += 1;
        line.time += took;
        line.work.bytes += work.bytes;
        line.work.operations += work.operations;
        *events = rest;
        add(&mut line.within, events, start + took);
    }
}

fn sort(lines: &mut [Line]) {
    lines.sort_by_key(|l| Reverse(l.time));
    lines.iter_mut().for_each(|l| sort(&mut l.within));
}

impl Line {
    fn write(&self, f: &mut fmt::Formatter<'_>, depth: usize, whole: f64) -> fmt::Result {
        let seconds = self.time.as_secs_f64();
        let name = format!("{:1$}{2} {3}", "", 2 * depth, self.name, self.detail);
        let share = 100.0 * seconds / whole;
        let each = 1e6 * seconds / self.calls as f64;
        let rate = |n: usize| match n {
            0 => String::new(),
            n => format!("{:.1}", n as f64 / seconds / 1e9),
        };
        let mib = match self.work.bytes {
            0 => String::new(),
            n => format!("{:.1}", n as f64 / 1e6),
        };
        writeln!(
            f,
            "{name:32} {:>8} {:>10.2} {share:>6.1} % {each:>10.1} {mib:>10} {:>8} {:>8}",
            self.calls,
            1e3 * seconds,
            rate(self.work.bytes),
            rate(self.work.operations)
        )?;
        for line in &self.within {
            line.write(f, depth + 1, whole)?;
        }
        if depth == 0 && !self.within.is_empty() {
            let rest = seconds - self.within.iter().map(|l| l.time.as_secs_f64()).sum::<f64>();
            let share = 100.0 * rest / whole;
            writeln!(f, "  {:30} {:>8} {:>10.2} {share:>6.1} %", "(between)", "", 1e3 * rest)?;
        }
        Ok(())
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "{:32} {:>8} {:>10} {:>8} {:>10} {:>10} {:>8} {:>8}",
            "", "calls", "ms", "share", "us each", "MB", "GB/s", "Gop/s"
        )?;
        for line in &self.lines {
            line.write(f, 0, line.time.as_secs_f64())?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(name: &'static str, start: u64, took: u64) -> Event {
        Event {
            name,
            detail: "",
            thread: 0,
            start: Duration::from_micros(start),
            took: Duration::from_micros(took),
            work: Work { bytes: 10, operations: 0 },
        }
    }

    #[test]
    fn times_are_added_up_by_name_and_nesting() {
        // Two steps, each with a norm and a product, in which something is rounded.
        let other = Event { thread: 1, ..event("step", 50, 7) };
        let table = Table::of(vec![
            event("norm", 0, 10),
            event("round", 10, 5),
            event("linear", 10, 60),
            event("step", 0, 100),
            event("linear", 200, 50),
            event("norm", 250, 30),
            event("step", 200, 90),
            other,
        ]);
        let [step] = &table.lines[..] else { panic!("{table:?}") };
        assert_eq!((step.calls, step.time), (3, Duration::from_micros(197)));
        let lines: Vec<_> = step.within.iter().map(|l| (l.name, l.calls, l.time)).collect();
        let us = Duration::from_micros;
        assert_eq!(lines, [("linear", 2, us(110)), ("norm", 2, us(40))]);
        assert_eq!(step.within[0].within[0].time, us(5));
        assert_eq!(step.within[0].work.bytes, 20);
        let text = table.to_string();
        let columns: Vec<Vec<&str>> =
            text.lines().map(|l| l.split_whitespace().collect()).collect();
        assert_eq!(columns[1][..4], ["step", "3", "0.20", "100.0"]);
        assert_eq!(columns[2][..4], ["linear", "2", "0.11", "55.8"]);
        assert_eq!(columns[3][0], "round");
        assert_eq!(columns[5][..2], ["(between)", "0.05"]);
    }
}
