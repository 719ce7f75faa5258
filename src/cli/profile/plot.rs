//! The sweep as one SVG: time, rate and memory over the batch, on logarithmic axes.

use std::fmt::Write;

use super::Measured;

const WIDTH: f64 = 360.0;
const HEIGHT: f64 = 260.0;
const LEFT: f64 = 58.0;
const RIGHT: f64 = 28.0;
const TOP: f64 = 34.0;
const BOTTOM: f64 = 64.0;

/// Distinct on white, also without red or green.
const COLOURS: [&str; 6] = ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9"];

/// More gridlines than this would crowd a panel.
const MARKS: usize = 7;

/// One line of a panel. What was planned is a broad pale band, so that a measured line upon it remains visible.
struct Series {
    label: String,
    planned: bool,
    points: Vec<[f64; 2]>,
}

impl Series {
    /// How its line is drawn.
    fn stroke(&self, colour: &str) -> String {
        let style = if self.planned { "stroke-width=\"7\" stroke-opacity=\"0.3\"" } else { "stroke-width=\"1.8\"" };
        format!("fill=\"none\" stroke=\"{colour}\" stroke-linejoin=\"round\" {style}")
    }
}

/// The plot of a sweep over batches counted in `unit`.
pub(super) fn svg(unit: &str, measured: &[Measured]) -> String {
    let mut labels: Vec<&str> = Vec::new();
    for one in measured {
        if !labels.contains(&one.label.as_str()) {
            labels.push(&one.label);
        }
    }
    let series = |suffix: &str, planned: bool, value: &dyn Fn(&Measured) -> Option<f64>| -> Vec<Series> {
        labels
            .iter()
            .map(|label| {
                let of_label = measured.iter().filter(|one| one.label == *label);
                let points = of_label.filter_map(|one| Some([one.batch as f64, value(one)?])).collect();
                Series { label: format!("{label}{suffix}"), planned, points }
            })
            .collect()
    };
    let seconds = |one: &Measured| one.run.as_ref().map(|run| run.step().as_secs_f64());
    let mib = |bytes: usize| bytes as f64 / (1 << 20) as f64;
    let mut memory = series(", planned", true, &|one| one.planned.as_ref().map(|plan| mib(plan.bytes())));
    memory.extend(series(", measured", false, &|one| one.run.as_ref().map(|run| mib(run.peak()))));
    let panels = [
        ("ms per step".to_string(), series("", false, &|one| Some(1e3 * seconds(one)?))),
        (format!("{unit}/s"), series("", false, &|one| Some(one.batch as f64 / seconds(one)?))),
        ("memory, MiB".to_string(), memory),
    ];
    let mut body = String::new();
    for (number, (title, series)) in panels.iter().enumerate() {
        let at = number as f64 * WIDTH;
        let _ = write!(body, "<g transform=\"translate({at} 0)\">{}</g>", panel(title, unit, series, labels.len()));
    }
    let width = 3.0 * WIDTH;
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {HEIGHT}\" width=\"{width}\" \
         height=\"{HEIGHT}\" font-family=\"sans-serif\" font-size=\"11\">\
         <rect width=\"100%\" height=\"100%\" fill=\"white\"/>{body}</svg>\n"
    )
}

/// A logarithmic axis: its marks, of which the first and the last are its ends.
struct Axis {
    marks: Vec<f64>,
}

impl Axis {
    /// From power of two to power of two: an axis of batches.
    fn of_batches(values: impl Iterator<Item = f64>) -> Axis {
        Axis::over(values, &[&[1.0]], 2.0)
    }

    /// At 1, 2, 5, 10, 20, ... or, where those are too many, at powers of ten.
    fn of_values(values: impl Iterator<Item = f64>) -> Axis {
        Axis::over(values, &[&[1.0, 2.0, 5.0], &[1.0]], 10.0)
    }

    /// Marks at the multiples of powers of `base` around the values: the first choice of multiples that does not crowd,
    /// else each second, third, ... mark of the last choice.
    fn over(values: impl Iterator<Item = f64>, choices: &[&[f64]], base: f64) -> Axis {
        let (mut low, mut high) = (f64::INFINITY, 0.0_f64);
        for value in values.filter(|value| value.is_finite() && *value > 0.0) {
            (low, high) = (low.min(value), high.max(value));
        }
        if low > high {
            (low, high) = (1.0, base);
        }
        // A value that is a mark but for rounding counts as the mark.
        let (low, high) = (low * (1.0 + 1e-9), high * (1.0 - 1e-9));
        let around = |multiples: &[f64]| -> Vec<f64> {
            let first = low.log(base).floor() as i32;
            let all = (first..=first + 400).flat_map(|power| multiples.iter().map(move |m| m * base.powi(power)));
            let mut marks: Vec<f64> = Vec::new();
            for mark in all {
                if mark <= low {
                    marks.clear();
                }
                marks.push(mark);
                if mark >= high && marks.len() > 1 {
                    break;
                }
            }
            marks
        };
        let mut marks = Vec::new();
        for multiples in choices {
            marks = around(multiples);
            if marks.len() <= MARKS {
                return Axis { marks };
            }
        }
        let step = (marks.len() - 1).div_ceil(MARKS - 1);
        while !(marks.len() - 1).is_multiple_of(step) {
            marks.push(marks[marks.len() - 1] * base);
        }
        Axis { marks: marks.into_iter().step_by(step).collect() }
    }

    /// Where a value is, from 0 at the first mark to 1 at the last.
    fn at(&self, value: f64) -> f64 {
        let (low, high) = (self.marks[0], self.marks[self.marks.len() - 1]);
        (value / low).ln() / (high / low).ln()
    }
}

/// A mark's number, with commas between thousands.
fn number(value: f64) -> String {
    let text = value.to_string();
    let (whole, fraction) = text.split_once('.').map_or((text.as_str(), None), |(w, f)| (w, Some(f)));
    let mut grouped = String::new();
    for (place, digit) in whole.chars().enumerate() {
        if place > 0 && (whole.len() - place).is_multiple_of(3) {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    fraction.map_or(grouped.clone(), |fraction| format!("{grouped}.{fraction}"))
}

fn panel(title: &str, unit: &str, series: &[Series], colours: usize) -> String {
    let all = || series.iter().flat_map(|series| &series.points);
    let (x_axis, y_axis) = (Axis::of_batches(all().map(|p| p[0])), Axis::of_values(all().map(|p| p[1])));
    let x = |value: f64| LEFT + (WIDTH - LEFT - RIGHT) * x_axis.at(value);
    let y = |value: f64| HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * y_axis.at(value);
    let (floor, right) = (HEIGHT - BOTTOM, WIDTH - RIGHT);
    let mut body = format!("<text x=\"{LEFT}\" y=\"20\" font-weight=\"bold\">{title}</text>");
    for &value in &y_axis.marks {
        let (at, text) = (y(value), number(value));
        let _ = write!(body, "<path d=\"M{LEFT} {at:.1}H{right}\" stroke=\"#ddd\"/>");
        let _ = write!(body, "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{text}</text>", LEFT - 6.0, at + 4.0);
    }
    for &value in &x_axis.marks {
        let (at, text) = (x(value), number(value));
        let _ = write!(body, "<path d=\"M{at:.1} {floor}v4\" stroke=\"#666\"/>");
        let _ = write!(body, "<text x=\"{at:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{text}</text>", floor + 16.0);
    }
    let _ = write!(body, "<path d=\"M{LEFT} {floor}H{right}\" stroke=\"#666\"/>");
    let middle = (LEFT + right) / 2.0;
    let _ = write!(body, "<text x=\"{middle}\" y=\"{:.1}\" text-anchor=\"middle\">{unit}</text>", floor + 30.0);
    for (index, line) in series.iter().enumerate() {
        let colour = COLOURS[index % colours.max(1) % COLOURS.len()];
        let stroke = line.stroke(colour);
        let place =
            |(i, p): (usize, &[f64; 2])| format!("{}{:.1} {:.1}", if i == 0 { 'M' } else { 'L' }, x(p[0]), y(p[1]));
        let path: String = line.points.iter().enumerate().map(place).collect();
        let _ = write!(body, "<path d=\"{path}\" {stroke}/>");
        for p in line.points.iter().filter(|_| !line.planned) {
            let _ = write!(body, "<circle cx=\"{:.1}\" cy=\"{:.1}\" r=\"2.6\" fill=\"{colour}\"/>", x(p[0]), y(p[1]));
        }
        let (column, row) = (index % 2, index / 2);
        let (key_x, key_y) = (LEFT + column as f64 * 145.0, HEIGHT - 18.0 + 12.0 * row as f64);
        let text_y = key_y + 4.0;
        let label = line.label.replace('&', "&amp;").replace('<', "&lt;");
        let _ = write!(body, "<path d=\"M{key_x} {key_y}h16\" {stroke}/>");
        let _ = write!(body, "<text x=\"{}\" y=\"{text_y}\">{label}</text>", key_x + 20.0);
    }
    body
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn axes_end_at_marks_around_their_values() {
        let batches = Axis::of_batches([256.0, 1024.0, 3000.0].into_iter());
        assert_eq!(batches.marks, [256.0, 512.0, 1024.0, 2048.0, 4096.0]);
        assert_eq!((batches.at(256.0), batches.at(4096.0)), (0.0, 1.0));
        assert!((batches.at(1024.0) - 0.5).abs() < 1e-12);
        let near = |axis: Axis, marks: &[f64]| {
            assert_eq!(axis.marks.len(), marks.len(), "{:?}", axis.marks);
            assert!(axis.marks.iter().zip(marks).all(|(got, mark)| (got / mark - 1.0).abs() < 1e-12));
        };
        near(Axis::of_values([3.0, 70.0].into_iter()), &[2.0, 5.0, 10.0, 20.0, 50.0, 100.0]);
        near(Axis::of_values([0.3, 250.0].into_iter()), &[0.1, 1.0, 10.0, 100.0, 1000.0]);
        near(Axis::of_values([5.0].into_iter()), &[5.0, 10.0]);
        near(Axis::of_values([0.0, f64::NAN].into_iter()), &[1.0, 2.0, 5.0, 10.0]);
        assert!(Axis::of_batches([1.0, 1e6].into_iter()).marks.len() <= MARKS);
    }

    #[test]
    fn thousands_are_set_apart() {
        let numbers = [0.05, 5.0, 500.0, 1024.0, 131_072.0, 1e6].map(number);
        assert_eq!(numbers, ["0.05", "5", "500", "1,024", "131,072", "1,000,000"]);
    }
}
