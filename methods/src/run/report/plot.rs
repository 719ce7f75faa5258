//! Line plots as SVG: axes with round ticks, gaps where values are missing, an envelope where they are many.

use serde_json::json;

use super::text::{decimal, escape, number, script_json};
use super::{Curve, Series};

/// Size of a plot in its own units; the page scales it to the column.
const WIDTH: f64 = 372.0;
const HEIGHT: f64 = 220.0;
const LEFT: f64 = 42.0;
const RIGHT: f64 = 8.0;
const TOP: f64 = 10.0;
const BOTTOM: f64 = 38.0;

/// Longer series are drawn as the mean over so many columns, with the range of each column behind it.
const COLUMNS: usize = 160;
/// Up to so many points are marked one by one.
const MARKED: usize = 40;
/// Distinct colours of the style sheet.
pub(super) const COLOURS: usize = 10;

/// An interval of values and its round ticks.
#[derive(Debug)]
pub(super) struct Axis {
    low: f64,
    high: f64,
    step: f64,
}

impl Axis {
    /// An axis over finite `values`, with about `ticks` ticks; `round` widens it to whole steps.
    pub(super) fn over(values: impl Iterator<Item = f64>, ticks: usize, round: bool) -> Axis {
        let (mut low, mut high) = (f64::INFINITY, f64::NEG_INFINITY);
        for value in values.filter(|&value| is_drawable(value)) {
            low = if value < low { value } else { low };
            high = if value > high { value } else { high };
        }
        if low > high {
            (low, high) = (0.0, 1.0);
        }
        if high - low <= (low.abs().max(high.abs()) * 1e-9).max(1e-290) {
            let margin = if low.abs() < 1e-280 { 1.0 } else { low.abs() / 10.0 };
            (low, high) = (low - margin, high + margin);
        }
        let step = round_step((high - low) / ticks as f64);
        if round {
            (low, high) = ((low / step).floor() * step, (high / step).ceil() * step);
        }
        Axis { low, high, step }
    }

    /// Where `value` lies between the ends: 0 at the low one, 1 at the high one.
    pub(super) fn at(&self, value: f64) -> f64 {
        (value - self.low) / (self.high - self.low)
    }

    /// Tick values with their texts.
    pub(super) fn ticks(&self) -> Vec<(f64, String)> {
        // A little tolerance: the ends of a rounded axis are ticks.
        let (first, last) = ((self.low / self.step - 1e-6).ceil(), (self.high / self.step + 1e-6).floor());
        let mut decimals = 0;
        let mut unit = self.step;
        while decimals < 8 && (unit - unit.round()).abs() > 1e-6 {
            unit *= 10.0;
            decimals += 1;
        }
        let text = |value: f64| {
            if self.low.abs().max(self.high.abs()) >= 1e7 || decimals == 8 {
                number(value)
            } else {
                decimal(value, decimals, false)
            }
        };
        (0..=(last - first) as usize).map(|at| (first + at as f64) * self.step).map(|v| (v, text(v))).collect()
    }
}

/// Whether `value` can be placed: finite, and so far from the largest number that sums stay finite too.
pub(super) fn is_drawable(value: f64) -> bool {
    value.abs() < 1e300
}

/// The nearest of 1, 2, 5 times a power of ten that is at least `rough`.
fn round_step(rough: f64) -> f64 {
    let mut unit = 1.0;
    while unit * 10.0 <= rough {
        unit *= 10.0;
    }
    while unit > rough {
        unit /= 10.0;
    }
    [1.0, 2.0, 5.0, 10.0].into_iter().map(|factor| factor * unit).find(|&step| step >= rough).unwrap_or(unit)
}

/// A text element; `class` says how it is aligned.
pub(super) fn svg_text(x: f64, y: f64, class: &str, text: &str) -> String {
    format!("<text x=\"{x:.1}\" y=\"{y:.1}\" class=\"{class}\">{}</text>", escape(text))
}

/// The plot with its heading and legend, as one `<figure>`.
pub(super) fn figure(curve: &Curve) -> String {
    let key = |(at, series): (usize, &Series)| {
        format!("<li><i class=\"k{}\"></i>{}</li>", at % COLOURS, escape(&series.label))
    };
    let aside = match &curve.series[..] {
        [] => String::new(),
        [only] => {
            let latest = only.points.iter().rev().find(|point| is_drawable(point[1]));
            latest.map_or(String::new(), |point| format!("<span class=\"latest\">{}</span>", number(point[1])))
        }
        many => format!("<ul class=\"legend\">{}</ul>", many.iter().enumerate().map(key).collect::<String>()),
    };
    format!(
        "<figure class=\"panel chart\"><figcaption><h3>{} <small>{}</small></h3>{aside}</figcaption>{}</figure>",
        escape(&curve.title),
        escape(&curve.y_label),
        svg(curve)
    )
}

fn svg(curve: &Curve) -> String {
    let points = || curve.series.iter().flat_map(|series| &series.points).filter(|point| is_drawable(point[1]));
    let x_axis = Axis::over(points().map(|point| point[0]), 5, false);
    let known = curve.constants.iter().map(|constant| constant.value);
    let y_axis = Axis::over(points().map(|point| point[1]).chain(known), 5, true);
    let x = |value: f64| LEFT + (WIDTH - LEFT - RIGHT) * x_axis.at(value);
    let y = |value: f64| HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * y_axis.at(value);

    let mut body = String::new();
    for (value, text) in y_axis.ticks() {
        let at = y(value);
        body += &format!("<line class=\"grid\" x1=\"{LEFT}\" x2=\"{}\" y1=\"{at:.1}\" y2=\"{at:.1}\"/>", WIDTH - RIGHT);
        body += &svg_text(LEFT - 6.0, at + 3.5, "end", &text);
    }
    let floor = HEIGHT - BOTTOM;
    body += &format!("<line class=\"axis\" x1=\"{LEFT}\" x2=\"{}\" y1=\"{floor}\" y2=\"{floor}\"/>", WIDTH - RIGHT);
    for (value, text) in x_axis.ticks() {
        body += &format!(
            "<line class=\"axis\" x1=\"{0:.1}\" x2=\"{0:.1}\" y1=\"{floor}\" y2=\"{1}\"/>",
            x(value),
            floor + 4.0
        );
        body += &svg_text(x(value), floor + 17.0, "mid", &text);
    }
    body += &svg_text((LEFT + WIDTH - RIGHT) / 2.0, HEIGHT - 4.0, "mid label", &curve.x_label);
    body += &constants(curve, y);
    let mut hover = Vec::new();
    for (at, series) in curve.series.iter().enumerate() {
        let columns = columns(&series.points);
        body += &line(&columns, at % COLOURS, x, y);
        let shown = columns.iter().filter(|column| column.mean.is_finite());
        let point = |c: &Column| json!([tenths(x(c.x)), tenths(y(c.mean)), number(c.x), number(c.mean)]);
        hover.push(
            json!({ "label": series.label, "colour": at % COLOURS, "points": shown.map(point).collect::<Vec<_>>() }),
        );
    }
    let aria = escape(&curve.title);
    let data = script_json(&json!({ "x": curve.x_label, "top": TOP, "floor": floor, "series": hover }));
    format!(
        "<svg class=\"plot\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\" aria-label=\"{aria}\">{body}</svg>\
         <script type=\"application/json\">{data}</script>"
    )
}

/// Dashed lines with their names at the right end, or at the left one where another name is in the way.
fn constants(curve: &Curve, y: impl Fn(f64) -> f64) -> String {
    let mut body = String::new();
    let mut named: Vec<f64> = Vec::new();
    for constant in curve.constants.iter().filter(|constant| is_drawable(constant.value)) {
        let at = y(constant.value);
        let right = WIDTH - RIGHT;
        body += &format!("<line class=\"constant\" x1=\"{LEFT}\" x2=\"{right}\" y1=\"{at:.1}\" y2=\"{at:.1}\"/>");
        let text = format!("{} = {}", constant.label, number(constant.value));
        let base = if at - 4.0 > TOP + 8.0 { at - 4.0 } else { at + 12.0 };
        let (x, class) = match named.iter().any(|other| (other - base).abs() < 11.0) {
            true => (LEFT + 4.0, "start constant"),
            false => (right - 3.0, "end constant"),
        };
        named.push(base);
        body += &svg_text(x, base, class, &text);
    }
    body
}

/// One drawn point: the mean of the values it stands for, and their range.
struct Column {
    x: f64,
    mean: f64,
    low: f64,
    high: f64,
}

/// Short series as they are; long ones gathered into [`COLUMNS`] columns of equally many points.
fn columns(points: &[[f64; 2]]) -> Vec<Column> {
    let size = if points.len() > 2 * COLUMNS { points.len().div_ceil(COLUMNS) } else { 1 };
    let gather = |chunk: &[[f64; 2]]| {
        let finite = || chunk.iter().map(|point| point[1]).filter(|&value| is_drawable(value));
        let x = chunk.iter().map(|point| point[0]).sum::<f64>() / chunk.len() as f64;
        // No finite value gives 0 / 0, which leaves a gap.
        let mean = finite().sum::<f64>() / finite().count() as f64;
        Column { x, mean, low: finite().fold(mean, f64::min), high: finite().fold(mean, f64::max) }
    };
    points.chunks(size).map(gather).filter(|column| is_drawable(column.x)).collect()
}

fn line(columns: &[Column], colour: usize, x: impl Fn(f64) -> f64, y: impl Fn(f64) -> f64) -> String {
    let mut body = String::new();
    for piece in columns.split(|column| !column.mean.is_finite()).filter(|piece| !piece.is_empty()) {
        if piece.iter().any(|column| column.low < column.high) {
            let upper = piece.iter().map(|column| (column.x, column.high));
            let lower = piece.iter().rev().map(|column| (column.x, column.low));
            let outline = path(upper.chain(lower), &x, &y);
            body += &format!("<path class=\"band c{colour}\" d=\"{outline}Z\"/>");
        }
        let middle = path(piece.iter().map(|column| (column.x, column.mean)), &x, &y);
        body += &format!("<path class=\"line c{colour}\" d=\"{middle}\"/>");
    }
    if columns.len() <= MARKED {
        for column in columns.iter().filter(|column| column.mean.is_finite()) {
            let (at_x, at_y) = (x(column.x), y(column.mean));
            body += &format!("<circle class=\"dot c{colour}\" cx=\"{at_x:.1}\" cy=\"{at_y:.1}\" r=\"2.4\"/>");
        }
    }
    body
}

fn path(points: impl Iterator<Item = (f64, f64)>, x: impl Fn(f64) -> f64, y: impl Fn(f64) -> f64) -> String {
    let step =
        |(at, (px, py)): (usize, (f64, f64))| format!("{}{:.1} {:.1}", if at == 0 { 'M' } else { 'L' }, x(px), y(py));
    points.enumerate().map(step).collect()
}

fn tenths(value: f64) -> f64 {
    (value * 10.0).round() / 10.0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn axis(values: &[f64]) -> Axis {
        Axis::over(values.iter().copied(), 5, true)
    }

    #[test]
    fn ticks_are_round_and_cover_the_values() {
        let texts = |values: &[f64]| axis(values).ticks().into_iter().map(|(_, text)| text).collect::<Vec<_>>();
        assert_eq!(texts(&[0.03, 0.97]), ["0.0", "0.2", "0.4", "0.6", "0.8", "1.0"]);
        assert_eq!(texts(&[-3.0, 6.5]), ["−4", "−2", "0", "2", "4", "6", "8"]);
        assert_eq!(texts(&[0.0, 4800.0]), ["0", "1,000", "2,000", "3,000", "4,000", "5,000"]);
        assert_eq!(texts(&[1e-4, 5e-4]).first().unwrap(), "0.0001");
    }

    #[test]
    fn any_finite_values_make_an_axis() {
        let extremes =
            [0.0, -0.0, 1.0, -7.5, 1e-30, 1e30, 5e-324, f64::MAX, f64::MIN, 0.1 + 0.2, f64::NAN, f64::INFINITY];
        for low in extremes {
            for high in extremes {
                let axis = Axis::over([low, high].into_iter(), 5, false);
                assert!(axis.step > 0.0 && axis.low < axis.high, "{low} {high}: {axis:?}");
                assert!(axis.ticks().len() <= 16, "{low} {high}: {axis:?}");
            }
        }
        assert!(Axis::over(std::iter::empty(), 5, true).ticks().len() > 1);
    }

    #[test]
    fn long_series_keeps_its_extremes() {
        let mut points: Vec<[f64; 2]> = (0..10_000).map(|i| [f64::from(i), 1.0]).collect();
        points[7321][1] = 50.0;
        points[12][1] = -4.0;
        let columns = columns(&points);
        assert!(columns.len() <= COLUMNS);
        assert_eq!(columns.iter().map(|column| column.high).fold(0.0, f64::max), 50.0);
        assert_eq!(columns.iter().map(|column| column.low).fold(0.0, f64::min), -4.0);
    }

    #[test]
    fn missing_values_split_the_line() {
        let points = vec![[0.0, 1.0], [1.0, 2.0], [2.0, f64::NAN], [3.0, 1.0], [4.0, f64::INFINITY], [5.0, 2.0]];
        let drawn = line(&columns(&points), 0, |x| x, |y| y);
        assert_eq!(drawn.matches("class=\"line").count(), 3);
        assert_eq!(drawn.matches("<circle").count(), 4);
    }
}
