//! Where the first NaN or infinity of a step was born.

use selfsame_engine::{Error, ErrorKind, Result, ops};

use super::Trainer;
use crate::method::Views;

impl Trainer {
    /// The error for a step that gave `what`, a value that is not finite: looks at inputs and parameters, then runs
    /// the step again with checks on every operation.
    pub(super) fn diagnose(&self, views: &Views, what: &str) -> Error {
        let origin =
            self.origin(views).unwrap_or_else(|error| format!("and the search for its origin failed: {error}"));
        Error::new(ErrorKind::NonFinite, format!("step {}", self.step + 1), format!("{what}; {origin}"))
            .hint("a lower learning rate, a longer warm-up or a higher temperature; nothing of this step was kept")
    }

    fn origin(&self, views: &Views) -> Result<String> {
        for (i, view) in views.iter().enumerate() {
            if !ops::is_finite(view.array())? {
                return Ok(format!("view {i} of the batch holds such a value"));
            }
        }
        for (path, param) in self.params.iter() {
            if !ops::is_finite(&param.array())? {
                return Ok(format!("{path} held such a value before the step"));
            }
        }
        self.device.set_finite_checks(true);
        let result = self.compute(views);
        self.device.set_finite_checks(false);
        Ok(match result {
            Err(error) if error.kind() == ErrorKind::NonFinite => format!("the first is in {}", error.sentence()),
            Err(error) => format!("the search for its origin failed: {}", error.sentence()),
            Ok(_) => "no single operation produced it: the gradients' sum overflows".to_string(),
        })
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use selfsame_autograd::Tensor;
    use selfsame_engine::{Array, Device};

    use super::*;
    use crate::trainer::Plan;
    use crate::zoo::simclr;
    use crate::{settings, weights_hash};

    /// A step with all weights of the first convolution `weight`, if given, on views of which one pixel is `pixel`: the
    /// error, which must leave the weights as they were.
    fn failed_step(weight: Option<f32>, pixel: f32) -> String {
        let device = Device::cpu_with(1).unwrap();
        let mut config = settings::defaults(&simclr::SPEC).unwrap();
        for setting in ["backbone=resnet-small", "stem=small", "width=0.25", "batch=8"] {
            config.apply_setting(setting).unwrap();
        }
        let plan = Plan::of(&config, 8).unwrap();
        let mut trainer = Trainer::new(&simclr::SPEC, &config, &plan, &device).unwrap();
        if let Some(weight) = weight {
            let (_, first) = trainer.params().trainable().find(|(_, param)| param.array().rank() == 4).unwrap();
            let shape = first.array().shape().to_vec();
            first.set(Array::full(weight, &shape, &device).unwrap()).unwrap();
        }
        let before = weights_hash(trainer.params()).unwrap();
        let mut pixels: Vec<f32> = (0..8 * 16 * 16 * 3).map(|i| (i % 97) as f32 / 97.0).collect();
        pixels[1000] = pixel;
        let view = Tensor::constant(Array::from_slice(&pixels, &[8, 16, 16, 3], &device).unwrap());
        let error =
            trainer.step(&Views::new(vec![view.clone(), view], (0..8).collect()).unwrap(), Duration::ZERO).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NonFinite);
        assert_eq!((weights_hash(trainer.params()).unwrap(), trainer.steps_done()), (before, 0));
        assert!(!device.checks_finite());
        error.sentence()
    }

    #[test]
    fn the_first_operation_that_overflows_is_named() {
        // Products of pixels around 1/2 with this, some tens of them added up, are more than f32 can hold.
        let sentence = failed_step(Some(3e38), 0.5);
        assert!(sentence.contains("step 1: ") && sentence.contains("the first is in conv2d"), "{sentence}");
    }

    #[test]
    fn a_bad_image_is_told_from_a_bad_operation() {
        assert!(failed_step(None, f32::NAN).contains("view 0 of the batch"));
    }
}
