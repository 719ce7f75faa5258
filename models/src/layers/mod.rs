//! Layers. Activations are channels last: `[images, …, channels]`.

mod activation;
mod batch_norm;
mod conv;
mod drop_path;
mod dropout;
mod linear;
mod norm;
mod pool;
mod sequential;
mod sobel;
mod weight_norm;

pub use activation::{Gelu, Identity, Relu};
pub use batch_norm::{BatchNorm, BatchNormOpts};
pub use conv::{Conv2d, Conv2dOpts};
pub use drop_path::DropPath;
pub use dropout::Dropout;
pub use linear::Linear;
pub use norm::{GroupNorm, LayerNorm};
pub use pool::{AdaptiveAvgPool2d, GlobalAvgPool, MaxPool2d};
pub use sequential::Sequential;
pub use sobel::Sobel;
pub use weight_norm::{Gain, WeightNormLinear};
