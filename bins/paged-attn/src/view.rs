//! A run as a picture: the physical blocks, the tables over them, what happens and what is said.
//!
//! Colour tells requests apart, and nothing is told by colour alone.

use std::collections::HashMap;

use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::{Line, Span};
use ratatui::widgets::{Block, Paragraph};

use crate::frame::{Frame, Name, SequenceFrame, State};
use crate::plain;

/// Columns that a physical block takes: its number, and how many tables hold it.
const CELL: u16 = 7;
/// Columns from which on there are two of panels.
const WIDE: u16 = 100;
const COLOURS: [Color; 6] =
    [Color::Cyan, Color::Yellow, Color::Green, Color::Magenta, Color::LightBlue, Color::LightRed];

/// What is shown.
#[derive(Debug, Default)]
pub struct View {
    frame: Option<Frame>,
    /// What happened, the newest last.
    log: Vec<String>,
    /// The last line: what the keys do, or how it ended.
    pub status: String,
}

impl View {
    /// Nothing yet, above a last line.
    pub fn new(status: &str) -> Self {
        Self { status: status.to_owned(), ..Self::default() }
    }

    /// Shows another step.
    pub fn update(&mut self, frame: Frame) {
        for event in &frame.events {
            let (kind, text) = plain::tell(event);
            self.log.push(format!("{:>4}  {kind:<9} {text}", frame.step));
        }
        // More than any terminal shows.
        let old = self.log.len().saturating_sub(500);
        self.log.drain(..old);
        self.frame = Some(frame);
    }

    /// Draws it over all of `target`, whatever its size.
    pub fn draw(&self, target: &mut ratatui::Frame<'_>) {
        let Some(frame) = &self.frame else { return };
        let [top, body, bottom] =
            Layout::vertical([Constraint::Length(1), Constraint::Fill(1), Constraint::Length(1)])
                .areas(target.area());
        target.render_widget(header(frame).style(Modifier::REVERSED), top);
        target.render_widget(Line::from(self.status.as_str()), bottom);
        let [map, tables, answers, events] = panels(body, frame);
        target.render_widget(blocks(frame, map), map);
        target.render_widget(
            titled(tables_of(frame), "logical to physical (*n: n tables hold it)"),
            tables,
        );
        target.render_widget(titled(texts(frame, answers), "answers"), answers);
        let shown = usize::from(events.height.saturating_sub(2));
        let newest = &self.log[self.log.len().saturating_sub(shown)..];
        let lines: Vec<Line<'_>> = newest.iter().map(|l| Line::from(l.as_str())).collect();
        target.render_widget(titled(lines, "what happens (step, event)"), events);
    }
}

/// Where the map, the tables, the answers and the events go.
fn panels(area: Rect, frame: &Frame) -> [Rect; 4] {
    let sequences = frame.sequences.len() as u16 + 2;
    let rows = |width: u16| {
        let columns = (width.saturating_sub(2) / CELL).max(1);
        (frame.blocks.len() as u16).div_ceil(columns) + 2
    };
    if area.width >= WIDE {
        let [left, right] =
            Layout::horizontal([Constraint::Percentage(50), Constraint::Fill(1)]).areas(area);
        let map_height = rows(left.width).min(area.height * 2 / 3);
        let [map, events] =
            Layout::vertical([Constraint::Length(map_height), Constraint::Fill(1)]).areas(left);
        let [tables, answers] = Layout::vertical([
            Constraint::Length(sequences.min(area.height / 2)),
            Constraint::Fill(1),
        ])
        .areas(right);
        return [map, tables, answers, events];
    }
    let map_height = rows(area.width).min(area.height / 3);
    let table_height = sequences.min(area.height * 2 / 5);
    let parts = [
        Constraint::Length(map_height),
        Constraint::Length(table_height),
        Constraint::Fill(1),
        Constraint::Fill(1),
    ];
    Layout::vertical(parts).areas(area)
}

fn titled<'a>(lines: Vec<Line<'a>>, title: &'a str) -> Paragraph<'a> {
    Paragraph::new(lines).block(Block::bordered().title(title))
}

fn colour(request: usize) -> Color {
    COLOURS[(request + COLOURS.len() - 1) % COLOURS.len()]
}

fn header(frame: &Frame) -> Line<'_> {
    let rows: usize = frame.rows.iter().map(|r| r.rows).sum();
    let p = &frame.pool;
    Line::from(format!(
        " step {}, {rows} rows | {} of {} blocks used, {} shared, {} cached | {:.1} % waste",
        frame.step,
        p.used,
        frame.blocks.len(),
        p.shared,
        p.idle,
        100.0 * p.waste
    ))
}

/// Each block once, where it lies: `12` free, `12 c` cached, `12 1a` of one sequence, `12*3` of three.
fn blocks<'a>(frame: &Frame, area: Rect) -> Paragraph<'a> {
    let mut holders: HashMap<u32, Vec<Name>> = HashMap::new();
    for s in &frame.sequences {
        for &block in &s.table {
            holders.entry(block).or_default().push(s.name);
        }
    }
    let cell = |(id, block): (usize, &crate::frame::BlockFrame)| {
        let of = holders.get(&(id as u32)).map_or(&[][..], Vec::as_slice);
        let mark = match of {
            [] if block.idle => " c".to_owned(),
            [] => String::new(),
            [one] => format!(" {one}"),
            many => format!("*{}", many.len()),
        };
        let style = match of {
            [] if block.idle => Style::new().fg(Color::DarkGray).add_modifier(Modifier::UNDERLINED),
            [] => Style::new().fg(Color::DarkGray),
            [first, rest @ ..] if rest.iter().all(|n| n.request == first.request) => {
                let style = Style::new().fg(Color::Black).bg(colour(first.request));
                if rest.is_empty() { style } else { style.add_modifier(Modifier::BOLD) }
            }
            // Of several requests.
            _ => Style::new().fg(Color::Black).bg(Color::White).add_modifier(Modifier::BOLD),
        };
        let text: String = format!("{id:>3}{mark}").chars().take(usize::from(CELL) - 1).collect();
        [Span::styled(format!("{text:<w$}", w = usize::from(CELL) - 1), style), Span::raw(" ")]
    };
    let columns = usize::from((area.width.saturating_sub(2) / CELL).max(1));
    let cells: Vec<_> = frame.blocks.iter().enumerate().map(cell).collect();
    let rows = cells.chunks(columns).map(|row| Line::from(row.concat()));
    titled(rows.collect(), "physical blocks (c: cached, *n: shared by n)")
}

fn tables_of(frame: &Frame) -> Vec<Line<'_>> {
    let line = |s: &SequenceFrame| {
        let name = Span::styled(
            format!("{:<4}", s.name.to_string()),
            Style::new().fg(colour(s.name.request)),
        );
        let rest = match s.state {
            State::Running => {
                format!("{:>3} positions: {}", s.positions, plain::table(&s.table, &frame.blocks))
            }
            State::Waiting => "waits".to_owned(),
            State::Ended => "done, all blocks given back".to_owned(),
        };
        Line::from(vec![name, Span::raw(rest)])
    };
    frame.sequences.iter().map(line).collect()
}

/// The end of each answer, on as many lines as there is room for.
fn texts(frame: &Frame, area: Rect) -> Vec<Line<'_>> {
    let room = usize::from(area.width.saturating_sub(6));
    let line = |s: &SequenceFrame| {
        let name = Span::styled(
            format!("{:<4}", s.name.to_string()),
            Style::new().fg(colour(s.name.request)),
        );
        let text: Vec<char> =
            s.text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
        let from = text.len().saturating_sub(room);
        Line::from(vec![name, Span::raw(text[from..].iter().collect::<String>())])
    };
    frame.sequences.iter().map(line).collect()
}
