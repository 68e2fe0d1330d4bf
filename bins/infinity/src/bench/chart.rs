//! Variants against sequence length, as a picture: time a token and memory beyond the weights.

use anyhow::{Result, anyhow};
use plotters::coord::Shift;
use plotters::prelude::*;

/// One line: its name, and a value for each length.
pub(crate) struct Series {
    pub(crate) name: String,
    pub(crate) points: Vec<(usize, f64)>,
}

/// A panel: what its vertical axis shows, and its lines.
pub(crate) struct Panel {
    pub(crate) axis: &'static str,
    pub(crate) series: Vec<Series>,
}

type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;

/// Draws panels side by side, both axes logarithmic. Values that are not above zero are left out.
///
/// # Errors
/// If plotters fails.
pub(crate) fn svg(panels: &[Panel]) -> Result<String> {
    let mut out = String::new();
    {
        let size = (560 * panels.len() as u32, 460);
        let root = SVGBackend::with_string(&mut out, size).into_drawing_area();
        let areas = root.split_evenly((1, panels.len()));
        let drawn = areas.iter().zip(panels).try_for_each(|(area, panel)| draw(area, panel));
        drawn.map_err(|e| anyhow!("the chart cannot be drawn: {e}"))?;
    }
    Ok(out)
}

fn draw(area: &Area<'_>, panel: &Panel) -> Result<(), Box<dyn std::error::Error>> {
    area.fill(&WHITE)?;
    let all = || panel.series.iter().flat_map(|s| &s.points).filter(|p| p.1 > 0.0);
    let low =
        all().fold((f64::INFINITY, f64::INFINITY), |m, p| (m.0.min(p.0 as f64), m.1.min(p.1)));
    let high = all().fold((0f64, 0f64), |m, p| (m.0.max(p.0 as f64), m.1.max(p.1)));
    if !low.0.is_finite() {
        return Ok(());
    }
    let font = ("sans-serif", 14).into_font();
    let (x, y) = (low.0 / 1.2..high.0 * 1.2, low.1 / 1.5..high.1 * 2.0);
    let mut chart = ChartBuilder::on(area)
        .margin(14)
        .x_label_area_size(42)
        .y_label_area_size(66)
        .build_cartesian_2d(x.log_scale(), y.log_scale())?;
    chart
        .configure_mesh()
        .light_line_style(WHITE)
        .bold_line_style(RGBColor(224, 224, 224))
        .label_style(font.clone())
        .x_desc("positions")
        .y_desc(panel.axis)
        .x_label_formatter(&|x| round_numbers(*x))
        .y_label_formatter(&|y| round_numbers(*y))
        .draw()?;
    for (i, series) in panel.series.iter().enumerate() {
        let color = Palette99::pick(i).to_rgba();
        let points: Vec<(f64, f64)> =
            series.points.iter().filter(|p| p.1 > 0.0).map(|&(n, y)| (n as f64, y)).collect();
        chart
            .draw_series(LineSeries::new(points.iter().copied(), color.stroke_width(2)))?
            .label(series.name.clone())
            .legend(move |(x, y)| PathElement::new([(x, y), (x + 18, y)], color.stroke_width(2)));
        chart.draw_series(points.iter().map(|&at| Circle::new(at, 4, color.filled())))?;
    }
    chart
        .configure_series_labels()
        .position(SeriesLabelPosition::UpperLeft)
        .background_style(WHITE.mix(0.8))
        .border_style(RGBColor(224, 224, 224))
        .label_font(font)
        .draw()?;
    Ok(())
}

/// Of the marks of a logarithmic axis those that begin with 1, 2 or 5: there is no room for more.
fn round_numbers(value: f64) -> String {
    let text = format!("{value}");
    let first = text.trim_start_matches(['0', '.']).chars().next();
    if matches!(first, Some('1' | '2' | '5')) { text } else { String::new() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_axis_names_one_two_and_five() {
        let shown = [0.05, 1.0, 2.0, 3.0, 50.0, 60.0, 1000.0].map(round_numbers);
        assert_eq!(shown, ["0.05", "1", "2", "", "50", "", "1000"]);
    }

    #[test]
    fn every_value_above_zero_has_its_mark() {
        let series = |name: &str, points| Series { name: name.to_owned(), points };
        let lines =
            vec![series("one", vec![(64, 1.0), (128, 2.0)]), series("two", vec![(64, 0.0)])];
        let empty = vec![series("none", vec![])];
        let panels =
            [Panel { axis: "ms a token", series: lines }, Panel { axis: "MB", series: empty }];
        let svg = svg(&panels).unwrap();
        assert_eq!(svg.matches("<circle").count(), 2);
        assert!(svg.contains("ms a token") && svg.contains("two"));
    }
}
