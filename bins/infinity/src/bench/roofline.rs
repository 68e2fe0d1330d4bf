//! The roofline picture (Williams, Waterman and Patterson 2009): operations a byte against
//! operations a second. Under the slope a run waits for memory, under a flat line for a unit.

use anyhow::{Result, anyhow};
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

use super::report::Report;

const SIZE: (u32, u32) = (960, 560);

/// A measured run: operations a byte, operations a second, its name.
struct Point<'a> {
    intensity: f64,
    rate: f64,
    name: &'a str,
}

/// Draws a report's ceilings as lines and its figures as points.
///
/// # Errors
/// If there is no figure, or plotters fails.
pub(crate) fn svg(report: &Report) -> Result<String> {
    let points: Vec<Point<'_>> = report
        .figures
        .iter()
        .map(|f| Point {
            intensity: f.operations_per_token / f.bytes_per_token,
            rate: f.operations_per_token * f.rate.median,
            name: &f.what,
        })
        .collect();
    if points.is_empty() {
        return Err(anyhow!("a roofline needs at least one figure"));
    }
    let mut out = String::new();
    draw(&mut out, report, &points).map_err(|e| anyhow!("the roofline cannot be drawn: {e}"))?;
    Ok(out)
}

fn draw(
    out: &mut String,
    report: &Report,
    points: &[Point<'_>],
) -> Result<(), Box<dyn std::error::Error>> {
    let read = report.read_bytes_per_second.median;
    let units: Vec<(&str, f64)> =
        report.units.iter().map(|u| (u.unit, u.operations_per_second.median)).collect();
    let top = units.iter().map(|u| u.1).fold(0.0, f64::max);
    let all = |f: fn(&Point<'_>) -> f64| points.iter().map(f);
    // Past the ridge where the fastest unit takes over from reading, so that both are seen.
    let right = all(|p| p.intensity).fold(top / read, f64::max) * 4.0;
    let left = all(|p| p.intensity).fold(top / read, f64::min) / 2.0;
    let bottom = all(|p| p.rate).fold(left * read, f64::min) / 2.0;

    let root = SVGBackend::with_string(out, SIZE).into_drawing_area();
    root.fill(&WHITE)?;
    let font = ("sans-serif", 14).into_font();
    let title = report.machine();
    let mut chart = ChartBuilder::on(&root)
        .margin(16)
        .caption(title, font.clone())
        .x_label_area_size(44)
        .y_label_area_size(76)
        .build_cartesian_2d((left..right).log_scale(), (bottom..top * 2.0).log_scale())?;
    chart
        .configure_mesh()
        .light_line_style(WHITE)
        .bold_line_style(RGBColor(224, 224, 224))
        .label_style(font.clone())
        .x_desc("operations a byte")
        .y_desc("operations a second")
        .x_label_formatter(&|x| format!("{x}"))
        .y_label_formatter(&|y| giga(*y))
        .draw()?;
    let slope = [(left, left * read), (top / read, top)];
    chart.draw_series(LineSeries::new(slope, BLACK.stroke_width(2)))?;
    let middle = (left * top / read).sqrt();
    let label = format!("reading {:.1} GB/s", read / 1e9);
    let label = Text::new(label, (middle * 0.9, middle * read), left_of(&font, &BLACK));
    chart.draw_series([label])?;
    for (i, (name, rate)) in units.iter().enumerate() {
        let color = Palette99::pick(i).to_rgba();
        let flat = [(rate / read, *rate), (right, *rate)];
        chart.draw_series(LineSeries::new(flat, color.stroke_width(2)))?;
        let label = format!("{name} {}", giga(*rate));
        chart.draw_series([Text::new(label, (right, rate * 1.05), left_of(&font, &color))])?;
    }
    // Names go to a list beside the numbers: points of one model lie close together.
    for (i, p) in points.iter().enumerate() {
        let at = (p.intensity, p.rate);
        let number = format!("{}", i + 1);
        chart.draw_series([EmptyElement::at(at)
            + Circle::new((0, 0), 4, BLACK.filled())
            + Text::new(number, (if i % 2 == 0 { -16 } else { 8 }, -6), font.clone())])?;
        let line = format!("{}  {}: {}", i + 1, p.name, giga(p.rate));
        let (x, y) = (SIZE.0 as i32 - 330, SIZE.1 as i32 - 90 - 18 * (points.len() - i) as i32);
        root.draw(&Text::new(line, (x, y), font.clone()))?;
    }
    root.present()?;
    Ok(())
}

/// Text that ends at its place, above it.
fn left_of<'a>(font: &FontDesc<'a>, color: &'a impl Color) -> TextStyle<'a> {
    TextStyle::from(font.clone()).color(color).pos(Pos::new(HPos::Right, VPos::Bottom))
}

fn giga(rate: f64) -> String {
    if rate >= 1e12 { format!("{:.2} T/s", rate / 1e12) } else { format!("{:.0} G/s", rate / 1e9) }
}
