//! Optimisers: [`Sgd`], [`Lars`], [`AdamW`]. Each names its update in full in its file.
//!
//! Groups go by [`Role`](crate::Role): which parameters decay, which get a trust ratio. State is keyed by parameter
//! path and visited like parameters, so a checkpoint stores it by the same means. The bits depend on values alone:
//! norms are in canonical order, and element updates are parallel over fixed chunks.

mod adamw;
mod lars;
mod sgd;
mod slots;
#[cfg(test)]
mod testing;

pub use adamw::AdamW;
pub use lars::Lars;
pub use sgd::Sgd;

use crate::{Grads, Param, ParamSet, ParamVisitor};
use selfsame_engine::{Array, Error, ErrorKind, Result, ops};

/// Changes parameters from their gradients, once per step.
pub trait Optimizer: Send {
    /// Writes every trainable parameter of `params` that has a gradient; the others stay as they are, undecayed.
    ///
    /// # Errors
    /// `NonFinite`, before anything is written, when a gradient is not finite; `Numerics` when parts of the batch are
    /// missing; `Config` for a parameter that the optimiser was not made for.
    fn step(&mut self, params: &ParamSet, grads: &Grads, lr: f64) -> Result<StepStats>;

    /// Shows the state, keyed by parameter path: `momentum.<path>`.
    fn visit(&self, v: &mut dyn ParamVisitor);

    /// Forgets the state of the parameter at `path`: a head that was initialised again.
    ///
    /// # Errors
    /// `Config` when the optimiser was not made for it.
    fn reset(&mut self, path: &str) -> Result<()>;
}

/// What a step saw, for the log.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct StepStats {
    /// Euclidean norm of all gradients together.
    pub grad_norm: f64,
    /// Euclidean norm of all parameters that have a gradient, before the step.
    pub param_norm: f64,
    /// LARS: the trust ratio of each parameter that is scaled by one, in path order.
    pub trust_ratios: Vec<(String, f64)>,
}

/// A parameter with its gradient.
struct Update<'a> {
    path: &'a str,
    param: &'a Param,
    gradient: Array,
}

/// The parameters that have a gradient, in path order, and the norms of both sides.
fn updates<'a>(params: &'a ParamSet, grads: &Grads) -> Result<(Vec<Update<'a>>, StepStats)> {
    let (mut found, mut grad_sq, mut param_sq) = (Vec::new(), 0.0, 0.0);
    for (path, param) in params.trainable() {
        let Some(gradient) = grads.param(param)? else { continue };
        let norm_sq = ops::norm_sq(&gradient)?;
        if !norm_sq.is_finite() {
            return Err(Error::new(ErrorKind::NonFinite, path, format!("a gradient of squared norm {norm_sq}"))
                .expected("finite gradients")
                .hint("nothing was written; a lower learning rate or a longer warm-up may help"));
        }
        grad_sq += norm_sq;
        param_sq += ops::norm_sq(&param.array())?;
        found.push(Update { path, param, gradient });
    }
    let stats = StepStats { grad_norm: grad_sq.sqrt(), param_norm: param_sq.sqrt(), trust_ratios: Vec::new() };
    Ok((found, stats))
}
