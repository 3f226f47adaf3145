//! Plots as plain SVG text.

use std::fmt::Write as _;

use crate::results::Spread;

/// A line of a plot: a server's figure over something.
pub(crate) struct Series {
    pub(crate) name: String,
    pub(crate) colour: &'static str,
    pub(crate) points: Vec<(f64, Spread)>,
}

/// How the horizontal axis runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Across {
    Logarithmic,
    /// From 0.
    Linear,
}

/// What a plot shows.
pub(crate) struct Plot<'a> {
    pub(crate) title: &'a str,
    pub(crate) across: &'a str,
    pub(crate) up: &'a str,
    pub(crate) along: Across,
    pub(crate) series: Vec<Series>,
}

const WIDTH: f64 = 760.0;
const HEIGHT: f64 = 420.0;
const LEFT: f64 = 70.0;
const RIGHT: f64 = 150.0;
const TOP: f64 = 40.0;
const BOTTOM: f64 = 50.0;

impl Plot<'_> {
    /// The SVG, the vertical axis from 0; bars show the least and the most of all rounds. Empty where there is
    /// nothing to show.
    pub(crate) fn svg(&self) -> Option<String> {
        let points = || self.series.iter().flat_map(|series| &series.points);
        let (least, most) = match self.along {
            Across::Logarithmic => (
                points().map(|point| point.0).reduce(f64::min)?.log10(),
                points().map(|point| point.0).reduce(f64::max)?.log10(),
            ),
            Across::Linear => (0.0, points().map(|point| point.0).reduce(f64::max)?),
        };
        let high = nice(points().map(|point| point.1.most).reduce(f64::max)?);
        let x = |value: f64| {
            let along = match self.along {
                Across::Logarithmic => value.log10(),
                Across::Linear => value,
            };
            let share = if most > least {
                (along - least) / (most - least)
            } else {
                0.5
            };
            LEFT + share * (WIDTH - LEFT - RIGHT)
        };
        let y = |value: f64| HEIGHT - BOTTOM - value / high * (HEIGHT - TOP - BOTTOM);
        let mut svg = String::new();
        // Writing to a String can't fail.
        let _ = writeln!(
            svg,
            r##"<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif" font-size="12">
<rect width="{WIDTH}" height="{HEIGHT}" fill="#ffffff"/>
<text x="{LEFT}" y="22" font-size="15">{}</text>
<text x="{}" y="{}" text-anchor="middle">{}</text>
<text transform="translate(18 {}) rotate(-90)" text-anchor="middle">{}</text>"##,
            self.title,
            f64::midpoint(LEFT, WIDTH - RIGHT),
            HEIGHT - 12.0,
            self.across,
            f64::midpoint(TOP, HEIGHT - BOTTOM),
            self.up
        );
        for step in 0..=5 {
            let value = high * f64::from(step) / 5.0;
            let _ = writeln!(
                svg,
                r##"<line x1="{LEFT}" y1="{1:.1}" x2="{2}" y2="{1:.1}" stroke="#dddddd"/><text x="{3}" y="{4:.1}" text-anchor="end">{0}</text>"##,
                number(value),
                y(value),
                WIDTH - RIGHT,
                LEFT - 6.0,
                y(value) + 4.0
            );
        }
        let mut marks: Vec<f64> = points().map(|point| point.0).collect();
        marks.sort_by(f64::total_cmp);
        marks.dedup();
        // As many as can be read beside each other.
        let every = marks.len().div_ceil(10).max(1);
        let shown = |place: &usize| (marks.len() - 1 - place).is_multiple_of(every);
        for mark in (0..marks.len()).filter(shown).map(|place| marks[place]) {
            let _ = writeln!(
                svg,
                r#"<text x="{:.1}" y="{}" text-anchor="middle">{}</text>"#,
                x(mark),
                HEIGHT - BOTTOM + 18.0,
                number(mark)
            );
        }
        for (index, series) in self.series.iter().enumerate() {
            series.draw(&mut svg, index, x, y);
        }
        svg.push_str("</svg>\n");
        Some(svg)
    }
}

impl Series {
    fn draw(&self, svg: &mut String, index: usize, x: impl Fn(f64) -> f64, y: impl Fn(f64) -> f64) {
        let colour = self.colour;
        let mut path = String::new();
        for (at, spread) in &self.points {
            let (at, middle) = (x(*at), y(spread.median));
            let _ = write!(path, "{at:.1},{middle:.1} ");
            let _ = writeln!(
                svg,
                r#"<line x1="{at:.1}" y1="{:.1}" x2="{at:.1}" y2="{:.1}" stroke="{colour}"/><circle cx="{at:.1}" cy="{middle:.1}" r="3" fill="{colour}"/>"#,
                y(spread.least),
                y(spread.most)
            );
        }
        let line = TOP + 18.0 * (index as f64 + 1.0);
        let _ = writeln!(
            svg,
            r#"<polyline points="{}" fill="none" stroke="{colour}" stroke-width="2"/>
<rect x="{}" y="{:.1}" width="12" height="4" fill="{colour}"/><text x="{}" y="{line:.1}">{}</text>"#,
            path.trim_end(),
            WIDTH - RIGHT + 12.0,
            line - 6.0,
            WIDTH - RIGHT + 30.0,
            self.name
        );
    }
}

/// The next number above `value` that divides well into five.
fn nice(value: f64) -> f64 {
    if value <= 0.0 {
        return 1.0;
    }
    let scale = 10_f64.powf(value.log10().floor());
    let steps = [1.0, 1.5, 2.0, 2.5, 3.0, 4.0, 5.0, 7.5, 10.0];
    steps
        .iter()
        .map(|step| step * scale)
        .find(|step| *step >= value)
        .unwrap_or(10.0 * scale)
}

/// A number with as many digits as say something.
pub(crate) fn number(value: f64) -> String {
    let magnitude = value.abs();
    let text = match magnitude {
        _ if magnitude >= 100.0 => format!("{value:.0}"),
        _ if magnitude >= 10.0 => format!("{value:.1}"),
        _ if magnitude >= 1.0 => format!("{value:.2}"),
        _ => format!("{value:.3}"),
    };
    let text = if text.contains('.') {
        text.trim_end_matches('0').trim_end_matches('.')
    } else {
        &text
    };
    let (sign, digits) = text
        .strip_prefix('-')
        .map_or(("", text), |digits| ("-", digits));
    let (whole, part) = digits
        .split_once('.')
        .map_or((digits, None), |(whole, part)| (whole, Some(part)));
    let mut grouped = String::new();
    for (index, digit) in whole.chars().enumerate() {
        if index > 0 && (whole.len() - index).is_multiple_of(3) {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    let part = part.map_or_else(String::new, |part| format!(".{part}"));
    format!("{sign}{grouped}{part}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_grouped_and_rounded() {
        let cases = [
            (0.0, "0"),
            (0.14869, "0.149"),
            (7.5, "7.5"),
            (1234.5, "1,234"),
            (6_725_193.2, "6,725,193"),
            (-38.9, "-38.9"),
        ];
        for (value, text) in cases {
            assert_eq!(number(value), text);
        }
    }

    #[test]
    fn the_scale_reaches_above_every_value() {
        for value in [0.001, 0.9, 1.0, 7.6, 99.0, 12_345.0] {
            assert!(
                nice(value) >= value && nice(value) <= value * 2.0,
                "{value}"
            );
        }
    }
}
