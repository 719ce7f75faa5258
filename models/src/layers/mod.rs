//! Layers. Activations are channels last: `[images, …, channels]`.

mod activation;
mod add_bias;
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

use selfsame_autograd::OpSpec;

/// The differentiable operations that layers add to those of `selfsame-autograd`, for the gradient check.
pub const OPS: &[&OpSpec] = &[&add_bias::ADD_BIAS];

#[cfg(test)]
mod tests {
    use selfsame_autograd::gradcheck;

    #[test]
    fn operations_agree_with_differences() {
        for outcome in gradcheck::check(super::OPS, 24, 1).unwrap() {
            assert!(outcome.passed(), "{}", outcome.failure.unwrap());
        }
    }
}
