//! Logistic regression by L-BFGS on frozen, standardised features, with a sweep of the L2 penalty: the protocol of
//! Kornblith, Shlens, Le 2019 (arXiv:1805.08974) and of CLIP (Radford et al. 2021, arXiv:2103.00020).
//!
//! ```text
//! J(W, b) = 1/n Σ cross-entropy(x_i W + b, y_i) + λ/2 |W|²
//! ```
//! λ = 1 / (C n) in scikit-learn's terms; the bias is not penalised. λ is chosen by accuracy on a fifth of the training
//! images, held out; the classifier is then trained on all of them.

use selfsame_engine::ops::Unary;
use selfsame_engine::{Array, DType, Error, ErrorKind, Result, ops};
use selfsame_kernels::philox::{Key, Purpose};

use super::classifier::{Classified, Classifier, Standardise, logits, one_hot};
use super::features::Features;
use super::lbfgs::{Stop, minimise};

/// Options of the regression.
#[derive(Clone, Debug, PartialEq)]
pub struct Logistic {
    /// Values of λ to choose from.
    pub penalties: Vec<f64>,
    /// Steps of L-BFGS at most.
    pub steps: usize,
    /// Seed of the split that λ is chosen by.
    pub seed: u64,
}

impl Default for Logistic {
    /// λ from 1e-6 to 1 by factors of ten, 200 steps.
    fn default() -> Logistic {
        Logistic { penalties: vec![1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0], steps: 200, seed: 0 }
    }
}

/// What the regression found.
#[derive(Clone, Debug, PartialEq)]
pub struct Regressed {
    /// How it does on the test images.
    pub classified: Classified,
    /// The λ chosen.
    pub penalty: f64,
}

/// Largest absolute element of the gradient at a minimum.
const GRADIENT: f64 = 1e-6;

/// Chooses λ, trains on `train` and measures on `test`.
///
/// # Errors
/// `Config` when a set is unlabelled, has fewer than five images, or the options are out of range; `Shape` when the
/// features have different lengths.
pub fn logistic_regression(train: &Features, test: &Features, classes: usize, o: &Logistic) -> Result<Regressed> {
    let [n, _] = train.values.dims()?;
    let valid = |penalty: &f64| penalty.is_finite() && *penalty >= 0.0;
    if o.penalties.is_empty() || !o.penalties.iter().all(valid) || o.steps == 0 || n < 5 {
        let got = format!("penalties {:?}, {} steps, {n} images", o.penalties, o.steps);
        return Err(Error::new(ErrorKind::Config, "logistic regression", got)
            .expected("penalties of at least 0, steps, and five images or more"));
    }
    let penalty = match o.penalties[..] {
        [only] => only,
        _ => {
            let (most, held_out) = split(train, o.seed)?;
            let mut best = (f64::NEG_INFINITY, 0.0);
            for &penalty in &o.penalties {
                let accuracy = fit(&most, classes, penalty, o.steps)?.measure(&held_out)?.accuracy.overall;
                // Of equally good ones the largest: it trusts the features least.
                if accuracy > best.0 || (accuracy == best.0 && penalty > best.1) {
                    best = (accuracy, penalty);
                }
            }
            best.1
        }
    };
    Ok(Regressed { classified: fit(train, classes, penalty, o.steps)?.measure(test)?, penalty })
}

/// Four fifths of the images, drawn at random, and the rest.
fn split(train: &Features, seed: u64) -> Result<(Features, Features)> {
    let images = train.labels()?.len();
    let mut order: Vec<usize> = (0..images).collect();
    Key::new(seed, Purpose::Evaluate).stream(0, 0, 2).shuffle(&mut order);
    let (held_out, most) = order.split_at(images / 5);
    Ok((train.of_images(most)?, train.of_images(held_out)?))
}

/// The classifier of penalty `penalty` on all of `train`; in f64 until it is done.
fn fit(train: &Features, classes: usize, penalty: f64, steps: usize) -> Result<Classifier> {
    let [n, d] = train.values.dims()?;
    let device = train.values.device();
    let scaler = Standardise::fit(&train.values)?;
    let x = ops::cast(&scaler.apply(&train.values)?, DType::F64)?;
    let xt = x.transpose(0, 1)?;
    let target = one_hot(train, classes, DType::F64)?;
    let cut = d * classes;
    let parts = |at: &[f64]| -> Result<(Array, Array)> {
        let weight = Array::from_slice(&at[..cut], &[d, classes], device)?;
        Ok((weight, Array::from_slice(&at[cut..], &[1, classes], device)?))
    };
    let objective = |at: &[f64]| {
        let (weight, bias) = parts(at)?;
        let log_probability = ops::log_softmax(&logits(&x, &weight, &bias)?)?;
        let entropy = -ops::sum(&ops::mul(&log_probability, &target)?, &[0, 1], false)?.item::<f64>()? / n as f64;
        let dy = ops::scale(ops::sub(&ops::unary(Unary::Exp, &log_probability)?, &target)?, 1.0 / n as f64)?;
        let mut gradient = ops::add_scaled(ops::matmul(&xt, &dy)?, penalty, &weight)?.to_vec::<f64>()?;
        gradient.extend(ops::sum(&dy, &[0], true)?.to_vec::<f64>()?);
        Ok((entropy + 0.5 * penalty * ops::norm_sq(&weight)?, gradient))
    };
    let at = minimise(vec![0.0; cut + classes], Stop { steps, gradient: GRADIENT }, objective)?;
    let (weight, bias) = parts(&at)?;
    Ok(Classifier { scaler, weight: ops::cast(&weight, DType::F32)?, bias: ops::cast(&bias, DType::F32)? })
}

#[cfg(test)]
mod tests {
    use super::*;
    use selfsame_engine::Device;

    /// Two overlapping classes in two dimensions, at fixed places.
    fn overlapping(n: usize) -> Features {
        let (mut values, mut labels) = (Vec::new(), Vec::new());
        for i in 0..n {
            let (a, b) = (((i * 37) % 101) as f32 / 101.0, ((i * 53) % 97) as f32 / 97.0);
            let class = u32::from(i % 2 == 0);
            values.extend([a + 0.5 * class as f32, 2.0 * b - 0.3 * class as f32]);
            labels.push(Some(class));
        }
        Features::new(Array::from_slice(&values, &[n, 2], &Device::cpu_with(1).unwrap()).unwrap(), labels)
    }

    /// At a minimum every probability's error is orthogonal to the features, up to the penalty's pull.
    #[test]
    fn the_gradient_vanishes_at_what_is_found() {
        let train = overlapping(200);
        for penalty in [0.0, 0.01] {
            let found = fit(&train, 2, penalty, 500).unwrap();
            let x = found.scaler.apply(&train.values).unwrap();
            let error =
                ops::sub(&found.probabilities(&train.values).unwrap(), &one_hot(&train, 2, DType::F32).unwrap());
            let error = ops::scale(error.unwrap(), 1.0 / 200.0).unwrap();
            let gradient = ops::matmul(&x.transpose(0, 1).unwrap(), &error).unwrap();
            let gradient = ops::add_scaled(gradient, penalty, &found.weight).unwrap().to_vec::<f32>().unwrap();
            assert!(gradient.iter().all(|g| g.abs() < 1e-5), "{gradient:?}");
            let bias = ops::sum(&error, &[0], true).unwrap().to_vec::<f32>().unwrap();
            assert!(bias.iter().all(|g| g.abs() < 1e-5), "{bias:?}");
        }
    }

    #[test]
    fn a_large_penalty_leaves_the_shares_of_the_classes() {
        let found = fit(&overlapping(100), 2, 1e6, 100).unwrap();
        assert!(found.weight.to_vec::<f32>().unwrap().iter().all(|w| w.abs() < 1e-4));
        let options = Logistic { penalties: vec![1e6, 1e-4], ..Logistic::default() };
        let regressed = logistic_regression(&overlapping(200), &overlapping(100), 2, &options).unwrap();
        assert_eq!(regressed.penalty, 1e-4);
        assert!(regressed.classified.accuracy.overall > 0.6);
    }

    #[test]
    fn impossible_options_are_refused() {
        let all = overlapping(20);
        for options in [
            Logistic { penalties: Vec::new(), ..Logistic::default() },
            Logistic { penalties: vec![-1.0], ..Logistic::default() },
            Logistic { steps: 0, ..Logistic::default() },
        ] {
            assert_eq!(logistic_regression(&all, &all, 2, &options).unwrap_err().kind(), ErrorKind::Config);
        }
    }
}
