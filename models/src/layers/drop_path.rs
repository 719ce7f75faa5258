//! Stochastic depth (Huang et al. 2016): a residual branch that is left out for some images.

use super::Dropout;
use crate::{Ctx, Init, Module};
use selfsame_autograd::{ParamVisitor, Tensor};
use selfsame_engine::{Array, Result, ops};

/// In training zeroes all of an image's `[images, …]` with probability `p` and divides the others by 1 - p. The draw is
/// keyed as in [`Dropout`].
pub struct DropPath {
    image: Dropout,
}

impl DropPath {
    /// A branch dropped with probability `p` in [0, 1).
    ///
    /// # Errors
    /// `Config` for another `p`.
    pub fn new(init: &Init, p: f64) -> Result<DropPath> {
        Ok(DropPath { image: Dropout::new(init, p)? })
    }
}

impl Module for DropPath {
    fn forward(&self, x: &Tensor, cx: &Ctx) -> Result<Tensor> {
        if !self.image.drops(cx) {
            return Ok(x.clone());
        }
        let mut shape = vec![1; x.rank()];
        shape.iter_mut().zip(x.shape()).take(1).for_each(|(ones, images)| *ones = *images);
        let ones = ops::cast(&Array::full(1f32, &shape, x.device())?, x.dtype())?;
        x.mul(&self.image.forward(&Tensor::constant(ones), cx)?)
    }

    fn visit(&self, _: &mut dyn ParamVisitor) {}
}

#[cfg(test)]
mod tests {
    use super::*;
    use selfsame_engine::Device;

    #[test]
    fn an_image_is_dropped_as_a_whole_and_wherever_the_batch_is_cut() {
        let device = Device::cpu_with(1).unwrap();
        let layer = DropPath::new(&Init::new(&device, 0).at("drop"), 0.5).unwrap();
        let ones = |n: usize| Tensor::constant(Array::full(1f32, &[n, 3, 2], &device).unwrap());
        let run = |x: &Tensor, cx: &Ctx| layer.forward(x, cx).unwrap().array().to_vec::<f32>().unwrap();
        let cx = Ctx::train().step(1, 2);
        let whole = run(&ones(64), &cx);
        let images: Vec<&[f32]> = whole.chunks(6).collect();
        assert!(images.iter().all(|image| image.iter().all(|v| *v == image[0]) && [0.0, 2.0].contains(&image[0])));
        // Five standard deviations of 64 fair draws are 20.
        let dropped = images.iter().filter(|image| image[0] == 0.0).count();
        assert!((12..=52).contains(&dropped), "{dropped}");
        assert_eq!(whole[48 * 6..], run(&ones(16), &cx.clone().first_image(48)));
        assert_ne!(whole, run(&ones(64), &cx.step(1, 3)));
        assert!(run(&ones(4), &Ctx::eval()).iter().all(|v| *v == 1.0));
    }
}
