//! Layers. Activations are channels last: `[images, …, channels]`.

mod activation;
mod batch_norm;
mod conv;
mod dropout;
mod linear;
mod norm;
mod pool;
mod sequential;

pub use activation::{Gelu, Identity, Relu};
pub use batch_norm::{BatchNorm, BatchNormOpts};
pub use conv::{Conv2d, Conv2dOpts};
pub use dropout::Dropout;
pub use linear::Linear;
pub use norm::{GroupNorm, LayerNorm};
pub use pool::{GlobalAvgPool, MaxPool2d};
pub use sequential::Sequential;
