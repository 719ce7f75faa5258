//! The forms of LARS that published code uses, by name: each a row of choices.

use crate::{Param, Role};
use selfsame_engine::{Error, ErrorKind, Result, nearest};

/// What ‖w‖ is divided by in the trust ratio.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Denominator {
    /// ‖g‖ + λ‖w‖.
    SumOfNorms,
    /// ‖g + λw‖: at most the sum of norms, so the ratio is at least as large.
    Decayed,
    /// The norm of what the parameter moves along, after momentum.
    Update,
}

impl Denominator {
    fn formula(self) -> &'static str {
        match self {
            Denominator::SumOfNorms => "‖g‖ + λ‖w‖",
            Denominator::Decayed => "‖g + λw‖",
            Denominator::Update => "‖u‖",
        }
    }
}

/// Whether the trust ratio q is limited to min(q / γ, 1), so that the rate γq is the smaller of q and γ.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Clip {
    /// It is not.
    Never,
    /// A ratio of norms is; the 1 that stands for it at a zero norm is not.
    Ratio,
    /// That 1 as well.
    Always,
}

impl Clip {
    fn formula(self) -> &'static str {
        match self {
            Clip::Never => "–",
            Clip::Ratio => "q",
            Clip::Always => "q and 1",
        }
    }
}

/// Where the trust ratio q and the learning rate γ enter, of d = g + λw and momentum μ. u is v, or with Nesterov's form
/// μv plus what entered v.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scaling {
    /// v ← μv + γqd; w ← w − u: the buffer keeps the learning rates of its steps.
    BothBefore,
    /// v ← μv + qd; w ← w − γu.
    RatioBefore,
    /// v ← μv + d; w ← w − γqu.
    BothAfter,
}

impl Scaling {
    fn formula(self) -> &'static str {
        match self {
            Scaling::BothBefore => "v ← μv + γqd; w ← w − u",
            Scaling::RatioBefore => "v ← μv + qd; w ← w − γu",
            Scaling::BothAfter => "v ← μv + d; w ← w − γqu",
        }
    }
}

/// Which parameters have ratio 1 whatever their norms.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Excluded {
    /// None.
    Nothing,
    /// Biases and the parameters of normalisation layers, which the files find by name.
    BiasesAndNorms,
    /// Parameters of one dimension.
    OneDimensional,
    /// Parameters without weight decay: biases and those of normalisation layers, and all where λ is 0.
    WithoutDecay,
}

impl Excluded {
    /// Whether a parameter is excluded when `weight_decay` is what the others get.
    fn contains(self, param: &Param, weight_decay: f64) -> bool {
        match self {
            Excluded::Nothing => false,
            Excluded::BiasesAndNorms => !Role::decays(param.role()),
            Excluded::OneDimensional => param.array().rank() == 1,
            Excluded::WithoutDecay => !Role::decays(param.role()) || weight_decay == 0.0,
        }
    }

    fn formula(self) -> &'static str {
        match self {
            Excluded::Nothing => "nothing",
            Excluded::BiasesAndNorms => "biases, norms",
            Excluded::OneDimensional => "1-D",
            Excluded::WithoutDecay => "λ = 0",
        }
    }
}

/// What happens where ‖w‖ or the gradient's norm is 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ZeroNorm {
    /// The formula holds: a parameter that is 0 stays 0. A denominator of 0, where nothing moves, gives 1.
    Formula,
    /// The ratio is 1.
    One,
    /// The ratio is 1 and the parameter does not decay in this step.
    OneWithoutDecay,
}

impl ZeroNorm {
    fn formula(self) -> &'static str {
        match self {
            ZeroNorm::Formula => "by formula",
            ZeroNorm::One => "q = 1",
            ZeroNorm::OneWithoutDecay => "q = 1, λ = 0",
        }
    }
}

/// A form of LARS: the choices in which published code differs.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LarsRule {
    /// What ‖w‖ is divided by.
    pub denominator: Denominator,
    /// Added to the denominator.
    pub eps: f64,
    /// Whether the ratio is limited.
    pub clip: Clip,
    /// Where ratio and learning rate enter.
    pub scaling: Scaling,
    /// Whose ratio is 1.
    pub excluded: Excluded,
    /// Whether those decay all the same.
    pub excluded_decay: bool,
    /// What a zero norm means.
    pub zero_norm: ZeroNorm,
    /// Whether Nesterov's form is offered.
    pub nesterov: bool,
    /// The trust coefficient η unless set otherwise.
    pub trust: f64,
}

impl LarsRule {
    /// Whether `param` has a trust ratio, and its weight decay, where `weight_decay` is asked for.
    pub(super) fn group(&self, param: &Param, weight_decay: f64) -> (bool, f64) {
        let excluded = self.excluded.contains(param, weight_decay);
        let decays = match self.excluded {
            _ if !excluded => true,
            Excluded::WithoutDecay => false,
            _ => self.excluded_decay,
        };
        (!excluded, if decays { weight_decay } else { 0.0 })
    }

    /// Whether norms of `w` and `g` (that of the gradient, of g + λw or of the update, as the denominator wants) give no
    /// ratio.
    pub(super) fn is_zero(&self, w: f64, g: f64, decay: f64) -> bool {
        match self.zero_norm {
            ZeroNorm::Formula => self.divisor(w, g, decay) == 0.0,
            ZeroNorm::One | ZeroNorm::OneWithoutDecay => !(w > 0.0 && g > 0.0),
        }
    }

    /// The trust ratio q of those norms.
    pub(super) fn ratio(&self, (w, g): (f64, f64), decay: f64, trust: f64, lr: f64) -> f64 {
        let zero = self.is_zero(w, g, decay);
        let ratio = if zero { 1.0 } else { trust * w / self.divisor(w, g, decay) };
        match self.clip {
            Clip::Never => ratio,
            Clip::Ratio if zero => ratio,
            Clip::Ratio | Clip::Always => (ratio / lr).min(1.0),
        }
    }

    fn divisor(&self, w: f64, g: f64, decay: f64) -> f64 {
        let norm = match self.denominator {
            Denominator::SumOfNorms => g + decay * w,
            Denominator::Decayed | Denominator::Update => g,
        };
        norm + self.eps
    }
}

/// η‖w‖ / (‖g‖ + λ‖w‖ + 1e-8) of d, momentum after it, γ last: what the libraries for PyTorch share.
const PYTORCH: LarsRule = LarsRule {
    denominator: Denominator::SumOfNorms,
    eps: 1e-8,
    clip: Clip::Never,
    scaling: Scaling::RatioBefore,
    excluded: Excluded::Nothing,
    excluded_decay: false,
    zero_norm: ZeroNorm::One,
    nesterov: true,
    trust: 0.001,
};

/// η‖w‖ / ‖g + λw‖, γ and q inside the buffer: SimCLR's code.
const SIMCLR: LarsRule = LarsRule {
    denominator: Denominator::Decayed,
    eps: 0.0,
    scaling: Scaling::BothBefore,
    excluded: Excluded::BiasesAndNorms,
    ..PYTORCH
};

/// Declares the variants: name, file, rule.
macro_rules! variants {
    ($($(#[$meta:meta])* $variant:ident $name:literal, $file:literal, $rule:expr;)+) => {
        /// A form of LARS by the name of the code that uses it.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum LarsVariant {
            $($(#[$meta])* $variant,)+
        }

        impl LarsVariant {
            /// Every variant, in the order of the documentation's table.
            pub const ALL: &[LarsVariant] = &[$(LarsVariant::$variant),+];

            /// The name that configurations use.
            pub const fn name(self) -> &'static str {
                match self {
                    $(LarsVariant::$variant => $name,)+
                }
            }

            /// The paper or file that it follows.
            pub const fn file(self) -> &'static str {
                match self {
                    $(LarsVariant::$variant => $file,)+
                }
            }

            /// Its choices.
            pub const fn rule(self) -> LarsRule {
                match self {
                    $(LarsVariant::$variant => $rule,)+
                }
            }
        }
    };
}

variants! {
    /// You, Gitman and Ginsburg 2017, as printed.
    Paper "paper", "arXiv 1708.03888", LarsRule {
        eps: 0.0, scaling: Scaling::BothBefore, zero_norm: ZeroNorm::Formula, nesterov: false, ..PYTORCH
    };
    /// NVIDIA apex's LARC around an inner SGD, without clipping: SwAV, with trust 0.001 and everything in one group.
    ApexLarc "apex-larc", "NVIDIA/apex apex/parallel/LARC.py, clip=False", LarsRule {
        zero_norm: ZeroNorm::OneWithoutDecay, trust: 0.02, ..PYTORCH
    };
    /// The same with clipping, its default.
    ApexLarcClip "apex-larc-clip", "NVIDIA/apex apex/parallel/LARC.py", LarsRule {
        clip: Clip::Ratio, ..LarsVariant::ApexLarc.rule()
    };
    /// torchlars around an inner SGD.
    Torchlars "torchlars", "kakaobrain/torchlars torchlars/lars.py", PYTORCH;
    /// timm.
    Timm "timm", "huggingface/pytorch-image-models timm/optim/lars.py", LarsRule {
        excluded: Excluded::WithoutDecay, ..PYTORCH
    };
    /// timm's `larc`: with `trust_clip`.
    TimmClip "timm-clip", "huggingface/pytorch-image-models timm/optim/lars.py, trust_clip=True", LarsRule {
        clip: Clip::Always, ..LarsVariant::Timm.rule()
    };
    /// lightly, which copies Lightning Bolts.
    Lightly "lightly", "lightly-ai/lightly lightly/utils/lars.py", LarsRule {
        excluded: Excluded::WithoutDecay, zero_norm: ZeroNorm::OneWithoutDecay, ..PYTORCH
    };
    /// solo-learn with its defaults.
    SoloLearn "solo-learn", "vturrisi/solo-learn solo/utils/lars.py", LarsRule {
        zero_norm: ZeroNorm::OneWithoutDecay, ..PYTORCH
    };
    /// solo-learn with `clip_lars_lr` and `exclude_bias_n_norm_lars`.
    SoloLearnClip "solo-learn-clip", "vturrisi/solo-learn solo/utils/lars.py, both flags", LarsRule {
        clip: Clip::Ratio, excluded: Excluded::OneDimensional, ..LarsVariant::SoloLearn.rule()
    };
    /// MXNet, the line of NVIDIA's MLPerf submissions (the form with aggregated tensors).
    Mxnet "mxnet", "apache/mxnet python/mxnet/optimizer/lars.py", LarsRule {
        scaling: Scaling::BothBefore,
        excluded: Excluded::BiasesAndNorms,
        excluded_decay: true,
        nesterov: false,
        ..PYTORCH
    };
    /// The reference of MLPerf in TensorFlow 2, with Keras's epsilon.
    MlperfTf "mlperf-tf", "mlcommons/training image_classification/tensorflow2/lars_optimizer.py", LarsRule {
        eps: 1e-7, scaling: Scaling::BothBefore, excluded: Excluded::BiasesAndNorms, ..PYTORCH
    };
    /// tinygrad with its default momentum.
    Tinygrad "tinygrad", "tinygrad/tinygrad tinygrad/nn/optim.py", LarsRule {
        eps: 0.0, scaling: Scaling::BothBefore, ..PYTORCH
    };
    /// tinygrad with `classic=False`.
    TinygradPopular "tinygrad-popular", "tinygrad/tinygrad tinygrad/nn/optim.py, classic=False", LarsRule {
        scaling: Scaling::BothAfter, ..LarsVariant::Tinygrad.rule()
    };
    /// SimCLR's code with its default momentum: this library's default.
    SimclrClassic "simclr-classic", "google-research/simclr lars_optimizer.py", SIMCLR;
    /// SimCLR's code with `classic_momentum=False`.
    SimclrNonClassic "simclr-non-classic", "google-research/simclr lars_optimizer.py, classic_momentum=False", LarsRule {
        denominator: Denominator::Update, scaling: Scaling::BothAfter, ..SIMCLR
    };
    /// Barlow Twins, DINO and MoCo v3, which share one optimiser.
    BarlowTwins "barlow-twins", "facebookresearch/barlowtwins main.py; dino utils.py; moco-v3 moco/optimizer.py", LarsRule {
        scaling: Scaling::RatioBefore, excluded: Excluded::OneDimensional, nesterov: false, ..SIMCLR
    };
}

impl LarsVariant {
    /// The variant of that name.
    ///
    /// # Errors
    /// `Config` for an unknown name, with the nearest known one.
    pub fn parse(name: &str) -> Result<LarsVariant> {
        LarsVariant::ALL.iter().copied().find(|variant| variant.name() == name).ok_or_else(|| {
            let names: Vec<&str> = LarsVariant::ALL.iter().map(|variant| variant.name()).collect();
            let error = Error::new(ErrorKind::Config, "lars", format!("variant '{name}'")).expected(names.join(", "));
            match nearest(name, names.iter().copied()) {
                Some(known) => error.hint(format!("is '{known}' meant?")),
                None => error,
            }
        })
    }

    /// The variants and their choices as a table in Markdown.
    pub fn markdown() -> String {
        let mut table = String::from(
            "| name | q = η‖w‖ / … | ε | min(q/γ, 1) of | update | ratio 1 for | they decay | zero norm | Nesterov | η | follows |\n\
             |---|---|---|---|---|---|---|---|---|---|---|\n",
        );
        for variant in LarsVariant::ALL {
            let rule = variant.rule();
            let eps = if rule.eps == 0.0 { "–".to_string() } else { format!("{:e}", rule.eps) };
            let decay = match rule.excluded {
                Excluded::Nothing => "–",
                _ if rule.excluded_decay => "yes",
                _ => "no",
            };
            let nesterov = if rule.nesterov { "offered" } else { "–" };
            table += &format!(
                "| `{}` | {} | {eps} | {} | {} | {} | {decay} | {} | {nesterov} | {} | {} |\n",
                variant.name(),
                rule.denominator.formula(),
                rule.clip.formula(),
                rule.scaling.formula(),
                rule.excluded.formula(),
                rule.zero_norm.formula(),
                rule.trust,
                variant.file(),
            );
        }
        table
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_found_again_and_rows_make_sense() {
        for (i, variant) in LarsVariant::ALL.iter().enumerate() {
            assert_eq!(LarsVariant::parse(variant.name()).unwrap(), *variant);
            let rule = variant.rule();
            // The norm of the update is known after momentum alone.
            assert!(rule.denominator != Denominator::Update || rule.scaling == Scaling::BothAfter, "{variant:?}");
            assert!(LarsVariant::ALL[..i].iter().all(|other| other.rule() != rule), "{variant:?} is another's row");
        }
        let error = LarsVariant::parse("simclr-clasic").unwrap_err();
        assert!(error.sentence().contains("simclr-classic"), "{error}");
    }

    #[test]
    fn clipping_compares_the_ratio_with_the_rate() {
        let [free, ratio, always] =
            [Clip::Never, Clip::Ratio, Clip::Always].map(|clip| LarsRule { clip, eps: 0.0, ..PYTORCH });
        // q = 0.5·4/(1 + 0.25·4) = 1.
        let of = |rule: LarsRule, norms, lr| rule.ratio(norms, 0.25, 0.5, lr);
        assert_eq!([free, ratio, always].map(|rule| of(rule, (4.0, 1.0), 2.0)), [1.0, 0.5, 0.5]);
        assert_eq!([free, ratio, always].map(|rule| of(rule, (4.0, 1.0), 0.25)), [1.0, 1.0, 1.0]);
        // The 1 of a zero norm.
        assert_eq!([free, ratio, always].map(|rule| of(rule, (0.0, 1.0), 2.0)), [1.0, 1.0, 0.5]);
    }
}
