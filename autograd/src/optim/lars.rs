//! Layer-wise adaptive rate scaling (You, Gitman, Ginsburg 2017) in the form of SimCLR's published code:
//! g' = g + wd·w;  ratio = trust·‖w‖ / ‖g'‖, or 1 when either norm is 0;  v = momentum·v + lr·ratio·g';  w = w - v.
//! The buffer contains the learning rate. Parameters that do not adapt (biases, normalisation) get ratio 1 and
//! no decay.

use super::slots::Slots;
use super::{Optimizer, StepStats, updates};
use crate::update::{Float, change2, with_float};
use crate::{Grads, ParamSet, ParamVisitor, Role};
use selfsame_engine::{Result, ops};
use selfsame_kernels::math::Real;
use selfsame_kernels::stamp;

/// LARS with momentum.
pub struct Lars {
    /// Share of the buffer that survives a step: 0.9.
    pub momentum: f64,
    /// Added to the gradient, times the parameter, before the norms are taken: 1e-6.
    pub weight_decay: f64,
    /// The trust coefficient: 0.001.
    pub trust: f64,
    /// Which parameters adapt and decay; [`Role::decays`] unless set otherwise.
    pub adapts: fn(Role) -> bool,
    velocity: Slots,
}

impl Lars {
    /// An optimiser for `params` with zero buffers.
    ///
    /// # Errors
    /// `OutOfMemory`.
    pub fn new(params: &ParamSet, momentum: f64, weight_decay: f64, trust: f64) -> Result<Lars> {
        let velocity = Slots::like("momentum", params)?;
        Ok(Lars { momentum, weight_decay, trust, adapts: Role::decays, velocity })
    }
}

stamp! {
    fn lars<T: Float>(momentum: T, rate: T, w: &mut [T], v: &mut [T], g: &[T]) {
        for ((w, v), &g) in w.iter_mut().zip(v).zip(g) {
            *v = Real::mul_add(rate, g, momentum * *v);
            *w -= *v;
        }
    }
}

impl Optimizer for Lars {
    fn step(&mut self, params: &ParamSet, grads: &Grads, lr: f64) -> Result<StepStats> {
        let (updates, mut stats) = updates(params, grads)?;
        for u in updates {
            let velocity = self.velocity.get(u.path)?;
            let (mut gradient, mut ratio) = (u.gradient, 1.0);
            if (self.adapts)(u.param.role()) {
                let w = u.param.array();
                gradient = ops::add_scaled(gradient, self.weight_decay, &w)?;
                let (w_norm, g_norm) = (ops::norm_sq(&w)?.sqrt(), ops::norm_sq(&gradient)?.sqrt());
                if w_norm > 0.0 && g_norm > 0.0 {
                    ratio = self.trust * w_norm / g_norm;
                }
                stats.trust_ratios.push((u.path.to_string(), ratio));
            }
            with_float!(u.param, T, {
                let [momentum, rate] = [self.momentum, lr * ratio].map(<T as Real>::from_f64);
                change2::<T>(u.param, velocity, &gradient, |isa, w, v, g| lars(isa, momentum, rate, w, v, g))
            })?;
        }
        Ok(stats)
    }

    fn visit(&self, v: &mut dyn ParamVisitor) {
        self.velocity.visit(v);
    }

    fn reset(&mut self, path: &str) -> Result<()> {
        self.velocity.reset(path)
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{gradient, params, value};
    use super::*;

    #[test]
    fn the_buffer_contains_the_learning_rate() {
        // ‖w‖ = 5, ‖g'‖ = √2·1 with wd 0: ratio = 0.5·5/√2.
        let set = params(&[("w", Role::Weight, &[3.0, 4.0]), ("gamma", Role::NormScale, &[1.0])]);
        let mut lars = Lars::new(&set, 0.5, 0.0, 0.5).unwrap();
        let stats = lars.step(&set, &gradient(&set, 1.0), 0.25).unwrap();
        let ratio = 0.5 * 5.0 / 2f64.sqrt();
        assert_eq!(stats.trust_ratios, [("w".to_string(), ratio)]);
        assert_eq!(value(&set, "w"), [3.0 - 0.25 * ratio, 4.0 - 0.25 * ratio]);
        assert_eq!(value(&set, "gamma"), [0.75]);
        // A learning rate of 0 now still moves by half of the last step.
        lars.step(&set, &gradient(&set, 1.0), 0.0).unwrap();
        assert_eq!(value(&set, "gamma"), [0.75 - 0.125]);
    }

    #[test]
    fn decay_enters_the_norm_and_only_weights_decay() {
        let set = params(&[("w", Role::Weight, &[2.0]), ("b", Role::Bias, &[2.0])]);
        let mut lars = Lars::new(&set, 0.0, 0.5, 1.0).unwrap();
        let stats = lars.step(&set, &gradient(&set, 1.0), 1.0).unwrap();
        // g' = 1 + 0.5·2 = 2, ratio = 1·2/2 = 1.
        assert_eq!(stats.trust_ratios, [("w".to_string(), 1.0)]);
        assert_eq!(value(&set, "w"), [0.0]);
        assert_eq!(value(&set, "b"), [1.0]);
    }

    #[test]
    fn a_zero_norm_means_ratio_one() {
        let set = params(&[("w", Role::Weight, &[0.0, 0.0])]);
        let mut lars = Lars::new(&set, 0.9, 0.0, 0.001).unwrap();
        let stats = lars.step(&set, &gradient(&set, 1.0), 0.5).unwrap();
        assert_eq!(stats.trust_ratios[0].1, 1.0);
        assert_eq!(value(&set, "w"), [-0.5, -0.5]);
    }
}
