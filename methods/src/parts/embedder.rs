//! An encoder and the projector behind it.

use selfsame_autograd::{ParamVisitor, Tensor};
use selfsame_engine::Result;
use selfsame_models::backbones::Backbone;
use selfsame_models::{Ctx, Init, Module};

use super::backbone;
use crate::config::Config;

/// z = g(f(x)): an encoder, at the path `encoder`, and a projector on its pooled features, at the path `projector`.
pub struct Embedder {
    /// f, which downstream tasks use.
    pub encoder: Box<dyn Backbone>,
    /// g.
    pub projector: Box<dyn Module>,
}

impl Embedder {
    /// The configured encoder, and the projector that `projector(init, features)` makes for features of that length.
    ///
    /// # Errors
    /// Those of [`backbone`] and of `projector`.
    pub fn new<P: Module + 'static>(
        config: &Config,
        init: &Init,
        projector: impl FnOnce(&Init, usize) -> Result<P>,
    ) -> Result<Embedder> {
        let encoder = backbone(config, &init.at("encoder"))?;
        let projector = Box::new(projector(&init.at("projector"), encoder.feature_dim())?);
        Ok(Embedder { encoder, projector })
    }
}

impl Module for Embedder {
    fn forward(&self, x: &Tensor, cx: &Ctx) -> Result<Tensor> {
        self.projector.forward(&self.encoder.forward(x, cx)?, cx)
    }

    fn visit(&self, visitor: &mut dyn ParamVisitor) {
        self.encoder.visit(visitor);
        self.projector.visit(visitor);
    }
}
