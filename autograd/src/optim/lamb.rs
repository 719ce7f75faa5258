//! LAMB (You et al. 2020) in the form of NVIDIA apex's `multi_tensor_lamb`, at a parameter's t-th update:
//! g' = g / max(1, ‖all g‖ / limit), plus λw with [`LambDecay::Gradient`];
//! m = b1·m + b3·g';  s = b2·s + (1 - b2)·g'²;  b3 = 1 - b1, or 1 without averaging;
//! u = m/(1 - b1ᵗ) / (√(s/(1 - b2ᵗ)) + eps), plus λw with [`LambDecay::Update`];
//! q = ‖w‖ / ‖u‖, or 1 where either is 0 or the parameter does not decay;  w = w - lr·q·u.

use super::slots::Slots;
use super::{Optimizer, StepStats, Updates, norm};
use crate::{Grads, ParamSet, ParamVisitor, Role};
use selfsame_engine::{Error, ErrorKind, Result, ops};
use selfsame_kernels::math::Real;
use selfsame_kernels::optim;

/// Where LAMB's weight decay enters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LambDecay {
    /// The gradient, before the moments (apex: mode 0).
    Gradient,
    /// The update, after them (apex: mode 1, its default).
    Update,
}

/// The numbers of a [`Lamb`]. The default is apex's.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LambOptions {
    /// Decay of the first and second moment.
    pub betas: (f64, f64),
    /// Added to the root of the second moment.
    pub eps: f64,
    /// λ.
    pub weight_decay: f64,
    /// Where it enters.
    pub decay: LambDecay,
    /// The largest norm of all gradients together; longer ones are shortened to it.
    pub max_grad_norm: Option<f64>,
    /// Whether the first moment takes 1 - b1 of the gradient rather than all of it.
    pub grad_averaging: bool,
    /// Whether the moments are corrected for their start at 0.
    pub bias_correction: bool,
    /// Whether parameters without weight decay have a trust ratio too (NVLAMB).
    pub always_adapt: bool,
    /// Whether the trust ratio is at most 1 (timm's `trust_clip`).
    pub trust_clip: bool,
}

impl Default for LambOptions {
    fn default() -> LambOptions {
        LambOptions {
            betas: (0.9, 0.999),
            eps: 1e-6,
            weight_decay: 0.01,
            decay: LambDecay::Update,
            max_grad_norm: Some(1.0),
            grad_averaging: true,
            bias_correction: true,
            always_adapt: false,
            trust_clip: false,
        }
    }
}

/// LAMB: Adam with a trust ratio per parameter.
pub struct Lamb {
    /// Which parameters decay; [`Role::decays`] unless set otherwise.
    pub decays: fn(Role) -> bool,
    options: LambOptions,
    first: Slots,
    second: Slots,
    count: Slots,
}

impl Lamb {
    /// An optimiser for `params` with zero moments.
    ///
    /// # Errors
    /// `Config` for a largest gradient norm that is not positive; `OutOfMemory`.
    pub fn new(params: &ParamSet, options: LambOptions) -> Result<Lamb> {
        if let Some(limit) = options.max_grad_norm.filter(|limit| limit.is_nan() || *limit <= 0.0) {
            return Err(Error::new(ErrorKind::Config, "lamb", format!("max_grad_norm {limit}"))
                .expected("a positive number, or none for no limit"));
        }
        Ok(Lamb {
            decays: Role::decays,
            options,
            first: Slots::like("first_moment", params)?,
            second: Slots::like("second_moment", params)?,
            count: Slots::counters("updates", params)?,
        })
    }

    /// The numbers of a parameter's t-th update.
    fn step_of(&self, role: Role, scale: f64, t: i64) -> optim::Lamb<f64> {
        let LambOptions { betas: (b1, b2), eps, weight_decay, .. } = self.options;
        let decay = if (self.decays)(role) { weight_decay } else { 0.0 };
        let (l2, decay) = match self.options.decay {
            LambDecay::Gradient => (decay, 0.0),
            LambDecay::Update => (0.0, decay),
        };
        let correction = |b| if self.options.bias_correction { 1.0 - Real::pow(b, t as f64) } else { 1.0 };
        let b3 = if self.options.grad_averaging { 1.0 - b1 } else { 1.0 };
        optim::Lamb { b1, b2, b3, scale, l2, decay, correction1: correction(b1), correction2: correction(b2), eps }
    }

    /// The trust ratio of norms of a parameter and of its update; `None` where it has none.
    fn ratio(&self, step: &optim::Lamb<f64>, [w, u]: [f64; 2]) -> Option<f64> {
        if !self.options.always_adapt && step.l2 == 0.0 && step.decay == 0.0 {
            return None;
        }
        let ratio = if w > 0.0 && u > 0.0 { w / u } else { 1.0 };
        Some(if self.options.trust_clip { ratio.min(1.0) } else { ratio })
    }
}

impl Optimizer for Lamb {
    fn step(&mut self, params: &ParamSet, grads: &Grads, lr: f64) -> Result<StepStats> {
        let updates = Updates::new(params, grads)?;
        let rows = updates.with_states([&self.first, &self.second])?;
        let grad_norm = updates.check()?;
        let scale = match self.options.max_grad_norm {
            Some(limit) if grad_norm > limit => limit / grad_norm,
            _ => 1.0,
        };
        let mut steps = Vec::with_capacity(rows.len());
        for (path, param) in updates.paths.iter().zip(&updates.params) {
            steps.push(self.step_of(param.role(), scale, self.count.count(path)?));
        }
        let mut trust_ratios = Vec::new();
        let squares = updates.write(&rows, |tensors| {
            let squares = ops::lamb_moments(tensors, &steps)?;
            let mut rates = Vec::with_capacity(steps.len());
            for ((path, step), squares) in updates.paths.iter().zip(&steps).zip(&squares) {
                let ratio = self.ratio(step, squares.map(f64::sqrt));
                trust_ratios.extend(ratio.map(|ratio| (path.to_string(), ratio)));
                rates.push(lr * ratio.unwrap_or(1.0));
            }
            ops::lamb_walk(tensors, &steps, &rates)?;
            Ok(squares)
        })?;
        let squares: Vec<f64> = squares.into_iter().map(|[w, _]| w).collect();
        Ok(StepStats { grad_norm, param_norm: norm(&squares), trust_ratios })
    }

    fn visit(&self, v: &mut dyn ParamVisitor) {
        [&self.first, &self.second, &self.count].into_iter().for_each(|slots| slots.visit(v));
    }

    fn set_weight_decay(&mut self, weight_decay: f64) {
        self.options.weight_decay = weight_decay;
    }

    fn reset(&mut self, path: &str) -> Result<()> {
        [&self.first, &self.second, &self.count].into_iter().try_for_each(|slots| slots.reset(path))
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{gradient, gradients, params, value};
    use super::*;

    /// No clipping, betas of 1/2 and 3/4, no epsilon.
    fn plain() -> LambOptions {
        LambOptions { betas: (0.5, 0.75), eps: 0.0, weight_decay: 0.5, max_grad_norm: None, ..LambOptions::default() }
    }

    #[test]
    fn the_first_step_of_both_kinds_of_decay() {
        // The corrected moments of the first step give the sign of the gradient: u = (1, -1) + λw = (2.5, 1), and
        // without the decay of the update that of g + λw = (4, -3) + (1.5, 2): (1, -1).
        for (decay, u) in [(LambDecay::Update, [2.5, 1.0]), (LambDecay::Gradient, [1.0, -1.0])] {
            let set = params(&[("w", Role::Weight, &[3.0, 4.0]), ("b", Role::Bias, &[2.0])]);
            let gradients = gradients(&set, &[("w", &[4.0, -3.0]), ("b", &[-3.0])]);
            let mut lamb = Lamb::new(&set, LambOptions { decay, ..plain() }).unwrap();
            let stats = lamb.step(&set, &gradients, 0.25).unwrap();
            let ratio = 5.0 / f64::hypot(u[0], u[1]);
            assert_eq!(stats.trust_ratios.len(), 1, "the bias does not decay, so it does not adapt");
            assert!((stats.trust_ratios[0].1 - ratio).abs() < 1e-12);
            for (got, (w, u)) in value(&set, "w").into_iter().zip([3.0, 4.0].into_iter().zip(u)) {
                assert!((got - (w - 0.25 * ratio * u)).abs() < 1e-12);
            }
            assert!((value(&set, "b")[0] - 2.25).abs() < 1e-12);
            assert_eq!(stats.param_norm, 29f64.sqrt());
        }
    }

    #[test]
    fn long_gradients_are_shortened_and_short_ones_are_not() {
        // One parameter of norm 5, the limit 2.5: half of the gradient enters the second moment, a quarter its square.
        for (limit, share) in [(Some(2.5), 0.5), (Some(6.0), 1.0), (None, 1.0)] {
            let set = params(&[("b", Role::Bias, &[0.0, 0.0])]);
            let mut lamb = Lamb::new(&set, LambOptions { max_grad_norm: limit, ..plain() }).unwrap();
            let stats = lamb.step(&set, &gradients(&set, &[("b", &[3.0, 4.0])]), 1.0).unwrap();
            assert_eq!(stats.grad_norm, 5.0);
            let mut moments = Vec::new();
            lamb.visit(&mut |path: &str, p: &crate::Param| {
                if path == "second_moment.b" {
                    moments = p.array().to_vec::<f64>().unwrap();
                }
            });
            assert_eq!(moments, [0.25 * 9.0 * share * share, 0.25 * 16.0 * share * share]);
        }
        let set = params(&[("b", Role::Bias, &[0.0])]);
        let refused = Lamb::new(&set, LambOptions { max_grad_norm: Some(0.0), ..plain() });
        assert_eq!(refused.err().map(|e| e.kind()), Some(ErrorKind::Config));
    }

    #[test]
    fn averaging_correction_adaptation_and_clipping_are_choices() {
        let step = |options: LambOptions| {
            let set = params(&[("b", Role::Bias, &[8.0])]);
            let mut lamb = Lamb::new(&set, LambOptions { weight_decay: 0.0, ..options }).unwrap();
            lamb.step(&set, &gradient(&set, 2.0), 1.0).unwrap();
            value(&set, "b")[0]
        };
        assert_eq!(step(plain()), 7.0);
        // m = 2 instead of 1 over 1/2: twice the update.
        assert_eq!(step(LambOptions { grad_averaging: false, ..plain() }), 6.0);
        // Uncorrected: 1 / √(4/4).
        assert_eq!(step(LambOptions { bias_correction: false, ..plain() }), 7.0);
        // Uncorrected without averaging: 2 / 1.
        assert_eq!(step(LambOptions { bias_correction: false, grad_averaging: false, ..plain() }), 6.0);
        // q = 8, which takes the parameter to 0; limited to 1 it does not.
        assert_eq!(step(LambOptions { always_adapt: true, ..plain() }), 0.0);
        assert_eq!(step(LambOptions { always_adapt: true, trust_clip: true, ..plain() }), 7.0);
    }

    #[test]
    fn a_zero_norm_means_ratio_one() {
        let set = params(&[("w", Role::Weight, &[0.0]), ("x", Role::Weight, &[2.0])]);
        let mut lamb = Lamb::new(&set, LambOptions { weight_decay: 0.5, eps: 1.0, ..plain() }).unwrap();
        let stats = lamb.step(&set, &gradients(&set, &[("w", &[1.0]), ("x", &[0.0])]), 1.0).unwrap();
        // u of w: 1 / (1 + 1); of x: λ·2 = 1, ratio 2 / 1.
        assert_eq!(stats.trust_ratios.iter().map(|(_, q)| *q).collect::<Vec<_>>(), [1.0, 2.0]);
        assert_eq!((value(&set, "w"), value(&set, "x")), (vec![-0.5], vec![0.0]));
    }
}
