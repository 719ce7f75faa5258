//! The measurement at the end of a run: kNN and linear probe of the encoder, against itself untrained and raw pixels.

use std::sync::Arc;

use selfsame_engine::{Device, Result};
use selfsame_models::{Init, Module};

use crate::config::Config;
use crate::eval::Accuracy;
use crate::eval::features::{Features, Feed, extract, raw_pixels};
use crate::eval::knn::{Knn, knn};
use crate::eval::linear::{LinearProbe, linear_probe};
use crate::method::MethodSpec;
use crate::observer::Observer;
use crate::parts;
use crate::session::{EVAL_BATCH, Labelled};
use crate::trainer::Plan;

/// What is measured besides the encoder's kNN accuracy.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Scope {
    /// The same encoder untrained, and raw pixels.
    pub baselines: bool,
    /// A linear probe.
    pub linear: bool,
}

/// What was found.
pub struct Measurement {
    /// kNN of the trained encoder.
    pub knn: Accuracy,
    /// kNN of the same encoder with its first weights.
    pub knn_untrained: Option<f64>,
    /// kNN of the pixels themselves.
    pub knn_pixels: Option<f64>,
    /// Linear probe of the trained encoder.
    pub linear: Option<Accuracy>,
    /// Features of the training images.
    pub train: Features,
    /// Features of the test images.
    pub test: Features,
}

/// Where features come from.
pub struct Setting<'a> {
    /// The images.
    pub labelled: &'a Labelled,
    /// The configuration of the run.
    pub config: &'a Config,
    /// The device to compute on.
    pub device: &'a Device,
    /// Background threads that prepare images.
    pub workers: usize,
}

impl Setting<'_> {
    pub(crate) fn feed(&self) -> Result<Feed> {
        let transform = parts::eval_transform(self.config)?;
        Ok(Feed { transform, batch: EVAL_BATCH, workers: self.workers, limit: usize::MAX })
    }

    /// Features of the training and test images by `encoder`.
    ///
    /// # Errors
    /// Those of the data set and the encoder.
    pub fn features(&self, encoder: &dyn Module) -> Result<(Features, Features)> {
        let feed = self.feed()?;
        let of = |dataset: &Arc<_>| extract(encoder, dataset, &feed, self.device);
        Ok((of(&self.labelled.train)?, of(&self.labelled.test)?))
    }

    fn pixels(&self) -> Result<(Features, Features)> {
        let feed = self.feed()?;
        let of = |dataset: &Arc<_>| raw_pixels(dataset, &feed, self.device);
        Ok((of(&self.labelled.train)?, of(&self.labelled.test)?))
    }

    /// kNN accuracy on such features.
    ///
    /// # Errors
    /// As for [`knn`].
    pub fn knn(&self, (train, test): &(Features, Features)) -> Result<Accuracy> {
        knn(train, test, self.labelled.classes(), &Knn::default())
    }
}

/// Measures `encoder`, trained by the method of `spec`.
///
/// # Errors
/// Those of the data set and the encoder.
pub fn measure(
    spec: &MethodSpec,
    plan: &Plan,
    encoder: &dyn Module,
    setting: &Setting<'_>,
    scope: Scope,
    observer: &mut dyn Observer,
) -> Result<Measurement> {
    observer.phase("features of the trained encoder");
    let features = setting.features(encoder)?;
    observer.phase("nearest neighbours");
    let accuracy = setting.knn(&features)?;
    let (mut knn_untrained, mut knn_pixels, mut linear) = (None, None, None);
    if scope.linear {
        observer.phase("linear probe");
        let (train, test) = &features;
        let probed = linear_probe(train, test, setting.labelled.classes(), &LinearProbe::default())?;
        linear = Some(probed.accuracy);
    }
    if scope.baselines {
        observer.phase("the same encoder untrained");
        let seed = setting.config.usize("seed")? as u64;
        let untrained = (spec.build)(setting.config, &Init::new(setting.device, seed), plan)?;
        knn_untrained = Some(setting.knn(&setting.features(untrained.encoder())?)?.overall);
        observer.phase("raw pixels");
        knn_pixels = Some(setting.knn(&setting.pixels()?)?.overall);
    }
    let (train, test) = features;
    Ok(Measurement { knn: accuracy, knn_untrained, knn_pixels, linear, train, test })
}
