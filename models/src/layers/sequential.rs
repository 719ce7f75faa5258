//! Modules one after the other.

use crate::{Ctx, Module};
use selfsame_autograd::{ParamVisitor, Tensor};
use selfsame_engine::Result;

/// Applies its modules in order. They carry their own paths; by the custom of torchvision these end in `0`, `1`, ….
#[derive(Default)]
pub struct Sequential(pub Vec<Box<dyn Module>>);

impl Sequential {
    /// Adds a module at the end.
    #[must_use]
    pub fn then(mut self, module: impl Module + 'static) -> Sequential {
        self.0.push(Box::new(module));
        self
    }
}

impl Module for Sequential {
    fn forward(&self, x: &Tensor, cx: &Ctx) -> Result<Tensor> {
        self.0.iter().try_fold(x.clone(), |x, module| module.forward(&x, cx))
    }

    fn visit(&self, v: &mut dyn ParamVisitor) {
        self.0.iter().for_each(|module| module.visit(v));
    }
}
