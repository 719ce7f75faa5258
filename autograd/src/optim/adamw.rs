//! AdamW (Loshchilov, Hutter 2019), at a parameter's t-th update:
//! m = b1·m + (1 - b1)·g;  v = b2·v + (1 - b2)·g²;
//! w = (1 - lr·wd)·w - lr/(1 - b1ᵗ)·m / (√(v/(1 - b2ᵗ)) + eps).

use super::slots::Slots;
use super::{Optimizer, StepStats, Updates, norm};
use crate::{Grads, ParamSet, ParamVisitor, Role};
use selfsame_engine::{Result, ops};
use selfsame_kernels::math::Real;
use selfsame_kernels::optim;

/// Adam with decoupled weight decay.
pub struct AdamW {
    /// Decay of the first and second moment: (0.9, 0.999).
    pub betas: (f64, f64),
    /// Added to the root of the second moment: 1e-8.
    pub eps: f64,
    /// Share of a parameter that a step of learning rate 1 removes.
    pub weight_decay: f64,
    /// Which parameters decay; [`Role::decays`] unless set otherwise.
    pub decays: fn(Role) -> bool,
    first: Slots,
    second: Slots,
    count: Slots,
}

impl AdamW {
    /// An optimiser for `params` with zero moments.
    ///
    /// # Errors
    /// `OutOfMemory`.
    pub fn new(params: &ParamSet, betas: (f64, f64), eps: f64, weight_decay: f64) -> Result<AdamW> {
        Ok(AdamW {
            betas,
            eps,
            weight_decay,
            decays: Role::decays,
            first: Slots::like("first_moment", params)?,
            second: Slots::like("second_moment", params)?,
            count: Slots::counters("updates", params)?,
        })
    }
}

impl Optimizer for AdamW {
    fn step(&mut self, params: &ParamSet, grads: &Grads, lr: f64) -> Result<StepStats> {
        let updates = Updates::new(params, grads)?;
        let rows = updates.with_states([&self.first, &self.second])?;
        let grad_norm = updates.check()?;
        let mut steps = Vec::with_capacity(rows.len());
        for (path, param) in updates.paths.iter().zip(&updates.params) {
            let t = self.count.count(path)? as f64;
            let decay = if (self.decays)(param.role()) { self.weight_decay } else { 0.0 };
            let (b1, b2) = self.betas;
            let (keep, rate) = (1.0 - lr * decay, lr / (1.0 - Real::pow(b1, t)));
            steps.push(optim::AdamW { b1, b2, keep, rate, correction: 1.0 - Real::pow(b2, t), eps: self.eps });
        }
        let squares = updates.write(&rows, |tensors| ops::adamw_step(tensors, &steps))?;
        Ok(StepStats { grad_norm, param_norm: norm(&squares), trust_ratios: Vec::new() })
    }

    fn visit(&self, v: &mut dyn ParamVisitor) {
        [&self.first, &self.second, &self.count].into_iter().for_each(|slots| slots.visit(v));
    }

    fn set_weight_decay(&mut self, weight_decay: f64) {
        self.weight_decay = weight_decay;
    }

    fn reset(&mut self, path: &str) -> Result<()> {
        [&self.first, &self.second, &self.count].into_iter().try_for_each(|slots| slots.reset(path))
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{gradient, params, value};
    use super::*;

    #[test]
    fn the_first_step_has_the_size_of_the_learning_rate() {
        // m/(1 - b1) = g and v/(1 - b2) = g², so the direction is g/|g|; the weight decays first by lr·wd.
        let set = params(&[("w", Role::Weight, &[2.0]), ("b", Role::Bias, &[2.0])]);
        let mut adamw = AdamW::new(&set, (0.5, 0.75), 0.0, 0.5).unwrap();
        adamw.step(&set, &gradient(&set, -4.0), 0.25).unwrap();
        assert_eq!(value(&set, "w"), [2.0 * 0.875 + 0.25]);
        assert_eq!(value(&set, "b"), [2.25]);
    }

    #[test]
    fn the_second_step_by_hand() {
        let set = params(&[("b", Role::Bias, &[0.0])]);
        let mut adamw = AdamW::new(&set, (0.5, 0.75), 0.5, 0.0).unwrap();
        adamw.step(&set, &gradient(&set, 2.0), 0.0).unwrap();
        adamw.step(&set, &gradient(&set, 4.0), 1.0).unwrap();
        // m = 0.5·1 + 0.5·4 = 2.5 over 1 - 0.25; v = 0.75·1 + 0.25·16 = 4.75 over 1 - 0.5625.
        let expected = -(2.5 / 0.75) / ((4.75f64 / 0.4375).sqrt() + 0.5);
        assert!((value(&set, "b")[0] - expected).abs() < 1e-14);
        let mut paths = Vec::new();
        adamw.visit(&mut |path: &str, _: &crate::Param| paths.push(path.to_string()));
        assert_eq!(paths, ["first_moment.b", "second_moment.b", "updates.b"]);
    }
}
