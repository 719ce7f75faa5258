//! What the study trains, and what its sheets say of each arm.

/// The recipe that all arms share.
pub(super) const COMMON: &str = include_str!("../../../configs/small/common.toml");

/// What is expected of an arm.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Claim {
    /// A method as it is: clearly better than the encoder untrained.
    Learns,
    /// A method without the part that holds it up: its embeddings collapse.
    Collapses,
    /// A method without a part that should gain something; the sign is reported, over seeds.
    Loses,
}

impl Claim {
    pub(super) fn name(self) -> &'static str {
        match self {
            Claim::Learns => "learns",
            Claim::Collapses => "collapses",
            Claim::Loses => "loses",
        }
    }
}

/// A method with some settings.
pub(super) struct Arm {
    /// The method's name, and what is changed.
    pub(super) name: &'static str,
    pub(super) method: &'static str,
    /// Its recipe for small images.
    pub(super) recipe: &'static str,
    pub(super) settings: &'static [&'static str],
    pub(super) claim: Claim,
}

impl Arm {
    /// Runs of the arm: three on both sides of a comparison of means.
    pub(super) fn seeds(&self) -> u32 {
        let compared = |arm: &Arm| arm.claim == Claim::Loses && arm.method == self.method;
        let is_side = self.claim != Claim::Collapses && ARMS.iter().any(compared);
        if is_side { 3 } else { 1 }
    }
}

/// Declares the arms of each method: itself, then its ablations.
macro_rules! arms {
    ($($method:literal { $($name:literal $settings:tt $claim:ident,)* })*) => {
        /// All arms, in the order of the page.
        pub(super) const ARMS: &[Arm] = &[$(
            Arm {
                name: $method,
                method: $method,
                recipe: include_str!(concat!("../../../configs/small/", $method, ".toml")),
                settings: &[],
                claim: Claim::Learns,
            },
            $(Arm {
                name: concat!($method, "-", $name),
                method: $method,
                recipe: include_str!(concat!("../../../configs/small/", $method, ".toml")),
                settings: &$settings,
                claim: Claim::$claim,
            },)*
        )*];
    };
}

arms! {
    "simclr" { "no-colour-jitter" ["jitter=0", "grayscale=0"] Loses, }
    "moco" { "no-shuffle" ["shuffle=false"] Loses, }
    "mochi" { "no-mixtures" ["between=0", "towards=0"] Loses, }
    "pcl" { "same-temperature" ["concentrations=false"] Loses, }
    "false-negatives" { "none-accepted" ["accepted=0"] Loses, }
    "local-aggregation" { "one-run" ["runs=1"] Loses, }
    "xmoco" { "no-consistency" ["consistency_weight=0", "uniformity_weight=0"] Loses, }
    "cacr" { "uniform-negatives" ["t_minus=0"] Loses, }
    "macl" { "fixed-temperature" ["alpha=0", "reweight=false"] Loses, }
    "bregman" { "no-divergence" ["divergence_weight=0"] Loses, }
    "scan" { "no-entropy" ["entropy_weight=0"] Collapses, }
    "byol" { "no-predictor" ["predictor=false"] Collapses, }
    "swav" { "no-balance" ["iterations=0"] Collapses, }
    "barlow-twins" { "no-redundancy-term" ["lambda=0"] Collapses, }
    "dino" { "no-centring" ["centring=false"] Collapses, }
    "deepcluster" { "unbalanced" ["balanced=false"] Loses, }
    "deepcluster-v2" { "one-head" ["heads=1"] Loses, }
    "sela" { "no-balance" ["balance=false"] Collapses, }
    "relic-v2" { "no-invariance" ["beta=0"] Loses, }
    "carl" { "no-equal-use" ["lambda=0"] Collapses, }
    "mira" { "no-mutual-information" ["beta=0", "beta_end=0"] Collapses, }
    "iic" { "no-over-clustering" ["turns=clusters"] Loses, }
    "domain-agnostic-self-distillation" { "no-distillation" ["alpha=0"] Loses, }
}
