//! The roofline picture (Williams, Waterman and Patterson 2009): operations a byte against operations a second. Under
//! the slope a kernel waits for memory, under the flat line for the tensor cores.

use anyhow::{Result, anyhow};
use cuda_kernels::Gpu;
use plotters::prelude::*;

use crate::{Ceilings, Figure};

/// Of the chart; names are in a list beside it.
const SIZE: (u32, u32) = (900, 560);
const LIST: u32 = 460;
const LINE: u32 = 16;

/// Draws the ceilings as lines and the figures as points.
///
/// # Errors
/// If there is no figure, or plotters fails.
pub(crate) fn svg(gpu: &Gpu, ceilings: &Ceilings, figures: &[Figure]) -> Result<String> {
    if figures.is_empty() {
        return Err(anyhow!("a roofline needs at least one figure"));
    }
    let mut out = String::new();
    let drawn = draw(&mut out, &gpu.properties().name, ceilings, figures);
    drawn.map_err(|e| anyhow!("the roofline cannot be drawn: {e}"))?;
    Ok(out)
}

fn draw(
    out: &mut String,
    device: &str,
    ceilings: &Ceilings,
    figures: &[Figure],
) -> Result<(), Box<dyn std::error::Error>> {
    let Ceilings { bandwidth, rate, product } = *ceilings;
    let points: Vec<(f64, f64)> =
        figures.iter().map(|f| (f.operations / f.bytes, f.operations / f.seconds)).collect();
    let ridge = rate / bandwidth;
    let left = points.iter().map(|p| p.0).fold(ridge, f64::min) / 2.0;
    let right = points.iter().map(|p| p.0).fold(ridge, f64::max) * 4.0;
    let bottom = points.iter().map(|p| p.1).fold(left * bandwidth, f64::min) / 2.0;

    let height = SIZE.1.max(LINE * (figures.len() as u32 + 3));
    let root = SVGBackend::with_string(out, (SIZE.0 + LIST, height)).into_drawing_area();
    root.fill(&WHITE)?;
    let (left_side, list) = root.split_horizontally(SIZE.0);
    let (plot, _) = left_side.split_vertically(SIZE.1);
    let font = ("sans-serif", 14).into_font();
    let title = format!(
        "{device}: copy {:.0} GB/s, {product} {:.1} TFLOP/s bf16",
        bandwidth / 1e9,
        rate / 1e12
    );
    let mut chart = ChartBuilder::on(&plot)
        .margin(16)
        .caption(title, font.clone())
        .x_label_area_size(44)
        .y_label_area_size(76)
        .build_cartesian_2d((left..right).log_scale(), (bottom..rate * 2.0).log_scale())?;
    chart
        .configure_mesh()
        .light_line_style(WHITE)
        .bold_line_style(RGBColor(224, 224, 224))
        .label_style(font.clone())
        .x_desc("operations a byte")
        .y_desc("TFLOP/s")
        .x_label_formatter(&|x| format!("{x}"))
        .y_label_formatter(&|y| format!("{}", y / 1e12))
        .draw()?;
    let roof = [(left, left * bandwidth), (ridge, rate), (right, rate)];
    chart.draw_series(LineSeries::new(roof, BLACK.stroke_width(2)))?;
    // Points of one family lie close together, so that names would cover each other.
    for (i, (f, &at)) in figures.iter().zip(&points).enumerate() {
        let color = Palette99::pick(i).to_rgba();
        let side = if i % 2 == 0 { -20 } else { 8 };
        chart.draw_series([EmptyElement::at(at)
            + Circle::new((0, 0), 4, color.filled())
            + Text::new(format!("{}", i + 1), (side, -6), font.clone())])?;
        let part = 100.0 * f.floor / f.seconds;
        let line = format!("{}  {}, {}: {part:.0} % of the floor", i + 1, f.family, f.name);
        list.draw(&Text::new(line, (8, (LINE * (i as u32 + 2)) as i32), font.clone()))?;
    }
    root.present()?;
    Ok(())
}
