//! Backbones: images in, features out. [`BACKBONES`] lists them.

mod alexnet;
mod options;
mod plain;
mod resnet;
mod vgg;
mod vit;

pub use alexnet::alexnet;
pub use options::{BackboneOpts, KEYS as BACKBONE_KEYS};
pub use plain::{PlainConfig, PlainNet, Step};
pub use resnet::{Block, ResNet, ResNetConfig, Stem};
pub use vgg::vgg16;
pub use vit::{TokenPool, Vit, VitConfig};

use crate::{Ctx, Init, Module};
use selfsame_autograd::{Tensor, recompute};
use selfsame_engine::{Error, ErrorKind, Result, nearest};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// A module from images `[n, h, w, c]` to one feature vector each, `[n, feature_dim]`.
pub trait Backbone: Module {
    /// Length of the feature vector.
    fn feature_dim(&self) -> usize;

    /// The last feature map `[n, h', w', channels]`, before pooling: for dense methods and detection. Its channels are
    /// the features, except in networks whose features are hidden layers behind the map.
    ///
    /// # Errors
    /// When the shape does not fit.
    fn feature_map(&self, x: &Tensor, cx: &Ctx) -> Result<Tensor>;

    /// The features `[n, feature_dim]` before a ReLU that they end with, which DeepCluster clusters; those of
    /// [`Module::forward`] where they end with none.
    ///
    /// # Errors
    /// When the shape does not fit.
    fn before_relu(&self, x: &Tensor, cx: &Ctx) -> Result<Tensor> {
        self.forward(x, cx)
    }
}

/// What the registry knows of a backbone.
pub struct BackboneSpec {
    /// Name in configurations.
    pub name: &'static str,
    /// One line for lists.
    pub doc: &'static str,
    /// Builds it under the path of `Init`.
    pub build: fn(&Init, &BackboneOpts) -> Result<Box<dyn Backbone>>,
}

/// All backbones.
pub const BACKBONES: &[&BackboneSpec] = &[
    &resnet::RESNET_SMALL,
    &resnet::RESNET18,
    &resnet::RESNET34,
    &resnet::RESNET50,
    &vit::VIT_TINY,
    &vit::VIT_SMALL,
    &vit::VIT_BASE,
    &alexnet::ALEXNET,
    &vgg::VGG16,
];

/// The backbone called `name`.
///
/// # Errors
/// `Config` with the nearest name.
pub fn backbone(name: &str) -> Result<&'static BackboneSpec> {
    BACKBONES.iter().copied().find(|spec| spec.name == name).ok_or_else(|| {
        let names: Vec<&str> = BACKBONES.iter().map(|spec| spec.name).collect();
        let error = Error::new(ErrorKind::Config, "backbone", format!("'{name}'")).expected(names.join(", "));
        match nearest(name, names) {
            Some(known) => error.hint(format!("is '{known}' meant?")),
            None => error,
        }
    })
}

/// `block` on `x`, under recomputation where the context asks for it.
fn run_block(block: &Arc<impl Module + 'static>, x: &Tensor, cx: &Ctx) -> Result<Tensor> {
    if !cx.recomputes() {
        return block.forward(x, cx);
    }
    let (block, cx, is_first) = (Arc::clone(block), cx.clone(), AtomicBool::new(true));
    let forward = move |inputs: &[Tensor]| {
        // Running statistics are collected from the first forward alone.
        let y = if is_first.swap(false, Ordering::Relaxed) {
            block.forward(&inputs[0], &cx)?
        } else {
            block.forward(&inputs[0], &cx.repeated())?
        };
        Ok(vec![y])
    };
    let mut outputs = recompute(forward, &[x])?;
    Ok(outputs.pop().expect("the closure returns one tensor"))
}
