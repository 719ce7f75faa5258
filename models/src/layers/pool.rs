//! Pooling over NHWC images.

use crate::{Ctx, Module};
use selfsame_autograd::{ParamVisitor, Tensor};
use selfsame_engine::{Result, ops};

/// The largest value of each window, per channel.
pub struct MaxPool2d(pub ops::Pool2d);

impl Module for MaxPool2d {
    fn forward(&self, x: &Tensor, _: &Ctx) -> Result<Tensor> {
        x.max_pool2d(self.0)
    }
    fn visit(&self, _: &mut dyn ParamVisitor) {}
}

/// The mean over all pixels: `[n, h, w, c]` to `[n, c]`.
pub struct GlobalAvgPool;

impl Module for GlobalAvgPool {
    fn forward(&self, x: &Tensor, _: &Ctx) -> Result<Tensor> {
        x.global_avg_pool()
    }
    fn visit(&self, _: &mut dyn ParamVisitor) {}
}
