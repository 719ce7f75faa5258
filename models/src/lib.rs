//! Layers, backbones and heads, and their weights in and out of files. Nothing here knows an objective.
//!
//! - [`Module`], [`Ctx`] and [`Updates`]: what a layer is, how a forward is run, which buffer values it returns.
//! - [`Init`] and [`Fill`]: parameters, filled from their path and the seed alone.
//! - [`layers`]: linear, convolution, norms, pooling, activations, dropout.
//! - [`backbones`]: ResNets, vision transformers, AlexNet and VGG, and the list [`backbones::BACKBONES`].
//! - [`heads`]: projectors and predictors.
//! - [`weights`]: a module's parameters and buffers in files, by path name; [`import`]: PyTorch's checkpoints.

pub mod backbones;
mod ctx;
pub mod heads;
pub mod import;
mod init;
pub mod layers;
mod module;
mod updates;
pub mod weights;

pub use ctx::{BatchNormMode, Ctx, Mode};
pub use init::{Fan, Fill, Init};
pub use module::{Module, copy_values, param_count, params};
pub use updates::Updates;
