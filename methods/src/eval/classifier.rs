//! A linear classifier on frozen features: what the linear protocols train.

use selfsame_engine::{Array, DType, Result, ops};

use super::Accuracy;
use super::calibration::calibration_error;
use super::features::Features;

/// Bins of the calibration error, as usual.
const BINS: usize = 15;

/// Softmax regression on standardised features.
pub struct Classifier {
    pub(super) scaler: Standardise,
    /// `[d, classes]` f32.
    pub(super) weight: Array,
    /// `[1, classes]` f32.
    pub(super) bias: Array,
}

/// How a classifier does on labelled features.
#[derive(Clone, Debug, PartialEq)]
pub struct Classified {
    /// Its accuracy.
    pub accuracy: Accuracy,
    /// Its expected calibration error over 15 bins: see [`calibration_error`].
    pub calibration_error: f64,
}

impl Classifier {
    /// The probability of each class for each row of `features` `[n, d]`: `[n, classes]`.
    ///
    /// # Errors
    /// `Shape` when the features are of another length.
    pub fn probabilities(&self, features: &Array) -> Result<Array> {
        ops::softmax(&logits(&self.scaler.apply(features)?, &self.weight, &self.bias)?)
    }

    /// Compares the likeliest class of each image with its label.
    ///
    /// # Errors
    /// `Config` when the features are unlabelled; as for [`Classifier::probabilities`].
    pub fn measure(&self, test: &Features) -> Result<Classified> {
        Classified::of(&self.probabilities(&test.values)?, test.labels()?)
    }
}

impl Classified {
    /// Compares the likeliest class of each row of `probabilities` `[n, classes]` with its label.
    ///
    /// # Errors
    /// `Shape` unless there is one label for each of at least one row; `Config` for a label out of range.
    pub fn of(probabilities: &Array, labels: &[u32]) -> Result<Classified> {
        let [_, classes] = probabilities.dims()?;
        let predictions = ops::argmax(probabilities, 1)?.to_vec::<i64>()?;
        let predictions: Vec<u32> = predictions.iter().map(|&class| class as u32).collect();
        Ok(Classified {
            accuracy: Accuracy::of(&predictions, labels, classes)?,
            calibration_error: calibration_error(probabilities, labels, BINS)?,
        })
    }
}

pub(super) fn logits(x: &Array, weight: &Array, bias: &Array) -> Result<Array> {
    ops::add(&ops::matmul(x, weight)?, bias)
}

/// The labels of `train` as `[n, classes]` of ones and zeros.
pub(super) fn one_hot(train: &Features, classes: usize, dtype: DType) -> Result<Array> {
    let labels: Vec<i64> = train.labels()?.iter().map(|&label| i64::from(label)).collect();
    ops::one_hot(&Array::from_slice(&labels, &[labels.len()], train.values.device())?, classes, dtype)
}

/// Shift and scale that give every training feature mean 0 and variance 1; constant features become 0.
pub(super) struct Standardise {
    mean: Array,
    scale: Array,
}

impl Standardise {
    pub(super) fn fit(features: &Array) -> Result<Standardise> {
        let [n, d] = features.dims()?;
        let values = features.to_vec::<f32>()?;
        let (mut mean, mut scale) = (Vec::with_capacity(d), Vec::with_capacity(d));
        for dimension in 0..d {
            let column = || values.iter().skip(dimension).step_by(d).map(|&value| f64::from(value));
            let average = column().sum::<f64>() / n as f64;
            let variance = column().map(|value| (value - average) * (value - average)).sum::<f64>() / n as f64;
            mean.push(average as f32);
            scale.push(if variance > 1e-12 { (1.0 / variance.sqrt()) as f32 } else { 0.0 });
        }
        let row = |values: &[f32]| Array::from_slice(values, &[1, d], features.device());
        Ok(Standardise { mean: row(&mean)?, scale: row(&scale)? })
    }

    pub(super) fn apply(&self, features: &Array) -> Result<Array> {
        ops::mul(&ops::sub(features, &self.mean)?, &self.scale)
    }
}
