//! selfsame: a tensor engine for self-supervised vision. One source, the same bits.
//!
//! The parts, from the ground up; each knows nothing of those after it:
//! - [`kernels`]: element functions with fixed bits, random numbers, instruction-set dispatch.
//! - [`engine`]: arrays, primitives, devices. No gradients.
//! - [`autograd`]: tensors with gradients, operations, gradient checks, optimisers.
//! - [`models`]: layers, backbones, heads, weights.
//! - [`losses`]: objectives as pure functions of tensors.
//! - [`data`]: data sets, augmentations, loaders.
//! - [`methods`]: published methods, the trainer, evaluation, run directories.
//! - [`cli`]: the command `selfsame`, open to your own methods, losses and operations.
//!
//! What most programs need is in [`prelude`].
//!
//! ```
//! use selfsame::prelude::*;
//! # fn main() -> Result<()> {
//! let device = Device::cpu()?;
//! let x = Tensor::leaf(Array::from_slice(&[1.0f32, 2.0, 3.0], &[3], &device)?);
//! let y = x.square()?.sum_all()?;
//! let grads = y.backward()?;
//! assert_eq!(grads.get(&x)?.unwrap().to_vec::<f32>()?, [2.0, 4.0, 6.0]);
//! # Ok(())
//! # }
//! ```

pub use selfsame_autograd as autograd;
pub use selfsame_data as data;
pub use selfsame_engine as engine;
pub use selfsame_kernels as kernels;
pub use selfsame_losses as losses;
pub use selfsame_methods as methods;
pub use selfsame_models as models;

pub mod cli;

/// The names that most programs need.
pub mod prelude {
    pub use selfsame_autograd::{Grads, Param, Tensor, apply, apply1};
    pub use selfsame_engine::{Array, DType, Device, Error, ErrorKind, Result, ops};
    pub use selfsame_models::{Ctx, Init, Module};
}
