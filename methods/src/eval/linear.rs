//! Linear probe: softmax regression on frozen, standardised features; SGD with Nesterov momentum, cosine schedule.
//!
//! The features are extracted once, without augmentation: much cheaper than the original protocol (which crops and
//! flips anew in each epoch) and usually a little lower in accuracy. Order of images and every sum depend on the seed
//! and the shapes alone.

use selfsame_engine::ops::Binary;
use selfsame_engine::{Array, DType, Device, Error, ErrorKind, Result, ops};
use selfsame_kernels::math;
use selfsame_kernels::philox::{Key, Purpose};

use super::classifier::{Classified, Classifier, Standardise, logits, one_hot};
use super::features::Features;

/// Options of the probe's training.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LinearProbe {
    /// Passes over the training features.
    pub epochs: usize,
    /// Images per step; the last batch of an epoch may be smaller.
    pub batch: usize,
    /// Peak learning rate for a batch of 256; scaled by batch / 256.
    pub lr: f64,
    /// Nesterov momentum.
    pub momentum: f64,
    /// L2 penalty on the weights.
    pub weight_decay: f64,
    /// Seed of the order of the images.
    pub seed: u64,
}

impl Default for LinearProbe {
    fn default() -> Self {
        LinearProbe { epochs: 90, batch: 256, lr: 0.1, momentum: 0.9, weight_decay: 1e-4, seed: 0 }
    }
}

/// Trains on the `train` features and measures on the `test` features.
///
/// # Errors
/// `Config` when a set is unlabelled or the options are out of range; `Shape` when the features have different
/// lengths.
pub fn linear_probe(train: &Features, test: &Features, classes: usize, options: &LinearProbe) -> Result<Classified> {
    let [n, d] = train.values.dims()?;
    if options.epochs == 0 || options.batch == 0 || n == 0 {
        let got = format!("{} epochs of {n} images in batches of {}", options.epochs, options.batch);
        return Err(Error::new(ErrorKind::Config, "linear probe", got).expected("at least one of each"));
    }
    let device = train.values.device();
    let target = one_hot(train, classes, DType::F32)?;
    let scaler = Standardise::fit(&train.values)?;
    let x = scaler.apply(&train.values)?;

    let mut weight = Learned::zeros(&[d, classes], options.momentum, options.weight_decay, device)?;
    let mut bias = Learned::zeros(&[1, classes], options.momentum, 0.0, device)?;
    let steps = options.epochs * n.div_ceil(options.batch);
    let peak = options.lr * options.batch as f64 / 256.0;
    let mut step = 0;
    for epoch in 0..options.epochs {
        let mut order: Vec<i64> = (0..n as i64).collect();
        Key::new(options.seed, Purpose::Evaluate).stream(epoch as u64, 0, 0).shuffle(&mut order);
        for batch in order.chunks(options.batch) {
            let images = batch.len();
            let batch = Array::from_slice(batch, &[images], device)?;
            let x = ops::index_select(&x, 0, &batch)?;
            let target = ops::index_select(&target, 0, &batch)?;
            let probability = ops::softmax(&logits(&x, &weight.value, &bias.value)?)?;
            // d cross-entropy / d logits = (softmax - one-hot) / images
            let dy = ops::scale(ops::sub(&probability, &target)?, 1.0 / images as f64)?;
            let lr = 0.5 * peak * (1.0 + math::f64::cos(std::f64::consts::PI * step as f64 / steps as f64));
            weight.step(ops::matmul(&x.transpose(0, 1)?, &dy)?, lr)?;
            bias.step(ops::sum(&dy, &[0], true)?, lr)?;
            step += 1;
        }
    }
    Classifier { scaler, weight: weight.value, bias: bias.value }.measure(test)
}

/// A parameter under SGD with Nesterov momentum: v = mu v + g;  w = w - lr (g + mu v).
struct Learned {
    value: Array,
    velocity: Array,
    momentum: f64,
    weight_decay: f64,
}

impl Learned {
    fn zeros(shape: &[usize], momentum: f64, weight_decay: f64, device: &Device) -> Result<Learned> {
        let zeros = || Array::zeros(shape, DType::F32, device);
        Ok(Learned { value: zeros()?, velocity: zeros()?, momentum, weight_decay })
    }

    fn step(&mut self, gradient: Array, lr: f64) -> Result<()> {
        let gradient = ops::add_scaled(gradient, self.weight_decay, &self.value)?;
        self.velocity = ops::add(&ops::binary_scalar(Binary::Mul, &self.velocity, self.momentum)?, &gradient)?;
        let ahead = ops::add_scaled(gradient, self.momentum, &self.velocity)?;
        self.value = ops::add_scaled(self.value.clone(), -lr, &ahead)?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Three classes on a circle, in two dimensions of different scale and a constant third.
    fn circle(per_class: usize, device: &Device) -> Features {
        let (mut values, mut labels) = (Vec::new(), Vec::new());
        for i in 0..3 * per_class {
            let wobble = ((i * 29) % 17) as f32 / 17.0 - 0.5;
            let [x, y] = [[1.0, 0.0], [-0.5, 0.9], [-0.5, -0.9]][i % 3];
            values.extend([x + 0.5 * wobble, 1000.0 * (y - 0.5 * wobble), 4.0]);
            labels.push(Some((i % 3) as u32));
        }
        Features::new(Array::from_slice(&values, &[3 * per_class, 3], device).unwrap(), labels)
    }

    #[test]
    fn separable_classes_are_separated() {
        let device = Device::cpu_with(1).unwrap();
        let options = LinearProbe { epochs: 20, batch: 16, ..LinearProbe::default() };
        let probed = linear_probe(&circle(30, &device), &circle(10, &device), 3, &options).unwrap();
        assert_eq!(probed.accuracy.overall, 1.0);
    }

    #[test]
    fn labels_without_pattern_stay_near_chance() {
        let device = Device::cpu_with(1).unwrap();
        let labels = (0..300).map(|i| Some(((i / 3) % 3) as u32)).collect();
        let train = Features::new(circle(100, &device).values, labels);
        let options = LinearProbe { epochs: 5, ..LinearProbe::default() };
        let probed = linear_probe(&train, &circle(20, &device), 3, &options).unwrap();
        assert!(probed.accuracy.overall < 0.7, "{probed:?}");
    }

    #[test]
    fn impossible_options_are_refused() {
        let device = Device::cpu_with(1).unwrap();
        let options = LinearProbe { epochs: 0, ..LinearProbe::default() };
        assert_eq!(
            linear_probe(&circle(2, &device), &circle(2, &device), 3, &options).unwrap_err().kind(),
            ErrorKind::Config
        );
    }
}
