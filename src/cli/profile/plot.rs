//! The sweep as one SVG: time, rate and memory over the batch, on logarithmic axes.

use std::fmt::Write;

use super::Measured;

const WIDTH: f64 = 360.0;
const HEIGHT: f64 = 260.0;
const LEFT: f64 = 62.0;
const RIGHT: f64 = 14.0;
const TOP: f64 = 34.0;
const BOTTOM: f64 = 64.0;

/// Distinct on white, also without red or green.
const COLOURS: [&str; 6] = ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9"];

/// One line of a panel.
struct Series {
    label: String,
    dashed: bool,
    points: Vec<[f64; 2]>,
}

/// The plot of a sweep over batches counted in `unit`.
pub(super) fn svg(unit: &str, measured: &[Measured]) -> String {
    let mut labels: Vec<&str> = Vec::new();
    for one in measured {
        if !labels.contains(&one.label.as_str()) {
            labels.push(&one.label);
        }
    }
    let series = |suffix: &str, dashed: bool, value: &dyn Fn(&Measured) -> Option<f64>| -> Vec<Series> {
        labels
            .iter()
            .map(|label| {
                let of_label = measured.iter().filter(|one| one.label == *label);
                let points = of_label.filter_map(|one| Some([one.batch as f64, value(one)?])).collect();
                Series { label: format!("{label}{suffix}"), dashed, points }
            })
            .collect()
    };
    let seconds = |one: &Measured| one.run.as_ref().map(|run| run.step().as_secs_f64());
    let mib = |bytes: usize| bytes as f64 / (1 << 20) as f64;
    let mut memory = series(", measured", false, &|one| one.run.as_ref().map(|run| mib(run.peak())));
    memory.extend(series(", planned", true, &|one| one.planned.as_ref().map(|plan| mib(plan.bytes()))));
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

/// A logarithmic axis over some values, from whole power to whole power of `base`.
struct Axis {
    base: f64,
    low: f64,
    high: f64,
}

impl Axis {
    fn over(values: impl Iterator<Item = f64>, base: f64) -> Axis {
        let (mut low, mut high) = (f64::INFINITY, f64::NEG_INFINITY);
        for value in values.filter(|value| value.is_finite() && *value > 0.0) {
            let power = value.log(base);
            (low, high) = (low.min(power), high.max(power));
        }
        if low > high {
            (low, high) = (0.0, 1.0);
        }
        let (low, high) = ((low + 1e-9).floor(), (high - 1e-9).ceil());
        Axis { base, low, high: if high > low { high } else { low + 1.0 } }
    }

    fn at(&self, value: f64) -> f64 {
        (value.log(self.base) - self.low) / (self.high - self.low)
    }

    fn ticks(&self) -> impl Iterator<Item = f64> + '_ {
        let step = ((self.high - self.low) / 6.0).ceil().max(1.0);
        (0..)
            .map(move |i| self.low + f64::from(i) * step)
            .take_while(|power| *power <= self.high)
            .map(|p| self.base.powf(p))
    }
}

fn panel(title: &str, unit: &str, series: &[Series], colours: usize) -> String {
    let all = || series.iter().flat_map(|series| &series.points);
    let (x_axis, y_axis) = (Axis::over(all().map(|p| p[0]), 2.0), Axis::over(all().map(|p| p[1]), 10.0));
    let x = |value: f64| LEFT + (WIDTH - LEFT - RIGHT) * x_axis.at(value);
    let y = |value: f64| HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * y_axis.at(value);
    let (floor, right) = (HEIGHT - BOTTOM, WIDTH - RIGHT);
    let mut body = format!("<text x=\"{LEFT}\" y=\"20\" font-weight=\"bold\">{title}</text>");
    for value in y_axis.ticks() {
        let at = y(value);
        let _ = write!(body, "<path d=\"M{LEFT} {at:.1}H{right}\" stroke=\"#ddd\"/>");
        let _ = write!(body, "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{value}</text>", LEFT - 6.0, at + 4.0);
    }
    for value in x_axis.ticks() {
        let at = x(value);
        let _ = write!(body, "<path d=\"M{at:.1} {floor}v4\" stroke=\"#666\"/>");
        let _ = write!(body, "<text x=\"{at:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{value}</text>", floor + 16.0);
    }
    let _ = write!(body, "<path d=\"M{LEFT} {floor}H{right}\" stroke=\"#666\"/>");
    let middle = (LEFT + right) / 2.0;
    let _ = write!(body, "<text x=\"{middle}\" y=\"{:.1}\" text-anchor=\"middle\">{unit}</text>", floor + 30.0);
    for (number, line) in series.iter().enumerate() {
        let colour = COLOURS[number % colours.max(1) % COLOURS.len()];
        let dash = if line.dashed { " stroke-dasharray=\"4 3\"" } else { "" };
        let place =
            |(i, p): (usize, &[f64; 2])| format!("{}{:.1} {:.1}", if i == 0 { 'M' } else { 'L' }, x(p[0]), y(p[1]));
        let path: String = line.points.iter().enumerate().map(place).collect();
        let _ = write!(body, "<path d=\"{path}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"1.8\"{dash}/>");
        for p in &line.points {
            let _ = write!(body, "<circle cx=\"{:.1}\" cy=\"{:.1}\" r=\"2.6\" fill=\"{colour}\"/>", x(p[0]), y(p[1]));
        }
        let (column, row) = (number % 2, number / 2);
        let (key_x, key_y) = (LEFT + column as f64 * 145.0, HEIGHT - 18.0 + 12.0 * row as f64);
        let text_y = key_y + 4.0;
        let label = line.label.replace('&', "&amp;").replace('<', "&lt;");
        let _ = write!(body, "<path d=\"M{key_x} {key_y}h16\" stroke=\"{colour}\" stroke-width=\"1.8\"{dash}/>");
        let _ = write!(body, "<text x=\"{}\" y=\"{text_y}\">{label}</text>", key_x + 20.0);
    }
    body
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn axes_end_at_whole_powers_and_place_their_ends() {
        let axis = Axis::over([256.0, 1024.0, 4096.0].into_iter(), 2.0);
        assert_eq!((axis.at(256.0), axis.at(4096.0)), (0.0, 1.0));
        assert!((axis.at(1024.0) - 0.5).abs() < 1e-12);
        assert_eq!(axis.ticks().collect::<Vec<_>>(), [256.0, 512.0, 1024.0, 2048.0, 4096.0]);
        let axis = Axis::over([3.0, 250.0].into_iter(), 10.0);
        assert_eq!(axis.ticks().collect::<Vec<_>>(), [1.0, 10.0, 100.0, 1000.0]);
        assert!(Axis::over([0.0, f64::NAN].into_iter(), 10.0).ticks().count() >= 2);
    }
}
