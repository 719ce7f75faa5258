//! Dropout (Srivastava et al. 2014), with masks keyed by image.

use crate::{Ctx, Init, Module};
use selfsame_autograd::ops::DropoutKey;
use selfsame_autograd::{ParamVisitor, Tensor};
use selfsame_engine::{Error, ErrorKind, Result};
use selfsame_kernels::philox::{self, Key, Purpose};

/// In training sets each element to zero with probability `p` and divides the others by 1 - p.
///
/// The mask depends on seed, step, layer path, view, and the image's index in the global batch, so cutting the batch
/// or repeating a forward gives the same mask. A layer applied twice in one view drops the same elements.
pub struct Dropout {
    p: f64,
    path_key: u64,
}

impl Dropout {
    /// Dropout with probability `p` in [0, 1).
    ///
    /// # Errors
    /// `Config` for another `p`.
    pub fn new(init: &Init, p: f64) -> Result<Dropout> {
        if !(0.0..1.0).contains(&p) {
            return Err(Error::new(ErrorKind::Config, "dropout", p.to_string()).expected("a probability in [0, 1)"));
        }
        Ok(Dropout { p, path_key: philox::key_of_path(init.path()) })
    }

    /// Whether a forward changes anything.
    pub(super) fn drops(&self, cx: &Ctx) -> bool {
        cx.is_train() && self.p != 0.0
    }
}

impl Module for Dropout {
    fn forward(&self, x: &Tensor, cx: &Ctx) -> Result<Tensor> {
        if !self.drops(cx) {
            return Ok(x.clone());
        }
        let (seed, step, view) = cx.draw();
        let key = Key::new(seed ^ self.path_key, Purpose::Dropout);
        x.dropout(self.p, DropoutKey { key, step, view: view as u16, first_image: cx.first() })
    }
    fn visit(&self, _: &mut dyn ParamVisitor) {}
}

#[cfg(test)]
mod tests {
    use super::*;
    use selfsame_engine::{Array, Device};

    fn ones(images: usize) -> Tensor {
        let device = Device::cpu_with(1).unwrap();
        Tensor::constant(Array::full(1f32, &[images, 50], &device).unwrap())
    }

    fn dropout(p: f64) -> Dropout {
        Dropout::new(&Init::new(&Device::cpu_with(1).unwrap(), 0).at("drop"), p).unwrap()
    }

    fn values(layer: &Dropout, x: &Tensor, cx: &Ctx) -> Vec<f32> {
        layer.forward(x, cx).unwrap().array().to_vec().unwrap()
    }

    #[test]
    fn masks_belong_to_images_not_to_batches() {
        let layer = dropout(0.25);
        let whole = values(&layer, &ones(32), &Ctx::train().step(1, 2));
        let tail = values(&layer, &ones(16), &Ctx::train().step(1, 2).first_image(16));
        assert_eq!(whole[16 * 50..], tail);
        assert_ne!(whole, values(&layer, &ones(32), &Ctx::train().step(1, 3)));
        assert_ne!(whole, values(&layer, &ones(32), &Ctx::train().step(1, 2).view(1)));
    }

    #[test]
    fn dropped_share_is_p_and_survivors_are_scaled() {
        let all = values(&dropout(0.25), &ones(200), &Ctx::train());
        let dropped = all.iter().filter(|v| **v == 0.0).count() as f64 / all.len() as f64;
        // Five standard errors of 10,000 draws.
        assert!((dropped - 0.25).abs() < 5.0 * (0.25 * 0.75 / 10_000.0f64).sqrt());
        assert!(all.iter().all(|v| *v == 0.0 || *v == (1.0 / 0.75f64) as f32));
        assert!(values(&dropout(0.25), &ones(2), &Ctx::eval()).iter().all(|v| *v == 1.0));
        assert!(Dropout::new(&Init::new(&Device::cpu_with(1).unwrap(), 0), 1.0).is_err());
    }
}
