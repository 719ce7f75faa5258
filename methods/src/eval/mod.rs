//! How good is an encoder: features, nearest neighbours, a linear probe, signs of collapse.
//!
//! - [`features`]: a data set through a frozen encoder, batch norm in evaluation mode, the last batch kept.
//! - [`knn`], [`linear`] (SGD) and [`logistic`] (L-BFGS): the protocols of the literature on those features;
//!   [`classifier`]: what the latter two train.
//! - [`finetune`]: encoder and classifier together; [`subset`]: a share of the labels.
//! - [`few_shot`]: episodes of a few classes with a few examples.
//! - [`clustering`]: agreement of clusters of the features with classes; [`calibration`]: of confidence with accuracy.
//! - [`collapse`]: spread, effective rank, alignment, uniformity.

mod assignment;
pub mod calibration;
pub mod classifier;
pub mod clustering;
pub mod collapse;
pub mod features;
pub mod few_shot;
pub mod finetune;
pub mod knn;
mod lbfgs;
pub mod linear;
pub mod logistic;
mod spectrum;
pub mod subset;

use selfsame_engine::{Error, ErrorKind, Result};

/// How well predictions match labels.
#[derive(Clone, Debug, PartialEq)]
pub struct Accuracy {
    /// Share of right predictions, 0 to 1.
    pub overall: f64,
    /// The same for the images of each class; `None` for a class without images.
    pub per_class: Vec<Option<f64>>,
    /// `[true class, predicted class]`, row-major.
    pub confusion: Vec<u64>,
}

impl Accuracy {
    /// Compares `predictions` with `labels`, both class indices below `classes`.
    ///
    /// # Errors
    /// `Shape` when the lengths differ or there is nothing to compare; `Config` for a label out of range.
    pub fn of(predictions: &[u32], labels: &[u32], classes: usize) -> Result<Accuracy> {
        if predictions.len() != labels.len() || labels.is_empty() {
            let got = format!("{} predictions for {} labels", predictions.len(), labels.len());
            return Err(Error::new(ErrorKind::Shape, "accuracy", got).expected("one for each, at least one"));
        }
        let mut confusion = vec![0u64; classes * classes];
        for (&prediction, &label) in predictions.iter().zip(labels) {
            if let Some(class) = [prediction, label].into_iter().find(|&class| class as usize >= classes) {
                return Err(Error::new(ErrorKind::Config, "accuracy", format!("class {class}"))
                    .expected(format!("a class below {classes}")));
            }
            confusion[label as usize * classes + prediction as usize] += 1;
        }
        let right = |class: usize| confusion[class * classes + class];
        let per_class = (0..classes).map(|class| {
            let images: u64 = confusion[class * classes..(class + 1) * classes].iter().sum();
            (images > 0).then(|| right(class) as f64 / images as f64)
        });
        let overall = (0..classes).map(right).sum::<u64>() as f64 / labels.len() as f64;
        Ok(Accuracy { overall, per_class: per_class.collect(), confusion })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accuracy_counts_by_class() {
        let accuracy = Accuracy::of(&[0, 0, 1, 1], &[0, 1, 1, 1], 3).unwrap();
        assert_eq!(accuracy.overall, 0.75);
        assert_eq!(accuracy.per_class, [Some(1.0), Some(2.0 / 3.0), None]);
        assert_eq!(accuracy.confusion, [1, 0, 0, 1, 2, 0, 0, 0, 0]);
        assert!(Accuracy::of(&[0], &[0, 1], 2).is_err());
        assert_eq!(Accuracy::of(&[0], &[5], 2).unwrap_err().kind(), ErrorKind::Config);
    }
}
