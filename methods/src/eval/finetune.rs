//! Fine-tuning: the encoder and a new linear layer trained together on labelled images, crops and flips as augmentation,
//! SGD with Nesterov momentum and a cosine schedule (the protocol of SimCLR, arXiv:2002.05709, appendix B.5).

use std::sync::Arc;

use selfsame_autograd::optim::{Optimizer, Sgd};
use selfsame_autograd::schedule::Schedule;
use selfsame_autograd::{ParamSet, Role, Tensor};
use selfsame_data::augment::CropFlip;
use selfsame_data::{Augment, Loader, LoaderConfig};
use selfsame_engine::{Array, Error, ErrorKind, Result, ops};
use selfsame_kernels::philox::{Key, Purpose};
use selfsame_models::backbones::Backbone;
use selfsame_models::layers::Linear;
use selfsame_models::{Ctx, Init, Module, params};

use super::classifier::Classified;
use super::features::{extract, to_array};
use super::subset::labelled_share;
use crate::measure::Setting;

/// Options of the training.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct FineTune {
    /// Share of the training labels that is used, class by class.
    pub labels: f64,
    /// Passes over these images.
    pub epochs: usize,
    /// Images per step; the last batch of an epoch may be smaller.
    pub batch: usize,
    /// Peak learning rate for a batch of 256; scaled by batch / 256.
    pub lr: f64,
    /// Nesterov momentum.
    pub momentum: f64,
    /// L2 penalty on the weights.
    pub weight_decay: f64,
    /// Seed of subset, order, augmentation and the new layer.
    pub seed: u64,
}

impl Default for FineTune {
    /// All labels, SimCLR's learning rate of 0.05 and momentum of 0.9, no weight decay.
    fn default() -> FineTune {
        FineTune { labels: 1.0, epochs: 30, batch: 256, lr: 0.05, momentum: 0.9, weight_decay: 0.0, seed: 0 }
    }
}

/// Trains `encoder` in place, with a new classifier, and measures it on the test images. `progress` is told of epochs
/// done and the mean loss of the last.
///
/// # Errors
/// `Config` when options are out of range; those of the data set and of training.
pub fn fine_tune(
    encoder: &dyn Backbone,
    setting: &Setting<'_>,
    o: &FineTune,
    progress: &mut dyn FnMut(usize, f64),
) -> Result<Classified> {
    if o.epochs == 0 || o.batch == 0 || !(o.lr > 0.0 && o.lr.is_finite()) {
        let got = format!("{} epochs, batches of {}, learning rate {}", o.epochs, o.batch, o.lr);
        return Err(Error::new(ErrorKind::Config, "fine-tuning", got).expected("at least one of each, a positive rate"));
    }
    if params(encoder).iter().all(|param| param.role() == Role::Buffer) {
        return Err(Error::new(ErrorKind::Config, "fine-tuning", "an encoder whose parameters are frozen")
            .expected("trainable ones: Method::trainable_encoder with the weights restored into it"));
    }
    let (data, device) = (&setting.labelled.train, setting.device);
    let labels = (0..data.len()).map(|image| Ok(data.get(image)?.label)).collect::<Result<Option<Vec<u32>>>>()?;
    let labels = labels.ok_or_else(|| Error::new(ErrorKind::Config, "fine-tuning", "images without labels"))?;
    let images = labelled_share(&labels, o.labels, o.seed)?;
    let classes = setting.labelled.classes();
    let head = Linear::new(&Init::new(device, o.seed).at("classifier"), encoder.feature_dim(), classes, true)?;
    let params = ParamSet::collect(|v| {
        encoder.visit(v);
        head.visit(v);
    })?;
    let mut optimizer = Sgd::new(&params, o.momentum, true, o.weight_decay)?;
    let augment: Arc<dyn Augment> = Arc::new(CropFlip::new(setting.config.at_least("size", 8)?));
    let per_epoch = images.len().div_ceil(o.batch) as u64;
    let rate = Schedule::cosine(o.lr * o.batch as f64 / 256.0, 0.0, per_epoch * o.epochs as u64);
    let mut step = 0;
    for epoch in 0..o.epochs as u64 {
        let mut order = images.clone();
        Key::new(o.seed, Purpose::Shuffle).stream(epoch, 0, 4).shuffle(&mut order);
        let config = LoaderConfig {
            batch: o.batch,
            views: vec![Arc::clone(&augment)],
            seed: o.seed,
            epoch,
            workers: setting.workers,
            order: Some(order.into()),
            drop_last: false,
            ..LoaderConfig::default()
        };
        let (mut sum, mut seen) = (0.0, 0);
        for batch in Loader::new(Arc::clone(data), config)? {
            let batch = batch?;
            let x = Tensor::constant(to_array(&batch.views[0], device)?);
            let labels: Vec<i64> = batch.indices.iter().map(|image| i64::from(labels[*image])).collect();
            let targets = Array::from_slice(&labels, &[labels.len()], device)?;
            let cx = Ctx::train().step(o.seed, step);
            let loss = head.forward(&encoder.forward(&x, &cx)?, &cx)?.cross_entropy(&targets)?;
            sum += f64::from(loss.array().item::<f32>()?) * labels.len() as f64;
            seen += labels.len();
            optimizer.step(&params, &loss.backward()?, rate.at(step))?;
            cx.take_updates().commit()?;
            step += 1;
        }
        progress(epoch as usize + 1, sum / seen as f64);
    }
    let test = extract(encoder, &setting.labelled.test, &setting.feed()?, device)?;
    let logits = head.forward(&Tensor::constant(test.values.clone()), &Ctx::eval().no_grad())?;
    Classified::of(&ops::softmax(logits.array())?, test.labels()?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::session::Labelled;
    use crate::zoo::simclr;
    use crate::{parts, settings};
    use selfsame_engine::Device;

    fn tuned(labels: f64) -> (Classified, Vec<f64>, bool) {
        let mut config = settings::defaults(&simclr::SPEC).unwrap();
        for setting in ["backbone=resnet-small", "stem=small", "width=0.25", "size=16"] {
            config.apply_setting(setting).unwrap();
        }
        let device = Device::cpu_with(2).unwrap();
        let encoder = parts::backbone(&config, &Init::new(&device, 0)).unwrap();
        let labelled = Labelled::open("scenes:train=64,test=20").unwrap();
        let setting = Setting { labelled: &labelled, config: &config, device: &device, workers: 0 };
        let before: Vec<Vec<f32>> = params(&*encoder).iter().map(|p| p.array().to_vec().unwrap()).collect();
        let options = FineTune { labels, epochs: 12, batch: 32, lr: 0.4, ..FineTune::default() };
        let mut losses = Vec::new();
        let found = fine_tune(&*encoder, &setting, &options, &mut |_, loss| losses.push(loss)).unwrap();
        let moved =
            params(&*encoder).iter().zip(&before).all(|(p, before)| p.array().to_vec::<f32>().unwrap() != *before);
        (found, losses, moved)
    }

    #[test]
    fn training_lowers_the_loss_and_moves_every_parameter() {
        let (found, losses, moved) = tuned(1.0);
        assert!(moved && losses.len() == 12 && losses[11] < 0.9 * losses[0], "{losses:?}");
        assert!((0.0..=1.0).contains(&found.calibration_error));
        let (_, few, _) = tuned(0.25);
        assert_ne!(few, losses);
    }
}
