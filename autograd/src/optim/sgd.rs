//! Stochastic gradient descent with momentum:
//! g' = g + wd·w;  v = momentum·v + g';  w = w - lr·v, or with Nesterov's form w = w - lr·(g' + momentum·v).
//! The learning rate stays outside the buffer; dampening is not offered.

use super::slots::Slots;
use super::{Optimizer, StepStats, Updates, norm};
use crate::{Grads, ParamSet, ParamVisitor, Role};
use selfsame_engine::{Result, ops};
use selfsame_kernels::optim;

/// SGD with momentum, optional Nesterov form, and weight decay added to the gradient.
pub struct Sgd {
    /// Share of the buffer that survives a step; 0 for plain SGD.
    pub momentum: f64,
    /// Whether a step looks ahead along the buffer.
    pub nesterov: bool,
    /// Added to the gradient, times the parameter.
    pub weight_decay: f64,
    /// Which parameters decay; [`Role::decays`] unless set otherwise.
    pub decays: fn(Role) -> bool,
    velocity: Slots,
}

impl Sgd {
    /// An optimiser for `params` with zero buffers.
    ///
    /// # Errors
    /// `OutOfMemory`.
    pub fn new(params: &ParamSet, momentum: f64, nesterov: bool, weight_decay: f64) -> Result<Sgd> {
        Ok(Sgd { momentum, nesterov, weight_decay, decays: Role::decays, velocity: Slots::like("momentum", params)? })
    }
}

impl Optimizer for Sgd {
    fn step(&mut self, params: &ParamSet, grads: &Grads, lr: f64) -> Result<StepStats> {
        let updates = Updates::new(params, grads)?;
        let rows = updates.with_state(&self.velocity)?;
        let grad_norm = updates.check()?;
        let steps = updates.each(|param| optim::Sgd {
            decay: if (self.decays)(param.role()) { self.weight_decay } else { 0.0 },
            momentum: self.momentum,
            ahead: if self.nesterov { self.momentum } else { 0.0 },
            lr,
        });
        let squares = updates.write(&rows, |tensors| ops::sgd_step(tensors, &steps))?;
        Ok(StepStats { grad_norm, param_norm: norm(&squares), trust_ratios: Vec::new() })
    }

    fn visit(&self, v: &mut dyn ParamVisitor) {
        self.velocity.visit(v);
    }

    fn set_weight_decay(&mut self, weight_decay: f64) {
        self.weight_decay = weight_decay;
    }

    fn reset(&mut self, path: &str) -> Result<()> {
        self.velocity.reset(path)
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{gradient, params, value};
    use super::*;
    use selfsame_engine::ErrorKind;

    #[test]
    fn two_steps_with_momentum_and_decay_by_hand() {
        let set = params(&[("w", Role::Weight, &[2.0, -1.0]), ("b", Role::Bias, &[1.0])]);
        let mut sgd = Sgd::new(&set, 0.5, false, 0.25).unwrap();
        let stats = sgd.step(&set, &gradient(&set, 1.0), 0.125).unwrap();
        // g' of w: [1 + 0.25·2, 1 - 0.25] = [1.5, 0.75]; of b: 1, as a bias does not decay.
        assert_eq!(value(&set, "w"), [2.0 - 0.125 * 1.5, -1.0 - 0.125 * 0.75]);
        assert_eq!(value(&set, "b"), [0.875]);
        assert_eq!((stats.grad_norm, stats.param_norm), (3f64.sqrt(), 6f64.sqrt()));
        sgd.step(&set, &gradient(&set, 1.0), 0.125).unwrap();
        // v of b: 0.5·1 + 1 = 1.5.
        assert_eq!(value(&set, "b"), [0.875 - 0.125 * 1.5]);
    }

    #[test]
    fn nesterov_looks_ahead() {
        let set = params(&[("b", Role::Bias, &[0.0])]);
        let mut sgd = Sgd::new(&set, 0.5, true, 0.0).unwrap();
        sgd.step(&set, &gradient(&set, 1.0), 1.0).unwrap();
        // v = 1, step = 1 + 0.5·1; then v = 0.5 + 1 = 1.5, step = 1 + 0.5·1.5.
        assert_eq!(value(&set, "b"), [-1.5]);
        sgd.step(&set, &gradient(&set, 1.0), 1.0).unwrap();
        assert_eq!(value(&set, "b"), [-1.5 - 1.75]);
    }

    #[test]
    fn a_reset_forgets_the_buffer_and_state_is_visited_by_path() {
        let set = params(&[("head.b", Role::Bias, &[0.0])]);
        let mut sgd = Sgd::new(&set, 0.5, false, 0.0).unwrap();
        sgd.step(&set, &gradient(&set, 1.0), 1.0).unwrap();
        let mut seen = Vec::new();
        sgd.visit(&mut |path: &str, p: &crate::Param| {
            seen.push((path.to_string(), p.array().to_vec::<f64>().unwrap()))
        });
        assert_eq!(seen, [("momentum.head.b".to_string(), vec![1.0])]);
        sgd.reset("head.b").unwrap();
        sgd.step(&set, &gradient(&set, 1.0), 1.0).unwrap();
        assert_eq!(value(&set, "head.b"), [-2.0]);
        assert_eq!(sgd.reset("head.c").unwrap_err().kind(), ErrorKind::Config);
    }

    #[test]
    fn a_gradient_that_is_not_finite_writes_nothing() {
        let set = params(&[("a", Role::Weight, &[1.0]), ("b", Role::Weight, &[1.0])]);
        let mut sgd = Sgd::new(&set, 0.9, false, 0.0).unwrap();
        let error = sgd.step(&set, &gradient(&set, f64::NAN), 1.0).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NonFinite);
        assert_eq!(value(&set, "a"), [1.0]);
    }
}
