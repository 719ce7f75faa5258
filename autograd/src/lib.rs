//! Tensors with gradients, differentiable operations, gradient checks and optimisers. Layers live elsewhere.
//!
//! - [`Tensor`]: an array plus its place in the graph; [`Tensor::backward`] gives [`Grads`]; [`GradSum`] those of a
//!   batch in parts.
//! - [`Op`] and [`apply`]: how an operation joins the graph; [`ops`]: the operations, one file each, listed in
//!   [`ops::OPS`].
//! - [`Param`], [`ParamSet`], [`ParamVisitor`]: what optimisers write and checkpoints store, by path.
//! - [`recompute`]: activation checkpointing; [`derive()`]: tensors computed from parameters alone.
//! - [`gradcheck`] and [`Gen`]: finite differences against every operation.
//! - [`optim`], [`schedule`], [`ema`]: how parameters change from step to step.
//!
//! ```
//! use selfsame_autograd::Tensor;
//! use selfsame_engine::{Array, Device};
//! # fn main() -> selfsame_engine::Result<()> {
//! let device = Device::cpu_with(1)?;
//! let x = Tensor::leaf(Array::from_slice(&[1.0f32, 2.0, 3.0], &[3], &device)?);
//! let loss = x.square()?.sum_all()?;
//! let grads = loss.backward()?;
//! assert_eq!(grads.get(&x)?.unwrap().to_vec::<f32>()?, [2.0, 4.0, 6.0]);
//! # Ok(())
//! # }
//! ```

mod apply;
mod backward;
mod cotangent;
mod derive;
pub mod ema;
mod generate;
mod grad_sum;
pub mod gradcheck;
mod grads;
mod graph;
mod op;
pub mod ops;
pub mod optim;
mod param;
mod param_set;
mod recompute;
pub mod schedule;
mod tensor;

pub use apply::{apply, apply1};
pub use cotangent::Cotangent;
pub use derive::{Derivation, derive};
pub use generate::{Case, Domain, Gen};
pub use grad_sum::GradSum;
pub use grads::Grads;
pub use op::{Gradient, Op, OpSpec, Saved};
pub use param::{Param, ParamVisitor, Role};
pub use param_set::ParamSet;
pub use recompute::recompute;
pub use tensor::Tensor;
