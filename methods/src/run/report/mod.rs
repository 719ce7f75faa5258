//! `report.html`: a run on one page, self-contained, to be looked at by a person.
//!
//! [`Report`] is plain data, in the order of the page; what is empty or `None` is left out of it. The page is a pure
//! function of that data: no clock, no network, inline styles, plots as SVG, pictures as PNG data URIs.

mod classes;
pub mod embedding;
mod image;
mod page;
mod pictures;
mod plot;
mod text;

use std::path::Path;

use selfsame_engine::{Error, ErrorKind, Result};

pub use embedding::pca_2d;
pub use image::RgbImage;

use super::atomic;

/// Everything the page shows.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// The heading, for example `SimCLR on scenes`.
    pub title: String,
    /// One sentence under it: backbone, epochs, what was measured.
    pub subtitle: String,
    /// The figures at the top, the most important first.
    pub headlines: Vec<Headline>,
    /// What the reader has to know before believing the rest.
    pub warnings: Vec<String>,
    /// Plots over steps or epochs.
    pub curves: Vec<Curve>,
    /// What the augmentations do: one row per source image.
    pub views: Vec<ViewRow>,
    /// What the encoder finds similar: one row per query.
    pub neighbours: Vec<NeighbourRow>,
    /// The embeddings in two dimensions.
    pub map: Option<EmbeddingMap>,
    /// Predictions against truth.
    pub confusion: Option<Confusion>,
    /// Where the time and memory went.
    pub cost: Option<Cost>,
    /// The resolved configuration.
    pub configuration: Vec<Setting>,
    /// Facts of the run, as keys and values ([`super::Manifest::rows`]).
    pub manifest: Vec<(String, String)>,
}

/// One figure at the top of the page.
#[derive(Clone, Debug)]
pub struct Headline {
    /// What it is: `kNN accuracy, trained`.
    pub label: String,
    /// The figure as text: `71.3 %`.
    pub value: String,
    /// A remark: `+38.2 points over untrained`.
    pub detail: String,
    /// The figure between 0 and 1, drawn as a bar.
    pub fraction: Option<f64>,
}

/// One plot.
#[derive(Clone, Debug)]
pub struct Curve {
    /// Heading of the plot.
    pub title: String,
    /// What the horizontal axis counts.
    pub x_label: String,
    /// Unit or meaning of the vertical axis; may be empty.
    pub y_label: String,
    /// The lines; not-finite values leave gaps.
    pub series: Vec<Series>,
    /// Known values, drawn as dashed lines, such as ln(2N-1) for a loss of unrelated views.
    pub constants: Vec<Constant>,
}

/// One line of a plot.
#[derive(Clone, Debug)]
pub struct Series {
    /// Name in the legend.
    pub label: String,
    /// `[x, y]` with x ascending.
    pub points: Vec<[f64; 2]>,
}

/// A dashed horizontal line.
#[derive(Clone, Debug)]
pub struct Constant {
    /// Its name, for example `ln(2N-1)`.
    pub label: String,
    /// Where it is.
    pub value: f64,
}

/// A source image and the views made of it.
#[derive(Clone, Debug)]
pub struct ViewRow {
    /// The image as the data set has it.
    pub source: RgbImage,
    /// Its augmented views.
    pub views: Vec<RgbImage>,
}

/// A query and its nearest neighbours, the nearest first.
#[derive(Clone, Debug)]
pub struct NeighbourRow {
    /// The query image.
    pub query: RgbImage,
    /// Its class; empty for images without labels, which get no frames.
    pub class: String,
    /// What was found.
    pub neighbours: Vec<Neighbour>,
}

/// One image that was found.
#[derive(Clone, Debug)]
pub struct Neighbour {
    /// The image.
    pub image: RgbImage,
    /// Its class; the frame says whether it equals the query's.
    pub class: String,
    /// Cosine similarity to the query.
    pub similarity: f64,
}

/// Points in the plane, coloured by class.
#[derive(Clone, Debug)]
pub struct EmbeddingMap {
    /// Where they come from, for example `Two principal components of 1,000 test embeddings`.
    pub note: String,
    /// The points; [`pca_2d`] gives such.
    pub points: Vec<[f32; 2]>,
    /// One class a point.
    pub classes: Vec<usize>,
    /// Names of the classes; one, such as `unlabelled`, where there are no labels.
    pub class_names: Vec<String>,
    /// One image a point, all of one size, shown under the pointer; or none at all.
    pub thumbnails: Vec<RgbImage>,
}

/// How often each class was taken for which.
#[derive(Clone, Debug)]
pub struct Confusion {
    /// What predicted, for example `linear probe`.
    pub predictor: String,
    /// Names of the classes.
    pub class_names: Vec<String>,
    /// `[true class, predicted class]`, row-major.
    pub counts: Vec<u64>,
}

/// Time and memory of the training.
#[derive(Clone, Debug)]
pub struct Cost {
    /// Source images per second of training.
    pub images_per_second: f64,
    /// Seconds of training, evaluation left out.
    pub seconds: f64,
    /// Steps in these seconds.
    pub steps: u64,
    /// Largest resident memory, where it is known.
    pub peak_bytes: Option<u64>,
    /// Where the seconds went: data, forward, backward, optimiser.
    pub phases: Vec<Phase>,
}

/// A part of the training time.
#[derive(Clone, Debug)]
pub struct Phase {
    /// Its name.
    pub label: String,
    /// Its seconds over the whole training.
    pub seconds: f64,
}

/// One resolved configuration value.
#[derive(Clone, Debug)]
pub struct Setting {
    /// Path of the key: `optimiser.lr`.
    pub key: String,
    /// Its value as TOML.
    pub value: String,
    /// Where it comes from: `default`, `recipe`, the file's name, `--set`.
    pub source: String,
}

/// Writes the page to `path`, replacing what is there in one step.
///
/// Errors: `Shape` when parts of `report` do not fit together, `Io`.
pub fn write(path: &Path, report: &Report) -> Result<()> {
    atomic::write(path, render(report)?.as_bytes())
}

/// The page as text.
///
/// Errors: `Shape` when parts of `report` do not fit together.
pub fn render(report: &Report) -> Result<String> {
    if let Some(map) = &report.map {
        let (points, names) = (map.points.len(), map.class_names.len());
        expect_len("embedding map: classes", map.classes.len(), points)?;
        if !map.thumbnails.is_empty() {
            expect_len("embedding map: thumbnails", map.thumbnails.len(), points)?;
        }
        if let Some(class) = map.classes.iter().find(|&&class| class >= names) {
            return Err(Error::new(ErrorKind::Shape, "report, embedding map: classes", format!("class {class}"))
                .expected(format!("less than the number of class names, {names}")));
        }
    }
    if let Some(confusion) = &report.confusion {
        let classes = confusion.class_names.len();
        expect_len("confusion: counts", confusion.counts.len(), classes * classes)?;
    }
    page::render(report)
}

fn expect_len(what: &str, got: usize, expected: usize) -> Result<()> {
    if got == expected {
        return Ok(());
    }
    Err(Error::new(ErrorKind::Shape, format!("report, {what}"), got.to_string()).expected(expected.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOSTILE: &str = "<script>alert('x')</script> & \"quotes\"";

    fn image(shade: u8) -> RgbImage {
        RgbImage::new(4, 4, vec![shade; 48]).unwrap()
    }

    fn names() -> Vec<String> {
        vec!["cat".into(), HOSTILE.into()]
    }

    /// Every part present, hostile text wherever text may come from outside.
    fn full() -> Report {
        let hostile = || HOSTILE.to_string();
        let neighbour = |class: &str| Neighbour { image: image(9), class: class.into(), similarity: 0.875 };
        Report {
            title: hostile(),
            subtitle: hostile(),
            headlines: vec![Headline {
                label: hostile(),
                value: "71.3 %".into(),
                detail: hostile(),
                fraction: Some(0.7),
            }],
            warnings: vec![hostile()],
            curves: vec![Curve {
                title: hostile(),
                x_label: hostile(),
                y_label: hostile(),
                series: vec![
                    Series { label: hostile(), points: vec![[0.0, 3.0], [1.0, f64::NAN], [2.0, 1.0]] },
                    Series { label: "short".into(), points: Vec::new() },
                ],
                constants: vec![Constant { label: hostile(), value: 2.0 }],
            }],
            views: vec![ViewRow { source: image(1), views: vec![image(2), image(3)] }],
            neighbours: vec![NeighbourRow {
                query: image(4),
                class: "cat".into(),
                neighbours: vec![neighbour("cat"), neighbour(HOSTILE)],
            }],
            map: Some(EmbeddingMap {
                note: hostile(),
                points: vec![[0.0, 1.0], [2.0, -1.0], [f32::NAN, 0.0]],
                classes: vec![0, 1, 1],
                class_names: names(),
                thumbnails: vec![image(5), image(6), image(7)],
            }),
            confusion: Some(Confusion { predictor: hostile(), class_names: names(), counts: vec![8, 2, 0, 0] }),
            cost: Some(Cost {
                images_per_second: 1234.5,
                seconds: 75.0,
                steps: 100,
                peak_bytes: Some(3 << 29),
                phases: vec![
                    Phase { label: hostile(), seconds: 60.0 },
                    Phase { label: "forward".into(), seconds: 0.0 },
                ],
            }),
            configuration: vec![Setting { key: hostile(), value: hostile(), source: hostile() }],
            manifest: vec![(hostile(), hostile())],
        }
    }

    /// Start and end tags must pair up; void elements and self-closed ones stand alone.
    fn assert_well_formed(html: &str) {
        let mut open: Vec<&str> = Vec::new();
        let mut rest = html;
        while let Some(start) = rest.find('<') {
            rest = &rest[start + 1..];
            let end = rest.find('>').expect("every tag is closed");
            let tag = &rest[..end];
            rest = &rest[end + 1..];
            let name = tag.split([' ', '/']).find(|part| !part.is_empty()).unwrap();
            if let Some(closed) = tag.strip_prefix('/') {
                assert_eq!(open.pop(), Some(closed), "near {}", &rest[..rest.len().min(80)]);
            } else if !tag.ends_with('/') && !tag.starts_with('!') && !["meta", "img", "wbr"].contains(&name) {
                open.push(name);
            }
            if name == "script" || name == "style" {
                rest = &rest[rest.find("</").unwrap_or(0)..];
            }
        }
        assert!(open.is_empty(), "left open: {open:?}");
    }

    #[test]
    fn text_from_outside_is_escaped_everywhere() {
        let html = render(&full()).unwrap();
        assert!(!html.contains("<script>alert"), "a script from outside got through");
        assert!(html.contains("&lt;script&gt;alert(&#39;x&#39;)&lt;/script&gt; &amp; &quot;quotes&quot;"));
        assert_well_formed(&html);
    }

    #[test]
    fn page_needs_nothing_from_outside() {
        let html = render(&full()).unwrap();
        for reference in ["http://", "https://", "src=\"/", "url(", "@import", "<link"] {
            let allowed = html.matches("http://www.w3.org/2000/svg").count();
            let found = html.matches(reference).count();
            assert!(found == 0 || (reference == "http://" && found == allowed), "{reference}");
        }
        assert_eq!(html.matches("src=\"").count(), html.matches("src=\"data:image/png;base64,").count());
    }

    #[test]
    fn page_is_a_function_of_its_data() {
        assert_eq!(render(&full()).unwrap(), render(&full()).unwrap());
    }

    #[test]
    fn empty_parts_leave_no_section() {
        let html = render(&Report { title: "empty".into(), ..Report::default() }).unwrap();
        assert_well_formed(&html);
        assert!(!html.contains("<section"));
        assert!(render(&full()).unwrap().matches("<section").count() >= 6);
    }

    #[test]
    fn no_value_prints_as_nan_or_infinity() {
        let mut report = full();
        report.curves[0].series[0].points = vec![[0.0, f64::NAN], [1.0, f64::INFINITY]];
        report.curves[0].constants.clear();
        let body = render(&report).unwrap();
        let svg = &body[body.find("<svg class=\"plot\"").unwrap()..];
        let svg = &svg[..svg.find("</svg>").unwrap()];
        assert!(!svg.contains("NaN") && !svg.contains("inf"), "{svg}");
    }

    #[test]
    fn images_without_labels_get_no_verdict() {
        let mut report = full();
        report.neighbours[0].class.clear();
        let html = render(&report).unwrap();
        assert!(!html.contains("class=\"mark\"") && !html.contains("neighbours shown are of"));
    }

    #[test]
    fn many_classes_are_listed_by_their_extremes() {
        let classes = 30;
        let mut report = Report::default();
        let counts = (0..classes * classes).map(|at| if at % (classes + 1) == 0 { at as u64 } else { 40 }).collect();
        let class_names = (0..classes).map(|class| format!("class-{class}.")).collect();
        report.confusion = Some(Confusion { predictor: "kNN".into(), class_names, counts });
        let html = render(&report).unwrap();
        assert!(html.contains("class-0.") && html.contains("class-29.") && !html.contains("class-15."));
        assert!(!html.contains("<svg class=\"matrix\""));
    }

    #[test]
    fn parts_that_do_not_fit_are_shape_errors() {
        let mut report = full();
        report.map.as_mut().unwrap().classes.pop();
        assert_eq!(render(&report).unwrap_err().kind(), ErrorKind::Shape);
        let mut report = full();
        report.map.as_mut().unwrap().classes[0] = usize::MAX;
        assert_eq!(render(&report).unwrap_err().kind(), ErrorKind::Shape);
        let mut report = full();
        report.confusion.as_mut().unwrap().counts.pop();
        assert_eq!(render(&report).unwrap_err().kind(), ErrorKind::Shape);
    }

    #[test]
    fn write_puts_the_page_in_place() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("report.html");
        write(&path, &full()).unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), render(&full()).unwrap());
        assert_eq!(write(&folder.path().join("no/such.html"), &full()).unwrap_err().kind(), ErrorKind::Io);
    }
}
