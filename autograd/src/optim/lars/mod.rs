//! Layer-wise adaptive rate scaling (You, Gitman, Ginsburg 2017) in every form that published code uses.
//!
//! Of a parameter w with gradient g, weight decay λ, learning rate γ, momentum μ, trust coefficient η:
//! d = g + λw;  q = η‖w‖ / (a norm of the gradient);  v = μv + d, times q, or γq, before it enters v or after. Which norm,
//! where q and γ stand, who is excluded and what a zero norm means differ from code to code: a [`LarsRule`] is such a
//! choice, a [`LarsVariant`] the name of a published one, `docs/lars.md` the comparison. The step is written once.

mod variant;

pub use variant::{Clip, Denominator, Excluded, LarsRule, LarsVariant, Scaling, ZeroNorm};

use super::slots::Slots;
use super::{Optimizer, StepStats, Updates, norm};
use crate::{Grads, ParamSet, ParamVisitor};
use selfsame_engine::ops::{self, Tensors};
use selfsame_engine::{Error, ErrorKind, Result};
use selfsame_kernels::optim;

/// The numbers of a [`Lars`].
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LarsOptions {
    /// Which form.
    pub rule: LarsRule,
    /// Share of the buffer that survives a step.
    pub momentum: f64,
    /// Whether a step looks ahead along the buffer; not every form offers it.
    pub nesterov: bool,
    /// Added to the gradient, times the parameter.
    pub weight_decay: f64,
    /// The trust coefficient.
    pub trust: f64,
    /// Learning rate of excluded parameters as a factor on that of the others: Barlow Twins gives biases and
    /// normalisation layers 0.0048 where weights have 0.2.
    pub excluded_lr: f64,
}

impl LarsOptions {
    /// A published form with momentum 0.9, weight decay 1e-6 and its own trust coefficient.
    pub fn of(variant: LarsVariant) -> LarsOptions {
        let rule = variant.rule();
        LarsOptions { rule, momentum: 0.9, nesterov: false, weight_decay: 1e-6, trust: rule.trust, excluded_lr: 1.0 }
    }
}

/// LARS with momentum.
pub struct Lars {
    options: LarsOptions,
    velocity: Slots,
}

/// A parameter's part in a step.
struct Group {
    adapts: bool,
    decay: f64,
    lr: f64,
}

impl Lars {
    /// An optimiser for `params` with zero buffers.
    ///
    /// # Errors
    /// `Config` for Nesterov's form where the rule has none; `OutOfMemory`.
    pub fn new(params: &ParamSet, options: LarsOptions) -> Result<Lars> {
        if options.nesterov && !options.rule.nesterov {
            return Err(Error::new(ErrorKind::Config, "lars", "nesterov = true")
                .expected("a variant that offers Nesterov's form")
                .hint("docs/lars.md lists them"));
        }
        Ok(Lars { options, velocity: Slots::like("momentum", params)? })
    }

    /// The numbers of a step whose trust ratio is `ratio`.
    fn step_of(&self, group: &Group, ratio: f64) -> optim::Lars<f64> {
        let momentum = self.options.momentum;
        let (before, after) = match self.options.rule.scaling {
            Scaling::BothBefore => (group.lr * ratio, 1.0),
            Scaling::RatioBefore => (ratio, group.lr),
            Scaling::BothAfter => (1.0, group.lr * ratio),
        };
        let ahead = if self.options.nesterov { momentum } else { 0.0 };
        optim::Lars { decay: group.decay, momentum, ahead, before, after }
    }
}

impl Optimizer for Lars {
    fn step(&mut self, params: &ParamSet, grads: &Grads, lr: f64) -> Result<StepStats> {
        let LarsOptions { rule, trust, weight_decay, excluded_lr, .. } = self.options;
        let updates = Updates::new(params, grads)?;
        let rows = updates.with_state(&self.velocity)?;
        let mut groups = updates.each(|param| {
            let (adapts, decay) = rule.group(param, weight_decay);
            Group { adapts, decay, lr: if adapts { lr } else { lr * excluded_lr } }
        });

        let squares = {
            let values = updates.each(|param| param.array());
            let pairs = values.iter().zip(&updates.gradients).map(|(w, g)| Tensors { written: [], read: [w, g] });
            let decays: Vec<f64> = groups.iter().map(|group| group.decay).collect();
            ops::decayed_squares(&pairs.collect::<Vec<_>>(), &decays)?
        };
        let column = |k: usize| squares.iter().map(|squares| squares[k]).collect::<Vec<f64>>();
        let grad_norm = updates.gradient_norm(&column(1))?;

        if rule.zero_norm == ZeroNorm::OneWithoutDecay {
            for (group, [w, g, _]) in groups.iter_mut().zip(&squares) {
                if rule.is_zero(*w, *g, group.decay) {
                    group.decay = 0.0;
                }
            }
        }
        let mut trust_ratios = Vec::new();
        let mut step_with = |denominators: &[f64]| -> Vec<optim::Lars<f64>> {
            let norms = squares.iter().zip(denominators).map(|([w, ..], g)| (w.sqrt(), g.sqrt()));
            let steps = groups.iter().zip(norms).zip(&updates.paths).map(|((group, norms), path)| {
                let mut ratio = 1.0;
                if group.adapts {
                    ratio = rule.ratio(norms, group.decay, trust, lr);
                    trust_ratios.push((path.to_string(), ratio));
                }
                self.step_of(group, ratio)
            });
            steps.collect()
        };
        match rule.denominator {
            Denominator::SumOfNorms => {
                let steps = step_with(&column(1));
                updates.write(&rows, |tensors| ops::lars_step(tensors, &steps))
            }
            Denominator::Decayed => {
                let steps = step_with(&column(2));
                updates.write(&rows, |tensors| ops::lars_step(tensors, &steps))
            }
            Denominator::Update => updates.write(&rows, |tensors| {
                let momentum: Vec<_> = groups.iter().map(|group| self.step_of(group, 1.0)).collect();
                let directions = ops::lars_velocity(tensors, &momentum)?;
                ops::lars_walk(tensors, &step_with(&directions))
            }),
        }?;
        Ok(StepStats { grad_norm, param_norm: norm(&column(0)), trust_ratios })
    }

    fn visit(&self, v: &mut dyn ParamVisitor) {
        self.velocity.visit(v);
    }

    fn set_weight_decay(&mut self, weight_decay: f64) {
        self.options.weight_decay = weight_decay;
    }

    fn reset(&mut self, path: &str) -> Result<()> {
        self.velocity.reset(path)
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{gradient, gradients, params, value};
    use super::*;
    use crate::Role;

    fn lars(set: &ParamSet, variant: LarsVariant, momentum: f64, weight_decay: f64, trust: f64) -> Lars {
        Lars::new(set, LarsOptions { momentum, weight_decay, trust, ..LarsOptions::of(variant) }).unwrap()
    }

    #[test]
    fn the_buffer_of_the_classic_form_contains_the_learning_rate() {
        // ‖w‖ = 5, ‖g'‖ = √2·1 with wd 0: ratio = 0.5·5/√2.
        let set = params(&[("w", Role::Weight, &[3.0, 4.0]), ("gamma", Role::NormScale, &[1.0])]);
        let mut lars = lars(&set, LarsVariant::SimclrClassic, 0.5, 0.0, 0.5);
        let stats = lars.step(&set, &gradient(&set, 1.0), 0.25).unwrap();
        let ratio = 0.5 * 5.0 / 2f64.sqrt();
        assert_eq!(stats.trust_ratios, [("w".to_string(), ratio)]);
        assert_eq!((stats.grad_norm, stats.param_norm), (3f64.sqrt(), 26f64.sqrt()));
        assert_eq!(value(&set, "w"), [3.0 - 0.25 * ratio, 4.0 - 0.25 * ratio]);
        assert_eq!(value(&set, "gamma"), [0.75]);
        // A learning rate of 0 now still moves by half of the last step.
        lars.step(&set, &gradient(&set, 1.0), 0.0).unwrap();
        assert_eq!(value(&set, "gamma"), [0.75 - 0.125]);
    }

    #[test]
    fn decay_enters_the_norm_and_only_weights_decay() {
        let set = params(&[("w", Role::Weight, &[2.0]), ("b", Role::Bias, &[2.0])]);
        let mut lars = lars(&set, LarsVariant::SimclrClassic, 0.0, 0.5, 1.0);
        let stats = lars.step(&set, &gradient(&set, 1.0), 1.0).unwrap();
        // g' = 1 + 0.5·2 = 2, ratio = 1·2/2 = 1.
        assert_eq!(stats.trust_ratios, [("w".to_string(), 1.0)]);
        assert_eq!(value(&set, "w"), [0.0]);
        assert_eq!(value(&set, "b"), [1.0]);
    }

    #[test]
    fn a_zero_norm_means_ratio_one() {
        let set = params(&[("w", Role::Weight, &[0.0, 0.0])]);
        let mut lars = lars(&set, LarsVariant::SimclrClassic, 0.9, 0.0, 0.001);
        let stats = lars.step(&set, &gradient(&set, 1.0), 0.5).unwrap();
        assert_eq!(stats.trust_ratios[0].1, 1.0);
        assert_eq!(value(&set, "w"), [-0.5, -0.5]);
    }

    /// w = (3, 4), g = (4, -3), λ = 3/4: ‖w‖ = ‖g‖ = 5, ‖g‖ + λ‖w‖ = 35/4, d = (25/4, 0), ‖d‖ = 25/4. With η = 1/2 the
    /// first ratio is 2/7, or 2/5 of ‖d‖, and γ = 1 moves w by (25/14, 0) or (5/2, 0). A weight that is 0 moves by its
    /// gradient 2, one without gradient that is 2 decays, a bias shows who is excluded.
    #[test]
    fn the_first_step_of_each_variant_by_hand() {
        use LarsVariant::*;
        let (sum, norm) = (3.0 - 25.0 / 14.0, 0.5);
        // 2 without gradient: d = 3/2 and q = (1/2)·2 / (0 + 3/2) = 2/3, of which 1 is moved; or q = 1; or nothing.
        let (formula, decays, stays) = (1.0, 0.5, 2.0);
        // The bias 4 of gradient 1 has d = 1 + 3, along which a ratio moves it by ηw = 2; excluded it moves by 1, and by 4
        // where it decays all the same.
        let (adapts, excluded, with_decay) = (2.0, 3.0, 0.0);
        for (variant, w, idle, bias, zero) in [
            (Paper, sum, formula, adapts, 0.0),
            (ApexLarc, sum, stays, adapts, -2.0),
            (ApexLarcClip, sum, stays, adapts, -2.0),
            (Torchlars, sum, decays, adapts, -2.0),
            (Timm, sum, decays, excluded, -2.0),
            (TimmClip, sum, decays, excluded, -2.0),
            (Lightly, sum, stays, excluded, -2.0),
            (SoloLearn, sum, stays, adapts, -2.0),
            (SoloLearnClip, sum, stays, excluded, -2.0),
            (Mxnet, sum, decays, with_decay, -2.0),
            (MlperfTf, sum, decays, excluded, -2.0),
            (Tinygrad, sum, decays, adapts, -2.0),
            (TinygradPopular, sum, decays, adapts, -2.0),
            (SimclrClassic, norm, formula, excluded, -2.0),
            (SimclrNonClassic, norm, formula, excluded, -2.0),
            (BarlowTwins, norm, formula, excluded, -2.0),
        ] {
            let set = params(&[
                ("bias", Role::Bias, &[4.0]),
                ("idle", Role::Weight, &[2.0]),
                ("w", Role::Weight, &[3.0, 4.0]),
                ("zero", Role::Weight, &[0.0]),
            ]);
            let gradients =
                gradients(&set, &[("bias", &[1.0]), ("idle", &[0.0]), ("w", &[4.0, -3.0]), ("zero", &[2.0])]);
            let mut lars = lars(&set, variant, 0.9, 0.75, 0.5);
            lars.step(&set, &gradients, 1.0).unwrap();
            let got = ["w", "idle", "bias", "zero"].map(|path| value(&set, path)[0]);
            for (got, expected) in got.into_iter().zip([w, idle, bias, zero]) {
                // Epsilons of 1e-8 and 1e-7 are smaller than what is told apart here.
                assert!((got - expected).abs() < 1e-6, "{}: {got}, not {expected}", variant.name());
            }
            assert!((value(&set, "w")[1] - 4.0).abs() < 1e-12, "{}", variant.name());
        }
    }

    #[test]
    fn excluded_parameters_may_have_a_rate_of_their_own() {
        let set = params(&[("w", Role::Weight, &[4.0]), ("b", Role::Bias, &[1.0])]);
        let options = LarsOptions {
            weight_decay: 0.0,
            trust: 0.25,
            excluded_lr: 0.125,
            ..LarsOptions::of(LarsVariant::BarlowTwins)
        };
        Lars::new(&set, options).unwrap().step(&set, &gradient(&set, 1.0), 2.0).unwrap();
        assert_eq!((value(&set, "w"), value(&set, "b")), (vec![2.0], vec![0.75]));
    }

    #[test]
    fn nesterov_is_refused_where_the_code_has_none() {
        let set = params(&[("w", Role::Weight, &[1.0])]);
        for variant in LarsVariant::ALL {
            let made = Lars::new(&set, LarsOptions { nesterov: true, ..LarsOptions::of(*variant) });
            assert_eq!(made.err().map(|e| e.kind()), (!variant.rule().nesterov).then_some(ErrorKind::Config));
        }
    }
}
