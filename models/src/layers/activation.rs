//! Activations as modules, for [`Sequential`](crate::layers::Sequential).

use crate::{Ctx, Module};
use selfsame_autograd::{ParamVisitor, Tensor};
use selfsame_engine::Result;

/// max(x, 0).
pub struct Relu;

impl Module for Relu {
    fn forward(&self, x: &Tensor, _: &Ctx) -> Result<Tensor> {
        x.relu()
    }
    fn visit(&self, _: &mut dyn ParamVisitor) {}
}

/// x Φ(x), with the error function (not the tanh form).
pub struct Gelu;

impl Module for Gelu {
    fn forward(&self, x: &Tensor, _: &Ctx) -> Result<Tensor> {
        x.gelu()
    }
    fn visit(&self, _: &mut dyn ParamVisitor) {}
}

/// x.
pub struct Identity;

impl Module for Identity {
    fn forward(&self, x: &Tensor, _: &Ctx) -> Result<Tensor> {
        Ok(x.clone())
    }
    fn visit(&self, _: &mut dyn ParamVisitor) {}
}
