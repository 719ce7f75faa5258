//! Backbones: images in, features out. [`BACKBONES`] lists them.

mod options;
mod resnet;

pub use options::{BackboneOpts, KEYS as BACKBONE_KEYS};
pub use resnet::{Block, ResNet, ResNetConfig, Stem};

use crate::{Ctx, Init, Module};
use selfsame_autograd::Tensor;
use selfsame_engine::{Error, ErrorKind, Result, nearest};

/// A module from images `[n, h, w, c]` to one feature vector each, `[n, feature_dim]`.
pub trait Backbone: Module {
    /// Length of the feature vector.
    fn feature_dim(&self) -> usize;

    /// The last feature map `[n, h', w', feature_dim]`, before pooling: for dense methods and detection.
    ///
    /// # Errors
    /// When the shape does not fit.
    fn feature_map(&self, x: &Tensor, cx: &Ctx) -> Result<Tensor>;
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
pub const BACKBONES: &[&BackboneSpec] =
    &[&resnet::RESNET_SMALL, &resnet::RESNET18, &resnet::RESNET34, &resnet::RESNET50];

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
