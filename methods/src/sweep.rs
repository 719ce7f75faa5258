//! [`Sweep`]: a look at the whole training set between epochs.

use std::sync::Arc;

use selfsame_autograd::Tensor;
use selfsame_data::{Augment, Dataset, LoaderConfig};
use selfsame_engine::{Array, Device, Error, ErrorKind, Result};
use selfsame_models::Ctx;

use crate::eval::features::collect;
use crate::session::EVAL_BATCH;

/// The training set as [`before_epoch`](crate::Method::before_epoch) sees it: features of every image, in the order of
/// the data set. Batches, workers and threads do not change a bit of them.
pub struct Sweep<'a> {
    /// The training images.
    pub dataset: &'a Arc<dyn Dataset>,
    /// The method's views.
    pub views: &'a [Arc<dyn Augment>],
    /// The transform of evaluation.
    pub eval_transform: &'a Arc<dyn Augment>,
    /// Background threads that prepare images.
    pub workers: usize,
    /// The device to compute on.
    pub device: &'a Device,
    /// The run's seed.
    pub seed: u64,
    /// The epoch that is about to begin.
    pub epoch: u64,
}

impl Sweep<'_> {
    /// What `forward` makes of every image under the transform of evaluation, `[images, …]`; its context is that of an
    /// evaluation without gradient.
    ///
    /// # Errors
    /// Those of the data set and of `forward`.
    pub fn features(&self, forward: impl Fn(&Tensor, &Ctx) -> Result<Tensor>) -> Result<Array> {
        self.each(self.eval_transform, forward)
    }

    /// What `forward` makes of every image under the augmentation of the method's view `view`, drawn for this epoch.
    ///
    /// # Errors
    /// As for [`Sweep::features`]; `Config` when there is no such view.
    pub fn view_features(&self, view: usize, forward: impl Fn(&Tensor, &Ctx) -> Result<Tensor>) -> Result<Array> {
        let augment = self.views.get(view).ok_or_else(|| {
            Error::new(ErrorKind::Config, "sweep", format!("view {view}"))
                .expected(format!("one of {}", self.views.len()))
        })?;
        self.each(augment, forward)
    }

    fn each(&self, transform: &Arc<dyn Augment>, forward: impl Fn(&Tensor, &Ctx) -> Result<Tensor>) -> Result<Array> {
        let cx = Ctx::eval().no_grad();
        let config = LoaderConfig {
            batch: EVAL_BATCH,
            views: vec![Arc::clone(transform)],
            workers: self.workers,
            seed: self.seed,
            epoch: self.epoch,
            ..LoaderConfig::default()
        };
        let forward = |view: &_| {
            let x = Tensor::constant(crate::eval::features::to_array(view, self.device)?);
            Ok(forward(&x, &cx)?.array().clone())
        };
        Ok(collect(self.dataset, config, usize::MAX, forward)?.values)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::zoo::simclr;
    use crate::{parts, settings};
    use selfsame_data::{Split, open};

    #[test]
    fn features_are_of_every_image_in_order_and_views_are_drawn_by_epoch() {
        let mut config = settings::defaults(&simclr::SPEC).unwrap();
        config.apply_setting("size=16").unwrap();
        let (views, eval_transform) = (parts::two_views(&config).unwrap(), parts::eval_transform(&config).unwrap());
        let dataset = open("scenes:train=19,test=10", Split::Train).unwrap();
        let device = Device::cpu_with(2).unwrap();
        let sweep = |epoch, workers| Sweep {
            dataset: &dataset,
            views: &views,
            eval_transform: &eval_transform,
            workers,
            device: &device,
            seed: 3,
            epoch,
        };
        let mean = |x: &Tensor, _: &Ctx| x.global_avg_pool();
        let all = sweep(0, 0).features(mean).unwrap();
        assert_eq!(all.shape(), [19, 3]);
        let mut image = dataset.get(7).unwrap().image.into_rgb().to_image();
        let mut stream =
            selfsame_kernels::philox::Key::new(0, selfsame_kernels::philox::Purpose::Check).stream(0, 0, 0);
        eval_transform.apply(&mut image, &mut stream).unwrap();
        let red = image.pixels.iter().step_by(3).sum::<f32>() / 256.0;
        assert!((all.to_vec::<f32>().unwrap()[7 * 3] - red).abs() < 1e-5);
        let drawn = |epoch, workers| sweep(epoch, workers).view_features(1, mean).unwrap().to_vec::<f32>().unwrap();
        assert_eq!(drawn(0, 0), drawn(0, 3));
        assert_ne!(drawn(0, 0), drawn(1, 0));
        assert!(sweep(0, 0).view_features(2, mean).is_err());
    }
}
