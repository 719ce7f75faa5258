//! The result of one arm.

use std::path::Path;

use selfsame_engine::hash::ContentHasher;
use selfsame_engine::{Error, ErrorKind, Result};
use selfsame_methods::eval::collapse;
use selfsame_methods::run::manifest::Build;
use selfsame_methods::run::metrics::{self, series};
use selfsame_methods::{Config, Finished};
use serde::{Deserialize, Serialize};

use super::arms::Arm;

/// The file of a row, in the folder of its run.
pub(super) const FILE: &str = "row.json";

/// What a result depends on: the code and the whole configuration.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Key {
    pub(super) build: Build,
    config: String,
}

impl Key {
    pub(super) fn of(config: &Config) -> Key {
        Key { build: Build::this(), config: config.table().to_string() }
    }

    /// A few digits that stand for it.
    pub(super) fn short(&self) -> String {
        let mut hasher = ContentHasher::new();
        hasher.text(&self.build.source);
        hasher.text(&self.config);
        format!("{:08x}", hasher.finish() as u32)
    }
}

/// What an arm came to.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Row {
    pub(super) arm: String,
    pub(super) seed: u32,
    pub(super) key: Key,
    /// kNN accuracy of the encoder on test images, of the same encoder untrained, and of raw pixels.
    pub(super) knn: f64,
    pub(super) knn_untrained: f64,
    pub(super) knn_pixels: f64,
    /// Accuracy of a linear probe.
    pub(super) linear: f64,
    /// Standard deviation of the normalised embeddings that the loss sees, at the end: one over the root of their
    /// length when they are spread evenly, 0 when collapsed.
    pub(super) embedding_std: Option<f64>,
    /// Effective rank of those embeddings, at the end.
    pub(super) embedding_rank: Option<f64>,
    /// Effective rank of the encoder's features of test images.
    pub(super) feature_rank: f64,
    /// Share of prototypes or clusters in use at the end.
    pub(super) usage: Option<f64>,
    pub(super) loss: f64,
    pub(super) steps: u64,
    /// Training and measurement.
    pub(super) seconds: f64,
    /// Arrays at the peak.
    pub(super) peak_bytes: u64,
    pub(super) weights_hash: String,
}

impl Row {
    pub(super) fn of(arm: &Arm, seed: u32, key: Key, finished: &Finished, seconds: f64) -> Result<Row> {
        let measured = finished.measured.as_ref().ok_or_else(|| {
            Error::new(ErrorKind::Config, "study", "data without labels").expected("a data set with classes")
        })?;
        let records = metrics::read(&finished.run.dir.metrics_path())?;
        let last = |key: &str| series(&records, key).last().map(|[_, value]| *value);
        Ok(Row {
            arm: arm.name.into(),
            seed,
            key,
            knn: measured.knn.overall,
            knn_untrained: measured.knn_untrained.unwrap_or(f64::NAN),
            knn_pixels: measured.knn_pixels.unwrap_or(f64::NAN),
            linear: measured.linear.as_ref().map_or(f64::NAN, |accuracy| accuracy.overall),
            embedding_std: last("embed/std"),
            embedding_rank: last("embed/rank"),
            feature_rank: collapse::effective_rank(&measured.test.values)?,
            usage: last("prototypes/used"),
            loss: last("loss").unwrap_or(f64::NAN),
            steps: finished.run.trainer.steps_done(),
            seconds,
            peak_bytes: last("memory/peak").unwrap_or(0.0) as u64,
            weights_hash: finished.run.weights_hash.clone(),
        })
    }

    /// The row in `folder`, if it is finished.
    pub(super) fn read(folder: &Path) -> Result<Option<Row>> {
        let path = folder.join(FILE);
        match std::fs::read_to_string(&path) {
            Ok(text) => serde_json::from_str(&text).map(Some).map_err(|error| {
                Error::new(ErrorKind::Corrupt, path.display().to_string(), error.to_string())
                    .hint("delete it to run the arm again")
            }),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(Error::new(ErrorKind::Io, path.display().to_string(), error.to_string())),
        }
    }

    pub(super) fn write(&self, folder: &Path) -> Result<()> {
        let path = folder.join(FILE);
        let failed = |error: String| Error::new(ErrorKind::Io, path.display().to_string(), error);
        let text = serde_json::to_string_pretty(self).map_err(|error| failed(error.to_string()))?;
        std::fs::write(&path, text).map_err(|error| failed(error.to_string()))
    }
}
