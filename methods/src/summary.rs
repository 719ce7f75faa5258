//! What a run's `report.html` shows: its metrics, pictures of its data and of what the encoder makes of them.

use std::sync::Arc;

use selfsame_data::{Bitmap, Dataset};
use selfsame_engine::Result;
use selfsame_kernels::philox::{Key, Purpose};

use crate::eval::knn::neighbours;
use crate::measure::Measurement;
use crate::run::metrics::{self, Record, series};
use crate::run::report::{
    Confusion, Constant, Cost, Curve, EmbeddingMap, Headline, Neighbour, NeighbourRow, Phase, Report, RgbImage, Series,
    Setting, ViewRow, pca_2d,
};
use crate::session::{Labelled, Run};

/// Rows of pictures, pictures in a row, points of the map: enough to see, few enough for a page of a few megabytes.
const VIEW_ROWS: usize = 6;
const VIEWS: u16 = 6;
const QUERIES: usize = 8;
const NEIGHBOURS: usize = 8;
const POINTS: usize = 500;

/// The report of `run`, with what was measured at its end, if anything.
///
/// # Errors
/// `Io` and `Corrupt` for the metrics, and those of the data set.
pub fn report(run: &Run, measured: Option<&Measurement>) -> Result<Report> {
    let records = metrics::read(&run.dir.metrics_path())?;
    let config = &run.config;
    let (method, data, backbone) = (config.str("method")?, config.str("data")?, config.str("backbone")?);
    let plan = &run.plan;
    let mut page = Report {
        title: format!("{method} on {data}"),
        subtitle: format!(
            "{backbone}, {} epochs of {} steps with {} images each; seed {}",
            plan.epochs,
            plan.steps_per_epoch,
            config.usize("batch")?,
            config.usize("seed")?
        ),
        warnings: run.warnings.clone(),
        curves: curves(run, &records, measured)?,
        views: view_rows(run)?,
        cost: Some(cost(&records, config.usize("batch")?)),
        configuration: config
            .entries()
            .iter()
            .map(|entry| Setting {
                key: entry.key.clone(),
                value: entry.value.to_string(),
                source: entry.source.to_string(),
            })
            .collect(),
        manifest: run.manifest.rows(),
        ..Report::default()
    };
    if run.interrupted {
        let done = run.trainer.steps_done();
        page.warnings.insert(0, format!("Interrupted after {done} of {} steps; --resume continues it.", plan.steps()));
    }
    if let (Some(measured), Some(labelled)) = (measured, &run.labelled) {
        page.headlines = headlines(measured);
        page.neighbours = neighbour_rows(labelled, measured)?;
        page.map = Some(map(labelled, measured)?);
        let (predictor, accuracy) = match &measured.linear {
            Some(accuracy) => ("linear probe", accuracy),
            None => ("k nearest neighbours", &measured.knn),
        };
        page.confusion = Some(Confusion {
            predictor: predictor.into(),
            class_names: labelled.test.classes().to_vec(),
            counts: accuracy.confusion.clone(),
        });
    }
    Ok(page)
}

fn headlines(measured: &Measurement) -> Vec<Headline> {
    let knn = measured.knn.overall;
    let headline = |label: &str, value: f64, detail: String| Headline {
        label: label.into(),
        value: format!("{:.1} %", 100.0 * value),
        detail,
        fraction: Some(value),
    };
    let behind = |other: f64| format!("the trained encoder is {:+.1} points above", 100.0 * (knn - other));
    let mut found = vec![headline("kNN accuracy, trained", knn, "200 neighbours by cosine, test images".into())];
    found.extend(
        measured
            .linear
            .as_ref()
            .map(|accuracy| headline("linear probe", accuracy.overall, "softmax regression on frozen features".into())),
    );
    found.extend(measured.knn_untrained.map(|other| headline("kNN accuracy, untrained", other, behind(other))));
    found.extend(measured.knn_pixels.map(|other| headline("kNN accuracy, raw pixels", other, behind(other))));
    found
}

fn curves(run: &Run, records: &[Record], measured: Option<&Measurement>) -> Result<Vec<Curve>> {
    let by_step = |title: &str, unit: &str, key: &str| Curve {
        title: title.into(),
        x_label: "step".into(),
        y_label: unit.into(),
        series: vec![Series { label: key.into(), points: series(records, key) }],
        constants: Vec::new(),
    };
    let mut loss = by_step("Loss", "", "loss");
    loss.constants = run.constants.iter().map(|&(formula, value)| Constant { label: formula.into(), value }).collect();
    let mut found = vec![loss];
    let evaluations: Vec<[f64; 2]> = records
        .iter()
        .filter_map(|record| {
            let value = |key: &str| record.values.iter().find(|(name, _)| name == key).map(|(_, value)| *value);
            Some([value("epoch")?, 100.0 * value("eval/knn")?])
        })
        .collect();
    if !evaluations.is_empty() {
        let baseline =
            |label: &str, value: Option<f64>| value.map(|value| Constant { label: label.into(), value: 100.0 * value });
        found.push(Curve {
            title: "kNN accuracy".into(),
            x_label: "epoch".into(),
            y_label: "%".into(),
            series: vec![Series { label: "trained".into(), points: evaluations }],
            constants: measured
                .into_iter()
                .flat_map(|m| [baseline("untrained", m.knn_untrained), baseline("raw pixels", m.knn_pixels)])
                .flatten()
                .collect(),
        });
    }
    found.push(by_step("Learning rate", "", "lr"));
    found.push(by_step("Gradient norm", "", "grad/norm"));
    let mut spread = by_step("Spread of the embeddings", "standard deviation", "embed/std");
    let dim = run.config.usize("dim").unwrap_or(0);
    if dim > 0 {
        spread.constants.push(Constant { label: "uniform on the sphere".into(), value: 1.0 / (dim as f64).sqrt() });
    }
    found.push(spread);
    found.push(by_step("Effective rank of the embeddings", "dimensions", "embed/rank"));
    found.push(by_step("Speed", "images/s", "images_per_second"));
    Ok(found.into_iter().filter(|curve| curve.series.iter().any(|series| !series.points.is_empty())).collect())
}

fn cost(records: &[Record], batch: usize) -> Cost {
    let total = |key: &str| series(records, key).iter().map(|[_, seconds]| seconds).sum::<f64>();
    let phases: Vec<Phase> = ["data", "forward", "backward", "optimizer"]
        .into_iter()
        .map(|label| Phase { label: label.into(), seconds: total(&format!("time/{label}")) })
        .collect();
    let seconds: f64 = phases.iter().map(|phase| phase.seconds).sum();
    let steps = series(records, "loss").len() as u64;
    let peak = series(records, "memory/peak").iter().fold(0.0, |most: f64, [_, bytes]| most.max(*bytes));
    Cost {
        images_per_second: if seconds > 0.0 { steps as f64 * batch as f64 / seconds } else { 0.0 },
        seconds,
        steps,
        peak_bytes: (peak > 0.0).then_some(peak as u64),
        phases,
    }
}

/// The first images of the data set with some of their training views.
fn view_rows(run: &Run) -> Result<Vec<ViewRow>> {
    let augmentations = &run.views;
    let key = Key::new(run.config.usize("seed")? as u64, Purpose::Augment);
    let mut rows = Vec::new();
    for index in 0..VIEW_ROWS.min(run.train.len()) {
        let source = run.train.get(index)?.image.into_rgb();
        let mut views = Vec::new();
        for view in 0..VIEWS {
            let mut image = source.to_image();
            let augmentation = &augmentations[usize::from(view) % augmentations.len()];
            augmentation.apply(&mut image, &mut key.stream(0, index as u64, view))?;
            views.push(picture(&image.to_bitmap())?);
        }
        rows.push(ViewRow { source: picture(&source)?, views });
    }
    Ok(rows)
}

/// One query of each class, as far as the rows go, and what the encoder finds among the training images.
fn neighbour_rows(labelled: &Labelled, measured: &Measurement) -> Result<Vec<NeighbourRow>> {
    let labels = measured.test.labels()?;
    let queries = (0..labelled.classes() as u32).filter_map(|class| labels.iter().position(|&label| label == class));
    let class =
        |dataset: &Arc<dyn Dataset>, label: u32| dataset.classes().get(label as usize).cloned().unwrap_or_default();
    let mut rows = Vec::new();
    for query in queries.take(QUERIES) {
        let feature = measured.test.values.slice(0, query, query + 1)?;
        let mut found = Vec::new();
        for (similarities, indices) in neighbours(&measured.train.values, &feature, NEIGHBOURS)? {
            for (similarity, index) in similarities.into_iter().zip(indices) {
                found.push(Neighbour {
                    image: picture(&labelled.train.get(index)?.image)?,
                    class: class(&labelled.train, measured.train.labels()?[index]),
                    similarity: f64::from(similarity),
                });
            }
        }
        let image = picture(&labelled.test.get(query)?.image)?;
        rows.push(NeighbourRow { query: image, class: class(&labelled.test, labels[query]), neighbours: found });
    }
    Ok(rows)
}

fn map(labelled: &Labelled, measured: &Measurement) -> Result<EmbeddingMap> {
    let [n, d] = measured.test.values.dims()?;
    let n = n.min(POINTS);
    let features = measured.test.values.slice(0, 0, n)?.to_vec::<f32>()?;
    let thumbnails: Vec<RgbImage> =
        (0..n).map(|index| picture(&labelled.test.get(index)?.image)).collect::<Result<_>>()?;
    let one_size =
        thumbnails.windows(2).all(|pair| (pair[0].width(), pair[0].height()) == (pair[1].width(), pair[1].height()));
    Ok(EmbeddingMap {
        note: format!("Two principal components of the features of {n} test images"),
        points: pca_2d(&features, n, d)?,
        classes: measured.test.labels()?[..n].iter().map(|&label| label as usize).collect(),
        class_names: labelled.test.classes().to_vec(),
        thumbnails: if one_size { thumbnails } else { Vec::new() },
    })
}

fn picture(bitmap: &Bitmap) -> Result<RgbImage> {
    let bitmap = bitmap.clone().into_rgb();
    RgbImage::new(bitmap.width as u32, bitmap.height as u32, bitmap.bytes)
}
