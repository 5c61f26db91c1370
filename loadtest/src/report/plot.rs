//! Plots, as SVG that stands in a page: no background of its own, and colours that are legible on light and dark.

use anyhow::anyhow;
use plotters::prelude::*;

/// Of a plot, in the page's own units.
const SIZE: (u32, u32) = (760, 280);

/// Of the strip above the axes that names the lines.
const LEGEND_HEIGHT: i32 = 24;
/// Where it begins: above the left axis.
const LEGEND_LEFT: i32 = 68;
/// Of a letter of it, at most.
const LETTER_WIDTH: i32 = 8;

/// Of axes and words.
const INK: RGBColor = RGBColor(128, 134, 144);

/// Of the series, in order.
const COLOURS: [RGBColor; 4] = [
    RGBColor(47, 129, 247),
    RGBColor(232, 112, 32),
    RGBColor(46, 160, 103),
    RGBColor(176, 108, 220),
];

/// How values lie on an axis.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Scale {
    Linear,
    /// Tens: for latencies.
    Log,
    /// Nines: 90 %, 99 %, 99.9 % at equal distances.
    Nines,
}

impl Scale {
    fn place(self, value: f64) -> f64 {
        match self {
            Self::Linear => value,
            Self::Log => value.max(0.001).log10(),
            Self::Nines => -(1.0 - value).max(1e-6).log10(),
        }
    }

    fn label(self, place: f64) -> String {
        match self {
            Self::Linear => short(place),
            Self::Log => short(10_f64.powf(place)),
            Self::Nines if place < 0.001 => "0 %".to_owned(),
            Self::Nines => {
                let percent = 100.0 * (1.0 - 10_f64.powf(-place));
                let digits = if place > 1.99 { place.round() - 2.0 } else { 0.0 };
                format!("{percent:.*} %", digits.clamp(0.0, 4.0) as usize)
            }
        }
    }
}

fn short(value: f64) -> String {
    match value.abs() {
        large if large >= 1_000_000.0 => format!("{:.1}M", value / 1_000_000.0),
        large if large >= 10_000.0 => format!("{:.0}k", value / 1_000.0),
        middle if middle >= 10.0 || middle.fract() == 0.0 => format!("{value:.0}"),
        small if small >= 0.095 => format!("{value:.1}"),
        _ => format!("{value:.3}"),
    }
}

/// A line of a plot.
#[derive(Debug, Clone)]
pub(super) struct Line {
    pub(super) name: &'static str,
    pub(super) points: Vec<(f64, f64)>,
}

/// A plot to be drawn.
#[derive(Debug, Clone)]
pub(super) struct Plot {
    pub(super) x: (&'static str, Scale),
    pub(super) y: (&'static str, Scale),
    pub(super) lines: Vec<Line>,
}

impl Plot {
    /// The SVG; empty when there is nothing to be seen.
    ///
    /// # Errors
    /// When it cannot be drawn.
    pub(super) fn draw(&self) -> anyhow::Result<String> {
        let (x_scale, y_scale) = (self.x.1, self.y.1);
        let lines: Vec<(&'static str, Vec<(f64, f64)>)> = self
            .lines
            .iter()
            .filter(|line| !line.points.is_empty())
            .map(|line| {
                let points = line.points.iter();
                (
                    line.name,
                    points
                        .map(|(x, y)| (x_scale.place(*x), y_scale.place(*y)))
                        .collect(),
                )
            })
            .collect();
        let Some((x_range, y_range)) = ranges(&lines, y_scale) else {
            return Ok(String::new());
        };
        let mut svg = String::new();
        {
            let whole = SVGBackend::with_string(&mut svg, SIZE).into_drawing_area();
            let words = ("sans-serif", 13).into_font().color(&INK);
            // Above the axes, where no line is.
            let (legend, area) = whole.split_vertically(LEGEND_HEIGHT);
            let mut left = LEGEND_LEFT;
            for ((name, _), colour) in lines.iter().zip(COLOURS.iter().cycle()) {
                let middle = LEGEND_HEIGHT / 2;
                let sample = vec![(left, middle), (left + 18, middle)];
                legend
                    .draw(&PathElement::new(sample, colour.stroke_width(2)))
                    .and_then(|()| legend.draw(&Text::new(*name, (left + 24, middle - 6), words.clone())))
                    .map_err(|error| anyhow!("a legend cannot be drawn: {error}"))?;
                left += 24 + 24 + LETTER_WIDTH * i32::try_from(name.len()).unwrap_or_default();
            }
            let mut chart = ChartBuilder::on(&area)
                .margin(10)
                .margin_right(24)
                .x_label_area_size(38)
                .y_label_area_size(58)
                .build_cartesian_2d(x_range, y_range)
                .map_err(|error| anyhow!("a plot has no room: {error}"))?;
            chart
                .configure_mesh()
                .axis_style(INK)
                .bold_line_style(INK.mix(0.25))
                .light_line_style(INK.mix(0.0))
                .label_style(words.clone())
                .x_desc(self.x.0)
                .y_desc(self.y.0)
                .x_label_formatter(&|place| x_scale.label(*place))
                .y_label_formatter(&|place| y_scale.label(*place))
                .x_labels(if x_scale == Scale::Nines { 6 } else { 10 })
                .y_labels(if y_scale == Scale::Linear { 6 } else { 9 })
                .draw()
                .map_err(|error| anyhow!("axes cannot be drawn: {error}"))?;
            for ((_, points), colour) in lines.into_iter().zip(COLOURS.iter().cycle()) {
                let style = colour.stroke_width(2);
                chart
                    .draw_series(LineSeries::new(points, style))
                    .map_err(|error| anyhow!("a line cannot be drawn: {error}"))?;
            }
            whole
                .present()
                .map_err(|error| anyhow!("a plot cannot be finished: {error}"))?;
        }
        // In a page it takes the width that there is.
        let fixed = format!("width=\"{}\" height=\"{}\"", SIZE.0, SIZE.1);
        Ok(svg.replacen(&fixed, "width=\"100%\" role=\"img\"", 1))
    }
}

type Range = std::ops::Range<f64>;

fn ranges(lines: &[(&str, Vec<(f64, f64)>)], y_scale: Scale) -> Option<(Range, Range)> {
    let points = || lines.iter().flat_map(|(_, points)| points.iter());
    let (x_least, x_most) = bounds(points().map(|(x, _)| *x))?;
    let (y_least, y_most) = bounds(points().map(|(_, y)| *y))?;
    let y = match y_scale {
        // For it to be seen that there is nothing.
        Scale::Linear => 0.0..(y_most * 1.05).max(1.0),
        Scale::Log | Scale::Nines => y_least.floor()..(y_most + 0.4).ceil().max(y_least.floor() + 1.0),
    };
    Some((x_least..x_most.max(x_least + 1.0), y))
}

fn bounds(values: impl Iterator<Item = f64>) -> Option<(f64, f64)> {
    values.fold(None, |bounds, value| {
        let (least, most) = bounds.unwrap_or((value, value));
        Some((f64::min(least, value), f64::max(most, value)))
    })
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;

    #[test]
    fn labels_are_what_people_read() {
        assert_eq!(Scale::Nines.label(1.0), "90 %");
        assert_eq!(Scale::Nines.label(2.0), "99 %");
        assert_eq!(Scale::Nines.label(3.0), "99.9 %");
        assert_eq!(Scale::Log.label(-1.0), "0.1");
        assert_eq!(Scale::Log.label(3.0), "1000");
        assert_eq!(Scale::Linear.label(25_000.0), "25k");
    }

    #[test]
    fn a_plot_names_its_lines_and_an_empty_one_is_nothing() {
        let mut plot = Plot {
            x: ("second", Scale::Linear),
            y: ("ms", Scale::Log),
            lines: vec![Line {
                name: "p99",
                points: vec![(0.0, 1.0), (1.0, 30.0)],
            }],
        };
        let svg = plot.draw().unwrap();
        assert!(
            svg.starts_with("<svg") && svg.contains("p99") && svg.contains("polyline"),
            "{svg}"
        );
        plot.lines.clear();
        assert_eq!(plot.draw().unwrap(), "");
    }

    #[test]
    fn the_names_of_lines_stand_above_all_lines() {
        let plot = Plot {
            x: ("second", Scale::Linear),
            y: ("clients", Scale::Linear),
            lines: vec![Line {
                name: "online",
                points: vec![(1.0, 60_000.0), (2.0, 60_000.0)],
            }],
        };
        let svg = plot.draw().unwrap();
        let y_of = |element: &str| -> f64 {
            let y = element.split_once(" y=\"").unwrap().1;
            y.split_once('"').unwrap().0.parse().unwrap()
        };
        let name = svg.split("<text").find(|text| text.contains("online")).unwrap();
        let lines = svg.split("<polyline").skip(1);
        let blue = lines.filter(|line| line.to_ascii_uppercase().contains("2F81F7"));
        let heights: Vec<f64> = blue
            .flat_map(|line| {
                let points = line.split_once("points=\"").unwrap().1.split_once('"').unwrap().0;
                let pairs = points.split_ascii_whitespace();
                let heights = pairs.map(|pair| pair.split_once(',').unwrap().1.parse::<f64>().unwrap());
                heights.collect::<Vec<_>>()
            })
            .collect();
        let highest = heights
            .iter()
            .copied()
            .filter(|y| *y > f64::from(LEGEND_HEIGHT))
            .reduce(f64::min);
        assert!(y_of(name) < f64::from(LEGEND_HEIGHT), "{name}");
        assert!(highest.is_some(), "{heights:?}");
    }
}
