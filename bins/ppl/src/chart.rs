//! Perplexity against bits a weight, as SVG: a line for each context, error bars, a name at each point.

use anyhow::{Result, anyhow};
use plotters::prelude::*;

use crate::report::Report;

/// The colours of a chart.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Theme {
    paper: RGBColor,
    ink: RGBColor,
    grid: RGBColor,
    series: [RGBColor; 5],
}

/// For a white page. The hues are Okabe and Ito's, which the colour-blind can tell apart.
pub(crate) const LIGHT: Theme = Theme {
    paper: RGBColor(255, 255, 255),
    ink: RGBColor(26, 26, 26),
    grid: RGBColor(224, 224, 224),
    series: [
        RGBColor(0, 114, 178),
        RGBColor(213, 94, 0),
        RGBColor(0, 158, 115),
        RGBColor(204, 121, 167),
        RGBColor(100, 100, 100),
    ],
};

/// For a dark page.
pub(crate) const DARK: Theme = Theme {
    paper: RGBColor(22, 22, 22),
    ink: RGBColor(236, 236, 236),
    grid: RGBColor(56, 56, 56),
    series: [
        RGBColor(86, 180, 233),
        RGBColor(240, 160, 60),
        RGBColor(60, 200, 150),
        RGBColor(224, 150, 190),
        RGBColor(170, 170, 170),
    ],
};

/// One point: bits a weight, perplexity, its error, the format.
struct Point<'a> {
    bits: f64,
    perplexity: f64,
    error: f64,
    name: &'a str,
}

/// Draws the chart. Figures that are not finite are left out.
///
/// # Errors
/// If plotters fails.
pub(crate) fn svg(report: &Report, theme: Theme) -> Result<String> {
    let contexts = report.formats.first().map_or(0, |f| f.outcome.figures.len());
    let series: Vec<(String, Vec<Point<'_>>)> = (0..contexts)
        .map(|i| {
            let mut points = Vec::new();
            let mut label = String::new();
            for format in &report.formats {
                let Some(figure) = format.outcome.figures.get(i) else { continue };
                let p = &figure.perplexity;
                label = format!("context {}", p.stamp.protocol.context());
                let (perplexity, error) = (p.perplexity.value, p.perplexity.error);
                if perplexity.is_finite() && error.is_finite() {
                    let (bits, name) = (format.bits_per_weight, &format.format[..]);
                    points.push(Point { bits, perplexity, error, name });
                }
            }
            points.sort_by(|a, b| a.bits.total_cmp(&b.bits));
            (label, points)
        })
        .collect();
    let mut out = String::new();
    draw(&mut out, &series, theme).map_err(|e| anyhow!("the chart cannot be drawn: {e}"))?;
    Ok(out)
}

fn draw(
    out: &mut String,
    series: &[(String, Vec<Point<'_>>)],
    theme: Theme,
) -> Result<(), Box<dyn std::error::Error>> {
    let all = || series.iter().flat_map(|s| &s.1);
    let range = |low: f64, high: f64| {
        if low < high {
            let margin = 0.08 * (high - low);
            (low - margin)..(high + margin)
        } else {
            // No points, or all at one place.
            let at = if low.is_finite() { low } else { 1.0 };
            (at - 1.0)..(at + 1.0)
        }
    };
    let fold = |f: &dyn Fn(&Point<'_>) -> (f64, f64)| {
        all().map(f).fold((f64::INFINITY, f64::NEG_INFINITY), |(a, b), (l, h)| (a.min(l), b.max(h)))
    };
    let (left, right) = fold(&|p| (p.bits, p.bits));
    let (bottom, top) = fold(&|p| (p.perplexity - p.error, p.perplexity + p.error));

    let root = SVGBackend::with_string(out, (900, 480)).into_drawing_area();
    root.fill(&theme.paper)?;
    let label = ("sans-serif", 15).into_font().color(&theme.ink);
    let mut chart = ChartBuilder::on(&root)
        .margin(16)
        .x_label_area_size(44)
        .y_label_area_size(64)
        .build_cartesian_2d(range(left, right), range(bottom, top))?;
    chart
        .configure_mesh()
        .axis_style(theme.ink)
        .bold_line_style(theme.grid)
        .light_line_style(theme.paper)
        .label_style(label.clone())
        .axis_desc_style(label.clone())
        .x_desc("bits a weight")
        .y_desc("perplexity")
        .draw()?;
    for (i, (name, points)) in series.iter().enumerate() {
        let color = theme.series[i % theme.series.len()];
        let line = LineSeries::new(points.iter().map(|p| (p.bits, p.perplexity)), color);
        chart
            .draw_series(line)?
            .label(name.clone())
            .legend(move |(x, y)| PathElement::new([(x, y), (x + 18, y)], color.stroke_width(2)));
        chart.draw_series(points.iter().map(|p| {
            let (low, high) = (p.perplexity - p.error, p.perplexity + p.error);
            PathElement::new([(p.bits, low), (p.bits, high)], color.stroke_width(1))
        }))?;
        chart.draw_series(points.iter().map(|p| {
            EmptyElement::at((p.bits, p.perplexity))
                + Circle::new((0, 0), 4, color.filled())
                + Text::new(p.name.to_owned(), (7, -18), label.clone())
        }))?;
    }
    if !series.is_empty() {
        chart
            .configure_series_labels()
            .position(SeriesLabelPosition::UpperRight)
            .background_style(theme.paper.mix(0.8))
            .border_style(theme.grid)
            .label_font(label)
            .draw()?;
    }
    root.present()?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::tests::sample;

    #[test]
    fn every_point_has_its_mark_and_name() {
        let svg = svg(&sample(), LIGHT).unwrap();
        assert!(svg.starts_with("<svg"));
        assert_eq!(svg.matches("<circle").count(), 4);
        for text in ["Q4_K_M", "F16", "context 256", "context 512", "bits a weight"] {
            assert!(svg.contains(text), "{text}");
        }
    }

    #[test]
    fn strange_figures_do_not_stop_it() {
        let mut report = sample();
        report.formats[1].outcome.figures[0].perplexity.perplexity.value = f64::INFINITY;
        report.formats[1].outcome.figures[1].perplexity.perplexity.value = f64::NAN;
        assert_eq!(svg(&report, DARK).unwrap().matches("<circle").count(), 2);
        report.formats.truncate(1);
        report.formats[0].outcome.figures.truncate(1);
        report.formats[0].outcome.figures[0].perplexity.perplexity.error = 0.0;
        assert_eq!(svg(&report, DARK).unwrap().matches("<circle").count(), 1);
        report.formats.clear();
        assert!(svg(&report, DARK).unwrap().starts_with("<svg"));
    }
}
