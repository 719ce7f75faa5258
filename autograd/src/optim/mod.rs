//! Optimisers: [`Sgd`], [`Lars`], [`AdamW`], [`Lamb`]. Each names its update in full in its file.
//!
//! Groups go by [`Role`](crate::Role): which parameters decay, which get a trust ratio. State is keyed by parameter
//! path and visited like parameters, so a checkpoint stores it by the same means. The bits depend on values alone:
//! norms are in canonical order, and a step is one or two passes over all parameters at once, parallel over fixed chunks
//! (`engine::ops::optim`); on a GPU device it runs there.

mod adamw;
mod lamb;
mod lars;
mod sgd;
mod slots;
#[cfg(test)]
mod testing;

pub use adamw::AdamW;
pub use lamb::{Lamb, LambDecay, LambOptions};
pub use lars::{Clip, Denominator, Excluded, Lars, LarsOptions, LarsRule, LarsVariant, Scaling, ZeroNorm};
pub use sgd::Sgd;

use crate::{Grads, Param, ParamSet, ParamVisitor};
use selfsame_engine::ops::{self, Tensors};
use selfsame_engine::{Array, Error, ErrorKind, Result};
use slots::Slots;

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

    /// Sets the weight decay from the next step on: a schedule.
    fn set_weight_decay(&mut self, weight_decay: f64);

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
    /// LARS and LAMB: the trust ratio of each parameter that is scaled by one, in path order.
    pub trust_ratios: Vec<(String, f64)>,
}

/// The parameters that have a gradient, in path order.
struct Updates<'a> {
    paths: Vec<&'a str>,
    params: Vec<&'a Param>,
    gradients: Vec<Array>,
}

impl<'a> Updates<'a> {
    fn new(params: &'a ParamSet, grads: &Grads) -> Result<Updates<'a>> {
        let mut found = Updates { paths: Vec::new(), params: Vec::new(), gradients: Vec::new() };
        for (path, param) in params.trainable() {
            if let Some(gradient) = grads.param(param)? {
                found.paths.push(path);
                found.params.push(param);
                found.gradients.push(gradient);
            }
        }
        Ok(found)
    }

    /// Something per parameter.
    fn each<T>(&self, of: impl Fn(&'a Param) -> T) -> Vec<T> {
        self.params.iter().map(|param| of(param)).collect()
    }

    /// The norm of all gradients, from the squared norm of each.
    fn gradient_norm(&self, squares: &[f64]) -> Result<f64> {
        for (path, norm_sq) in self.paths.iter().zip(squares) {
            if !norm_sq.is_finite() {
                return Err(Error::new(ErrorKind::NonFinite, *path, format!("a gradient of squared norm {norm_sq}"))
                    .expected("finite gradients")
                    .hint("nothing was written; a lower learning rate or a longer warm-up may help"));
            }
        }
        Ok(norm(squares))
    }

    /// [`Updates::gradient_norm`], in a pass of its own.
    fn check(&self) -> Result<f64> {
        self.gradient_norm(&ops::norms_sq(&self.gradients.iter().collect::<Vec<_>>())?)
    }

    /// Runs `step` over the parameters, their state and their gradients. `rows` holds each parameter, then its state.
    fn write<const N: usize, T>(
        &self,
        rows: &[[&Param; N]],
        step: impl FnOnce(&mut [Tensors<'_, N, 1>]) -> Result<T>,
    ) -> Result<T> {
        Param::update_rows(rows, |rows| {
            let tensors = rows.into_iter().zip(&self.gradients).map(|(written, g)| Tensors { written, read: [g] });
            step(&mut tensors.collect::<Vec<_>>())
        })
    }

    /// Each parameter with its state in `slots`.
    fn with_state(&self, slots: &'a Slots) -> Result<Vec<[&'a Param; 2]>> {
        self.paths.iter().zip(&self.params).map(|(path, param)| Ok([*param, slots.get(path)?])).collect()
    }

    /// Each parameter with its state in two sets of slots.
    fn with_states(&self, [a, b]: [&'a Slots; 2]) -> Result<Vec<[&'a Param; 3]>> {
        self.paths.iter().zip(&self.params).map(|(path, param)| Ok([*param, a.get(path)?, b.get(path)?])).collect()
    }
}

/// The norm of all, from squared norms of the parts.
fn norm(squares: &[f64]) -> f64 {
    squares.iter().sum::<f64>().sqrt()
}
